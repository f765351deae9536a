"""What a node reads of the chain with each block: events where they tell all, views elsewhere."""

from dataclasses import replace

import pytest
import trio
from harness.chain import Member as ChainMember

from swarm.chain.block import Transaction
from swarm.chain.codec import decode_transaction
from swarm.chain.contract import Event, call_data
from swarm.node.chain.link import ChainLink, WaitingCall
from swarm.protocol.follow import NO_HOLDER
from swarm.protocol.state import (
    Consent,
    Duty,
    Member,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_hex

PLAN = PlanId(1)
MEMBERS = {
    MemberId(i): Member(MemberId(i), Address(bytes([i]) * 20), Address(bytes([9, i] * 10)), f"m{i}")
    for i in range(3)
}
CONSENTS = {i: Consent(i, Duty.TRAIN, 100, NO_DIGEST) for i in MEMBERS}
ROUND = Round(4, 1, RoundStatus.OPEN, opened_at=50, roster=7)
D = Digest(bytes(32))


def plan_at(round: Round) -> Plan:
    return Plan(
        PLAN, MemberId(0), "p", D, D, D, Rules(9, 2), PlanStatus.RUNNING, 7, CONSENTS,
        round=round,
    )  # fmt: skip


class FakeClient:
    """A chain of ten blocks with these events; counts the views that are asked for."""

    def __init__(self, events: list[Event], read: Plan) -> None:
        self._events, self._read = events, read
        self.views: list[tuple[str, int | None]] = []

    def head(self) -> tuple[int, int]:
        return 10, 60

    def events(self, first: int, last: int) -> list[Event]:
        return [event for event in self._events if first <= event.height <= last]

    def time_of(self, event: Event) -> int:
        return 50 + event.height

    def plan(self, number: PlanId, height: int) -> Plan:
        self.views.append(("plan", height))
        return self._read

    def members(self) -> dict[MemberId, Member]:
        self.views.append(("members", None))
        return MEMBERS


def event(height: int, name: str, **arguments: object) -> Event:
    place = {"plan": PLAN, "round": 4, "attempt": 1} if name != "MemberRemoved" else {}
    return Event(name, place | arguments, height, D, 0)


def news_of(client: FakeClient, plan: Plan, since: int = 5):
    async def wait(above: int) -> int:
        raise AssertionError("nobody waits here")

    link = ChainLink(client, wait)
    return trio.run(link.news, since, MEMBERS, {PLAN: plan})


def test_what_events_tell_is_not_read() -> None:
    client = FakeClient([event(7, "CheckedIn", member=2, permille=5)], plan_at(ROUND))
    news = news_of(client, plan_at(ROUND))
    assert client.views == []
    assert news.plans[PLAN].consents[MemberId(2)].seen_at == 57
    assert (news.height, news.members, news.ended) == (10, None, {})


def test_a_round_that_ends_between_two_looks_is_told() -> None:
    opened = event(9, "RoundOpened", base=D, roster=7, stage=2, trainers=3, holder=NO_HOLDER)
    opened.arguments.update(round=5)
    client = FakeClient([event(8, "RoundVoided"), opened], plan_at(ROUND))
    news = news_of(client, plan_at(ROUND))
    assert client.views == []
    assert [(r.number, r.status) for r in news.ended[PLAN]] == [(4, RoundStatus.VOID)]
    assert news.plans[PLAN].round == Round(5, 1, RoundStatus.OPEN, 59, 50, D, 7, 2, 3)


def test_a_plan_of_which_an_event_does_not_tell_all_is_read_at_the_block_looked_at() -> None:
    read = plan_at(replace(ROUND, left=2))
    client = FakeClient(
        [event(7, "PlanWithdrawn", member=1), event(8, "CheckedIn", member=2, permille=5)], read
    )
    news = news_of(client, plan_at(ROUND))
    assert client.views == [("plan", 10)]
    assert news.plans[PLAN] == read


def test_a_change_of_members_has_members_and_running_plans_read() -> None:
    running, over = plan_at(ROUND), replace(plan_at(ROUND), status=PlanStatus.COMPLETED)
    client = FakeClient([event(7, "MemberRemoved", member=2)], running)
    assert news_of(client, running).members == MEMBERS
    assert client.views == [("plan", 10), ("members", None)]
    client.views.clear()
    news_of(client, over)
    assert client.views == [("members", None)]


def test_what_was_looked_at_before_is_not_taken_in_twice() -> None:
    client = FakeClient([event(5, "CheckedIn", member=2, permille=5)], plan_at(ROUND))
    assert news_of(client, plan_at(ROUND)).plans == {}


SENDER = ChainMember(2)
MERGE = call_data("merge", 1, 4, 1, Outcome(Digest(b"\7" * 32), 0b100), b"\2")
SUBMIT = call_data("submit", 1, 4, 1, D, 100, D, D, D, b"")


def waiting(data: bytes) -> Transaction:
    raw = SENDER.sign(77, data=to_hex(data))
    decoded = decode_transaction(raw)
    return Transaction(Digest(decoded.hash), SENDER.address, 0, decoded.gas, raw)


def link() -> tuple[ChainLink, list[WaitingCall]]:
    told: list[WaitingCall] = []
    return ChainLink(FakeClient([], plan_at(ROUND)), None, told.append), told


@pytest.mark.parametrize("data", [MERGE, call_data("until", 99, MERGE)], ids=["plain", "dated"])
def test_a_merge_that_waits_for_a_block_is_told_with_its_sender(data):
    chain, told = link()
    chain.saw_waiting(waiting(data))
    assert told == [(SENDER.address, "merge", (PLAN, 4, 1, (b"\7" * 32, 0b100, 0, 1), b"\2"))]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MERGE[:4],
        MERGE[:-40],
        MERGE[:4] + b"\xff" * 192,
        call_data("finalise", 1, 4, 1, Outcome(D, 0)),
        call_data("until", 99, call_data("void", 1, 4, 1)),
        call_data("until", 99, b""),
    ],
)
def test_transactions_that_move_no_round_on_are_not_told_of(data):
    chain, told = link()
    chain.saw_waiting(waiting(data))
    assert told == []


def test_what_waits_is_asked_about_without_what_moves_no_round_on():
    chain, _ = link()
    asked: list[list[WaitingCall]] = []

    def awaits_more(calls: list[WaitingCall]) -> bool:
        asked.append(calls)
        return True

    chain.awaits_more = awaits_more
    other = waiting(call_data("finalise", 1, 4, 1, Outcome(D, 0)))
    assert chain.expects_more([waiting(SUBMIT), other]) is True
    ((call,),) = asked
    assert (call.sender, call.function, call.arguments[:3]) == (SENDER.address, "submit", (1, 4, 1))
