"""A clumsy scientist: plans and tables with one or two mistakes in them, run in this process.

    python -m tests.campaigns scientist --seeds 2000
    python -m tests.campaigns scientist --seed 17

Whatever is wrong, the run gives the right result, in which every row counts, or ends with one
sentence that names the value and the place, and says what to do. Exits with 1 and the first seed
for which it does neither. The same seed makes the same mistakes, on every machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.clumsy_mistakes import MISTAKES, SAME, SOUND, Mistake, Work
from swarm.errors import SwarmError
from swarm.learning.simulation.whole_run import FederatedRun, run_federated

ROWS = 40
PLACE = re.compile(r"plan\.py:\d+")
"""Of all; a fault of the table names its file and line besides."""
TOLD_EVERY_S = 60.0


class Failure(Exception):
    """The scientist was let down: a wrong result, a lost row, or no sentence."""


@dataclass(frozen=True)
class Case:
    """What a seed does wrong."""

    seed: int
    mistakes: tuple[Mistake, ...]

    def __str__(self) -> str:
        return f"seed {self.seed}: {' and '.join(m.name for m in self.mistakes)}"


def case_of(seed: int) -> Case:
    """The first seeds make each mistake once and alone, the later ones two at a time as a rule."""
    if seed < len(MISTAKES):
        return Case(seed, (random.Random(0).sample(MISTAKES, len(MISTAKES))[seed],))
    chance = random.Random(f"clumsy {seed}")
    first, second = chance.choice(MISTAKES), chance.choice(MISTAKES)
    together = (first, second) if first.place != second.place else (first,)
    return Case(seed, together)


def check(case: Case) -> str:
    """Live through a case; returns what came of it. Raises Failure if that is not right."""
    with tempfile.TemporaryDirectory(prefix="clumsy-") as directory:
        folder = Path(directory)
        expected = [m.outcome for m in case.mistakes]
        patterns = [outcome for outcome in expected if outcome not in (SAME, SOUND)]
        _write(folder / "clumsy", case)
        try:
            # What a plan prints, argparse's usage for one, is no answer.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                done = run_federated(folder / "clumsy", seed=case.seed)
                scores = done.score()
        except SwarmError as error:
            return _check_sentence(str(error), patterns)
        except (Exception, SystemExit) as error:
            raise Failure(f"no sentence, but {type(error).__name__}: {error}") from error
        if patterns:
            raise Failure(f"passes, with the scores {scores}")
        _check_rows(done, ROWS)
        if SOUND not in expected:
            _write(folder / "sound", Case(case.seed, ()))
            _check_same(done, run_federated(folder / "sound", seed=case.seed))
            return SAME
        return SOUND


def _write(folder: Path, case: Case) -> None:
    """The plan, and the tables of two hospitals; the mistakes are the first one's."""
    (folder / "data").mkdir(parents=True)
    for site in ("north", "south"):
        work = Work(_patients(random.Random(f"{site} {case.seed}")))
        chance = random.Random(f"mistakes {case.seed}")
        for mistake in case.mistakes:
            if site == "north" or mistake.place != "table":
                mistake.make(work, chance)
        (folder / "data" / f"{site}{work.suffix}").write_bytes(work.table())
        (folder / "plan.py").write_text(work.plan())


def _patients(chance: random.Random) -> list[list[str]]:
    rows = []
    for patient in range(ROWS):
        age, crp = chance.randint(30, 95), round(chance.expovariate(1 / 40), 1)
        died = patient % 3 == 0
        ward = chance.choice(["general", "icu"])
        rows.append([str(patient // 2), str(age), str(crp), ward, "well", str(int(died))])
    return rows


def _check_sentence(text: str, patterns: Sequence[str]) -> str:
    if not patterns:
        raise Failure(f"is refused: {text}")
    if not any(re.search(pattern, text, re.DOTALL) for pattern in patterns):
        raise Failure(f"is refused in other words: {text}")
    if "\n" in text or "Traceback" in text:
        raise Failure(f"is refused in more than a sentence: {text}")
    if not PLACE.search(text):
        raise Failure(f"is refused without a place: {text}")
    return "one sentence"


def _check_rows(done: FederatedRun, rows: int) -> None:
    for site in done.sites:
        samples = site.samples()
        counted = samples.train + samples.validation + samples.test
        if counted != rows:
            raise Failure(f"{site.site.name} has {counted} rows of {rows}")


def _check_same(done: FederatedRun, sound: FederatedRun) -> None:
    for name, value in sound.models[-1].items():
        if not torch.equal(done.models[-1][name], value):
            raise Failure(f"gives another {name!r} than the sound plan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m tests.campaigns scientist`."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns scientist", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=60, help="0, 1, … (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="this one only")
    given = parser.parse_args(arguments)
    seeds = range(given.seeds) if given.seed is None else [given.seed]
    counts: Counter[str] = Counter()
    began = told = time.monotonic()
    for seed in seeds:
        case = case_of(seed)
        try:
            counts[check(case)] += 1
        except Failure as failure:
            print(f"{case}\n  {failure}")
            return 1
        if time.monotonic() - told > TOLD_EVERY_S:
            told = time.monotonic()
            print(f"{told - began:.0f} s: {seed + 1} seeds", file=sys.stderr, flush=True)
    kinds = f"{len(MISTAKES)} kinds of mistakes"
    told_counts = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"{len(seeds)} seeds, {kinds}, {time.monotonic() - began:.0f} s: {told_counts}")
    return 0
