"""Where members are dialled, and when a node says on the chain where it is."""

from __future__ import annotations

from swarm.node.members.contacts import (
    addresses_of,
    contact_owed,
    decode_contact,
    encode_contact,
    is_stated,
)
from swarm.node.members.standing import due
from swarm.protocol.membership import CONTACT_EVERY_S, MAX_CONTACT_BYTES
from swarm.protocol.state import Member
from swarm.types import Address, MemberId

NODE = Address(b"\x01" * 20)
OLD, NEW = "/dns4/old.example/tcp/4001", "/dns4/new.example/tcp/4001"
FOUNDING = {NODE: (OLD,)}


def member(contact: bytes = b"", contact_at: int = 0) -> Member:
    return Member(
        MemberId(0), NODE, NODE, "Kyoto", seen_at=1000, contact=contact, contact_at=contact_at,
        validator=True,
    )  # fmt: skip


def test_what_a_member_states_comes_before_the_network_file_and_after_the_configuration() -> None:
    assert addresses_of(member(), {}, FOUNDING) == (OLD,)
    assert addresses_of(member(NEW.encode()), {}, FOUNDING) == (NEW,)
    assert addresses_of(member(NEW.encode()), {"Kyoto": ("/ip4/1.2.3.4/tcp/1",)}, FOUNDING) == (
        "/ip4/1.2.3.4/tcp/1",
    )
    assert addresses_of(member(), {}, {}) == ()


def test_only_what_neither_people_nor_the_network_file_say_is_the_members_own_word() -> None:
    assert is_stated(member(NEW.encode()), {}, FOUNDING)
    assert not is_stated(member(NEW.encode()), {"Kyoto": (OLD,)}, FOUNDING)
    assert not is_stated(member(OLD.encode()), {}, FOUNDING)
    assert not is_stated(member(), {}, FOUNDING)


def test_a_contact_is_read_as_it_was_written_and_garbage_is_none() -> None:
    assert decode_contact(encode_contact([OLD, NEW])) == (OLD, NEW)
    assert decode_contact(b"\xff\xfe") == ()
    assert decode_contact(b"\x1b[31m\n" + NEW.encode()) == (NEW,)
    assert decode_contact(b"") == ()


def test_a_contact_never_exceeds_what_the_contract_takes() -> None:
    long = [f"/dns4/{'x' * 100}{i}.example/tcp/4001" for i in range(20)]
    encoded = encode_contact(long)
    assert 0 < len(encoded) <= MAX_CONTACT_BYTES
    assert decode_contact(encoded) == tuple(long[: len(decode_contact(encoded))])


def test_a_founder_that_is_where_its_card_says_states_nothing() -> None:
    assert contact_owed(member(), (), FOUNDING) is None
    assert contact_owed(member(), (OLD,), FOUNDING) is None


def test_a_member_that_moved_or_joined_later_states_where_it_is_once() -> None:
    assert contact_owed(member(), (NEW,), FOUNDING) == NEW.encode()
    assert contact_owed(member(), (NEW,), {}) == NEW.encode()
    assert contact_owed(member(NEW.encode()), (NEW,), {}) is None
    moved_back = contact_owed(member(NEW.encode()), (OLD,), FOUNDING)
    assert moved_back == OLD.encode()


def test_a_node_states_its_contact_no_more_often_than_the_contract_takes_it() -> None:
    me = member(OLD.encode(), contact_at=1000)
    members = {me.id: me}
    assert due(me, members, 1000 + CONTACT_EVERY_S - 1, NEW.encode()) == []
    owed = due(me, members, 1000 + CONTACT_EVERY_S, NEW.encode())
    assert owed == [("setContact", (NEW.encode(),))]
