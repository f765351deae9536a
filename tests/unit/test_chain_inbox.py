"""Messages that wait are bounded for each peer, and read in turns."""

from __future__ import annotations

import pytest
from harness.validators import sim_address

from swarm.chain.inbox import MAX_BYTES_PER_PEER, MAX_WAITING_PER_PEER, Inbox
from swarm.chain.messages import MAX_MESSAGE_BYTES

LIAR, ONE, OTHER = (sim_address(i) for i in range(3))


def test_a_flood_of_one_peer_delays_nobody_elses_message_by_more_than_one():
    inbox = Inbox()
    for number in range(100):
        inbox.put(LIAR, b"%d" % number)
    inbox.put(ONE, b"hello")
    inbox.put(OTHER, b"hello")
    assert [inbox.take()[0] for _ in range(4)] == [LIAR, ONE, OTHER, LIAR]


def test_messages_of_one_peer_keep_their_order():
    inbox = Inbox()
    for payload in (b"1", b"2", b"3"):
        inbox.put(ONE, payload)
    assert [inbox.take()[1] for _ in range(3)] == [b"1", b"2", b"3"]
    assert not inbox
    with pytest.raises(KeyError):
        inbox.take()


def test_many_messages_and_many_bytes_of_one_peer_are_dropped():
    inbox = Inbox()
    kept = sum(inbox.put(LIAR, b"x") for _ in range(1000))
    assert kept == len(inbox) == MAX_WAITING_PER_PEER
    large = bytes(MAX_MESSAGE_BYTES)
    assert sum(inbox.put(ONE, large) for _ in range(100)) == MAX_BYTES_PER_PEER // len(large)
    assert inbox.put(OTHER, large)


def test_what_was_read_makes_room_again():
    inbox = Inbox()
    large = bytes(MAX_MESSAGE_BYTES)
    while inbox.put(ONE, large):
        pass
    inbox.take()
    assert inbox.put(ONE, large)
    assert not inbox.put(ONE, large)
