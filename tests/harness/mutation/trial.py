"""One mutant's trial: a tree that differs from the repository in one file, and the tests on it.

The trial runs in a process that is forked from one that has loaded the heavy libraries and nothing
of ours, so most mutants are found in less than a second.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path

from harness.mutation.mutants import Mutant

ROOT = Path(__file__).parents[3]
HEAVY = (
    "numpy",
    "eth",
    "eth.vm.forks.london",
    "web3",
    "hypothesis.stateful",
    "pytest",
    "trio",
    "msgspec",
)
PATIENCE_S = 300.0
"""For all tests of one mutant: one that runs into a loop without end is found by that."""
ARTIFACT = "swarm/chain/artifacts/Consortium.json"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: by which stage of tests it was found; None if it survived."""

    mutant: Mutant
    found_by: str | None
    seconds: float


@dataclass(frozen=True)
class Stage:
    """Some tests, quick ones first, with what pytest is told."""

    name: str
    arguments: tuple[str, ...]


def try_all(mutants: Iterable[Mutant], stages: Sequence[Stage], jobs: int) -> Iterator[Verdict]:
    """The verdicts as they come."""
    sys.dont_write_bytecode = True
    for module in HEAVY:
        import_module(module)
    waiting = iter(mutants)
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[Mutant, float, multiprocessing.context.ForkProcess]] = {}
    while True:
        while len(running) < jobs and (mutant := next(waiting, None)) is not None:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_try, args=(mutant, stages, theirs))
            process.start()
            theirs.close()
            running[ours] = (mutant, time.monotonic(), process)
        if not running:
            return
        ready = wait(list(running), timeout=1.0)
        for pipe, (mutant, began, process) in list(running.items()):
            took_s = time.monotonic() - began
            if pipe not in ready and took_s < PATIENCE_S:
                continue
            found_by: str | None = "it never ended"
            if pipe in ready:
                found_by = _told(pipe)
            process.kill()
            process.join()
            pipe.close()
            del running[pipe]
            yield Verdict(mutant, found_by, took_s)


def _told(pipe: Connection) -> str | None:
    try:
        told = pipe.recv()
    except EOFError:
        return "it ended the process"
    return None if told is None else str(told)


def _try(mutant: Mutant, stages: Sequence[Stage], pipe: Connection) -> None:
    os.setpgid(0, 0)
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        overlay = Path(folder)
        found: str | None = None
        try:
            _lay(overlay, mutant)
        except SystemExit:
            found = "it does not compile"
        else:
            sys.path.insert(0, str(overlay))
            found = next((s.name for s in stages if not _passes(s)), None)
        pipe.send(found)


def _lay(overlay: Path, mutant: Mutant) -> None:
    """The `swarm` package with this one change, all other files linked."""
    text = mutant.apply((ROOT / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        _link(overlay, mutant.file, text)
    else:
        _link(overlay, ARTIFACT, _compile(mutant.file, text))


def _link(overlay: Path, file: str, text: str) -> None:
    here = Path(file)
    for folder in reversed(here.parents[:-1]):
        (overlay / folder).mkdir()
        for entry in (ROOT / folder).iterdir():
            if entry.name != "__pycache__" and entry.relative_to(ROOT) not in (here, *here.parents):
                (overlay / entry.relative_to(ROOT)).symlink_to(entry)
    (overlay / here).write_text(text)


def _compile(file: str, text: str) -> str:
    sys.path.insert(0, str(ROOT / "contracts"))
    build = import_module("build")
    texts = build.sources()
    texts[Path(file).name] = text
    with contextlib.redirect_stderr(io.StringIO()):
        return str(build.artifact_text(texts))


def _passes(stage: Stage) -> bool:
    import pytest

    # The modules of the stage before would otherwise be kept; they are the same.
    run = partial(pytest.main, ["-q", "-x", "-n0", "-p", "no:cacheprovider", *stage.arguments])
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        with contextlib.redirect_stderr(nowhere):
            return run() == 0
