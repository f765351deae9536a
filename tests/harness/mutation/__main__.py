"""`python -m tests.campaigns mutants`: try mutants, print survivors, write the outcome as JSON."""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.mutation.journal import Journal
from harness.mutation.mutants import ROOT, Mutant, Verdict, mutants_of
from harness.mutation.trial import try_cold

ANSWERS = Path(__file__).with_name("answers.toml")
SURVIVORS_ALLOWED = 0.05
TOLD_EVERY_S = 60.0
WALK = "tests/contracts/test_contract_stateful.py"
HARNESS = "tests/harness/evm.py"
"""Runs calls on one or the other."""
BOTH = ("tests/unit/test_ledger*.py", "tests/contracts/test_*_boundaries.py")
"""Tests that run on the specification and on the contract."""


@dataclass(frozen=True)
class Subject:
    """What is mutated, and the tests that are to notice."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    left_out: tuple[str, ...]
    """In the names of tests that run something else, or a process that has no mutant."""

    def found(self, patterns: tuple[str, ...]) -> list[str]:
        """The files of these patterns, relative to the repository."""
        paths = [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]
        return [str(path.relative_to(ROOT)) for path in paths]

    def arguments(self) -> list[str]:
        """The tests, as pytest is told."""
        return [*self.found(self.tests), f"{WALK}::test_contract_and_specification_never_differ"]


SUBJECTS = {
    "specification": Subject(
        (
            "swarm/protocol/ledger.py",
            "swarm/protocol/membership.py",
            "swarm/protocol/names.py",
            "swarm/protocol/attestation.py",
            "swarm/protocol/state.py",
            "swarm/protocol/election.py",
            "swarm/protocol/mask*.py",
        ),
        (
            *BOTH,
            "tests/unit/test_protocol_names.py",
            "tests/unit/test_masked_table.py",
            "tests/simulation/test_masked_days.py",
        ),
        ("[contract", "another_process"),
    ),
    "contract": Subject(("contracts/*.sol",), BOTH, ("[specification",)),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.campaigns mutants", description=__doc__)
    made.add_argument("--of", choices=SUBJECTS, required=True)
    made.add_argument("--sample", type=int, help="so many, drawn by the seed (default: all)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    made.add_argument("--only", help="mutants whose name has this in it")
    made.add_argument(
        "--again", action="store_true", help="try those that are answered, too: they may be found"
    )
    made.add_argument("--json", type=Path, help="write the outcome here")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if too many mutants survive, or one that nobody has answered."""
    given = parser().parse_args(arguments)
    subject = SUBJECTS[given.of]
    mutants = [m for file in subject.found(subject.files) for m in mutants_of(file)]
    if given.only:
        mutants = [m for m in mutants if given.only in m.name]
    total = len(mutants)
    if given.sample is not None and given.sample < total:
        mutants = random.Random(given.seed).sample(mutants, given.sample)
    answered = [] if given.again else [m for m in mutants if m.name in answers()]
    """They count as survivors without a trial, which would take the longest of all."""
    mutants = [m for m in mutants if m not in answered]
    tests = [*subject.found(subject.tests), WALK]
    journal = Journal(given.of, [*subject.found(subject.files), HARNESS], tests)
    tell = _Progress(journal, len(mutants))
    if waiting := journal.missing(mutants):
        # In a process of its own: those tried after it must load everything anew.
        own = get_context("fork").Process(
            target=_try_warm, args=(given.of, waiting, given.jobs, journal, tell)
        )
        own.start()
        own.join()
        if own.exitcode != 0:
            raise SystemExit("the trials ended early; what is known is in " + str(journal.path))
    waiting = journal.missing(mutants)
    try_cold(waiting, subject.arguments(), subject.left_out, given.jobs, tell)
    verdicts = [*journal.verdicts(mutants), *(Verdict(m, None, 0.0) for m in answered)]
    for verdict in verdicts:
        if verdict.found_by is None:
            print(f"survived: line {verdict.mutant.line}, {verdict.mutant.name}", flush=True)
    outcome = _outcome(given.of, total, verdicts, answered)
    print(json.dumps({k: v for k, v in outcome.items() if k != "survivors"}, indent=1))
    for name in outcome["unanswered"]:
        print(f"nobody has answered: {name}")
    if given.json is not None:
        given.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return 0 if outcome["holds"] else 1


def _try_warm(
    of: str, mutants: list[Mutant], jobs: int, journal: Journal, tell: Callable[[Verdict], None]
) -> None:
    # What it loads must not be loaded where mutants are tried cold.
    from harness.mutation.warm import Bench, try_warm

    subject = SUBJECTS[of]
    with contextlib.ExitStack() as stack:
        if of == "specification":
            from harness.mutation.functions import Functions

            bench: Bench = Functions()
        else:
            from harness.mutation.solidity import Contracts

            bench = stack.enter_context(contextlib.closing(Contracts()))
        tests, left_out = subject.arguments(), subject.left_out
        try_warm(mutants, bench, tests, left_out, WALK, jobs, journal, tell)


class _Progress:
    """Writes verdicts down, and tells once a minute how many there are."""

    def __init__(self, journal: Journal, total: int) -> None:
        self.journal, self.total, self.told = journal, total, time.monotonic()

    def __call__(self, verdict: Verdict) -> None:
        self.journal.write(verdict)
        if verdict.found_by is None:
            print(f"survived: {verdict.mutant.name}", file=sys.stderr, flush=True)
        if time.monotonic() > self.told + TOLD_EVERY_S:
            self.told = time.monotonic()
            done = len(self.journal.path.read_text().splitlines())
            print(f"{done} of {self.total}", file=sys.stderr, flush=True)


def answers() -> dict[str, str]:
    """Why a survivor is no missing test, by the name of the mutant."""
    return dict(tomllib.loads(ANSWERS.read_text())) if ANSWERS.exists() else {}


def _outcome(
    what: str, total: int, verdicts: list[Verdict], answered: list[Mutant]
) -> dict[str, Any]:
    known = answers()
    survivors: list[Mutant] = [v.mutant for v in verdicts if v.found_by is None]
    unanswered = sorted({m.name for m in survivors if m.name not in known})
    share = len(survivors) / max(1, len(verdicts))
    return {
        "of": what,
        "mutants": total,
        "tried": len(verdicts) - len(answered),
        "found_by": dict(Counter(v.found_by.split("::")[0] for v in verdicts if v.found_by)),
        "survived": len(survivors),
        "survived_percent": round(100 * share, 2),
        "survivors": {m.name: known.get(m.name) for m in survivors},
        "unanswered": unanswered,
        "seconds": round(sum(verdict.seconds for verdict in verdicts)),
        "holds": bool(verdicts) and share <= SURVIVORS_ALLOWED and not unanswered,
    }


if __name__ == "__main__":
    sys.exit(main())
