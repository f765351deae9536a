from __future__ import annotations

import pytest

from swarm.chain.block import InvalidTransaction, Transaction
from swarm.chain.pool import Pool, PoolFull
from swarm.types import Address, Digest

ANN, BEN = Address(b"a" * 20), Address(b"b" * 20)


class FakeChain:
    """Admits every transaction written as b"<sender letter><nonce>"."""

    def __init__(self) -> None:
        self.nonces = {ANN: 0, BEN: 0}
        self.members = {ANN, BEN}

    def inspect(self, raw: bytes) -> Transaction:
        sender, nonce = Address(raw[:1] * 20), int(raw[1:3])
        if sender not in self.members:
            raise InvalidTransaction("not a member")
        return Transaction(Digest(raw.ljust(32)), sender, nonce, 21_000, raw)

    timestamp = 0
    room = 10**9

    def room_today(self, address: Address) -> int:
        return self.room

    def is_member(self, address: Address) -> bool:
        return address in self.members

    def nonce(self, address: Address) -> int:
        return self.nonces[address]


@pytest.fixture
def chain() -> FakeChain:
    return FakeChain()


@pytest.fixture
def pool(chain: FakeChain) -> Pool:
    return Pool(chain, max_per_sender=4, max_total=6)


def fill(pool: Pool, *raws: bytes) -> None:
    for raw in raws:
        pool.add(raw)


def test_a_senders_transactions_come_in_the_order_of_their_nonces(pool):
    fill(pool, b"a02", b"a00", b"a01")
    assert pool.pending() == (b"a00", b"a01", b"a02")


def test_senders_take_turns(pool):
    fill(pool, b"a00", b"a01", b"a02", b"b00", b"b01")
    assert pool.pending() == (b"a00", b"b00", b"a01", b"b01", b"a02")


def test_who_came_first_goes_first(pool):
    fill(pool, b"b00", b"a01", b"a00")
    assert pool.pending() == (b"b00", b"a00", b"a01")


def test_a_transaction_waits_for_the_nonce_before_it(pool):
    fill(pool, b"a01", b"b00")
    assert pool.pending() == (b"b00",)
    assert set(pool.all()) == {b"a01", b"b00"}


def test_the_same_transaction_again_changes_nothing(pool):
    assert pool.add(b"a00") == pool.add(b"a00")
    assert len(pool) == 1


def test_another_transaction_with_a_waiting_nonce_is_refused(pool):
    pool.add(b"a00")
    with pytest.raises(InvalidTransaction, match="use the next nonce"):
        pool.add(b"a00x")
    assert pool.pending() == (b"a00",)


def test_a_member_fills_its_own_share_only(pool):
    fill(pool, b"a00", b"a01", b"a02", b"a03")
    with pytest.raises(InvalidTransaction, match="too far ahead"):
        pool.add(b"a04")
    pool.add(b"b00")


def test_the_pool_is_bounded(pool):
    fill(pool, b"a00", b"a01", b"a02", b"a03", b"b00", b"b01")
    with pytest.raises(PoolFull, match="again later"):
        pool.add(b"b02")
    assert len(pool) == 6


def test_a_commit_drops_what_it_made_stale(pool, chain):
    fill(pool, b"a00", b"a01", b"a02")
    chain.nonces[ANN] = 2
    pool.prune()
    assert pool.pending() == (b"a02",)
    assert pool.get(Digest(b"a00".ljust(32))) is None


def test_a_removed_members_transactions_go(pool, chain):
    fill(pool, b"a00", b"b00")
    chain.members.remove(ANN)
    pool.prune()
    assert pool.all() == (b"b00",)
    with pytest.raises(InvalidTransaction, match="not a member"):
        pool.add(b"a01")


def test_what_a_member_may_not_send_today_waits_and_keeps_its_place(pool, chain):
    fill(pool, b"a00", b"a01", b"b00")
    chain.room = 3
    assert pool.pending() == (b"a00", b"b00")
    assert [t.raw for t in pool.first_of_each()] == [b"a00", b"b00"]
    chain.room = 2
    assert pool.pending() == pool.first_of_each() == ()
    assert pool.next_nonce(ANN) == 2
    chain.room = 6
    assert pool.pending() == (b"a00", b"b00", b"a01")


def test_the_next_nonce_counts_what_waits(pool, chain):
    chain.nonces[ANN] = 5
    assert pool.next_nonce(ANN) == 5
    fill(pool, b"a05", b"a06", b"a08")
    assert pool.next_nonce(ANN) == 7
