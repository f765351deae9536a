"""Who may open a stream of a plan, what is told of it, and what its faults come to; in memory."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import outcome
import pytest
import torch
import trio

from swarm.errors import NoAnswer, PeerUnreachable, PlanError, ProtocolViolation, RemoteError
from swarm.learning.training.asking import SocketLink
from swarm.learning.training.holding import Holding
from swarm.network.bulk import _in_thread
from swarm.network.pacing import Pacer
from swarm.network.peer_standing import Standing
from swarm.network.stream_relay import Relay
from swarm.protocol import machine as m
from swarm.protocol.state import Member, Round, RoundStatus
from swarm.rounds.address_book import AddressBook
from swarm.rounds.outgoing import Leaving
from swarm.rounds.records import Records
from swarm.rounds.site_limits import NO_LIMITS, SiteLimits
from swarm.rounds.streams import StreamEnd, StreamName, Streams, read_name
from swarm.types import NO_DIGEST, Address, MemberId, PlanId

SITE, HOLDER, TESTER, STRANGER = (Address(bytes([n]) * 20) for n in (1, 2, 3, 4))
NODES = (SITE, HOLDER, TESTER)
MEMBERS = {MemberId(i): Member(MemberId(i), n, n, f"m{i}") for i, n in enumerate(NODES)}
OPEN = Round(3, 2, RoundStatus.OPEN, roster=0b111, trainers=0b011, holder=MemberId(1))
NAME = StreamName(1, 3, 2)
TRAIN = m.Train(3, 2, "train", NO_DIGEST, NO_DIGEST, 3, holder=MemberId(1))
X = torch.ones(4)


@dataclass
class Wire:
    """Carries streams to the holder's node, unless it is cut."""

    holder: Streams | None = None
    refused: trio.Event = field(default_factory=trio.Event)
    cut: Callable[[StreamEnd], None] = lambda end: None

    async def carry_stream(
        self, peer: Address, name: bytes, end: StreamEnd, *, deadline_s: float
    ) -> None:
        assert (peer, self.holder is not None) == (HOLDER, True)
        assert self.holder is not None
        try:
            self.holder.admit(SITE, read_name(name))
        except RemoteError:
            self.refused.set()
            raise
        theirs = self.holder.join(SITE, read_name(name))
        self.cut(theirs)
        mine, far = socket.socketpair()

        async def relay(side: StreamEnd, wire: socket.socket) -> None:
            carried = Relay(side, wire, Standing(peer), Pacer(None), 5.0)
            work = partial(_in_thread, carried.run, carried.stop, trio.CapacityLimiter(1))
            with wire, side.near:
                ends.append(await outcome.acapture(work))

        ends: list[outcome.Outcome[None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, end, mine)
            nursery.start_soon(relay, theirs, far)
        try:
            ends[0].unwrap()
        except OSError as error:  # as the network says it
            raise PeerUnreachable("the stream broke") from error


@dataclass
class Site:
    streams: Streams
    left: list[Leaving] = field(default_factory=list)

    @property
    def talks(self) -> dict[int, Any]:
        return self.streams.records.at(3).talks


def site(
    me: int, directory: Path, wire: Wire, limits: SiteLimits = NO_LIMITS, round: Round = OPEN
) -> Site:
    left: list[Leaving] = []
    machine: Any = SimpleNamespace(plan=SimpleNamespace(round=round))
    book = AddressBook(MemberId(me), MEMBERS)
    records = Records(directory / f"{me}.jsonl")
    plan, number = PlanId(1), MemberId(me)
    return Site(Streams(plan, number, machine, book, wire, records, limits, left.append), left)


class Doubles:
    def answer(self, asked: Any) -> Any:
        return (2 * asked[0],)

    def state(self) -> dict[str, torch.Tensor]:
        return {}


@contextmanager
def held(streams: Streams) -> Iterator[None]:
    """The role is held by a thread in the place of a process."""
    answers: Any = Doubles()
    door = streams.open_door(3, 2)
    thread = threading.Thread(target=Holding(answers).run, args=(door,))
    thread.start()
    try:
        yield
    finally:
        streams.close_door()
        thread.join(10)
        door.close()


def asks(times: int, fd: int | None) -> float:
    """What a training does with its socket."""
    assert fd is not None
    with socket.socket(fileno=os.dup(fd)) as connection:
        link = SocketLink(connection, 10.0, [])
        return float(sum(link.ask((X,), (X,)).answer()[0].sum() for _ in range(times)))


async def train(asker: Site, times: int) -> float:
    async def work(fd: int | None) -> float:
        return await trio.to_thread.run_sync(asks, times, fd)

    return await asker.streams.asking(TRAIN, work)


def test_a_training_asks_the_holder_and_both_record_it_and_list_what_left(tmp_path: Path) -> None:
    wire = Wire()
    asker, holder = site(0, tmp_path, wire), site(1, tmp_path, wire)
    wire.holder = holder.streams
    with held(holder.streams):
        assert trio.run(train, asker, 5) == 5 * 8.0
    (told,) = asker.talks.items()
    assert (told[0], told[1].questions, told[1].answers, told[1].fault) == (1, 5, 5, None)
    assert told[1].sent_bytes == sum(leaving.size_bytes for leaving in asker.left)
    assert {(x.to, x.purpose.kind, x.purpose.of) for x in asker.left} == {(HOLDER, "stream", 0)}
    assert {(x.to, x.purpose.kind, x.purpose.of) for x in holder.left} == {(SITE, "stream", None)}
    assert holder.talks[0].questions == 5


def test_a_holder_that_is_not_ready_is_asked_again(tmp_path: Path) -> None:
    wire = Wire()
    asker, holder = site(0, tmp_path, wire), site(1, tmp_path, wire)
    wire.holder = holder.streams

    async def scenario() -> float:
        async with trio.open_nursery() as nursery:
            done: list[float] = []
            answered = trio.Event()

            async def ask() -> None:
                done.append(await train(asker, 1))
                answered.set()

            nursery.start_soon(ask)
            await wire.refused.wait()
            with held(holder.streams):
                await answered.wait()
        return done[0]

    assert trio.run(scenario) == 8.0


def test_the_holders_own_training_asks_without_the_network(tmp_path: Path) -> None:
    holder = site(1, tmp_path, Wire())
    with held(holder.streams):
        assert trio.run(train, holder, 3) == 3 * 8.0
    assert (holder.left, holder.talks) == ([], {})


def test_a_stream_that_breaks_ends_the_training_with_its_own_error(tmp_path: Path) -> None:
    wire = Wire(cut=lambda end: end.near.shutdown(socket.SHUT_RDWR))
    asker, holder = site(0, tmp_path, wire), site(1, tmp_path, wire)
    wire.holder = holder.streams
    with held(holder.streams), pytest.raises(NoAnswer, match="is gone"):
        trio.run(train, asker, 1)
    assert asker.talks[1].fault


def test_an_answer_that_the_trainer_refuses_is_the_holders_fault_by_name(tmp_path: Path) -> None:
    asker = site(0, tmp_path, Wire())

    async def work(fd: int | None) -> None:
        raise NoAnswer("the role's holder answered float32 [1], not float32 [4]")

    with pytest.raises(NoAnswer):
        trio.run(asker.streams.asking, TRAIN, work)
    assert asker.talks[1].fault == "the role's holder answered float32 [1], not float32 [4]"
    told = asker.streams.records.as_list({MemberId(1): "m1"})[0]["talks"]
    assert told["m1"]["fault"].startswith("the role's holder answered")


def test_a_plan_that_sends_more_than_the_site_allows_is_told_so(tmp_path: Path) -> None:
    wire = Wire()
    asker = site(0, tmp_path, wire, SiteLimits(round_bytes=300))
    holder = site(1, tmp_path, wire)
    wire.holder = holder.streams
    with held(holder.streams), pytest.raises(PlanError, match=r"`policy\.max_round_mb` allows"):
        trio.run(train, asker, 20)
    assert "more than 300 bytes" in asker.talks[0].fault


def test_a_round_without_a_holder_or_of_another_task_has_no_stream(tmp_path: Path) -> None:
    asker = site(0, tmp_path, Wire())

    async def work(fd: int | None) -> bool:
        return fd is None

    for command in (replace(TRAIN, holder=None), replace(TRAIN, task="statistics")):
        assert trio.run(partial(asker.streams.asking, command, work))


@pytest.mark.parametrize(
    ("sender", "name", "changes", "words"),
    [
        (STRANGER, NAME, {}, "you train nothing"),
        (TESTER, NAME, {}, "you train nothing"),
        (SITE, StreamName(1, 3, 1), {}, "not held here in that attempt"),
        (SITE, StreamName(1, 2, 2), {}, "not held here in that attempt"),
        (SITE, NAME, {"holder": MemberId(0)}, "not held here in that attempt"),
        (SITE, NAME, {"status": RoundStatus.CLOSED}, "not held here now"),
    ],
)
def test_only_a_trainer_of_the_round_has_a_stream_to_its_holder(
    sender: Address, name: StreamName, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    holder = site(1, tmp_path, Wire(), round=replace(OPEN, **changes))
    with held(holder.streams), pytest.raises(RemoteError, match=words):
        holder.streams.admit(sender, name)


def test_nobody_has_a_stream_once_the_attempt_is_over(tmp_path: Path) -> None:
    holder = site(1, tmp_path, Wire())
    with held(holder.streams):
        holder.streams.admit(SITE, NAME)
    with pytest.raises(RemoteError, match="not held here now"):
        holder.streams.join(SITE, NAME)


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode([1, 2])])
def test_a_name_that_is_none_is_a_violation(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="no name of a stream"):
        read_name(raw)
    assert read_name(msgspec.msgpack.encode(NAME)) == NAME
