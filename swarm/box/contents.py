"""What Python, torch and a GPU need of a machine: files to read, devices, an environment."""

from __future__ import annotations

import glob
import os
import site
import sys
from collections.abc import Iterable
from pathlib import Path

from swarm.box.namespaces import is_within
from swarm.errors import ConfigurationError

PACKAGE = Path(__file__).parents[1]
"""The folder of the package `swarm`."""
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives"),
    *("/etc/localtime", "/etc/timezone"),
    # How many processors there are, and what caches; of a GPU, where it sits.
    *("/sys/devices/system", "/sys/devices/pci*", "/sys/bus/pci", "/sys/module/nvidia*"),
    *("/sys/class/kfd", "/sys/class/drm", "/sys/devices/virtual/kfd"),
)
GPUS = ("/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/kfd", "/dev/dri/*", "/dev/dxg")
PASSED_ON = (
    *("LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    *("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
)
"""What of this process's environment a box may know."""


def libraries() -> tuple[str, ...]:
    """The operating system's libraries and programs, this Python, and what it can import."""
    packages = [p for p in (*sys.path, site.getusersitepackages()) if "-packages" in p]
    searched = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, str(PACKAGE), *packages, *searched)
    found = [path for pattern in SYSTEM for path in glob.glob(pattern)]
    return tuple(dict.fromkeys([*found, *(p for p in python if os.path.isabs(p))]))


def gpus() -> tuple[str, ...]:
    """The devices of GPUs that are here."""
    found = (path for pattern in GPUS for path in glob.glob(pattern))
    return tuple(sorted(path for path in found if not os.path.isdir(path)))


def environment(home: Path) -> dict[str, str]:
    """An environment made from nothing: this Python and its modules, a home, and what is passed on.

    Above all, not the password of the node's key.
    """
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | {
        "HOME": str(home),
        "USER": "plan",
        "PATH": os.pathsep.join((os.path.dirname(sys.executable), "/usr/bin", "/bin")),
        "PYTHONPATH": str(PACKAGE.parent),
    }


def own_environment() -> dict[str, str]:
    """Of programs of our own that work beside a box. Nothing that a box can write to is in it: with
    the box's home, Python would run what lies there for modules of the user, outside of the box."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own = {"HOME": os.environ["HOME"]} if "HOME" in os.environ else {}
    return passed_on | own | {"PYTHONPATH": str(PACKAGE.parent)}


def physical_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_apart(readable: Iterable[Path], private: Iterable[Path]) -> None:
    """Raise ConfigurationError if one of the paths that a plan may read holds a private one."""
    hidden = [os.path.realpath(path) for path in private]
    for path in readable:
        for secret in hidden:
            if is_within(secret, os.path.realpath(path)):
                raise ConfigurationError(
                    f"a plan that may read {path} could read {secret}, which is this node's own: "
                    "keep the site's data in a folder of its own"
                )
