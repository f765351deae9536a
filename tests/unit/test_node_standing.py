"""What a node says of where it stands: as a member, a standby, or by a key that was replaced."""

from __future__ import annotations

from swarm.node.status import former_of, names_of_keys, notes_of, standbys_of
from swarm.protocol.state import Member
from swarm.types import NO_ADDRESS, Address, MemberId, to_hex

ACCOUNT, NODE, NEXT, STANDBY = (Address(bytes([number]) * 20) for number in range(1, 5))


def notes(key: Address, *members: Member, name: str = "Turin") -> list[str]:
    return notes_of(name, key, {m.id: m for m in members}, [], [])


def mary(**fields: object) -> Member:
    settings = {"account": ACCOUNT, "node": NODE, "name": "St. Mary"} | fields
    return Member(id=MemberId(0), **settings)  # type: ignore[arg-type]


def test_a_members_node_has_nothing_to_say_of_where_it_stands() -> None:
    assert notes(NODE, mary()) == []


def test_a_newcomer_is_told_how_it_becomes_a_member() -> None:
    assert "is no member yet" in notes(NEXT, mary())[0]


def test_a_standby_says_whose_it_is_and_how_it_takes_over() -> None:
    [note] = notes(STANDBY, mary(standby=STANDBY))
    assert "the standby of St. Mary" in note
    assert "swarm node take-over" in note


def test_a_node_whose_key_was_replaced_says_so_and_not_that_it_is_no_member_yet() -> None:
    for note in (*notes(ACCOUNT, mary()), *notes(NEXT, mary(), name="St. Mary")):
        assert f"not the node key of St. Mary, which is {to_hex(NODE)}" in note
        assert "stop this node" in note


def test_who_has_left_is_told_so_whatever_its_name() -> None:
    gone = mary(present=False)
    assert "no member any more" in notes(NODE, gone, name="St. Mary")[0]


def test_who_was_a_member_and_is_none_is_named_unless_the_name_is_borne_again() -> None:
    left = mary(present=False)
    back = Member(id=MemberId(1), account=NEXT, node=NEXT, name="St. Mary")
    assert former_of([left]) == ["St. Mary"]
    assert former_of([left, back]) == []


def test_a_standby_is_in_the_status_connected_or_not() -> None:
    assert standbys_of([mary(standby=STANDBY)], {STANDBY}) == {"St. Mary": True}
    assert standbys_of([mary(standby=STANDBY)], {NODE}) == {"St. Mary": False}
    assert standbys_of([mary()], {NODE}) == {}


def test_every_key_of_a_member_has_a_name() -> None:
    named = names_of_keys([mary(standby=STANDBY)])
    assert named == {
        to_hex(ACCOUNT): "St. Mary's account",
        to_hex(NODE): "St. Mary",
        to_hex(STANDBY): "St. Mary's standby",
    }
    assert to_hex(NO_ADDRESS) not in names_of_keys([mary()])
