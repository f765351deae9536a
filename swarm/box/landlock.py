"""Landlock: which files a process and all that it starts may ever open, whatever the mounts are.

The kernel's interface: https://docs.kernel.org/userspace-api/landlock.html. Each version knows
more kinds of access; we deny all that it knows and that no rule grants. It holds for opening files,
not for descriptors that are handed in. From version 6 on, signals and abstract sockets stay inside.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress

from swarm.box import system

_GET_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = (1 << bit for bit in range(4))
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_SCOPES = 0b11  # abstract sockets, and signals


def version() -> int:
    """The version of the kernel's Landlock. Raises OSError if it has none."""
    return system.syscall(
        system.SYS_LANDLOCK_CREATE_RULESET, ctypes.c_void_p(None), 0, _GET_VERSION
    )


def restrict(readable: Iterable[str], writable: Iterable[str], listed: Iterable[str]) -> int:
    """Let this process read and execute what is `readable`, do everything with what is `writable`,
    list the names in folders that are `listed`, and open nothing else; each with all that is below.
    Returns the version. Raises OSError.

    `prctl(PR_SET_NO_NEW_PRIVS)` must come before. Paths that do not exist are left out.
    """
    found = version()
    handled = _handled(found)
    sizes = {1: 8, 2: 8, 3: 8, 4: 16, 5: 16}
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES)[: sizes.get(found, 24)]
    ruleset = system.syscall(
        system.SYS_LANDLOCK_CREATE_RULESET,
        ctypes.create_string_buffer(attributes),
        len(attributes),
        0,
    )
    try:
        for paths, access in ((readable, _READ), (writable, handled), (listed, _READ_DIR)):
            for path in paths:
                with suppress(FileNotFoundError, NotADirectoryError):
                    _allow(ruleset, path, access & handled)
        system.syscall(system.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return found


def _handled(found: int) -> int:
    known = (1 << 13) - 1
    for since, access in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        if found >= since:
            known |= access
    return known


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access, descriptor))
        system.syscall(system.SYS_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
