"""The process that holds a plan's role in a round: a thread for each site's stream.

Streams come in by a door, a socket on which the node hands their descriptors over. When the door
is closed, the round is over. One question at a time is answered, whoever asked it; of each stream,
one frame is in memory.
"""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from swarm.box import frames
from swarm.errors import NoAnswer, ProtocolViolation, SwarmError
from swarm.learning.plans.plan_faults import valid_text
from swarm.learning.training.answering import Answering, refuse_unlike
from swarm.learning.training.passed_tensors import pack, unpack
from swarm.protocol.streams import (
    HEADER,
    MAX_REFUSAL_BYTES,
    Conversation,
    Header,
    Kind,
    read_header,
)

log = logging.getLogger("swarm.trainer")


@dataclass
class Holding:
    """One round's streams. `run` returns when the door is closed."""

    answering: Answering
    streams: int = 0
    questions: int = 0
    refused: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)

    def run(self, door: socket.socket) -> None:
        threads = []
        with suppress(OSError, ValueError):
            while (handed := frames.receive(door)) is not None:
                for descriptor in handed.descriptors:
                    connection = socket.socket(fileno=descriptor)
                    connection.setblocking(True)
                    self._open.append(connection)
                    self.streams += 1
                    thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                    thread.start()
                    threads.append(thread)
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one site until its stream ends."""
        book = Conversation()
        try:
            with connection:
                while (raw := _exactly(connection, HEADER.size)) is not None:
                    header = read_header(raw)
                    book.note_question(header)
                    body = _exactly(connection, header.size_bytes)
                    if body is None:
                        return
                    self._answer(connection, book, header, body)
        except (OSError, ProtocolViolation) as error:
            log.info("a stream ended: %s", error)

    def _answer(
        self, connection: socket.socket, book: Conversation, header: Header, body: bytearray
    ) -> None:
        kind, pieces = Kind.ANSWER, []
        try:
            if header.kind is Kind.STATE:
                pieces = pack(tuple(self.answering.state().values()))
            else:
                pieces = pack(self.answering.answer(refuse_unlike(unpack(body), None)))
        except SwarmError as error:
            words = "its question is not finite" if isinstance(error, NoAnswer) else str(error)
            kind = Kind.REFUSAL
            pieces = [memoryview(valid_text(words).encode()[:MAX_REFUSAL_BYTES])]
        with self._counting:
            self.questions += 1
            self.refused += kind is Kind.REFUSAL
        if header.kind is Kind.TELL:
            return
        answer = Header(kind, header.number, sum(map(len, pieces)))
        book.note_answer(answer)
        _send(connection, [memoryview(answer.encode()), *pieces])


def _exactly(connection: socket.socket, size_bytes: int) -> bytearray | None:
    """So many bytes; None if the stream ends before."""
    room, filled = bytearray(size_bytes), 0
    while filled < size_bytes:
        count = connection.recv_into(memoryview(room)[filled:])
        if count == 0:
            return None
        filled += count
    return room


def _send(connection: socket.socket, pieces: list[memoryview]) -> None:
    while pieces:
        sent = connection.sendmsg(pieces[:16])
        while pieces and sent >= len(pieces[0]):
            sent -= len(pieces.pop(0))
        if sent:
            pieces[0] = pieces[0][sent:]
