"""Tokens of the bulk channel, and the pace of what is sent."""

from __future__ import annotations

import pytest

from swarm.errors import ProtocolViolation
from swarm.network.pacing import BURST_S, Pacer
from swarm.network.tickets import LIFETIME_S, MAX_TICKETS_PER_MEMBER, REMEMBERED_S, Tickets
from swarm.types import Address, Digest

ALICE, BOB = Address(b"\x0a" * 20), Address(b"\x0b" * 20)
ROOT = Digest(b"r" * 32)


@pytest.fixture
def tickets() -> Tickets:
    return Tickets()


def test_a_token_is_good_once_for_what_was_granted(tickets: Tickets) -> None:
    token = tickets.issue(ALICE, ROOT, [3, 1], now=0.0)
    ticket = tickets.redeem(token, ALICE, now=9.9)
    assert (ticket.root, list(ticket.indices)) == (ROOT, [3, 1])
    with pytest.raises(ProtocolViolation, match="used before"):
        tickets.redeem(token, ALICE, now=9.9)


def test_a_token_of_another_member_is_refused_and_stays_good_for_its_owner(
    tickets: Tickets,
) -> None:
    token = tickets.issue(ALICE, ROOT, [0], now=0.0)
    with pytest.raises(ProtocolViolation, match="given to 0x0a0a"):
        tickets.redeem(token, BOB, now=1.0)
    assert tickets.redeem(token, ALICE, now=1.0).root == ROOT


def test_an_expired_token_is_refused_and_is_no_offence(tickets: Tickets) -> None:
    token = tickets.issue(ALICE, ROOT, [0], now=0.0)
    tickets.issue(BOB, ROOT, [0], now=LIFETIME_S + 1)  # meanwhile
    with pytest.raises(TimeoutError, match="over 10 s old"):
        tickets.redeem(token, ALICE, now=LIFETIME_S + 2)
    with pytest.raises(ProtocolViolation, match="used before"):
        tickets.redeem(token, ALICE, now=LIFETIME_S + 3)


def test_an_expired_token_is_forgotten_in_the_end(tickets: Tickets) -> None:
    tickets.issue(ALICE, ROOT, [0], now=0.0)
    tickets.issue(BOB, ROOT, [0], now=LIFETIME_S + REMEMBERED_S)
    assert len(tickets._open) == 1


def test_a_token_that_was_never_given_is_refused(tickets: Tickets) -> None:
    with pytest.raises(ProtocolViolation, match="never given"):
        tickets.redeem(bytes(32), ALICE, now=0.0)


def test_a_member_that_collects_tokens_loses_its_oldest_and_nobody_elses(tickets: Tickets) -> None:
    bobs = tickets.issue(BOB, ROOT, [0], now=0.0)
    tokens = [tickets.issue(ALICE, ROOT, [i], now=0.0) for i in range(MAX_TICKETS_PER_MEMBER + 1)]
    with pytest.raises(ProtocolViolation):
        tickets.redeem(tokens[0], ALICE, now=0.0)
    for token in tokens[1:]:
        assert tickets.redeem(token, ALICE, now=0.0)
    assert tickets.redeem(bobs, BOB, now=0.0)


def test_a_removed_members_tokens_are_void(tickets: Tickets) -> None:
    token = tickets.issue(ALICE, ROOT, [0], now=0.0)
    tickets.forget(ALICE)
    with pytest.raises(ProtocolViolation):
        tickets.redeem(token, ALICE, now=0.0)


def test_a_pacer_spreads_bytes_over_time() -> None:
    pacer = Pacer(1000.0)
    waits = [pacer.reserve(100, now=50.0) for _ in range(12)]
    assert waits[0] == 0.0
    assert waits[-1] == pytest.approx(1.1 - BURST_S)
    assert pacer.reserve(100, now=60.0) == 0.0  # what was not used is not saved up
    assert pacer.reserve(100, now=60.0) == pytest.approx(0.1 - BURST_S)


def test_without_a_limit_nothing_waits() -> None:
    assert Pacer(None).reserve(2**40) == 0.0
