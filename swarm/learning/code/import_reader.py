"""What a plan's code imports, read from its source: without running it, and where it can harm
nobody.

Python's parser is recursive, and nested source of a few kilobytes can overrun the stack of the
process that reads it. So the source is read in a process of its own, bounded in time and memory,
which answers with a list. What a plan imports while it runs is checked again, by `import_guard`.
"""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from swarm.box import contents
from swarm.errors import UNREADABLE, LocalError, PlanError, ProtocolViolation
from swarm.learning.code.bundle import Bundle, unpack
from swarm.visible import visible

READ_WITHIN_S = 30.0
MAX_MEMORY_BYTES = 2 << 30
MAX_IMPORTS = 10_000
ALWAYS = ("__future__",)
"""What is no module but a word to the compiler."""


class Import(msgspec.Struct, frozen=True):
    """One place at which a plan names a module that is not its own.

    `names` are what `from module import names` takes out of it: modules or anything else.
    """

    module: str
    file: str
    line: int
    names: tuple[str, ...] = ()


class _Told(msgspec.Struct):
    imports: list[Import] = []
    fault: str = ""


_told = msgspec.json.Decoder(_Told)


def read_imports(code: Bundle) -> list[Import]:
    """What the code imports, by file and line; the plan's own modules left out.

    Blocks for a tenth of a second. Raises PlanError if a file is no Python, and LocalError if this
    machine cannot read it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "swarm.learning.code.import_reader"],
            input=code.pack(),
            capture_output=True,
            env=contents.own_environment(),
            timeout=READ_WITHIN_S,
            check=False,
        )
        told = _told.decode(done.stdout)
    except subprocess.TimeoutExpired:
        raise PlanError(
            f"the plan's code cannot be read within {READ_WITHIN_S:g} s: do not consent to it"
        ) from None
    except UNREADABLE:
        raise PlanError(
            "the plan's code is nested more deeply than code is, or larger, and cannot be parsed "
            f"(exit status {done.returncode}): do not consent to it"
        ) from None
    except OSError as error:
        raise LocalError(f"the plan's code cannot be read: {error.strerror}") from error
    if told.fault:
        raise PlanError(told.fault)
    return told.imports


def is_allowed(module: str, names: Sequence[str], allowed: Iterable[str]) -> bool:
    """Whether a module, or all that is taken out of it, is one of `allowed` or lies below one."""
    within = tuple(allowed)
    return _lies_below(module, within) or (
        bool(names) and all(_lies_below(f"{module}.{name}", within) for name in names)
    )


def _lies_below(module: str, allowed: Sequence[str]) -> bool:
    return any(module == one or module.startswith(one + ".") for one in (*allowed, *ALWAYS))


def imports_of(files: Mapping[str, bytes]) -> list[Import]:
    """What the files of a bundle import. Raises PlanError for what is no Python.

    A file named like a module of Python's library is not the plan's own: while it runs, the
    library's may be there already, and is what Python then gives.
    """
    own = {name.split("/")[0].removesuffix(".py") for name in files} - sys.stdlib_module_names
    found = []
    for name, content in files.items():
        if not name.endswith(".py"):
            continue
        try:
            tree = ast.parse(content)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            raise PlanError(f"{visible(name)}:{line} is no Python: {visible(error)}") from None
        except (RecursionError, MemoryError):
            raise PlanError(
                f"{visible(name)} is nested more deeply than code is, or larger, and cannot be "
                "parsed: do not consent to it"
            ) from None
        found += [
            Import(module, name, line, names)
            for module, line, names in _imports_in(tree)
            if module.split(".")[0] not in own
        ]
    if len(found) > MAX_IMPORTS:
        raise PlanError(f"the plan has {len(found)} imports, more than {MAX_IMPORTS}")
    return sorted(found, key=lambda each: (each.file, each.line))


def _imports_in(tree: ast.Module) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, ()
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            yield node.module, node.lineno, names


def main() -> None:
    """Entry point of `python -m` this module: a packed bundle in, a list out."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    try:
        told = _Told(imports_of(unpack(sys.stdin.buffer.read()).files))
    except (PlanError, ProtocolViolation) as error:
        told = _Told(fault=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    main()
