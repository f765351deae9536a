"""A site's way to the holder of its plan's role: questions into a socket, and answers out of it.

The plan's thread does both. While it cannot write it reads, or two sides that only write would wait
for each other for ever.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from swarm.errors import NoAnswer, ProtocolViolation
from swarm.learning.parameters.named_tensors import State
from swarm.learning.plans.plan import Asked
from swarm.learning.training.answering import Tensors, refuse_unlike
from swarm.learning.training.passed_tensors import pack, unpack
from swarm.protocol.streams import HEADER, Conversation, Header, Kind, read_header

GONE = "the role's holder, or the way to it, is gone"


@dataclass(frozen=True)
class _Question:
    link: SocketLink
    number: int
    like: Tensors | None

    def answer(self) -> Tensors:
        return refuse_unlike(self.link.answer_to(self.number), self.like)


class SocketLink:
    """`training.loop.RoleLink` over the socket that the node has handed in.

    `held` names the tensors that live at the role, in the order in which the holder sends them.
    All methods raise NoAnswer.
    """

    def __init__(self, connection: socket.socket, answer_s: float, held: Sequence[str]) -> None:
        connection.setblocking(False)
        self._socket, self._answer_s, self._held = connection, answer_s, list(held)
        self._book = Conversation()
        self._answers: dict[int, tuple[Kind, bytearray]] = {}
        self._header: Header | None = None
        self._room = bytearray(HEADER.size)
        self._filled = 0

    @property
    def late(self) -> int:
        """How many answers came too late."""
        return self._book.late

    def ask(self, tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor] | None) -> Asked:
        number = self._send(Kind.ASK, pack(tensors))
        return _Question(self, number, None if like is None else tuple(like))

    def tell(self, tensors: Sequence[torch.Tensor]) -> None:
        self._send(Kind.TELL, pack(tensors))

    def state(self) -> State:
        found = self.answer_to(self._send(Kind.STATE, []))
        if len(found) != len(self._held):
            raise NoAnswer(f"the role's holder gave {len(found)} tensors, not {len(self._held)}")
        return dict(zip(self._held, refuse_unlike(found, None), strict=True))

    def answer_to(self, number: int) -> Tensors:
        """What was answered to a question; waits for it until it is due."""
        while number not in self._answers:
            if self._book.is_overdue(number, time.monotonic()):
                raise NoAnswer(f"the role's holder did not answer within {self._answer_s:g} s")
            self._move(0, self._book.due(number))
        kind, body = self._answers.pop(number)
        if kind is Kind.REFUSAL:
            raise NoAnswer(f"the role's holder refused: {body.decode(errors='replace')}")
        try:
            return unpack(body)
        except ProtocolViolation as error:
            raise NoAnswer(f"the role's holder sent {error}") from error

    def _send(self, kind: Kind, pieces: list[memoryview]) -> int:
        due = time.monotonic() + self._answer_s
        while not self._book.has_room:
            if time.monotonic() >= due:
                raise NoAnswer(f"the role's holder answered nothing for {self._answer_s:g} s")
            self._move(0, due)
        header = self._book.question(kind, sum(map(len, pieces)), due)
        unsent = [memoryview(header.encode()), *pieces]
        while unsent:
            if time.monotonic() >= due:
                self._socket.close()  # a frame was cut off: nothing can follow it
                raise NoAnswer(f"the role's holder took nothing for {self._answer_s:g} s")
            if self._move(select.POLLOUT, due):
                unsent = self._write(unsent)
        return header.number

    def _write(self, unsent: list[memoryview]) -> list[memoryview]:
        try:
            sent = self._socket.sendmsg(unsent[:16])
        except BlockingIOError:
            return unsent
        except OSError as error:
            raise NoAnswer(GONE) from error
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.pop(0))
        if sent:
            unsent[0] = unsent[0][sent:]
        return unsent

    def _move(self, wanted: int, until: float) -> bool:
        """Read what has come, or wait for it; whether `wanted` is possible."""
        if self._socket.fileno() < 0:
            raise NoAnswer(GONE)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | wanted)
        left_s = max(0.0, until - time.monotonic())
        for _, events in poll.poll(1000 * left_s + 1):
            if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read()
            return bool(events & wanted)
        return False

    def _read(self) -> None:
        while True:
            try:
                count = self._socket.recv_into(memoryview(self._room)[self._filled :])
            except BlockingIOError:
                return
            except OSError as error:
                raise NoAnswer(GONE) from error
            if count == 0:
                raise NoAnswer(GONE)
            self._filled += count
            if self._filled == len(self._room):
                self._came(self._room)

    def _came(self, room: bytearray) -> None:
        """A header is whole, or a frame's bytes are."""
        self._filled = 0
        try:
            if self._header is None:
                self._header = read_header(room)
                self._room = bytearray(self._header.size_bytes)
                if not self._header.size_bytes:
                    self._came(self._room)
                return
            header, self._header, self._room = self._header, None, bytearray(HEADER.size)
            if self._book.note_answer(header):
                self._answers[header.number] = (header.kind, room)
        except ProtocolViolation as error:
            self._socket.close()
            raise NoAnswer(f"the role's holder broke the protocol: {error}") from error
