"""Who leaves out what waits: how a validator notices that a proposer censors. Pure.

A block is valid whatever it leaves out, and while its proposer keeps the turn, it could leave out
one member for ever. So each validator counts, for every transaction that could be in the next
block, by how many blocks in a row it has been left out. Those count that began when it waited here
already, had room for it, and were decided with this validator (not fetched afterwards). After f+1
of them, those who made them should not go on: the machine gives up round 0 at once (`qbft`). That
decides nothing alone: f+1 validators must see it.

Nothing ensures that a transaction which waits here is one that others know, or that could be
carried out. Once f+1 proposers in turn have left it out, one of them is honest, and the fault lies
with the transaction; its count begins anew then, and it has to be left out twice as often.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from swarm.chain.block import Transaction
from swarm.chain.rules import ChainRules
from swarm.types import Address

Name = TypeVar("Name", bound=Hashable)
MOST_PATIENT = 10
"""A transaction's patience doubles so often at most."""


def faulty(validators: int) -> int:
    """f: how many of so many validators may lie."""
    return (validators - 1) // 3


@dataclass
class _Wait:
    blocks: int = 0
    """Blocks in a row that left it out."""
    proposers: set[Address] = field(default_factory=set)
    """Who made them."""
    doublings: int = 0


class Overlooked(Generic[Name]):
    """What waits here, and how often it has been left out. A name is whatever tells two apart."""

    def __init__(self) -> None:
        self._waits: dict[Name, _Wait] = {}

    def knows(self, name: Name) -> bool:
        """Whether this one waited at the block before."""
        return name in self._waits

    def note_block(
        self, proposer: Address, waiting: Mapping[Name, bool], validators: int
    ) -> frozenset[Address]:
        """A block was decided; return who should not propose next.

        waiting: what could be in the next block now, and for each that was known before whether
        there was room for it in this one. validators: how many decided.
        """
        known, enough = self._waits, faulty(validators) + 1
        self._waits = {name: known.get(name) or _Wait() for name in waiting}
        unfair: set[Address] = set()
        for name, wait in self._waits.items():
            if name not in known or not waiting[name]:
                continue
            wait.blocks += 1
            wait.proposers.add(proposer)
            if wait.blocks < enough << wait.doublings:
                continue
            if len(wait.proposers) < enough:
                unfair |= wait.proposers
            else:
                doublings = min(wait.doublings + 1, MOST_PATIENT)
                self._waits[name] = _Wait(doublings=doublings)
        return frozenset(unfair)


def has_room(
    held: Sequence[Transaction], gas_used: int, left_out: Transaction, rules: ChainRules
) -> bool:
    """Whether a block with these transactions could have held this one too.

    If it is full, then with what should have made way: members take turns in a block, so nobody's
    second transaction comes before another's first.
    """
    turn = sum(t.sender == left_out.sender for t in held)
    if turn >= rules.sender_transactions:
        return False
    if _fits(held, gas_used, left_out, rules):
        return True
    fair: list[Transaction] = []
    taken: dict[Address, int] = {}
    for transaction in held:
        taken[transaction.sender] = taken.get(transaction.sender, 0) + 1
        if taken[transaction.sender] <= turn + 1:
            fair.append(transaction)
    return len(fair) < len(held) and _fits(fair, sum(t.gas for t in fair), left_out, rules)


def _fits(held: Sequence[Transaction], gas_used: int, more: Transaction, rules: ChainRules) -> bool:
    size = sum(len(t.raw) + 9 for t in held)
    return (
        len(held) < rules.block_transactions
        and gas_used + more.gas <= rules.block_gas
        and size + len(more.raw) <= rules.block_bytes
    )
