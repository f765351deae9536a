"""Namespaces: a process tree, a network and a file system that hold the box's own and no more.

All of them can be had without privilege, from inside a user namespace of one user, where the
machine allows that; root can have them without one.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from swarm.box import system

NEW_USER, NEW_MOUNT, NEW_PID = 0x10000000, 0x00020000, 0x20000000
NEW_NET, NEW_IPC, NEW_UTS, NEW_CGROUP = 0x40000000, 0x08000000, 0x04000000, 0x02000000

_READ_ONLY, _NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 1, 2, 4, 8
_BIND, _RECURSIVE, _PRIVATE, _REMOUNT = 0x1000, 0x4000, 1 << 18, 0x20
_DETACH = 2
_TREE_CLONE, _TREE_CLOSE_ON_EXEC = 1, 0o2000000
_AT_CURRENT, _AT_RECURSIVE, _AT_EMPTY_PATH = -100, 0x8000, 0x1000
_SET_INTERFACE_FLAGS, _INTERFACE_IS_UP = 0x8914, 1

USER_IN_PLACE_OF_ROOT = 1000
HOST_NAME = "localhost"
_STAGE = "/tmp"
_ROOT_BYTES = 16 * 2**20
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))
PROC_FILES = (
    *("cpuinfo", "meminfo", "stat", "loadavg", "uptime", "version", "filesystems", "devices"),
    *("driver", "sys"),
)
"""What libraries read in /proc about the machine, beside what is in /proc/self."""


def enter_user() -> str:
    """Be in a user namespace of one user. Raises OSError if the machine does not allow it."""
    user, group = os.getuid(), os.getgid()
    system.unshare(NEW_USER)
    inside = user or USER_IN_PLACE_OF_ROOT
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{inside} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group or USER_IN_PLACE_OF_ROOT} {group} 1")
    return ""


def enter_pid() -> str:
    """Let the next child be the first process of a new tree: all others end with it."""
    system.unshare(NEW_PID)
    return ""


def enter_net() -> str:
    """Have a network with a loopback interface and no route."""
    system.unshare(NEW_NET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh14x", b"lo", _INTERFACE_IS_UP)
        fcntl.ioctl(any_socket, _SET_INTERFACE_FLAGS, up)
    return ""


def enter_ipc() -> str:
    """Share no message queues and no name with the machine."""
    system.unshare(NEW_IPC | NEW_UTS | NEW_CGROUP)
    socket.sethostname(HOST_NAME)
    return ""


def bound_processes(most: int) -> str:
    """Bound the number of processes and threads in this process's tree (Linux 6.14 and later)."""
    Path("/proc/sys/kernel/pid_max").write_text(str(most))
    return f"at most {most}"


@dataclass(frozen=True)
class Tree:
    """What a box's file system holds: paths of the machine, at the same places."""

    folder: str
    readable: tuple[str, ...]
    devices: tuple[str, ...]
    scratch_bytes: int
    has_own_processes: bool

    def enter(self) -> str:
        """Let the root of this process's mount namespace hold this and nothing else.

        Raises OSError if the machine does not allow it; what had been mounted until then is seen by
        this process alone.
        """
        links = _links(self.readable)
        _mount_tmpfs(_STAGE, _ROOT_BYTES)
        for name in ("old", "new"):
            Path(_STAGE, name).mkdir()
        os.chdir(_STAGE)
        system.pivot_root(".", "old")  # now /old is the machine, and /new becomes the box
        os.chdir("/")
        try:
            _mount_tmpfs("/new", _ROOT_BYTES)
            detail = self._fill(links)
            os.chdir("/new")
            system.pivot_root(".", ".")
        except OSError:
            os.chroot("/old")
            raise
        system.unmount(".", _DETACH)
        os.chdir("/")
        system.mount(None, "/", None, _REMOUNT | _BIND | _READ_ONLY | _NO_SETUID | _NO_DEVICES)
        os.chdir(self.folder)
        return detail

    def _fill(self, links: dict[str, str]) -> str:
        for place in ("/tmp", "/dev/shm"):
            Path("/new" + place).mkdir(parents=True)
            _mount_tmpfs("/new" + place, self.scratch_bytes, mode="1777")
        for device in (*DEVICES, *self.devices):
            _bind(device, writable=True, devices=True)
        for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
            os.symlink(f"/proc/self/fd{target}", f"/new/dev/{name}")
        detail = _proc(self.has_own_processes)
        _write_etc(self.folder)
        for path in outermost(links.values()):
            _bind(path)
        for path, target in links.items():
            _link(path, target)
        _bind(self.folder, writable=True)
        return detail


def clone_read_only() -> int:
    """A descriptor of this machine's root through which nothing can be changed, not even by opening
    a file again that was opened through it (Linux 5.12 and later). Raises OSError.
    """
    tree = system.syscall(
        system.SYS_OPEN_TREE,
        *(_AT_CURRENT, "/", _TREE_CLONE | _TREE_CLOSE_ON_EXEC | _AT_RECURSIVE),
    )
    _set_attributes(tree, _READ_ONLY | _NO_SETUID | _NO_DEVICES)
    return tree


def enter_mount() -> None:
    """Have mounts of one's own, which begin as the machine's."""
    system.unshare(NEW_MOUNT)
    system.mount(None, "/", None, _RECURSIVE | _PRIVATE)


def _set_attributes(tree: int, attributes: int) -> None:
    record = struct.pack("=QQQQ", attributes, 0, 0, 0)
    system.syscall(
        system.SYS_MOUNT_SETATTR, tree, "", _AT_EMPTY_PATH | _AT_RECURSIVE, record, len(record)
    )


def _mount_tmpfs(place: str, size_bytes: int, mode: str = "755") -> None:
    options = f"size={size_bytes},mode={mode},nr_inodes=65536"
    system.mount("tmpfs", place, "tmpfs", _NO_SETUID | _NO_DEVICES, options)


def outermost(paths: Iterable[str]) -> list[str]:
    """Those of the paths that lie in none of the others."""
    found: list[str] = []
    for path in sorted(set(paths), key=lambda p: p.split("/")):
        if not found or not is_within(path, found[-1]):
            found.append(path)
    return found


def is_within(path: str, folder: str) -> bool:
    """Whether an absolute path is the folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _links(paths: Iterable[str]) -> dict[str, str]:
    """To where each of the paths that exist leads in the end."""
    return {path: os.path.realpath(path) for path in paths if os.path.exists(path)}


def _link(path: str, target: str) -> None:
    """Have a path that leads elsewhere on the machine lead there in the box."""
    here = f"/new{path}"
    if path != target and not os.path.lexists(here):
        Path(here).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, here)


def _bind(path: str, *, writable: bool = False, devices: bool = False) -> None:
    """Have the machine's `path`, which leads through no link, at the same place in the box."""
    source, target = f"/old{path}", f"/new{path}"
    if not os.path.lexists(source):
        return
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if os.path.isdir(source):
        Path(target).mkdir(exist_ok=True)
    elif not os.path.lexists(target):
        Path(target).touch()
    system.mount(source, target, None, _BIND | _RECURSIVE)
    attributes = _NO_SETUID | (0 if devices else _NO_DEVICES) | (0 if writable else _READ_ONLY)
    descriptor = os.open(target, os.O_PATH | os.O_CLOEXEC)
    try:
        _set_attributes(descriptor, attributes)
    except OSError:  # before Linux 5.12: the topmost mount only, with the flags that it has
        kept = os.statvfs(target).f_flag & (_NO_SETUID | _NO_DEVICES | _NO_PROGRAMS | _READ_ONLY)
        system.mount(None, target, None, _REMOUNT | _BIND | attributes | kept)
    finally:
        os.close(descriptor)


def _proc(has_own_processes: bool) -> str:
    """The box's own /proc; or some files of the machine's, where that is hidden in part."""
    Path("/new/proc").mkdir()
    flags = _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS
    try:
        if not has_own_processes:
            raise PermissionError
        # Read-only: to the kernel a process of root is root when it writes below /proc/sys.
        system.mount("proc", "/new/proc", "proc", flags | _READ_ONLY)
    except OSError:
        for name in PROC_FILES:
            with suppress(OSError):
                _bind(f"/proc/{name}")
        return "without /proc"
    return ""


def _write_etc(home: str) -> None:
    """The few files of /etc without which libraries do not find their own user and host."""
    etc = Path("/new/etc")
    etc.mkdir()
    user, group = os.getuid(), os.getgid()
    (etc / "passwd").write_text(f"plan:x:{user}:{group}::{home}:/bin/sh\n")
    (etc / "group").write_text(f"plan:x:{group}:\n")
    (etc / "hosts").write_text(f"127.0.0.1 {HOST_NAME}\n::1 {HOST_NAME}\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
