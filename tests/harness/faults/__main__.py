"""The command line: one plan, or a folder of them; a table, and JSON for programs."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec

from harness.faults.plan import FaultPlan, read_plan
from harness.faults.runner import Runner
from harness.faults.verdict import Check, Outcome, show
from swarm.errors import LocalError, SwarmError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.campaigns faults",
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
