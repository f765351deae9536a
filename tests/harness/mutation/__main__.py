"""`python -m tests.campaigns mutants`: try mutants, print survivors, write the outcome as JSON."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from harness.mutation.mutants import Mutant, mutants_of
from harness.mutation.trial import ROOT, Stage, Verdict, try_all
from harness.mutation.warm import try_warm

ANSWERS = Path(__file__).with_name("answers.toml")
SURVIVORS_ALLOWED = 0.05
TOLD_EVERY_S = 60.0
SPECIFICATION = (
    "ledger.py",
    "membership.py",
    "names.py",
    "attestation.py",
    "state.py",
    "election.py",
)
BOUNDARIES = "tests/contracts/test_contract_boundaries.py"
STATEFUL = "tests/contracts/test_contract_stateful.py"


def files_of(what: str) -> list[str]:
    """The mutated files, relative to the repository."""
    folder, patterns = (
        (ROOT / "swarm" / "protocol", SPECIFICATION)
        if what == "specification"
        else (ROOT / "contracts", ("*.sol",))
    )
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [str(path.relative_to(ROOT)) for path in found]


def stages_of(what: str) -> list[Stage]:
    """The tests that a mutant has to pass to survive."""
    units = [
        str(p.relative_to(ROOT)) for p in sorted((ROOT / "tests/unit").glob("test_ledger*.py"))
    ]
    quick = tuple(path for path in (*units, BOUNDARIES) if (ROOT / path).exists())
    walk = Stage("random walks", (STATEFUL, "-k", "never_differ"))
    if what == "specification":
        chosen = "specification or (test_ledger and not contract)"
        return [Stage("named tests", (*quick, "-k", chosen)), walk]
    return [Stage("named tests", (BOUNDARIES, "-k", "not specification")), walk]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m tests.campaigns mutants", description=__doc__)
    made.add_argument("--of", choices=("specification", "contract"), required=True)
    made.add_argument("--sample", type=int, help="so many, drawn by the seed (default: all)")
    made.add_argument("--seed", type=int, default=1)
    made.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    made.add_argument("--only", help="mutants whose name has this in it")
    made.add_argument("--named", action="store_true", help="only the named tests, no random walks")
    made.add_argument("--json", type=Path, help="write the outcome here")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 1 if too many mutants survive, or one that nobody has answered."""
    given = parser().parse_args(arguments)
    mutants = [m for file in files_of(given.of) for m in mutants_of(ROOT, file)]
    if given.only:
        mutants = [m for m in mutants if given.only in m.name]
    total = len(mutants)
    if given.sample is not None and given.sample < total:
        mutants = random.Random(given.seed).sample(mutants, given.sample)
    began = time.monotonic()
    verdicts = list(_trials(given, mutants))
    for verdict in verdicts:
        if verdict.found_by is None:
            print(f"survived: line {verdict.mutant.line}, {verdict.mutant.name}", flush=True)
    outcome = _outcome(given.of, total, verdicts, time.monotonic() - began)
    print(json.dumps({k: v for k, v in outcome.items() if k != "survivors"}, indent=1))
    for name in outcome["unanswered"]:
        print(f"nobody has answered: {name}")
    if given.json is not None:
        given.json.write_text(json.dumps(outcome, indent=1) + "\n")
    return 0 if outcome["holds"] else 1


def _trials(given: argparse.Namespace, mutants: list[Mutant]) -> Iterator[Verdict]:
    """What becomes of each mutant; those of the specification first in one warm process."""
    named, *walks = stages_of(given.of)
    stages = [named] if given.named else [named, *walks]
    tell = _Progress(len(mutants))
    if given.of == "contract":
        for verdict in try_all(mutants, stages, given.jobs):
            tell(verdict)
            yield verdict
        return
    # In a process of its own: those tried after it must load everything anew.
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as own:
        tried, left = own.submit(try_warm, mutants, named, tell).result()
    yield from (verdict for verdict in tried if verdict.found_by is not None)
    survived = [verdict for verdict in tried if verdict.found_by is None]
    if given.named:
        yield from survived
    else:
        yield from try_all([verdict.mutant for verdict in survived], walks, given.jobs)
    for verdict in try_all(left, stages, given.jobs):
        tell(verdict)
        yield verdict


class _Progress:
    """Tells once a minute how many verdicts there are."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.told = total, 0, time.monotonic()

    def __call__(self, verdict: Verdict) -> None:
        self.done += 1
        if verdict.found_by is None:
            print(f"after named tests: {verdict.mutant.name}", file=sys.stderr, flush=True)
        if time.monotonic() > self.told + TOLD_EVERY_S:
            self.told = time.monotonic()
            print(f"{self.done} of {self.total}", file=sys.stderr, flush=True)


def answers() -> dict[str, str]:
    """Why a survivor is no missing test, by the name of the mutant."""
    return dict(tomllib.loads(ANSWERS.read_text())) if ANSWERS.exists() else {}


def _outcome(what: str, total: int, verdicts: list[Verdict], seconds: float) -> dict[str, Any]:
    known = answers()
    survivors: list[Mutant] = [v.mutant for v in verdicts if v.found_by is None]
    unanswered = sorted({m.name for m in survivors if m.name not in known})
    share = len(survivors) / max(1, len(verdicts))
    return {
        "of": what,
        "mutants": total,
        "tried": len(verdicts),
        "found_by": dict(Counter(v.found_by for v in verdicts if v.found_by is not None)),
        "survived": len(survivors),
        "survived_percent": round(100 * share, 2),
        "survivors": {m.name: known.get(m.name) for m in survivors},
        "unanswered": unanswered,
        "seconds": round(seconds),
        "holds": bool(verdicts) and share <= SURVIVORS_ALLOWED and not unanswered,
    }


if __name__ == "__main__":
    sys.exit(main())
