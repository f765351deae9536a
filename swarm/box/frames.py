"""Messages and open files over a socket pair: a 4-byte length, a body, and descriptors beside it.

The descriptors of a message travel with its first byte. These functions block; `process` and the
node's side of the trainer have the same for trio.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

MAX_FRAME_BYTES = 16 * 2**20
MAX_DESCRIPTORS = 16
LENGTH_BYTES = 4
_CREDENTIALS = struct.Struct("=iII")
_CREDENTIALS_KIND = 2  # SCM_CREDENTIALS, which Python names on Linux only
_ANCILLARY_BYTES = socket.CMSG_SPACE(4 * MAX_DESCRIPTORS) + socket.CMSG_SPACE(_CREDENTIALS.size)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Ancillary = list[tuple[int, int, bytes]]


class Frame(NamedTuple):
    """`sender` is the process that sent it as this one sees it, where the socket was told to say
    so, or None. Whoever receives the descriptors closes them."""

    body: bytes
    descriptors: tuple[int, ...] = ()
    sender: int | None = None


def rights(descriptors: Sequence[int]) -> Ancillary:
    """What `sendmsg` is given to hand over open files."""
    if not descriptors:
        return []
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())]


def send(connection: socket.socket, body: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send one message whole. Raises OSError if nobody listens any more."""
    data = memoryview(len(body).to_bytes(LENGTH_BYTES, "big") + body)
    sent = connection.sendmsg([data], rights(descriptors))
    connection.sendall(data[sent:])


def receive(connection: socket.socket) -> Frame | None:
    """The next message, or None at the end of the connection, even in the middle of one.

    Raises ValueError if it is larger than any message may be.
    """
    prefix, ancillary, _, _ = connection.recvmsg(LENGTH_BYTES, _ANCILLARY_BYTES, _CLOSE_ON_EXEC)
    descriptors, sender = parse(ancillary)
    prefix = _exactly(connection, prefix, LENGTH_BYTES) if prefix else b""
    length = int.from_bytes(prefix, "big")
    if length > MAX_FRAME_BYTES:
        close_all(descriptors)
        raise ValueError(f"a message of {length} bytes exceeds {MAX_FRAME_BYTES}")
    body = _exactly(connection, b"", length) if prefix else b""
    if not prefix or len(body) < length:
        close_all(descriptors)
        return None
    return Frame(body, descriptors, sender)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _exactly(connection: socket.socket, begun: bytes, length: int) -> bytes:
    """`begun` filled up to `length` bytes; empty if the connection ends before."""
    data = bytearray(begun)
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            return b""
        data += piece
    return bytes(data)


def parse(ancillary: Ancillary) -> tuple[tuple[int, ...], int | None]:
    """The descriptors and the sender's process id in what `recvmsg` gave beside the bytes."""
    descriptors = array.array("i")
    sender = None
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        elif (level, kind) == (socket.SOL_SOCKET, _CREDENTIALS_KIND):
            sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
    return tuple(descriptors), sender
