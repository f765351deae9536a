"""Mutants of the specification that are functions with other code: put into the function in place.

What is not inside a function (constants, the fields of classes, decorators) is left to `trial`,
which imports everything anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from harness.mutation.mutants import ROOT, Mutant
from harness.mutation.warm import Ready

FOLDER = str(ROOT / "swarm" / "protocol")
Place = tuple[str, str, int]
"""A function, by file, name and line: where its code begins."""


def place_of(code: CodeType) -> Place:
    """The function that some code belongs to; what is nested in it has a place of its own."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


class Functions:
    """Puts mutants of functions into this process: see `warm`."""

    exact = True

    @contextmanager
    def watch(self) -> Iterator[set[Any]]:
        """Notes the functions that are entered."""
        entered: set[Any] = set()

        def note(frame: Any, event: str, argument: Any) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(FOLDER):
                entered.add(place_of(frame.f_code))

        sys.setprofile(note)
        try:
            yield entered
        finally:
            sys.setprofile(None)

    def prepare(self, mutant: Mutant) -> Ready | str | None:
        """The functions that the mutant changes; None if it changes anything else."""
        path = ROOT / mutant.file
        text = path.read_text()
        try:
            after = compile(mutant.apply(text), str(path), "exec")
        except SyntaxError:
            return "it does not compile"
        module = import_module(".".join(Path(mutant.file).with_suffix("").parts))
        functions = _changed(module, compile(text, str(path), "exec"), after)
        if not functions:
            return None
        places = {place_of(function.__code__) for function, _ in functions}
        return Ready(places, partial(_install, functions))


def _install(functions: list[tuple[FunctionType, CodeType]]) -> None:
    for function, code in functions:
        function.__code__ = code


def _changed(
    module: ModuleType, before: CodeType, after: CodeType
) -> list[tuple[FunctionType, CodeType]]:
    """The functions that change, with the code that they get; none if anything else changes."""
    old, new = dict(codes_of(before)), dict(codes_of(after))
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
