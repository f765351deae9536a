"""Wrong clocks, doubled keys, other releases: told by name, to the member itself and to others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
import trio
import trio.testing

from swarm.errors import ProtocolViolation
from swarm.network.network import NOT_COUNTED
from swarm.node.members.greetings import (
    ALONE_S,
    METHOD,
    SAID_FOR_S,
    TWICE_FOR_S,
    Greeting,
    Greetings,
)
from swarm.node.status import PeerStatus, notes_of
from swarm.protocol.state import Member
from swarm.types import Address, MemberId

A, B, C, D = (Address(bytes([i] * 20)) for i in range(1, 5))
NAMES = {A: "St. Mary", B: "Charité", C: "Kyoto", D: "Turin"}


class Net:
    """Nodes by address; each asks as itself."""

    def __init__(self, nodes: dict[Address, Greetings]) -> None:
        self.nodes = nodes

    def of(self, me: Address) -> Side:
        return Side(self, me)


class Side:
    def __init__(self, net: Net, me: Address) -> None:
        self.net, self.me = net, me

    @property
    def connected(self) -> frozenset[Address]:
        return frozenset(self.net.nodes) - {self.me}

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        assert method == METHOD
        return await self.net.nodes[peer].answer(self.me, payload)


def node(clock_ahead_s: float = 0.0, version: str = "1", halted: tuple[int, ...] = ()) -> Greetings:
    return Greetings(version, lambda: halted, lambda: trio.current_time() + clock_ahead_s)


def live(nodes: dict[Address, Greetings], seconds: float = 12.0) -> None:
    """All greet each other for a while."""

    async def scenario() -> None:
        net = Net(nodes)
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for me, greetings in nodes.items():
                    nursery.start_soon(greetings.run, net.of(me))
        for check in CHECKS:
            check()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


CHECKS: list[Callable[[], None]] = []


def check(nodes: dict[Address, Greetings], look: Callable[[], None]) -> None:
    CHECKS[:] = [look]
    live(nodes)


def test_a_wrong_clock_is_told_at_the_member_itself_and_at_all_others() -> None:
    nodes = {A: node(305.0), B: node(), C: node(0.4)}

    def look() -> None:
        (mine,) = nodes[A].notes_about_self(NAMES)
        assert "305 s ahead of" in mine
        assert "NTP" in mine
        assert nodes[A].notes_about(B) == []  # it is not the others' clocks that are wrong
        for other in (B, C):
            (note,) = nodes[other].notes_about(A)
            assert "its clock is 305 s ahead of" in note
            assert nodes[other].notes_about_self(NAMES) == []
        assert nodes[B].notes_about(C) == []

    check(nodes, look)


def test_other_releases_and_halted_plans_are_told_of_others() -> None:
    nodes = {A: node(version="2"), B: node(halted=(7,))}

    def look() -> None:
        assert nodes[A].notes_about(B) == [
            "it runs release 1, this node 2",
            "it has halted plan 7",
        ]
        assert nodes[B].notes_about(A) == ["it runs release 2, this node 1"]

    check(nodes, look)


def test_a_member_that_cannot_be_dialled_learns_it_from_those_that_it_has_dialled() -> None:
    walled = node()
    open_one = Greetings("1", tuple, trio.current_time, lambda peer: peer == A)
    nodes = {A: walled, B: open_one, C: node()}

    def look() -> None:
        (mine,) = walled.notes_about_self(NAMES)
        assert "Charité cannot dial this node" in mine
        assert "network.listen" in mine
        assert open_one.notes_about_self(NAMES) == []

    check(nodes, look)


async def greet(sender: Greetings, of: Address, receiver: Greetings, at: Address) -> None:
    await sender._greet(Side(Net({at: receiver}), of), at)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_key_on_two_machines_is_told_to_both_and_to_the_others() -> None:
    async def scenario() -> None:
        one, other, third = node(), node(), node()
        for each in (one, other, one):
            await greet(each, A, third, B)
        (note,) = third.notes_about(A)
        assert "two machines" in note
        await greet(other, A, third, B)
        for each in (one, other):
            (mine,) = each.notes_about_self(NAMES)
            assert "another machine uses this node's key" in mine
            assert "Charité" in mine
        await trio.sleep(TWICE_FOR_S + 1)
        assert third.notes_about(A) == one.notes_about_self(NAMES) == []

    run(scenario)


def test_restarts_of_a_node_are_no_second_machine() -> None:
    async def scenario() -> None:
        third = node()
        for _ in range(20):
            await greet(node(), A, third, B)
        assert third.notes_about(A) == []

    run(scenario)


def test_a_restored_node_waits_until_nobody_sees_its_key_on_another_machine() -> None:
    async def scenario() -> None:
        old, restored, third = node(), node(), node()
        alone_at: list[float] = []

        async def wait() -> None:
            await restored.wait_alone(Side(Net({B: third}), A))
            alone_at.append(trio.current_time())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for _ in range(5):  # the two push each other off the third
                for each in (old, restored):
                    await trio.sleep(ALONE_S / 20)
                    await greet(each, A, third, B)
            assert restored.say_twice() == [B]
            stopped_at = trio.current_time()  # the old one
            await trio.sleep(ALONE_S)
            assert not alone_at
        assert stopped_at + ALONE_S < alone_at[0] < stopped_at + SAID_FOR_S + 2 * ALONE_S

    run(scenario)


def test_a_restored_node_that_reaches_nobody_goes_on_waiting() -> None:
    async def scenario() -> None:
        with trio.move_on_after(20 * ALONE_S) as patience:
            await node().wait_alone(Side(Net({}), A))
        assert patience.cancelled_caught

    run(scenario)


def test_a_restored_node_that_is_alone_with_its_key_goes_on_soon() -> None:
    async def scenario() -> None:
        await node().wait_alone(Side(Net({B: node()}), A))
        assert ALONE_S <= trio.current_time() <= 2 * ALONE_S

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("ahead_s", [float("nan"), float("inf")])
def test_a_time_that_is_no_number_is_refused(ahead_s: float) -> None:
    async def scenario() -> None:
        payload = msgspec.msgpack.encode(Greeting("1", ahead_s, bytes(16), []))
        with pytest.raises(ProtocolViolation):
            await node().answer(A, payload)

    run(scenario)


def test_a_later_release_may_say_more_in_its_greeting_and_is_known_by_its_number() -> None:
    async def scenario() -> None:
        said = ["99.0", 0.0, bytes(16), [7], False, False, "what is not known here", {"x": 1}]
        one = node()
        await one.answer(B, msgspec.msgpack.encode(said))
        assert any("it runs release 99.0" in note for note in one.notes_about(B))

    run(scenario)


def peer(connected: bool, **failed: str) -> PeerStatus:
    return PeerStatus(
        name="Kyoto", connected=connected, remote=None, failed_dials=failed, release="",
        clock_s=None, notes=[],
    )  # fmt: skip


def member(present: bool) -> dict[MemberId, Member]:
    one = Member(MemberId(0), A, A, "St. Mary", seen_at=0)
    two = Member(MemberId(1), B, B, "Kyoto", seen_at=0)
    return {one.id: replace(one, present=present), two.id: two}


def test_a_node_says_that_it_is_no_member_yet_or_any_more_and_what_to_do() -> None:
    assert "contract propose --admit" in notes_of("Turin", C, member(True), [], [])[0]
    assert "no member any more" in notes_of("St. Mary", A, member(False), [], [])[0]
    away = peer(False, place=f"the handshake was ended there: no node listens, or {NOT_COUNTED}")
    assert "no member lets this node in" in notes_of("St. Mary", A, member(True), [away], [])[0]
    assert notes_of("St. Mary", A, member(True), [away, peer(True)], ["said"]) == ["said"]
