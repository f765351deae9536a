"""Mutants tried in one warm process: nothing is imported, collected or started twice.

The tests run once without any mutant, and it is noted which places each of them runs. Then a fork
of the process puts a mutant in place, and runs the tests that come there, quick ones first, until
one fails. `functions` puts mutants of Python in place, `solidity` those of the contract.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest

from harness.mutation.journal import Journal
from harness.mutation.mutants import Mutant, Verdict
from harness.mutation.trial import LeaveOut, fail_at_once

TEST_CPU_S, TEST_TIMES = 10, 5
"""What a test may take on a mutant: so many seconds, and so many times what it takes without one.
One that runs into a loop without end is found by that. Seconds of the processor, not of the clock:
a busy machine must find no mutant."""
PATIENCE_S = 3600.0
"""For a process that does not even use the processor."""
NOT_INSTALLED = b"not installed"
EVERYWHERE = ("everywhere",)


@dataclass(frozen=True)
class Ready:
    """A mutant that can be put in place."""

    places: set[Any]
    """What it changes, as `watch` notes it."""
    install: Callable[[], None]
    """Puts it into this process, for good."""


class Bench(Protocol):
    """What differs between mutants of Python and of Solidity."""

    exact: bool
    """Whether a test that comes to none of a mutant's places cannot notice it."""

    def watch(self) -> AbstractContextManager[set[Any]]:
        """Notes the places that are run inside."""

    def prepare(self, mutant: Mutant) -> Ready | str | None:
        """The mutant, ready to be put in place; by what it is found before it runs; None if it
        cannot be tried in a process that is warm."""


@dataclass
class Warm:
    """A plugin of pytest that runs its tests once, and then on every mutant."""

    mutants: Sequence[Mutant]
    bench: Bench
    walk: str
    """In the names of tests that come everywhere, and take too long to be watched."""
    jobs: int
    journal: Journal
    tell: Callable[[Verdict], None]
    _by_place: dict[Any, set[int]] = field(default_factory=dict)
    _took_s: list[float] = field(default_factory=list)
    _running: dict[int, tuple[Mutant, int, float]] = field(default_factory=dict)
    """By the end of the pipe that it answers to: mutant, process, when it began."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In the place of pytest's own loop."""
        known = self.journal.runs()
        for index, item in enumerate(session.items):
            took_s, places = known.get(item.nodeid) or self._watch(item)
            self._took_s.append(took_s)
            for place in places:
                self._by_place.setdefault(place, set()).add(index)
        for mutant in self.mutants:
            began = time.monotonic()
            ready = self.bench.prepare(mutant)
            if isinstance(ready, Ready):
                self._start(session, mutant, ready, began)
                while len(self._running) >= self.jobs:
                    self._wait(session)
            elif ready is not None:
                self.tell(Verdict(mutant, ready, time.monotonic() - began))
        while self._running:
            self._wait(session)
        return True

    def _watch(self, item: pytest.Item) -> tuple[float, set[Any]]:
        """What a test takes, and to which places it comes."""
        began = time.process_time()
        comes_everywhere = self.walk in item.nodeid
        with nullcontext({EVERYWHERE}) if comes_everywhere else self.bench.watch() as places:
            good = passes(item)
        if not good:
            raise RuntimeError(f"{item.nodeid} fails without any mutant")
        took_s = time.process_time() - began
        self.journal.note_run(item.nodeid, took_s, places)
        return took_s, places

    def _order(self, places: set[Any]) -> list[int]:
        """The tests to run: first those that come to these places, the quick ones first."""
        there = set[int]().union(*(self._by_place.get(at, ()) for at in places))
        near = there | self._by_place.get(EVERYWHERE, set())
        # Where some come there, those that do not are left out, exact or not: that takes minutes
        # less, and a mutant that only they would find counts as a survivor, the harsher mistake.
        far = set() if self.bench.exact or there else set(range(len(self._took_s))) - near
        quick = self._took_s.__getitem__
        return [*sorted(near, key=quick), *sorted(far, key=quick)]

    def _start(self, session: pytest.Session, mutant: Mutant, ready: Ready, began: float) -> None:
        ours, theirs = os.pipe()
        child = os.fork()
        if child:
            os.close(theirs)
            self._running[ours] = (mutant, child, began)
            return
        answer = NOT_INSTALLED
        with contextlib.suppress(BaseException):
            ready.install()
            answer = b""
            answer = str(self._first_failure(session, ready)).encode()
        os.write(theirs, answer)
        os._exit(0)

    def _first_failure(self, session: pytest.Session, ready: Ready) -> int | None:
        for index in self._order(ready.places):
            used_s = time.process_time()
            limit_s = int(used_s + TEST_CPU_S + TEST_TIMES * self._took_s[index]) + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
            if not passes(session.items[index]):
                return index
        return None

    def _wait(self, session: pytest.Session) -> None:
        """Wait for the next answer, and tell it."""
        ready, _, _ = select.select(list(self._running), [], [], PATIENCE_S)
        pipe = ready[0] if ready else next(iter(self._running))
        mutant, child, began = self._running.pop(pipe)
        answer = os.read(pipe, 20).decode() if ready else ""
        os.close(pipe)
        if not ready:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if answer == NOT_INSTALLED.decode():
            raise RuntimeError(f"{mutant.name} could not be put in place")
        if answer == "None":
            found_by = None
        elif answer:
            found_by = session.items[int(answer)].nodeid
        elif not ready or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
            found_by = "it never ended"
        else:
            found_by = "it ended the process"
        self.tell(Verdict(mutant, found_by, time.monotonic() - began))


def passes(item: pytest.Item) -> bool:
    """Run one test from its fixtures to their end."""
    from _pytest.runner import runtestprotocol

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        reports = runtestprotocol(item, log=False, nextitem=None)
    return all(not report.failed for report in reports)


def try_warm(
    mutants: Sequence[Mutant],
    bench: Bench,
    tests: Sequence[str],
    left_out: Sequence[str],
    walk: str,
    jobs: int,
    journal: Journal,
    tell: Callable[[Verdict], None],
) -> None:
    """Tell the verdict of each mutant that can be tried so. The modules that tests import are
    changed afterwards: run it in a process of its own."""
    fail_at_once()
    plugin = Warm(mutants, bench, walk, jobs, journal, tell)
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", *tests]
    if pytest.main(arguments, plugins=[LeaveOut(left_out), plugin]) not in (0, 5):
        raise RuntimeError("the tests could not be run")
