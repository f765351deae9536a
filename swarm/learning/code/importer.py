"""Importing a plan's modules: from the source that its digest covers, and from nothing else.

Python's own importer prefers `helper.so` to `helper.py` and takes `__pycache__/helper.pyc` where
its times fit, so what nobody has read would run under a digest that everybody compared. Here the
modules of a plan come from the bytes of its bundle as they were read: a compiled file beside them,
a file in `data/`, or one that is changed a moment later never counts.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType


class SourceOnly(importlib.machinery.SourceFileLoader):
    """Runs one file of a bundle; its path is only named, for tracebacks and `__file__`."""

    def __init__(self, name: str, path: Path, source: bytes) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_data(self, path: str) -> bytes:
        if path != self.path:
            raise FileNotFoundError(path)
        return self._source

    def path_stats(self, path: str) -> Mapping[str, float]:
        raise FileNotFoundError(path)  # without times, Python looks for no compiled file


class _Folder(importlib.abc.Loader):
    """A folder without `__init__.py`: a package that holds nothing itself."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        return None


class PlanFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of the plan in `folder`, whose bundle holds `files` by relative name."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self.folder = folder
        self._files = files

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        place = fullname.replace(".", "/")
        for name, is_package in ((f"{place}/__init__.py", True), (f"{place}.py", False)):
            if name in self._files:
                file = self.folder / name
                return importlib.util.spec_from_file_location(
                    fullname,
                    file,
                    loader=SourceOnly(fullname, file, self._files[name]),
                    submodule_search_locations=[str(file.parent)] if is_package else None,
                )
        if any(name.startswith(place + "/") for name in self._files):
            return importlib.machinery.ModuleSpec(fullname, _Folder(), is_package=True)
        return None


def use_modules_of(folder: Path, files: Mapping[str, bytes]) -> None:
    """Let this plan's modules be imported by name, and no other plan's any more: each may have,
    say, a features.py."""
    finders = [each for each in sys.meta_path if isinstance(each, PlanFinder)]
    sys.meta_path[:] = [each for each in sys.meta_path if each not in finders]
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if isinstance(getattr(spec, "loader", None), SourceOnly | _Folder):
            del sys.modules[name]
    sys.meta_path.insert(0, PlanFinder(folder, files))


def is_of_plan(name: str) -> bool:
    """Whether the import of this module gives the plan's own, and not one that is here already."""
    module = sys.modules.get(name)
    if module is not None:
        loader = getattr(getattr(module, "__spec__", None), "loader", None)
        return isinstance(loader, SourceOnly | _Folder)
    finders = (each for each in sys.meta_path if isinstance(each, PlanFinder))
    return any(finder.find_spec(name, None) is not None for finder in finders)


def import_file(name: str, path: Path, source: bytes) -> ModuleType:
    """Run one file as the module `name`. Raises whatever its code raises."""
    loader = SourceOnly(name, path, source)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before execution, as the import system does
    loader.exec_module(module)
    return module
