"""Seccomp: the calls to the kernel that no plan has a reason to make are refused.

They change the machine, look into other processes, make new namespaces, or reach parts of the
kernel that nobody needs for training and that have had faults. The list is data; the filter is a
few lines of classic BPF (https://docs.kernel.org/userspace-api/seccomp_filter.html). A refused call
fails with EPERM, so that a library that tries one goes on without it.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Collection, Iterator

from swarm.box import system

# Numbers on x86_64 and on aarch64 (None: there is no such call).
REFUSED: dict[str, tuple[int | None, int | None]] = {
    # Other processes.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    # Mounts and namespaces.
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # The machine: its clock, its kernel, its name, its disks.
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "personality": (135, 92),
    # Parts of the kernel that training does not need.
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "lookup_dcookie": (212, 18),
}
UNIX = 1
OF_NETWORK = (2, 10, 16)
"""INET, INET6 and NETLINK, in which a library asks for the interfaces. Another, VSOCK, leads out of
a virtual machine whatever the network namespace."""

_CLONE, _CLONE3, _IOCTL, _SOCKET, _SOCKETPAIR = (
    (56, 220),
    (435, 435),
    (16, 29),
    (41, 198),
    (53, 199),
)
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # x86_64's other table of calls begins here
_NEW_NAMESPACES = 0x7E020000
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing into a terminal
_STREAMS = (1, 5)  # SOCK_STREAM, SOCK_SEQPACKET: they speak with their other end alone
_TYPE_MASK = 0xF

_LOAD, _AND, _RETURN = 0x20, 0x54, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_SET_FILTER = 2

Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def restrict(families: Collection[int]) -> str:
    """Refuse the calls above, and sockets but of these families, to this process and all that it
    starts, for ever. Raises OSError.

    Without the family UNIX, pairs of connected streams are all that can be made of it.
    """
    code = b"".join(struct.pack("=HBBI", *i) for i in program(system.machine(), families))
    buffer = ctypes.create_string_buffer(code)
    filter = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    system.prctl(system.PR_SET_SECCOMP, _SET_FILTER, filter)
    return ""


def program(machine: str, families: Collection[int]) -> list[Instruction]:
    """The filter for an architecture. Raises OSError if its calls are not listed."""
    if machine not in _AUDIT_ARCH:
        raise OSError(errno.ENOSYS, f"the calls of {machine} are not listed")
    return list(_program(machine, families))


def _program(machine: str, families: Collection[int]) -> Iterator[Instruction]:
    column = list(_AUDIT_ARCH).index(machine)
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    allow = (_RETURN, 0, 0, _ALLOW)
    yield (_LOAD, 0, 0, _ARCHITECTURE)
    yield (_IF_EQUAL, 1, 0, _AUDIT_ARCH[machine])
    yield refuse
    yield (_LOAD, 0, 0, _NUMBER)
    if machine == "x86_64":
        yield (_IF_AT_LEAST, 0, 1, _X32)
        yield refuse
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            yield (_IF_EQUAL, 0, 1, number)
            yield refuse
    # The flags of clone3 lie in memory, where no filter can look: the C library then takes clone.
    yield (_IF_EQUAL, 0, 1, _CLONE3[column])
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    yield from _on(_CLONE[column], 0, [(_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES), refuse, allow])
    for request in _TERMINAL_INPUT:
        yield from _on(_IOCTL[column], 1, [(_IF_EQUAL, 0, 1, request), refuse])
    yield from _on(_SOCKET[column], 0, [*_one_of(families), refuse, allow])
    if UNIX not in families:
        streams = [(_AND, 0, 0, _TYPE_MASK), *_one_of(_STREAMS)]
        yield from _on(_SOCKETPAIR[column], 1, [*streams, refuse, allow])
    yield allow


def _on(number: int, argument: int, body: list[Instruction]) -> list[Instruction]:
    """For one call: load the low half of an argument, and run `body`; then the number again."""
    load: Instruction = (_LOAD, 0, 0, _ARGUMENTS + 8 * argument)
    return [(_IF_EQUAL, 0, len(body) + 2, number), load, *body, (_LOAD, 0, 0, _NUMBER)]


def _one_of(values: Collection[int]) -> list[Instruction]:
    """Skip the next instruction, which refuses, if the value is one of these."""
    wanted = list(values)
    return [(_IF_EQUAL, len(wanted) - index, 0, value) for index, value in enumerate(wanted)]
