"""What a box may use, and the privileges that it gives up."""

from __future__ import annotations

import errno
import os
import platform
import re
import resource
from contextlib import suppress
from pathlib import Path

from swarm.box import system
from swarm.box.description import Limits

_COUNTS_APART = (5, 14)
"""From this Linux on, a user's processes are counted in each user namespace by itself."""
_CAPABILITIES = 64  # more than there are
_ENDED_FIRST = "1000"


def be_ended_first() -> None:
    """Be what the kernel ends when memory runs out, before the node and everything else."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_ENDED_FIRST)


def drop_capabilities() -> str:
    """Hold no privilege any more, and win none by executing a program. Raises OSError."""
    system.prctl(system.PR_SET_NO_NEW_PRIVS, 1)
    with suppress(OSError):  # until there are no more of them; or this process has none to drop any
        for number in range(_CAPABILITIES):
            system.prctl(system.PR_CAPBSET_DROP, number)
    system.clear_capabilities()
    return ""


def restrict(limits: Limits) -> None:
    """Set those limits that count in each process."""
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_NOFILE, limits.open_files)
    if limits.memory_bytes:
        _bound(resource.RLIMIT_DATA, limits.memory_bytes)
    if limits.file_bytes:
        _bound(resource.RLIMIT_FSIZE, limits.file_bytes)


def bound_processes(most: int, user: int, is_apart: bool) -> str:
    """Bound the processes of the user (as the machine knows it), where namespaces cannot.

    `is_apart` says whether the box has a user namespace. Where the kernel counts those outside the
    box as well, they come on top. Raises OSError for root, whom the kernel exempts.
    """
    if user == 0:
        raise OSError(errno.EPERM, "the kernel exempts root: bound the node as a whole")
    release = re.match(r"(\d+)\.(\d+)", platform.release())
    counts_apart = release is not None and (int(release[1]), int(release[2])) >= _COUNTS_APART
    others = 0 if counts_apart and is_apart else _tasks_of_user()
    _bound(resource.RLIMIT_NPROC, most + others)
    return f"at most {most}"


def _tasks_of_user() -> int:
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
    return count


def _bound(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (value, value))
