"""A stream from trainer to trainer through both nodes' relays, in memory; and what breaks it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from swarm.box import frames
from swarm.errors import LocalError, NoAnswer, PlanError, ProtocolViolation
from swarm.learning.training.asking import SocketLink
from swarm.learning.training.holding import Holding
from swarm.learning.training.passed_tensors import pack, unpack
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.network.stream_relay import Relay
from swarm.protocol.streams import HEADER, WINDOW, Conversation, Header, Kind
from swarm.types import Address

PEER = Address(b"\x07" * 20)
X = torch.arange(12, dtype=torch.float32).reshape(3, 4)


@dataclass
class End:
    near: socket.socket
    asks: bool
    book: Conversation = field(default_factory=Conversation)
    sent: list[int] = field(default_factory=list)
    most: int = 10**9

    @property
    def leaving(self) -> Callable[[int], None]:
        def leave(size_bytes: int) -> None:
            self.sent.append(size_bytes)
            if sum(self.sent) > self.most:
                raise LocalError("too much")

        return leave


class Answers:
    """The plan's side of a role: what it is asked, doubled."""

    def __init__(self, change: Callable[[Any], Any] = lambda asked: (2 * asked[0],)) -> None:
        self.change = change

    def answer(self, asked: Any) -> Any:
        return self.change(asked)

    def state(self) -> dict[str, torch.Tensor]:
        return {"w": torch.ones(2)}


@dataclass
class Path:
    link: SocketLink
    ends: tuple[End, End]
    faults: list[Exception]
    holding: Holding


@contextmanager
def path(answers: Any, answer_s: float = 20.0, most: int = 10**9) -> Iterator[Path]:
    """Asker, its node, the other node, holder; all four in threads of this process."""
    mine, near_a = socket.socketpair()
    far_a, far_b = socket.socketpair()
    near_b, theirs = socket.socketpair()
    door, inside = socket.socketpair()
    ends = (End(near_a, True, most=most), End(near_b, False))
    faults: list[Exception] = []

    def carry(end: End, far: socket.socket) -> None:
        try:
            Relay(end, far, Standing(PEER), Pacer(None), 5.0).run()
        except Exception as error:  # noqa: BLE001 (looked at below)
            faults.append(error)
        finally:
            end.near.close()
            far.close()

    holding = Holding(answers)
    threads = [
        threading.Thread(target=carry, args=pair) for pair in ((ends[0], far_a), (ends[1], far_b))
    ]
    threads.append(threading.Thread(target=holding.run, args=(inside,)))
    for thread in threads:
        thread.start()
    frames.send(door, b"stream", [theirs.fileno()])
    theirs.close()
    try:
        yield Path(SocketLink(mine, answer_s, ["w"]), ends, faults, holding)
    finally:
        mine.close()
        door.close()
        for thread in threads:
            thread.join(10)
        inside.close()
    assert not any(thread.is_alive() for thread in threads)


def test_tensors_go_and_come_back_and_every_byte_is_counted_before_it_goes() -> None:
    with path(Answers()) as way:
        (answer,) = way.link.ask((X,), (X,)).answer()
        assert torch.equal(answer, 2 * X)
        assert torch.equal(way.link.state()["w"], torch.ones(2))
        way.link.tell((X,))
        (answer,) = way.link.ask((X,), None).answer()
    asker, holder = way.ends
    size = sum(map(len, pack((X,))))
    assert sum(asker.sent) == 4 * HEADER.size + 3 * size
    assert (asker.book.asked, asker.book.answered, holder.book.asked) == (4, 3, 4)
    assert sum(holder.sent) == 3 * HEADER.size + 2 * size + sum(map(len, pack((torch.ones(2),))))
    assert (way.holding.questions, way.holding.refused, way.faults) == (4, 0, [])


def test_more_than_a_window_of_large_questions_waits_and_does_not_lock_up() -> None:
    large = torch.randn(1 << 18)
    with path(Answers()) as way:
        asked = [way.link.ask((large,), (large,)) for _ in range(WINDOW + 4)]
        assert all(torch.equal(each.answer()[0], 2 * large) for each in asked)


def test_a_late_answer_is_no_answer_and_the_next_question_has_one() -> None:
    def slow(asked: Any) -> Any:
        if asked[0].sum() == 0:
            time.sleep(0.4)
        return asked

    with path(Answers(slow), answer_s=0.2) as way:
        with pytest.raises(NoAnswer, match=r"did not answer within 0\.2 s"):
            way.link.ask((torch.zeros(2),), None).answer()
        time.sleep(0.3)
        (answer,) = way.link.ask((X,), (X,)).answer()
        assert torch.equal(answer, X)
        assert way.link.late == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda asked: (asked[0][:1],), "answered float32"),
        (lambda asked: (asked[0] / 0,), "not finite"),
        (lambda asked: (), "answered nothing"),
    ],
)
def test_a_liars_answer_is_refused_and_the_stream_lives_on(change: Any, words: str) -> None:
    with path(Answers(change)) as way:
        for _ in range(2):
            with pytest.raises(NoAnswer, match=words):
                way.link.ask((X,), (X,)).answer()


def test_what_the_plan_raises_on_is_refused_in_words_to_who_asked() -> None:
    def fail(asked: Any) -> Any:
        raise PlanError("plan.py:7 in answer: a shape that is none")

    with path(Answers(fail)) as way:
        with pytest.raises(NoAnswer, match=r"refused: plan\.py:7 in answer"):
            way.link.ask((X,), (X,)).answer()
        with pytest.raises(NoAnswer, match=r"refused: its question is not finite"):
            way.link.ask((X / 0,), (X,)).answer()
        assert torch.equal(way.link.state()["w"], torch.ones(2))
    assert way.holding.refused == 2


def test_a_site_that_may_send_no_more_has_its_stream_ended() -> None:
    with path(Answers(), most=40) as way, pytest.raises(NoAnswer, match="is gone"):
        way.link.ask((X,), (X,)).answer()
    assert [str(fault) for fault in way.faults if isinstance(fault, LocalError)] == ["too much"]


def relay_of(raw: bytes, asks: bool) -> Exception | None:
    """What becomes of a relay here whose peer sends these bytes."""
    near, mine = socket.socketpair()
    far, theirs = socket.socketpair()
    theirs.sendall(raw)
    theirs.shutdown(socket.SHUT_WR)
    with near, mine, far, theirs:
        try:
            Relay(End(near, asks), far, Standing(PEER), Pacer(None), 0.1).run()
        except Exception as error:  # noqa: BLE001 (it is what is looked at)
            mine.setblocking(False)
            with pytest.raises(BlockingIOError):  # nothing of it was passed on
                mine.recv(1)
            return error
    return None


@pytest.mark.parametrize(
    ("raw", "asks", "words"),
    [
        (b"garbage, and nothing but garbage", True, "is none"),
        (Header(Kind.ANSWER, 1, 0).encode(), True, "question 1 is not the one"),
        (Header(Kind.ASK, 1, 0).encode(), True, "a holder that answers sent ASK"),
        (Header(Kind.ASK, 2, 0).encode(), False, "question 2 came after 0"),
        (Header(Kind.ANSWER, 1, 0).encode(), False, "a site that asks sent ANSWER"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_named_and_nothing_of_it_passes(
    raw: bytes, asks: bool, words: str
) -> None:
    error = relay_of(raw, asks)
    assert isinstance(error, ProtocolViolation)
    assert words in str(error)


def test_an_end_of_the_peer_between_frames_is_an_ordinary_end() -> None:
    assert relay_of(b"", True) is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "does not hold its list"),
        (b"\0\0\0\xff", "does not hold its list"),
        (b"\0\0\0\1\xc1", "cannot be read"),
        (bytes(b"".join(pack((X,))))[:-1], "goes beyond its frame"),
        (bytes(b"".join(pack((X,)))) + b"1", "1 bytes after the last"),
        (bytes(b"".join(pack((X,)))).replace(b"float32", b"float33"), "of the type 'float33'"),
    ],
)
def test_tensors_that_are_none_are_refused(raw: bytes, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        unpack(bytearray(raw))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(0, 3),
        torch.tensor(4.0),
        torch.tensor([True, False]),
        torch.randn(5, 7).bfloat16(),
        torch.arange(3)[::2],
    ],
)
def test_tensors_come_out_as_they_went_in(tensor: torch.Tensor) -> None:
    (found, other) = unpack(bytearray(b"".join(pack((tensor, X)))))
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(found, tensor)
    assert torch.equal(other, X)
