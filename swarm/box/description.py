"""A box as data: what is in it, what it may use, and the report on which walls stand."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Wall = Literal[
    "user", "mount", "pid", "net", "ipc", "capabilities", "landlock", "seccomp", "processes"
]
"""What a box is built of. "user" to "ipc" are namespaces; "processes" is the limit on their number,
which not every kernel lets us set."""

WALLS: tuple[Wall, ...] = (
    *("user", "mount", "pid", "net", "ipc"),
    *("capabilities", "landlock", "seccomp", "processes"),
)
Sandbox = Literal["auto", "required", "off"]
"""How much of a box a node asks for: what the machine allows, all that matters, or no walls."""

SCOPED_SIGNALS = 6
"""The version of Landlock that keeps signals and abstract sockets inside."""

Bytes = Annotated[int, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Limits(_Record, frozen=True):
    """What a box may use at most. 0 stands for no limit."""

    memory_bytes: Bytes = 0
    """Private memory of each process."""
    processes: Annotated[int, msgspec.Meta(ge=301)] = 2048
    """Processes and threads; no kernel takes fewer than 301."""
    open_files: Annotated[int, msgspec.Meta(ge=64)] = 4096
    file_bytes: Bytes = 0
    """The largest file that can be written."""
    scratch_bytes: Annotated[int, msgspec.Meta(ge=1)] = 2**30
    """What /tmp holds, in memory; and what /dev/shm holds."""
    free_disk_bytes: Bytes = 0
    """When less than this is left on the disk of the box's folder, the box ends."""
    log_bytes: Annotated[int, msgspec.Meta(ge=1)] = 8 * 2**20
    """What is kept of the output: this much, and as much of what came before."""


class Box(_Record, frozen=True):
    """One process to be started in a box. All paths are absolute, and the same inside.

    `folder`, which leads through no link, is the only place on a disk that can be written to; it is
    the working directory. `readable` names files and folders; those that do not exist are left out.
    `environment` is the whole of it. `descriptors` are inherited beside the standard streams. What
    is printed goes to the end of the file `log`, or to the node's output. `without` leaves walls
    out.
    """

    command: tuple[str, ...]
    folder: str
    readable: tuple[str, ...]
    devices: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    descriptors: tuple[int, ...] = ()
    limits: Limits = Limits()
    nice: int = 0
    log: str | None = None
    without: tuple[Wall, ...] = ()


class Report(_Record, frozen=True):
    """Which walls stand, each with a detail or "", and why the others do not.

    `pid` is the boxed process as the node sees it; None if there is none, as in a trial.
    """

    stand: dict[Wall, str] = {}
    missing: dict[Wall, str] = {}
    pid: int | None = None

    @property
    def landlock(self) -> int:
        """The version of Landlock that holds, or 0."""
        return int(self.stand.get("landlock", 0))

    @property
    def gaps(self) -> tuple[str, ...]:
        """What the plan's code could still reach; empty if nothing that matters."""
        stand = self.stand
        gaps = []
        if not {"mount", "landlock"} & stand.keys():
            gaps.append("the node's files, its key and password among them")
        if not {"net", "seccomp"} & stand.keys():
            gaps.append("the network")
        if "mount" not in stand and "seccomp" not in stand:
            gaps.append("the sockets of this machine, the node's control socket among them")
        if not ({"user", "landlock"} & stand.keys() or {"pid", "mount"} <= stand.keys()):
            gaps.append("the memory of the user's other processes")
        if "pid" not in stand and self.landlock < SCOPED_SIGNALS:
            gaps.append("the user's other processes, by signals")
        return tuple(gaps)

    @property
    def is_closed(self) -> bool:
        """Whether the node's secrets, its processes and the network are out of reach."""
        return not self.gaps

    def in_words(self) -> str:
        """One line for the log: what holds, what is missing and why, what can be reached."""
        stand = ", ".join(f"{wall} {detail}".strip() for wall, detail in self.stand.items())
        missing = "; ".join(f"{wall}: {why}" for wall, why in self.missing.items())
        text = f"plan code is boxed by {stand}" if stand else "plan code is not boxed"
        if missing:
            text += f"; missing are {missing}"
        if self.gaps:
            text += f"; it can reach {', and '.join(self.gaps)}"
        return text
