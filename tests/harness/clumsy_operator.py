"""A clumsy operator: commands with one or two mistakes about them, run in this process.

    python -m tests.campaigns operator --seeds 2000
    python -m tests.campaigns operator --seed 17

Whatever she does wrong, what she asked for is done, or the command ends with one sentence that
names the value and the place, and says what to do. Nothing is half-written then, nothing happens
behind her back, and the right command still does its work. Each seed for which that is not so is
told, and the exit status is 1 then. The same seed makes the same mistakes, on every machine.
"""

from __future__ import annotations

import argparse
import logging
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import trio
from click.testing import CliRunner, Result

from harness.live_consortium import LiveConsortium
from harness.operator_desk import Desk, Tree, drop_template, open_live, put_back, template, tree_of
from harness.operator_slips import EITHER, FINAL, SLIPS, Slip
from harness.operator_tasks import TASKS, Task
from swarm.cli import main as swarm

TOLD_EVERY_S = 60.0
PROPOSALS = 12
"""After so many a consortium is replaced: the contract has a budget for each day."""
USAGE = re.compile(r"Usage: .*|Try '.*' for help\.|")
UNSAID = re.compile(r"Traceback|\[Errno|object at 0x|\w+Error\(|\bNone\b|<class|\bb'")
"""What only a programmer understands."""
LONGEST_SENTENCE = 700


class Failure(Exception):
    """The operator was let down."""


@dataclass(frozen=True)
class Case:
    """What a seed does wrong, and at what."""

    seed: int
    task: Task
    slips: tuple[Slip, ...]

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.task.name}, {' and '.join(s.name for s in self.slips)}"


def case_of(seed: int) -> Case:
    """The first seeds make each mistake once and alone, the later ones two at a time where the
    task has two that do not exclude each other."""
    if seed < len(SLIPS):
        slip = random.Random(0).sample(SLIPS, len(SLIPS))[seed]
        return Case(seed, TASKS[random.Random(seed).choice(slip.tasks)], (slip,))
    chance = random.Random(f"clumsy {seed}")
    task = TASKS[chance.choice(chance.choice(SLIPS).tasks)]
    possible = [slip for slip in SLIPS if task.name in slip.tasks]
    first, second = chance.choice(possible), chance.choice(possible)
    together = (first, second) if first.place != second.place else (first,)
    return Case(seed, task, together)


class Consortia:
    """One live consortium at a time, opened when a case needs one."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._live: LiveConsortium | None = None

    def get(self) -> LiveConsortium:
        """One with room for some more proposals, and the keys that it began with."""
        if self._live is not None and (self._live.spent or self._live.proposed >= PROPOSALS):
            self.close()
        if self._live is None:
            self._live = self._stack.enter_context(open_live())
        return self._live

    def close(self) -> None:
        self._live = None
        self._stack.close()


@dataclass(frozen=True)
class Before:
    """How things stood when the command was given."""

    tree: Tree
    done: bool


def check(case: Case, consortia: Consortia) -> str:
    """Live through a case; returns what came of it. Raises Failure if that is not right."""
    with tempfile.TemporaryDirectory(prefix="clumsy-") as directory:
        desk = Desk(Path(directory), consortia.get() if case.task.live else None)
        shutil.copytree(template(), desk.folder, dirs_exist_ok=True)
        case.task.prepare(desk)
        desk.words = case.task.words(desk)
        sound = tree_of(desk.folder)
        chance = random.Random(f"mistakes {case.seed}")
        case = _make(case, desk, chance)
        before = Before(tree_of(desk.folder), case.task.done(desk))
        came = _judge(case, desk, before, run(desk))
        put_back(desk.folder, sound, before.tree)
        final = any(slip.outcome.startswith(FINAL) for slip in case.slips)
        if not case.task.done(desk) and not final:
            _repeat(case.task, desk)
        return came


def run(desk: Desk) -> Result:
    """Run the command of a desk; a node that comes up ends at once, as by SIGTERM."""

    async def end(node: object) -> None:
        desk.was_up = True
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    with (
        patch("swarm.node.node.Node.run", end),
        patch("swarm.node.node_process.open_log", return_value=None),
        desk.around(),
    ):
        result = CliRunner().invoke(swarm, desk.words, input=desk.typed, prog_name="swarm")
    desk.said = result.output
    return result


def _make(case: Case, desk: Desk, chance: random.Random) -> Case:
    """Make the case's mistakes; the case as it is then. One mistake can take from the other the
    option that it would misspell, or the line that it would change: then it is made alone."""
    first, *others = case.slips
    first.make(desk, chance)
    made = [first]
    for slip in others:
        try:
            slip.make(desk, chance)
            made.append(slip)
        except ValueError:
            pass
    return replace(case, slips=tuple(made))


def _judge(case: Case, desk: Desk, before: Before, result: Result) -> str:
    refused = [slip for slip in case.slips if slip.patterns]
    either = [slip for slip in refused if slip.outcome.startswith(EITHER)]
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise Failure(f"no sentence, but {result.exception!r}") from result.exception
    if result.exit_code == 0:
        if case.task.is_service and either:
            return "ended as asked"
        if not case.task.done(desk):
            raise Failure(f"passes, and nothing is done: {result.output}")
        if refused != either:
            raise Failure(f"passes: {result.output}")
        return "done"
    _check_sentence(result, [slip.patterns for slip in refused])
    done = case.task.done(desk) and not before.done
    if done and not either:
        raise Failure(f"is refused, and done all the same: {result.output}")
    _check_tree(case, desk, before.tree)
    return "one sentence"


def _check_sentence(result: Result, wanted: Sequence[Sequence[str]]) -> None:
    *before, said = result.output.rstrip("\n").split("\n")
    if not wanted:
        raise Failure(f"is refused: {result.output}")
    if result.exit_code not in (1, 2, 130) or not said.startswith("Error: "):
        raise Failure(f"ends with status {result.exit_code} and no sentence: {result.output}")
    if strange := [line for line in before if not USAGE.fullmatch(line)]:
        raise Failure(f"says more than a sentence: {strange} {said}")
    if UNSAID.search(said) or len(said) > LONGEST_SENTENCE:
        raise Failure(f"is no sentence for people: {said}")
    if not any(all(re.search(part, said) for part in parts) for parts in wanted):
        raise Failure(f"is refused in other words: {said}")


def _check_tree(case: Case, desk: Desk, spoiled: Tree) -> None:
    after = tree_of(desk.folder)
    names = spoiled.keys() | after.keys()
    touched = [n for n in sorted(names) if spoiled.get(n) != after.get(n)]
    left = [n for n in touched if not re.fullmatch(case.task.leaves, n)]
    halves = [n for n in after.keys() - spoiled.keys() if n.endswith((".partial", ".tmp"))]
    if any(slip.name == "Ctrl-C" for slip in case.slips):
        # It can come while one is removed; the next command removes it.
        left = [name for name in left if name not in halves]
    else:
        left += halves
    if left and not case.task.done(desk):
        raise Failure(f"is refused, and leaves {', '.join(left)} changed: {desk.said}")


def _repeat(task: Task, desk: Desk) -> None:
    desk.words, desk.around = task.words(desk), Desk.around
    result = run(desk)
    if result.exit_code != 0 or not task.done(desk):
        raise Failure(f"the right command does not work afterwards: {result.output}")


@contextmanager
def opened() -> Iterator[Consortia]:
    """All that cases share, for as long as the block runs."""
    consortia, log = Consortia(), logging.getLogger("swarm")
    log.propagate, before = False, log.propagate  # what nodes log is no answer to a command
    log.addHandler(silent := logging.NullHandler())
    try:
        yield consortia
    finally:
        consortia.close()
        drop_template()
        log.removeHandler(silent)
        log.propagate = before


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m tests.campaigns operator`."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.campaigns operator", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=60, help="0, 1, … (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="this one only")
    given = parser.parse_args(arguments)
    seeds = range(given.seeds) if given.seed is None else [given.seed]
    counts: Counter[str] = Counter()
    began = told = time.monotonic()
    with opened() as consortia:
        for seed in seeds:
            case = case_of(seed)
            try:
                counts[check(case, consortia)] += 1
            except Failure as failure:
                print(f"{case}\n  {failure}")
                counts["let down"] += 1
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                print(f"{told - began:.0f} s: {seed + 1} seeds", file=sys.stderr, flush=True)
    kinds = f"{len(SLIPS)} kinds of mistakes"
    told_counts = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(f"{len(seeds)} seeds, {kinds}, {time.monotonic() - began:.0f} s: {told_counts}")
    return 1 if counts["let down"] else 0
