"""Wherever something waits, it is said what for, and who is missing by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from test_node_commands import Client, never

from swarm.errors import ChainError, ConfigurationError, PeerUnreachable
from swarm.node.chain.link import ChainLink
from swarm.node.commands import account
from swarm.node.commands.common import transact
from swarm.node.commands.control import Request, _perform
from swarm.node.status import asked_of, waits_why
from swarm.protocol.masking import Masking
from swarm.protocol.state import (
    Candidate,
    Consent,
    Duty,
    Member,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    waited_for,
)
from swarm.types import Address, Digest, MemberId, PlanId, to_hex
from swarm.visible import name_addresses

NOW = 1_000_000
ALL = 0b111


def plan(**fields: Any) -> Plan:
    settings: dict[str, Any] = {
        "participants": ALL,
        "consents": {
            MemberId(i): Consent(MemberId(i), Duty.TRAIN, 5, Digest(bytes(32))) for i in range(3)
        },
        "invited": ALL,
        "until": NOW + 60,
        "rules": Rules(rounds=3, min_peers=2),
    } | fields
    digest = Digest(b"\x01" * 32)
    return Plan(PlanId(3), MemberId(0), "heart", digest, digest, digest, **settings)


def in_round(status: RoundStatus, **fields: Any) -> Plan:
    return plan(status=PlanStatus.RUNNING, round=Round(1, 1, status), **fields)


def candidate() -> Candidate:
    outcome: Any = None
    return Candidate(MemberId(0), outcome, 1, NOW)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (plan(participants=0b001), "`swarm plan consent 3` or `swarm plan decline 3` there"),
        (plan(participants=0b001, until=NOW - 1), "1 more that consents to train"),
        (plan(participants=0, until=NOW - 1), "2 more that consent to train"),
        (plan(), "the first round, which any of them may open"),
        (in_round(RoundStatus.OPEN), "the update of each of them"),
        (in_round(RoundStatus.CLOSED), "the merge"),
        (in_round(RoundStatus.FINAL), "the next round, which any of them may open"),
        (in_round(RoundStatus.VOID, participants=0b001), "1 more that consents to train"),
        (plan(status=PlanStatus.COMPLETED), ""),
        (plan(status=PlanStatus.STOPPED), ""),
    ],
)
def test_a_plan_says_what_it_waits_for(found: Plan, why: str) -> None:
    assert waits_why(found, ALL, NOW) == why


@pytest.mark.parametrize(
    ("found", "is_asked"),
    [
        (plan(participants=0b001), True),
        (plan(participants=0b010), False),
        (plan(participants=0b001, declined=0b010), False),
        (plan(participants=0b001, invited=0b101), False),
        (plan(participants=0b001, until=NOW - 1), False),
        (plan(participants=0b001, status=PlanStatus.STOPPED), False),
    ],
)
def test_a_member_is_told_which_plans_wait_for_its_own_answer(
    found: Plan, is_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.node.status.time.time", lambda: NOW)
    me = Member(MemberId(1), Address(bytes(20)), Address(bytes(20)), "Kyoto")
    assert asked_of(me, [found], ALL) == ({"3": "heart"} if is_asked else {})
    assert asked_of(None, [found], ALL) == {}


def test_a_merge_that_stands_waits_for_checks() -> None:
    found = in_round(RoundStatus.CLOSED)
    assert found.round is not None
    found.round.candidates.append(candidate())
    assert waits_why(found, ALL, NOW) == "checks of the merge by more than half"


KYOTO = Address(b"\x07" * 20)


def test_a_command_that_was_not_carried_out_names_the_validators_that_are_missing() -> None:
    async def ask() -> None:
        link: Any = ChainLink(Client(0), never, missing=lambda: [KYOTO])  # type: ignore[arg-type]

        async def at_once(function: Any, *arguments: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return function(*arguments)

        link.ask = at_once
        await transact(link, "consent", 3)

    with pytest.raises(ChainError, match=f"The chain waits for {to_hex(KYOTO)}"):
        trio.run(ask, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_error_tells_a_persons_command_no_key_without_its_name() -> None:
    async def refuse() -> object:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable(f"no connection to {to_hex(KYOTO)}")

    async def story() -> None:
        reply = await _perform(msgspec.json.encode(Request("ask")), {"ask": refuse})
        assert reply.error == f"no connection to Kyoto ({to_hex(KYOTO)})"

    name_addresses({to_hex(KYOTO): "Kyoto"})
    try:
        trio.run(story)
    finally:
        name_addresses({})


@pytest.mark.parametrize(
    ("validators", "connected", "away"),
    [
        (["mary", "kyoto", "turin"], ["kyoto", "turin"], ""),
        (["mary", "kyoto", "turin"], ["kyoto"], "turin is not connected"),
        (["mary", "kyoto", "turin", "basel"], ["kyoto", "basel"], ""),
        (["mary", "kyoto", "turin", "basel"], ["basel"], "kyoto, turin are not connected"),
        (["kyoto", "turin"], ["kyoto", "turin"], ""),
        (["mary"], [], ""),  # the contract's to refuse
    ],
)
def test_a_key_is_not_changed_while_the_chain_would_stand_still(
    monkeypatch: pytest.MonkeyPatch, validators: list[str], connected: list[str], away: str
) -> None:
    status = {"chain": {"validators": validators}, "connected": connected}
    monkeypatch.setattr(account, "ask", lambda directory, method: status)
    if not away:
        account._require_quorum(Path("mary"), "mary")
        return
    with pytest.raises(ConfigurationError, match=away):
        account._require_quorum(Path("mary"), "mary")


def masked(status: RoundStatus, **fields: Any) -> Plan:
    """A masked round of three, of whom all three must open a sum."""
    found = in_round(status)
    for consent in found.consents.values():
        consent.receiving_key = Digest(b"r" * 32)
    assert found.round is not None
    found.round.roster = ALL
    found.round.masking = Masking(ALL, 1, ALL, ALL, NOW, **fields)
    return found


def by(*members: int, value: Any = b"") -> dict[MemberId, Any]:
    return {MemberId(i): value for i in members}


@pytest.mark.parametrize(
    ("status", "fields", "who", "what"),
    [
        (RoundStatus.MASKING, {"posted": by(0, 1)}, 0b100, "the masked update of each of them"),
        (
            RoundStatus.MASKING,
            {"posted": by(0, 1, 2), "good": by(0, 2, value=ALL)},
            0b010,
            "word from 3 members that the shares of all are right",
        ),
        (
            RoundStatus.MASKING,
            {"posted": by(0, 1, 2), "good": by(0, 1, 2, value=ALL)},
            ALL,
            "votes for the masked sum",
        ),
        (
            RoundStatus.LOCKED,
            {"opened": by(0, 1)},
            0b100,
            "shares from 1 of them, which open the masked sum",
        ),
        (
            RoundStatus.LOCKED,
            {"opened": by(0, 1, 2)},
            ALL,
            "votes for the model from more than half",
        ),
    ],
)
def test_a_masked_round_says_for_whom_and_for_what_it_waits(
    status: RoundStatus, fields: dict[str, Any], who: int, what: str
) -> None:
    found = masked(status, **fields)
    assert waited_for(found, ALL, NOW) == who
    assert waits_why(found, ALL, NOW) == what


def test_a_locked_round_waits_for_those_who_have_left_but_for_nobody_without_a_key() -> None:
    found = masked(RoundStatus.LOCKED, opened=by(0))
    found.consents[MemberId(1)].receiving_key = Digest(bytes(32))
    assert waited_for(found, 0b011, NOW) == 0b100
