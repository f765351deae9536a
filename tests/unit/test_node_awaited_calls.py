"""How a node tells its chain what a round still waits for, and its exchange what may be asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from swarm.node.chain.link import ChainLink, News, WaitingCall
from swarm.node.chain.seen import Seen
from swarm.node.node import Node
from swarm.protocol import state
from swarm.protocol.machine import ChainObserved
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import (
    Member,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
)
from swarm.rounds.address_book import AddressBook
from swarm.rounds.driver import Driver
from swarm.rounds.inbox import Inbox
from swarm.rounds.retention import PlanBlobs
from swarm.rounds.serving import Serving
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

PLAN = PlanId(1)
D, UPDATE, MODEL = (Digest(bytes([number]) * 32) for number in range(3))
NODES = [Address(bytes([number]) * 20) for number in range(1, 5)]
MEMBERS = {
    MemberId(0): Member(MemberId(0), NODES[0], NODES[0], "m0"),
    # It has left, and come back under another number.
    MemberId(1): Member(MemberId(1), NODES[1], NODES[1], "m1", present=False),
    MemberId(2): Member(MemberId(2), NODES[1], NODES[1], "m1"),
}
OPEN = Round(4, 1, RoundStatus.OPEN, opened_at=2**40, roster=0b101, trainers=0b101)
CLOSED = Round(4, 1, RoundStatus.CLOSED, opened_at=2**40, roster=0b101, submitted=0b101)
NOTHING: Any = SimpleNamespace()


def plan_in(round: Round) -> Plan:
    consents = {
        i: state.Consent(i, state.Duty.TRAIN, 100, NO_DIGEST, seen_at=2**40) for i in MEMBERS
    }
    return Plan(
        PLAN, MemberId(0), "p", D, D, D, Rules(9, 2), PlanStatus.RUNNING, 0b101,
        consents, round=round,
    )  # fmt: skip


def seen_in(round: Round) -> Seen:
    return Seen(NODES[0], dict(MEMBERS), {PLAN: plan_in(round)})


def submit(node: Address, plan: int = PLAN) -> WaitingCall:
    return WaitingCall(node, "submit", (plan, 4, 1, UPDATE, 10, D, D, D, b""))


def vote(node: Address, function: str, omitted: int = 0) -> WaitingCall:
    return WaitingCall(node, function, (PLAN, 4, 1, (MODEL, omitted, 0, 1), b""))


@pytest.mark.parametrize(
    ("round", "calls", "more"),
    [
        (OPEN, [submit(NODES[0])], True),
        (OPEN, [submit(NODES[0]), submit(NODES[1])], False),
        (OPEN, [submit(NODES[0]), submit(NODES[3])], True),  # of no member
        (OPEN, [submit(NODES[0], plan=7)], None),
        (OPEN, [], None),
        (CLOSED, [vote(NODES[0], "merge")], True),
        (CLOSED, [vote(NODES[0], "merge"), vote(NODES[1], "attest")], False),
        (CLOSED, [vote(NODES[0], "merge"), vote(NODES[1], "merge", omitted=1)], True),
    ],
)
def test_a_node_knows_from_what_waits_whether_a_round_waits_for_more(
    round: Round, calls: list[WaitingCall], more: bool | None
) -> None:
    assert seen_in(round).awaits_more(calls) is more


def test_a_round_that_waits_for_more_decides_for_all() -> None:
    seen = seen_in(OPEN)
    seen.plans[PlanId(2)] = plan_in(OPEN)
    complete = [submit(NODES[0]), submit(NODES[1])]
    assert seen.awaits_more([*complete, submit(NODES[0], plan=2)]) is True


def test_what_a_node_has_seen_of_the_chain_is_told_to_who_waits_for_it() -> None:
    told: list[str] = []
    chain = ChainLink(NOTHING, NOTHING, on_observed=lambda: told.append("chain"))

    async def news(*_: object) -> News:
        return News(7, None, {}, {})

    chain.news = news  # type: ignore[assignment]
    joined: Any = SimpleNamespace(turned=lambda: False)
    exchange: Any = SimpleNamespace(rules_changed=lambda: told.append("exchange"))
    node = Node(
        NOTHING, NOTHING, chain, NOTHING, NOTHING, exchange, seen_in(OPEN), joined,
        *[NOTHING] * 6, {},
    )  # fmt: skip

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            await node._observe(nursery)

    trio.run(scenario)
    assert sorted(told) == ["chain", "exchange"]


def test_a_driver_whose_machine_has_taken_in_a_block_says_so() -> None:
    told: list[str] = []
    machine: Any = SimpleNamespace(wake_at=float("inf"), handle=lambda event, now: [])
    inbox = Inbox()
    one = Driver(machine, inbox, lambda: told.append("exchange"), *[NOTHING] * 10)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            await inbox.put(ChainObserved(plan_in(OPEN), 0b101))
            with trio.fail_after(5):
                while not told:  # noqa: ASYNC110 - the fake tells nobody
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(scenario)
    assert told == ["exchange"]


def serving_with(number: int, made: Digest) -> Serving:
    """The rules of a node whose round 4 is open, with this made for a round."""
    machine: Any = SimpleNamespace(plan=plan_in(OPEN), members=0b101)
    blobs = PlanBlobs(NOTHING, NOTHING, federated_averaging(20), keep_models=3)
    blobs.note(number, made)
    return Serving(machine, AddressBook(MemberId(0), dict(MEMBERS)), NOTHING, blobs)


def test_only_the_roster_is_kept_waiting_and_only_for_an_update_of_this_round() -> None:
    serving = serving_with(4, UPDATE)
    assert serving.may_read_soon(NODES[1], UPDATE)
    assert not serving.may_read_soon(NODES[1], MODEL)
    assert not serving.may_read_soon(NODES[3], UPDATE)
    assert not serving_with(3, UPDATE).may_read_soon(NODES[1], UPDATE)
