"""The calls to the kernel that Python's library lacks, as functions that raise OSError.

Linux only; elsewhere every one of them raises, and the wall that needs it is reported as missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# Those above 423 have the same number on every architecture.
SYS_OPEN_TREE = 428
SYS_MOUNT_SETATTR = 442
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_ADD_RULE = 445
SYS_LANDLOCK_RESTRICT_SELF = 446
_CAPABILITY_VERSION = 0x20080522


def machine() -> str:
    """The architecture as the kernel names it: "x86_64" or "aarch64", say."""
    return platform.machine()


def unshare(flags: int) -> None:
    _call("unshare", flags)


def prctl(option: int, argument: int = 0, pointer: Any = None) -> None:
    second = ctypes.c_void_p(None) if pointer is None else ctypes.byref(pointer)
    zero = ctypes.c_ulong(0)
    _call("prctl", option, ctypes.c_ulong(argument), second, zero, zero)


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    _call("mount", _text(source), _text(target), _text(kind), ctypes.c_ulong(flags), _text(data))


def unmount(target: str, flags: int = 0) -> None:
    _call("umount2", _text(target), flags)


def pivot_root(new: str, old: str) -> None:
    syscall(SYS_PIVOT_ROOT[machine()], new, old)


def clear_capabilities() -> None:
    header = struct.pack("=II", _CAPABILITY_VERSION, 0)
    _call("capset", header, bytes(24))


def syscall(number: int, *arguments: Any) -> int:
    """A call by its number; whole numbers are passed as C longs, strings as paths."""
    return _call("syscall", ctypes.c_long(number), *(_long(a) for a in arguments))


def _long(argument: Any) -> Any:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return _text(argument) if isinstance(argument, str) else argument


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def _call(name: str, *arguments: Any) -> int:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"{name} is a call of Linux")
    result: int = getattr(_libc, name)(*arguments)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
