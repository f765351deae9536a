"""Mutants of the specification tried in one warm process: nothing is imported or collected twice.

The named tests run once, and note which functions each of them enters. A mutant is a function with
other code: a fork of the process puts it into the function in place, and runs the tests that enter
it, those that are over soonest first, until one fails. What is not inside a function is left to
`trial`, which imports everything anew.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from harness.mutation.mutants import Mutant
from harness.mutation.trial import ROOT, Stage, Verdict

PATIENCE_S = 60.0
"""For one mutant: one that runs into a loop without end is found by that."""
Place = tuple[str, str, int]
"""A function, by file, name and line: where its code begins."""


def place_of(code: CodeType) -> Place:
    """The function that some code belongs to; what is nested in it has a place of its own."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


@dataclass
class Warm:
    """A plugin of pytest that runs its tests once, and then on every mutant."""

    mutants: Sequence[Mutant]
    stage: str
    verdicts: list[Verdict] = field(default_factory=list)
    left: list[Mutant] = field(default_factory=list)
    """Those that cannot be tried here."""
    tell: Any = print
    _entered: dict[Place, set[int]] = field(default_factory=dict)
    _took_s: list[float] = field(default_factory=list)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In the place of pytest's own loop."""
        for index, item in enumerate(session.items):
            if not self._watch(index, item):
                raise RuntimeError(f"{item.nodeid} fails without any mutant")
        for mutant in self.mutants:
            functions = functions_with(mutant)
            if not functions:
                self.left.append(mutant)
                continue
            began = time.monotonic()
            found_by = self._try(session, mutant, functions)
            self.verdicts.append(Verdict(mutant, found_by, time.monotonic() - began))
            self.tell(self.verdicts[-1])
        return True

    def _watch(self, index: int, item: pytest.Item) -> bool:
        """Run a test, and note what it enters."""
        folder = str(ROOT / "swarm" / "protocol")
        entered = set()

        def note(frame: Any, event: str, argument: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(folder):
                entered.add(place_of(frame.f_code))

        began = time.monotonic()
        sys.setprofile(note)
        try:
            good = passes(item)
        finally:
            sys.setprofile(None)
        self._took_s.append(time.monotonic() - began)
        for place in entered:
            self._entered.setdefault(place, set()).add(index)
        return good

    def _try(
        self, session: pytest.Session, mutant: Mutant, functions: list[tuple[FunctionType, Any]]
    ) -> str | None:
        touched = {i for f, _ in functions for i in self._entered.get(place_of(f.__code__), ())}
        items = [session.items[i] for i in sorted(touched, key=self._took_s.__getitem__)]
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                for function, code in functions:
                    function.__code__ = code
                told = b"0" if all(map(passes, items)) else b"1"
                os.write(theirs, told)
            os._exit(0)
        os.close(theirs)
        try:
            ready, _, _ = select.select([ours], [], [], PATIENCE_S)
            answer = os.read(ours, 1) if ready else b"?"
        finally:
            os.close(ours)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return {b"0": None, b"1": self.stage, b"?": "it never ended"}.get(
            answer, "it ended the process"
        )


def passes(item: pytest.Item) -> bool:
    """Run one test from its fixtures to their end."""
    from _pytest.runner import runtestprotocol

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        reports = runtestprotocol(item, log=False, nextitem=None)
    return all(not report.failed for report in reports)


def functions_with(mutant: Mutant) -> list[tuple[FunctionType, CodeType]]:
    """The functions that a mutant changes, with the code that they get; none if it changes what is
    not inside a function."""
    path = ROOT / mutant.file
    module = sys.modules[".".join(Path(mutant.file).with_suffix("").parts)]
    text = path.read_text()
    try:
        whole = compile(mutant.apply(text), str(path), "exec")
        before = compile(text, str(path), "exec")
    except SyntaxError:
        return []
    old, new = dict(codes_of(before)), dict(codes_of(whole))
    changed = {name for name in old if told(old[name]) != told(new.get(name, before))}
    live = {f.__code__.co_qualname: f for f in functions_of(module)}
    if old.keys() != new.keys() or not changed or not changed <= live.keys():
        return []
    return [(live[name], new[name]) for name in changed]


def codes_of(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """The code of all functions of a module or class, by qualified name, and of the module and its
    classes themselves: whatever is not a function cannot be exchanged."""
    yield code.co_qualname, code
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and "__qualname__" in constant.co_names:
            yield from codes_of(constant)
        elif isinstance(constant, CodeType):
            yield constant.co_qualname, constant


def told(code: CodeType) -> str:
    """All that some code does, as text. Of a module or class, without its functions."""
    is_outer = code.co_name == "<module>" or "__qualname__" in code.co_names
    constants = [
        ("" if is_outer else told(c)) if isinstance(c, CodeType) else repr(c)
        for c in code.co_consts
    ]
    return repr((code.co_code, constants, code.co_names, code.co_varnames))


def functions_of(module: ModuleType) -> Iterator[FunctionType]:
    """The functions of a module, and of its classes."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type):
            for each in vars(value).values():
                inner = getattr(each, "fget", None) or getattr(each, "__func__", each)
                if isinstance(inner, FunctionType):
                    yield inner


def try_warm(
    mutants: Sequence[Mutant], stage: Stage, tell: Any
) -> tuple[list[Verdict], list[Mutant]]:
    """The verdicts of one stage of tests, and the mutants that it could not try."""
    plugin = Warm(mutants, stage.name, tell=tell)
    arguments = ["-q", "-n0", "-p", "no:cacheprovider", *stage.arguments]
    if pytest.main(arguments, plugins=[plugin]) not in (0, 5):
        raise RuntimeError("the tests could not be run")
    return plugin.verdicts, plugin.left
