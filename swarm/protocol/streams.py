"""What a site and the holder of a plan's role say to each other within a round, as frames.

A stream is a pair of byte streams between one site's trainer and the holder's: through both nodes,
over the bulk channel. A frame is a header of 16 bytes (kind, number, bytes; big-endian) and that
many bytes. The site sends

    ASK, TELL, STATE      numbered from 1 without gaps; the holder answers ASK and STATE

and the holder, in the order in which it was asked,

    ANSWER, REFUSAL       with the number of what it answers; a refusal's bytes are words

At most WINDOW questions have no answer yet: whoever sends more breaks the protocol. So neither side
keeps more than that of the other's, and what waits beyond it waits in the sender's own memory.

`Conversation` is one stream's book, kept at all four places that a frame passes: both trainers, and
both nodes, which believe neither. Pure: no clock, no socket; time comes in as seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from swarm.errors import ProtocolViolation

HEADER = struct.Struct(">BxxxIQ")
MAX_FRAME_BYTES = 64 << 20
WINDOW = 16
"""Questions that may be without an answer at once."""
MAX_REFUSAL_BYTES = 1000
MAX_NUMBER = 2**32 - 1


class Kind(IntEnum):
    """What a frame is."""

    ASK = 1
    TELL = 2
    STATE = 3
    """Asks for the tensors that live at the role."""
    ANSWER = 4
    REFUSAL = 5


QUESTIONS = (Kind.ASK, Kind.TELL, Kind.STATE)
ANSWERED = (Kind.ASK, Kind.STATE)


class Header(NamedTuple):
    """What comes before a frame's bytes."""

    kind: Kind
    number: int
    size_bytes: int

    def encode(self) -> bytes:
        return HEADER.pack(*self)


def read_header(raw: bytes | bytearray | memoryview) -> Header:
    """Read what `Header.encode` wrote. Raises ProtocolViolation for a frame that cannot be."""
    kind, number, size_bytes = HEADER.unpack(raw)
    if bytes(raw[1:4]) != b"\0\0\0" or kind not in Kind.__members__.values():
        raise ProtocolViolation(f"a frame that begins with {bytes(raw[:4]).hex()} is none")
    most = MAX_REFUSAL_BYTES if kind == Kind.REFUSAL else MAX_FRAME_BYTES
    if kind == Kind.STATE:
        most = 0
    if size_bytes > most:
        raise ProtocolViolation(f"a frame of {size_bytes} bytes exceeds {most}")
    return Header(Kind(kind), number, size_bytes)


class Frames:
    """Finds the headers in a stream of bytes that comes in pieces."""

    def __init__(self) -> None:
        self._begun = bytearray()
        self._left = 0

    @property
    def is_between(self) -> bool:
        """Whether the last frame is whole, and no other has begun."""
        return not self._left and not self._begun

    def feed(self, piece: memoryview) -> Iterator[Header]:
        """The headers that end in this piece. Raises ProtocolViolation."""
        while piece:
            if self._left:
                taken = min(self._left, len(piece))
                self._left -= taken
            else:
                taken = min(HEADER.size - len(self._begun), len(piece))
                self._begun += piece[:taken]
                if len(self._begun) == HEADER.size:
                    header = read_header(self._begun)
                    self._begun.clear()
                    self._left = header.size_bytes
                    yield header
            piece = piece[taken:]


@dataclass
class Conversation:
    """What was asked, and what has no answer yet."""

    asked: int = 0
    """The number of the newest question."""
    answered: int = 0
    """How many have been answered."""
    asked_bytes: int = 0
    answered_bytes: int = 0
    late: int = 0
    """Answers that came after their time."""
    _open: dict[int, float] = field(default_factory=dict)
    """Questions without an answer, oldest first, and when each is due."""
    _given_up: set[int] = field(default_factory=set)

    @property
    def has_room(self) -> bool:
        """Whether another question may be sent."""
        return len(self._open) < WINDOW

    @property
    def awaited(self) -> int:
        """How many have no answer yet."""
        return len(self._open)

    def question(self, kind: Kind, size_bytes: int, due: float) -> Header:
        """The header of the next question. The caller has looked whether there is room."""
        header = Header(kind, self.asked + 1, size_bytes)
        self.note_question(header, due)
        return header

    def note_question(self, header: Header, due: float = float("inf")) -> None:
        """The site has sent this. Raises ProtocolViolation if it may not."""
        if header.kind not in QUESTIONS:
            raise ProtocolViolation(f"a site that asks sent {header.kind.name}")
        if header.number != self.asked + 1 or header.number > MAX_NUMBER:
            raise ProtocolViolation(f"question {header.number} came after {self.asked}")
        if header.kind in ANSWERED:
            if not self.has_room:
                raise ProtocolViolation(f"more than {WINDOW} questions at once")
            self._open[header.number] = due
        self.asked = header.number
        self.asked_bytes += header.size_bytes

    def note_answer(self, header: Header) -> bool:
        """The holder has sent this; whether somebody still waits for it. Raises ProtocolViolation
        for what is no answer to the oldest question."""
        if header.kind in QUESTIONS:
            raise ProtocolViolation(f"a holder that answers sent {header.kind.name}")
        if header.number != next(iter(self._open), None):
            raise ProtocolViolation(f"question {header.number} is not the one to be answered")
        del self._open[header.number]
        self.answered += 1
        self.answered_bytes += header.size_bytes
        if header.number in self._given_up:
            self._given_up.discard(header.number)
            self.late += 1
            return False
        return True

    def is_overdue(self, number: int, now: float) -> bool:
        """Whether the time for this answer is over; then nobody waits for it any more."""
        if number in self._open and now >= self._open[number]:
            self._given_up.add(number)
        return number in self._given_up

    def due(self, number: int) -> float:
        """When this answer is due."""
        return self._open.get(number, float("-inf"))
