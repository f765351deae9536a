"""Packages whose `__init__` imports far more than a node uses, put off until somebody asks.

`import libp2p.peer.id` runs `libp2p/__init__.py` first, which brings QUIC, mDNS, ACME, a DHT and
what they depend on; `eth` brings every fork, proof of work and the BLS curve. A node uses none of
it, and would pay for it at every start in time, and as long as it runs in memory. Nothing is taken
away: a name that is missing is looked up by importing all of it after all.

Importing this module is enough; packages that are imported already stay as they are. It is a place
of its own, because it reaches into how other packages are imported. The versions of libp2p and
py-evm are pinned.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = frozenset(
    {
        "eth",
        "eth.consensus",
        "libp2p",
        "libp2p.host",
        "libp2p.network",
        "libp2p.network.connection",
        "libp2p.transport",
        "libp2p.utils",
    }
)
"""Of these the `__init__` is put off, while the modules in them are imported as ever."""

STAND_INS = frozenset(
    {
        "eth.precompiles.bls12_381",  # no fork before Prague has them, and our chain is London's
        "py_ecc.bls",  # for keystores of Ethereum's validators
    }
)
"""What is imported from these stands for itself until it is called, or asked for an attribute."""


class _Later(Loader):
    """Makes modules that run what is in them when a name is asked for that they do not have."""

    def __init__(self, loader: Loader, prepare: Callable[[ModuleType, Loader], None]) -> None:
        self._loader = loader
        self._prepare = prepare

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._prepare(module, self._loader)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in PACKAGES and name not in STAND_INS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Later(spec.loader, _empty if name in PACKAGES else _stand_in)
        return spec


def _empty(module: ModuleType, loader: Loader) -> None:
    """Let a package be empty, but for the modules in it, until another name is asked for."""

    def find(name: str) -> Any:
        whole = f"{module.__name__}.{name}"
        try:
            return import_module(whole)
        except ModuleNotFoundError as error:
            if error.name != whole:
                raise
        return getattr(_run(module, loader), name)

    module.__dict__["__getattr__"] = find


def _stand_in(module: ModuleType, loader: Loader) -> None:
    """Let a module have every name, for something that runs the module when it is used."""

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(lambda: getattr(_run(module, loader), name))

    module.__dict__["__getattr__"] = find


def _run(module: ModuleType, loader: Loader) -> ModuleType:
    """The module, once what is in it has run."""
    if module.__dict__.pop("__getattr__", None) is not None:
        loader.exec_module(module)
    return module


class _StandIn:
    """For a function or a class that nobody uses."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._find()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)


if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())
