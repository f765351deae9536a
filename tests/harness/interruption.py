"""What goes wrong at the very moment when a command touches the disk or a socket.

Python announces each such moment to audit hooks, before it happens: a file opened, a folder made, a
file renamed, a database or a socket connected. So Ctrl-C can come at the k-th of them, a disk be
full from the k-th write on, or a file be another user's, on every machine alike and also for root,
whom no mode keeps out. Only the main thread's moments count: nodes in others live on.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0, "os.chmod": 0}
"""Events that change a folder: which of their arguments is the path. Only the first takes space."""


class Moments:
    """Counts the moments at which a command touches what lies in `folder`, or a socket."""

    def __init__(self, folder: Path, act: Callable[[int, str, bool], None]) -> None:
        self.count = 0
        self._folder = str(folder)
        self._act = act

    def see(self, event: str, arguments: tuple[object, ...]) -> None:
        path, writes = "", False
        if event == "open":
            path, mode, flags = str(arguments[0]), arguments[1], arguments[2]
            writes = bool(flags & WRITES) if isinstance(flags, int) else "r" not in str(mode)
        elif event in CHANGES:
            path, writes = str(arguments[CHANGES[event]]), event == "os.mkdir"
        elif event == "sqlite3.connect":
            path = str(arguments[0])
        if path.startswith(self._folder) or event == "socket.connect":
            self.count += 1
            self._act(self.count, path, writes)


_armed: Moments | None = None
_hooked = False


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _armed is not None and threading.current_thread() is threading.main_thread():
        _armed.see(event, arguments)


@contextmanager
def _watching(moments: Moments) -> Iterator[Moments]:
    global _armed, _hooked
    if not _hooked:  # a hook stays for the life of the process
        sys.addaudithook(_hook)
        _hooked = True
    _armed = moments
    try:
        yield moments
    finally:
        _armed = None


@contextmanager
def counted(folder: Path) -> Iterator[Moments]:
    """Only count."""
    with _watching(Moments(folder, lambda count, path, writes: None)) as moments:
        yield moments


@contextmanager
def ctrl_c_at(number: int, folder: Path) -> Iterator[Moments]:
    """SIGINT at the moment of this number, from 1."""

    def act(count: int, path: str, writes: bool) -> None:
        if count == number:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with _watching(Moments(folder, act)) as moments:
            yield moments
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def full_disk_from(number: int, folder: Path) -> Iterator[Moments]:
    """From the write of this number on, there is no space for new files."""
    written = 0

    def act(count: int, path: str, writes: bool) -> None:
        nonlocal written
        written += writes
        if writes and written >= number and not os.path.exists(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    with _watching(Moments(folder, act)) as moments:
        yield moments


@contextmanager
def not_ours(path: Path) -> Iterator[Moments]:
    """This file belongs to another user, who lets nobody read or write it."""

    def act(count: int, touched: str, writes: bool) -> None:
        if touched == str(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), touched)

    with _watching(Moments(path, act)) as moments:
        yield moments
