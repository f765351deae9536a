"""One mutant's trial where everything is imported anew: a tree that differs from the repository in
one file, and the tests on it.

The trial runs in a process that is forked from one that has loaded the heavy libraries and nothing
of ours, so most mutants are found in some seconds.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pytest

from harness.mutation.mutants import ROOT, Mutant, Verdict

HEAVY = (
    "numpy",
    "eth",
    "eth.vm.forks.london",
    "web3",
    "hypothesis.stateful",
    "trio",
    "msgspec",
)
TEST_CPU_S = 200
"""For each test, in seconds of the processor: one that runs into a loop without end is found by
that. The longest takes a quarter of it."""
PATIENCE_S = 3600.0
"""For a process that does not even use the processor."""


def fail_at_once() -> None:
    """Have Hypothesis end at the first failure: nobody reads a small example of a mutant. To be
    called before tests are imported."""
    from hypothesis import Phase, settings

    settings.register_profile("fail at once", phases=(Phase.explicit, Phase.generate))
    settings.load_profile("fail at once")


class LeaveOut:
    """A plugin of pytest that does not run tests with one of these in their names."""

    def __init__(self, parts: Sequence[str]) -> None:
        self._parts = parts

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [i for i in items if not any(part in i.nodeid for part in self._parts)]


class Watcher:
    """A plugin of pytest that limits each test, and knows which one failed."""

    failed = "it cannot be imported"

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.failed = item.nodeid
        limit_s = int(time.process_time()) + TEST_CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))


def try_cold(
    mutants: Iterable[Mutant],
    tests: Sequence[str],
    left_out: Sequence[str],
    jobs: int,
    tell: Callable[[Verdict], None],
) -> None:
    """Tell the verdicts as they come."""
    sys.dont_write_bytecode = True
    for module in HEAVY:
        import_module(module)
    fail_at_once()
    waiting = iter(mutants)
    context = multiprocessing.get_context("fork")
    running: dict[Connection, tuple[Mutant, float, multiprocessing.context.ForkProcess]] = {}
    while True:
        while len(running) < jobs and (mutant := next(waiting, None)) is not None:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_try, args=(mutant, tests, left_out, theirs))
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
                try:
                    found_by = pipe.recv()
                except EOFError:
                    process.join()
                    if process.exitcode != -signal.SIGXCPU:
                        found_by = "it ended the process"
            process.kill()
            process.join()
            pipe.close()
            del running[pipe]
            tell(Verdict(mutant, found_by, took_s))


def _try(mutant: Mutant, tests: Sequence[str], left_out: Sequence[str], pipe: Connection) -> None:
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (TEST_CPU_S, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        overlay = Path(folder)
        _lay(overlay, mutant.file, mutant.apply((ROOT / mutant.file).read_text()))
        sys.path.insert(0, str(overlay))
        watcher = Watcher()
        plugins = [LeaveOut(left_out), watcher]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            with contextlib.redirect_stderr(nowhere):
                arguments = ["-q", "-x", "-n0", "-p", "no:cacheprovider", *tests]
                good = pytest.main(arguments, plugins=plugins) == 0
        pipe.send(None if good else watcher.failed)


def _lay(overlay: Path, file: str, text: str) -> None:
    """The `swarm` package with this one file changed, all others linked."""
    here = Path(file)
    for folder in reversed(here.parents[:-1]):
        (overlay / folder).mkdir()
        for entry in (ROOT / folder).iterdir():
            if entry.name != "__pycache__" and entry.relative_to(ROOT) not in (here, *here.parents):
                (overlay / entry.relative_to(ROOT)).symlink_to(entry)
    (overlay / here).write_text(text)
