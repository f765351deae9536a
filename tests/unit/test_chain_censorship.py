"""Who leaves out what waits is noticed after f+1 blocks, if it could have done better."""

from __future__ import annotations

import pytest
from harness.validators import sim_address

from swarm.chain.block import Transaction
from swarm.chain.censorship import Overlooked, faulty, has_room
from swarm.chain.rules import ChainRules
from swarm.types import Address, Digest

LIAR, SECOND, HONEST, MEMBER = (sim_address(i) for i in range(4))
NOBODY: frozenset[Address] = frozenset()
RULES = ChainRules()


def transaction(sender: Address, number: int = 0, gas: int = 100_000, size: int = 100):
    name = Digest(bytes([sender[0], number]) + bytes(30))
    return Transaction(name, sender, number, gas, bytes(size))


def test_f_is_the_number_of_liars_that_so_many_bear():
    assert [faulty(n) for n in (1, 2, 3, 4, 6, 7, 10)] == [0, 0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize(("validators", "blocks"), [(4, 2), (7, 3), (10, 4)])
def test_who_leaves_a_transaction_out_of_f_plus_one_blocks_is_unfair(validators, blocks):
    watch = Overlooked[str]()
    watch.note_block(HONEST, {"t": False}, validators)  # it waits from here on
    for _ in range(blocks - 1):
        assert watch.note_block(LIAR, {"t": True}, validators) == NOBODY
    assert watch.note_block(LIAR, {"t": True}, validators) == {LIAR}
    assert watch.note_block(LIAR, {}, validators) == NOBODY  # at last it was let in


def test_a_block_that_was_begun_before_the_transaction_came_does_not_count():
    watch = Overlooked[str]()
    assert watch.note_block(LIAR, {"t": True}, 4) == NOBODY
    assert watch.note_block(LIAR, {"t": True}, 4) == NOBODY
    assert watch.note_block(LIAR, {"t": True}, 4) == {LIAR}


def test_a_full_block_does_not_count():
    watch = Overlooked[str]()
    for _ in range(10):
        assert watch.note_block(LIAR, {"t": False}, 4) == NOBODY


def test_the_next_liar_in_turn_is_unfair_with_its_first_block():
    watch = Overlooked[str]()
    watch.note_block(HONEST, {"t": False}, 7)
    for _ in range(3):
        unfair = watch.note_block(LIAR, {"t": True}, 7)
    assert unfair == {LIAR}
    assert watch.note_block(SECOND, {"t": True}, 7) == {LIAR, SECOND}


def test_a_transaction_that_f_plus_one_proposers_leave_out_is_at_fault_itself():
    watch = Overlooked[str]()
    watch.note_block(HONEST, {"t": False}, 4)
    watch.note_block(LIAR, {"t": True}, 4)
    assert watch.note_block(HONEST, {"t": True}, 4) == NOBODY
    complaints = sum(bool(watch.note_block(HONEST, {"t": True}, 4)) for _ in range(3))
    assert complaints == 0, "it must be left out twice as often now"
    assert watch.note_block(HONEST, {"t": True}, 4) == {HONEST}


def test_what_can_never_be_carried_out_causes_ever_fewer_complaints():
    watch, proposers = Overlooked[str](), [LIAR, HONEST]
    watch.note_block(HONEST, {"t": False}, 4)
    complaints = []
    for height in range(2000):
        unfair = watch.note_block(proposers[0], {"t": True}, 4)
        if unfair:
            complaints.append(height)
            proposers.reverse()  # as the machine does: the turn passes on
    assert len(complaints) <= 12


def test_a_block_has_room_if_the_transaction_could_have_been_its_last():
    held = [transaction(HONEST)]
    assert has_room(held, 50_000, transaction(MEMBER), RULES)
    assert not has_room(held, RULES.block_gas - 50_000, transaction(MEMBER), RULES)
    assert not has_room(held, 0, transaction(MEMBER, size=RULES.block_bytes), RULES)


def test_a_sender_that_has_its_share_of_the_block_is_not_left_out():
    held = [transaction(MEMBER, i) for i in range(RULES.sender_transactions)]
    assert not has_room(held, 0, transaction(MEMBER, 99), RULES)


def test_a_block_stuffed_by_one_member_had_room_for_anothers_first():
    stuffing = [transaction(LIAR, i, gas=1_000_000) for i in range(5)]
    left_out = transaction(MEMBER, gas=1_000_000)
    assert has_room(stuffing, RULES.block_gas, left_out, RULES)
    firsts = [transaction(sim_address(10 + i), gas=1_000_000) for i in range(5)]
    assert not has_room(firsts, RULES.block_gas, left_out, RULES)
