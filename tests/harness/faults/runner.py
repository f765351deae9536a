"""Runs fault plans: alone, after an undisturbed run to compare with, or by turns with one."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.faults.nodes import processes_in
from harness.faults.plan import FaultPlan, read_plan
from harness.faults.run import Run, open_run
from harness.faults.turns import slowdown, take_turns
from harness.faults.verdict import Check, Outcome, auc_gap, compare, show
from harness.plans import SECURE, slow, wide, write_method_plan, write_tiny_plan

LOOK_S = 0.1
GONE_S = 5.0


@dataclass
class Runner:
    """Runs plans one after the other, and remembers the undisturbed runs.

    Training plans that are made lie in `made`, the nodes' directories in `keep`, if they are kept.
    """

    keep: Path | None
    made: Path
    _undisturbed: dict[str, Outcome] = field(default_factory=dict)

    def run(self, path: Path, seed: int) -> Outcome:
        """One run of one plan. Raises ConfigurationError; LocalError if nodes cannot be started."""
        plan = read_plan(path)
        base = self.base(path, plan)
        if plan.undisturbed_nodes is None:
            return self._alone(path.stem, plan, base, seed)
        quiet = msgspec.structs.replace(
            plan, about="", nodes=plan.undisturbed_nodes, fault=(), storm=None,
            at_most={}, at_least={},
        )  # fmt: skip
        measures = {}
        if "slowdown" in plan.at_most:
            outcome, undisturbed, measures["slowdown"] = self._by_turns(
                path.stem, plan, quiet, base, seed
            )
            show(undisturbed)
            outcome.checks.append(Check("the undisturbed run beside it holds", undisturbed.ok))
        else:
            undisturbed = self._compared_with(path.stem, quiet, base)
            outcome = self._alone(path.stem, plan, base, seed)
        measures["auc_gap"] = auc_gap(outcome, undisturbed)
        compare(outcome, plan, measures)
        return outcome

    def base(self, path: Path, plan: FaultPlan) -> Path:
        """Where the plan that is trained lies; written, if it is made."""
        if isinstance(plan.plan, str):
            return (path.parent / plan.plan).resolve()
        base = self.made / path.stem
        made = plan.plan
        if not base.exists() and made.method is not None:
            write_method_plan(base, made.method, made.sites, made.training_s)
        elif not base.exists():
            changes = wide(made.width), *slow(made.training_s), *([SECURE] if made.secure else [])
            write_tiny_plan(base, *changes, sites=plan.plan.sites)
        return base

    def _compared_with(self, stem: str, quiet: FaultPlan, base: Path) -> Outcome:
        """The undisturbed run of this plan, made once."""
        key = f"{base} {quiet.peers} {quiet.nodes} {quiet.rounds} {quiet.namespaces}"
        if key not in self._undisturbed:
            self._undisturbed[key] = self._alone(f"{stem}, undisturbed", quiet, base, 0)
            show(self._undisturbed[key])
        return self._undisturbed[key]

    def _alone(self, name: str, plan: FaultPlan, base: Path, seed: int) -> Outcome:
        with self._directory(name, seed) as directory:
            with open_run(directory, name, plan, base, seed) as run:
                outcome = run.finish()
            return _nothing_left(outcome, directory)

    def _by_turns(
        self, stem: str, plan: FaultPlan, quiet: FaultPlan, base: Path, seed: int
    ) -> tuple[Outcome, Outcome, list[float]]:
        """What came of the plan, of the undisturbed run beside it, and the slowdown."""
        name = f"{stem}, undisturbed"
        with self._directory(stem, seed) as one, self._directory(name, seed) as other:
            with open_run(one, stem, plan, base, seed) as run, _driven(run) as outcome:
                _freeze_when_settled(run)
                opened = open_run(other, name, quiet, base, seed)
                with opened as quiet_run, _driven(quiet_run) as quiet_outcome:
                    _freeze_when_settled(quiet_run)
                    rounds = take_turns(run, quiet_run)
                    for either in (run, quiet_run):
                        either.thaw()
                    both = outcome(), quiet_outcome()
            judged = _nothing_left(both[0], one), _nothing_left(both[1], other)
            return *judged, slowdown(*rounds)

    @contextmanager
    def _directory(self, name: str, seed: int) -> Iterator[Path]:
        """Where the nodes of one run lie; kept, if that was asked for."""
        name = f"{name}-{seed}".replace(" ", "")
        if self.keep is not None:
            kept = (self.keep / name).resolve()
            kept.mkdir(parents=True)
            yield kept / "nodes"
            return
        temporary = Path(tempfile.mkdtemp(prefix="swarm-faults-")).resolve()
        try:
            yield temporary / "nodes"
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _driven(run: Run) -> Iterator[Callable[[], Outcome]]:
    """Drive a run in a thread of its own; what the block is given waits for its outcome."""
    with ThreadPoolExecutor(1, thread_name_prefix="drive") as pool:
        try:
            yield pool.submit(run.finish).result
        finally:
            run.nodes.ending.set()
            run.thaw()  # the thread may be asking a node that is stopped


def _freeze_when_settled(run: Run) -> None:
    """Stop a run that no round pays for a fault in any more; or return when it is over already,
    with its own deadline at the latest, and let it be judged."""
    while not run.is_over():
        if run.is_settled():
            run.freeze()
            return
        time.sleep(LOOK_S)


def _nothing_left(outcome: Outcome, directory: Path) -> Outcome:
    """Add whether the nodes' processes are gone, now that they ought to be. A killed node's trainer
    ends when it reads that its node has."""
    until = time.monotonic() + GONE_S
    while (left := processes_in(directory)) and time.monotonic() < until:
        time.sleep(LOOK_S)
    outcome.checks.append(Check("no process is left", not left, f"{left}" if left else ""))
    outcome.ok = outcome.ok and not left
    return outcome
