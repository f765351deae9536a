"""Which modules a plan's code may import at this site, while it runs.

The site's policy names them, and the source was read for others before (`imports`). What source
does not show, a name put together at run time or code that is made from text, is met here: whatever
asks Python for a module is asked in turn which file it stands in, and a file of the plan gets only
what the policy names.

This keeps a plan to what its readers were told. It is no wall: code that shares an interpreter with
others can reach what they hold. The box is the wall.
"""

from __future__ import annotations

import builtins
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType

from swarm.errors import PlanError
from swarm.learning.code.import_reader import is_allowed
from swarm.learning.code.importer import is_of_plan

IMPORTS_OF_WORKERS = "SWARM_IMPORTS_OF_WORKERS"
"""What processes that the plan's code starts may import, too; names with commas between."""


def guard_imports(folder: Path, allowed: Sequence[str]) -> None:
    """From now on, code in `folder` imports its own modules and `allowed`, or PlanError is raised
    where it tries. For the rest of this process, and for those that it starts."""
    within = f"{folder}{os.sep}"
    import_by_statement = builtins.__import__
    import_by_name = importlib.import_module

    def check(name: str, names: Sequence[str], caller: FrameType | None) -> None:
        while caller is not None and caller.f_code.co_filename.startswith("<"):
            caller = caller.f_back  # code made from text is its maker's
        if caller is None or not caller.f_code.co_filename.startswith(within):
            return
        if is_allowed(name, names, allowed) or is_of_plan(name.split(".")[0]):
            return
        raise PlanError(
            f"the plan imports {name!r}, and this site's policy allows {', '.join(allowed)}: add "
            "it to `policy.imports` in node.toml, or ask the proposer to do without"
        )

    def guarded(
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0:
            names = tuple(each for each in fromlist or () if each != "*")
            check(name, names, sys._getframe(1))
        return import_by_statement(name, globals, locals, fromlist or (), level)

    def guarded_by_name(name: str, package: str | None = None) -> ModuleType:
        if not name.startswith("."):
            check(name, (), sys._getframe(1))
        return import_by_name(name, package)

    builtins.__import__ = guarded
    importlib.import_module = guarded_by_name
    os.environ[IMPORTS_OF_WORKERS] = ",".join(allowed)


def guard_imports_of_worker(folder: Path) -> None:
    """As `guard_imports`, in a process that guarded code has started."""
    allowed = os.environ.get(IMPORTS_OF_WORKERS)
    if allowed is not None:
        guard_imports(folder, allowed.split(","))
