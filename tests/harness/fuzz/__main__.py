"""`python -m tests.campaigns fuzz`: attack everything that reads bytes, and print what happened."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import trio
from rich.console import Console
from rich.table import Table

from harness.fuzz import all_targets
from harness.fuzz.campaign import Tally, Target, attack
from swarm.network.network import quiet_libp2p

HANG_S = 120
INSTRUMENTED_S = 600
"""Until all of swarm is rewritten to tell where it was, on a busy machine."""
FRAMES = 8
UNBOUNDED = 2**62


def main(given: list[str] | None = None) -> int:
    targets = {target.name: target for target in all_targets()}
    arguments = argparse.ArgumentParser("python -m tests.campaigns fuzz", description=__doc__)
    arguments.add_argument("--protocol", choices=sorted(targets), help="only this one")
    arguments.add_argument("--seconds", type=float, default=60, help="for all together (60)")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument(
        "--guided", action="store_true", help="by coverage, those that wait for nothing (atheris)"
    )
    arguments.add_argument("--json", type=Path, help="write what was tried here")
    chosen = arguments.parse_args(given)
    wanted = [targets[chosen.protocol]] if chosen.protocol else list(targets.values())
    if chosen.guided:
        return _guide([target for target in wanted if target.is_pure], chosen.seconds, chosen.seed)
    quiet_libp2p()
    logging.getLogger("swarm").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    console, findings = Console(), 0
    told = dict[str, dict[str, object]]()
    table = _table()
    for target in wanted:
        # A loop without end in a parser cannot be cancelled: end the process, and say where.
        faulthandler.dump_traceback_later(HANG_S + chosen.seconds, exit=True)
        try:
            tally = run(target, chosen.seed, seconds=chosen.seconds / len(wanted))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            findings += 1
            _print_finding(error)
            continue
        _add_row(table, tally)
        told[tally.name] = {
            "inputs": tally.tried,
            "accepted": tally.accepted,
            "refused": dict(tally.refused),
            "longest_s": round(tally.longest_s, 4),
            "grown_bytes": tally.grown_bytes,
        }
    faulthandler.cancel_dump_traceback_later()
    console.print(table)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(told))
    return 1 if findings else 0


def _guide(wanted: Sequence[Target], seconds: float, seed: int) -> int:
    """Each in a process of its own, which libFuzzer ends; 1 if any found something."""
    if find_spec("atheris") is None:
        print("coverage-guided inputs need atheris: pip install atheris", file=sys.stderr)
        return 2
    found = 0
    for target in wanted:
        each_s = max(1, round(seconds / len(wanted)))
        command = [sys.executable, "-m", "harness.guided", target.name, str(each_s), str(seed)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=each_s + INSTRUMENTED_S, check=False
        )
        found += done.returncode != 0
        print(f"{target.name:20}{'holds' if done.returncode == 0 else 'FAILS'}", flush=True)
        if done.returncode != 0:
            print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
    return 1 if found else 0


def run(target: Target, seed: int, *, seconds: float, inputs: int = UNBOUNDED) -> Tally:
    """One target in a process without other tasks."""
    with tempfile.TemporaryDirectory() as directory:
        work = partial(attack, target, Path(directory), seed, inputs=inputs, seconds=seconds)
        return trio.run(work)


def _print_finding(error: BaseException) -> None:
    """Where each cause was raised, and the input that was offered last."""
    for cause in _causes(error):
        traceback.print_exception(cause, limit=-FRAMES)
    print(*getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)


def _causes(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [cause for each in error.exceptions for cause in _causes(each)]
    return [error]


def _table() -> Table:
    table = Table()
    for title in ("protocol", "inputs", "accepted", "refused by"):
        table.add_column(title, overflow="fold")
    for title in ("longest ms", "memory MB", "handles", "tasks"):
        table.add_column(title, justify="right")
    return table


def _add_row(table: Table, tally: Tally) -> None:
    refused = ", ".join(f"{name} {count}" for name, count in list(tally.refused.items())[:8])
    table.add_row(
        tally.name,
        str(tally.tried),
        str(tally.accepted),
        refused,
        f"{1000 * tally.longest_s:.1f}",
        f"{tally.grown_bytes / 2**20:+.1f}",
        f"{tally.handles_left:+d}",
        f"{tally.tasks_left:+d}",
    )


if __name__ == "__main__":
    sys.exit(main())
