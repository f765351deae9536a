"""What a node owes the consortium without being asked."""

from __future__ import annotations

from swarm.node.members.standing import RENEW_AFTER_S, due
from swarm.protocol.ledger import DORMANT_S
from swarm.protocol.state import Member
from swarm.types import Address, MemberId

NOW = 2_000_000_000


def member(number: int, *, seen_s_ago: int = 0, **fields: bool) -> Member:
    key = Address(bytes([number + 1]) * 20)
    settings = {"present": True, "endorsed": True, "validator": True} | fields
    return Member(MemberId(number), key, key, f"m{number}", seen_at=NOW - seen_s_ago, **settings)


def owed(*members: Member) -> list[tuple[str, tuple[object, ...]]]:
    return due(members[0], {m.id: m for m in members}, NOW)


def test_a_validator_that_was_seen_today_owes_nothing():
    assert owed(member(0), member(1)) == []


def test_an_endorsed_member_activates_itself_and_an_unendorsed_one_does_not():
    assert owed(member(0, validator=False), member(1)) == [("activate", ())]
    assert owed(member(0, validator=False, endorsed=False), member(1)) == []


def test_a_validator_shows_life_long_before_it_would_be_dormant():
    assert owed(member(0, seen_s_ago=RENEW_AFTER_S + 1), member(1)) == [("activate", ())]
    assert RENEW_AFTER_S < DORMANT_S / 2


def test_a_silent_validator_is_retired_by_the_others_and_not_by_itself():
    silent = member(3, seen_s_ago=DORMANT_S + 1)
    assert owed(member(0), member(1), member(2), silent) == [("retire", (3,))]
    assert ("retire", (3,)) not in owed(silent, member(0), member(1), member(2))


def test_nobody_is_retired_while_less_than_two_thirds_are_awake():
    silent = [member(i, seen_s_ago=DORMANT_S + 1) for i in (2, 3)]
    assert owed(member(0), member(1), *silent) == []
