"""The command line: one plan, or a folder of them; a table, and JSON for programs."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from swarm.errors import ConfigurationError, LocalError, SwarmError
from swarm.learning.sites import deal
from swarm.testing.faults.drive import Drive
from swarm.testing.faults.nodes import open_nodes, processes_in
from swarm.testing.faults.plan import FaultPlan, read_plan
from swarm.testing.faults.verdict import Check, Outcome, compare, judge, read_replicas, score, show
from swarm.testing.faults.watch import open_watch
from swarm.testing.faults.wires import open_wires
from swarm.testing.plans import slow, wide, write_tiny_plan
from swarm.testnet.run import begin_plan

SITES_SEED = 0
"""Of the testnet itself: initial model and split. `--seed` draws the faults alone."""


@dataclass
class Runner:
    """Runs plans one after the other, and remembers the undisturbed runs.

    Training plans that are made lie in `made`, the nodes' directories in `keep`, if they are kept.
    """

    keep: Path | None
    made: Path
    _undisturbed: dict[str, Outcome] = field(default_factory=dict)

    def run(self, path: Path, seed: int) -> Outcome:
        """One run of one plan, after the undisturbed one that it is compared with, if it is new."""
        plan = read_plan(path)
        base = self.base(path, plan)
        quiet = msgspec.structs.replace(
            plan, about="", nodes=plan.undisturbed_nodes, fault=(), storm=None,
            at_most={}, at_least={},
        )  # fmt: skip
        undisturbed = f"{path.stem}, undisturbed"
        key = f"{base} {quiet.peers} {quiet.nodes} {quiet.rounds} {quiet.namespaces}"
        if plan.undisturbed_nodes is not None and key not in self._undisturbed:
            self._undisturbed[key] = self._run_once(undisturbed, quiet, base, 0)
            show(self._undisturbed[key])
        outcome = self._run_once(path.stem, plan, base, seed)
        if plan.undisturbed_nodes is not None:
            runs = [self._undisturbed[key]]
            if "slowdown" in plan.at_most:  # a machine's speed drifts: so before and after
                runs.append(self._run_once(f"{undisturbed} again", quiet, base, seed))
                show(runs[-1])
            compare(outcome, plan, runs)
        return outcome

    def base(self, path: Path, plan: FaultPlan) -> Path:
        """Where the plan that is trained lies; written, if it is made."""
        if isinstance(plan.plan, str):
            return (path.parent / plan.plan).resolve()
        base = self.made / path.stem
        if not base.exists():
            changes = wide(plan.plan.width), *slow(plan.plan.training_s)
            write_tiny_plan(base, *changes, sites=plan.plan.sites)
        return base

    def _run_once(self, name: str, plan: FaultPlan, base: Path, seed: int) -> Outcome:
        began = time.monotonic()
        newcomers = sum(fault.do == "admit" for fault in plan.fault)
        dealt = deal(base, plan.peers)
        count = len(dealt) - newcomers if plan.nodes is None else plan.nodes
        if count + newcomers > len(dealt):
            raise ConfigurationError(
                f"{name}: {base} is dealt to {len(dealt)} peers, but the plan needs "
                f"{count + newcomers}: raise peers, or lower nodes"
            )
        sites, more = dealt[:count], dealt[count : count + newcomers]
        with ExitStack() as stack:
            folder = stack.enter_context(_directory(self.keep, f"{name}-{seed}".replace(" ", "")))
            directory = folder / "nodes"
            wires = (
                stack.enter_context(open_wires(len(sites) + newcomers)) if plan.namespaces else None
            )
            opened = open_nodes(directory, base, sites, SITES_SEED, wires, plan)
            with opened as nodes, open_watch(nodes) as watch:
                begin_plan(nodes.testnet, plan.rounds)
                drive = Drive(plan, nodes, watch, seed, more)
                failure = drive.run()
                replicas = read_replicas(nodes, drive)
                scored = failure is None and plan.undisturbed_nodes is not None
                auc = score(nodes, sites + more, plan.rounds) if scored else None
                wall_s = time.monotonic() - began
                outcome = judge(name, plan, drive, failure, replicas, auc, wall_s)
            left = processes_in(directory)
            outcome.checks.append(Check("no process is left", not left, f"{left}" if left else ""))
            outcome.ok = outcome.ok and not left
        return outcome


@contextmanager
def _directory(keep: Path | None, name: str) -> Iterator[Path]:
    if keep is not None:
        (keep / name).mkdir(parents=True)
        yield keep / name
        return
    temporary = Path(tempfile.mkdtemp(prefix="swarm-faults-"))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m swarm.testing.faults",
        description="Run nodes as processes, let happen what a fault plan says, and judge.",
    )
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--plan", type=Path, help="a fault plan (TOML)")
    which.add_argument("--matrix", type=Path, help="a folder of them: all, one after the other")
    made.add_argument("--seeds", type=int, help="how many runs (default: as the plan says)")
    made.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    made.add_argument("--json", type=Path, help="write all outcomes here")
    made.add_argument("--keep", type=Path, help="keep the nodes' directories here")
    made.add_argument("--story", action="store_true", help="tell what happened when")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = parser().parse_args(arguments)
    paths = [given.plan] if given.plan else sorted(given.matrix.glob("*.toml"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it, for long runs
            signal.signal(number, _end)
    outcomes: list[Outcome] = []
    made = Path(tempfile.mkdtemp(prefix="swarm-faults-plans-"))
    runner = Runner(given.keep, made)
    try:
        plans = [(path, read_plan(path)) for path in paths]
        for path, plan in plans:
            for seed in range(given.first, given.first + (given.seeds or plan.seeds)):
                outcome = _attempt(runner, path, plan, seed)
                outcomes.append(outcome)
                show(outcome)
                if given.story or not outcome.ok:
                    print("\n".join(outcome.story))
                if given.json is not None:
                    given.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except SwarmError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_status
    finally:
        shutil.rmtree(made, ignore_errors=True)
    held = sum(outcome.ok for outcome in outcomes)
    print(f"\n{held} of {len(outcomes)} runs hold")
    return 0 if outcomes and held == len(outcomes) else 1


def _attempt(runner: Runner, path: Path, plan: FaultPlan, seed: int) -> Outcome:
    """One run; where the nodes could not even be started, that is its outcome."""
    try:
        return runner.run(path, seed)
    except LocalError as error:
        check = Check("it could be run", False, str(error))
        return Outcome(
            plan=path.stem, about=plan.about, seed=seed, ok=False, checks=[check], counts={},
            measures={}, round_s={}, downtime_s=0.0, wall_s=0.0, auc=None, story=[],
        )  # fmt: skip


def _end(number: int, frame: object) -> None:
    """SIGTERM and SIGHUP end a run as Ctrl-C does: with its nodes and namespaces."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
