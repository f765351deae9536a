"""What a liar may say: any consensus message, with any values in its fields.

`Grammar` draws from the types of `swarm.chain.messages`, not from a list of known attacks. Each
field has its own rule: numbers lie at a boundary or near what is true, hashes and payloads are of
blocks that there are, that there might be, or of nothing; signatures are the liar's own, somebody
else's from another message, or noise. What the decoder would not let through is drawn too, and
told by `is_readable`.

Transactions are the world's to invent, as they mean something there; and how a block is written is
the chain's to say, so that the same grammar serves simulated validators and real nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Protocol, TypeVar

import msgspec

from swarm.chain.block import Block
from swarm.chain.messages import (
    PROPOSAL,
    Blocks,
    Certificate,
    CertifiedBlock,
    Commit,
    GetBlocks,
    GetStatus,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    Transactions,
    decode,
    encode,
    signing_digest,
    vote_digest,
)
from swarm.errors import ProtocolViolation
from swarm.types import Address, Digest

BOUNDARIES = (0, 1, 2**53 - 1, 2**53, 2**64 - 1)
MOST_PARTS = 6
"""Votes, seals or blocks drawn into one message."""


class Knowledge(Protocol):
    """What a liar knows, to lie about."""

    @property
    def height(self) -> int: ...

    @property
    def round(self) -> int: ...

    @property
    def blocks(self) -> Sequence[Block]:
        """The chain so far."""

    @property
    def heard(self) -> Sequence[Any]:
        """Messages of others, of all heights."""

    @property
    def others(self) -> Sequence[Address]: ...


class Keys(Protocol):
    """Its own key."""

    @property
    def address(self) -> Address: ...
    def sign(self, digest: bytes) -> bytes: ...


class Chain(Protocol):
    """What its chain is made of."""

    @property
    def domain(self) -> Digest:
        """What all votes are signed over."""

    def make_block(
        self, parent: Block, timestamp: int, proposer: Address, transactions: Sequence[bytes]
    ) -> Block:
        """A block that is written as blocks are, and need not be valid."""


def is_readable(message: Any) -> bool:
    """Whether a node's decoder lets this through."""
    try:
        decode(encode(message))
    except (ProtocolViolation, OverflowError):
        return False
    return True


Signed = TypeVar("Signed", Prepare, Commit, RoundChange)


class Grammar:
    """Draws messages for one liar."""

    def __init__(
        self,
        rng: Random,
        keys: Keys,
        known: Knowledge,
        chain: Chain,
        invent: Callable[[], bytes | None],
    ) -> None:
        self.rng = rng
        self._keys = keys
        self._known = known
        self._chain = chain
        self._invent = invent
        self._kinds: tuple[Callable[[], Any], ...] = (
            self.proposal,
            self.prepare,
            self.commit,
            self.round_change,
            self.status,
            self.blocks,
            self.transactions,
            lambda: GetStatus(),
            lambda: GetBlocks(self.height()),
            self._replay,
        )

    def message(self) -> Any:
        """Any message."""
        return self.rng.choice(self._kinds)()

    # Fields.

    def height(self) -> int:
        """A height: this one, one beside it, or any."""
        return self._number(self._known.height)

    def round(self) -> int:
        """A round, likewise."""
        return self._number(self._known.round)

    def _number(self, true: int) -> int:
        rng = self.rng
        match rng.randrange(8):
            case 0:
                return rng.choice(BOUNDARIES)
            case 1:
                return rng.randrange(1, 2 ** rng.randrange(1, 53))
            case 2 | 3:
                return max(0, true + rng.choice((-2, -1, 1, 2)))
        return true

    def block(self) -> Block:
        """A block of the chain, or one that might have been or might yet be."""
        rng, blocks = self.rng, self._known.blocks
        block = rng.choice(blocks[-3:])
        if rng.random() < 0.3:
            return block
        proposer = rng.choice([self._keys.address, *self._known.others])
        timestamp = max(0, block.timestamp + rng.choice((-1, 0, 0, 1, 60, 2**40)))
        made = [n for n in (self._invent() for _ in range(rng.randrange(3))) if n is not None]
        return self._chain.make_block(block, timestamp, proposer, made)

    def payload(self) -> bytes:
        """A block's bytes, or bytes that are none."""
        rng = self.rng
        return rng.randbytes(rng.randrange(40)) if rng.random() < 0.1 else self.block().payload

    def hash(self) -> bytes:
        """A block's hash, or 32 bytes that are none."""
        rng = self.rng
        nothing = bytes(32) if rng.random() < 0.5 else rng.randbytes(32)
        return nothing if rng.random() < 0.2 else self.block().hash

    def _sign(self, digest: bytes) -> bytes:
        """Usually its own signature; sometimes another's, of something else, or none at all."""
        rng = self.rng
        if rng.random() < 0.7:
            return self._keys.sign(digest)
        foreign = [m.signature for m in self._known.heard if hasattr(m, "signature")]
        return rng.choice(foreign) if foreign and rng.random() < 0.7 else rng.randbytes(65)

    def _some(self, draw: Callable[[], Any]) -> tuple[Any, ...]:
        """A few, often the same one again."""
        count = self.rng.choice((0, 0, 1, 2, 3, MOST_PARTS))
        if count and self.rng.random() < 0.5:
            return (draw(),) * count
        return tuple(draw() for _ in range(count))

    def _some_heard(self, kind: type, draw: Callable[[], Any]) -> tuple[Any, ...]:
        """Real votes of others, or made-up ones."""
        heard = [m for m in self._known.heard if isinstance(m, kind)]
        if heard and self.rng.random() < 0.5:
            return tuple(self.rng.sample(heard, min(len(heard), MOST_PARTS)))
        return self._some(draw)

    # Messages.

    def proposal(self) -> Proposal:
        """Some block in some round, with or without reasons."""
        block, height, number = self.block(), self.height(), self.round()
        digest = signing_digest(
            self._chain.domain, PROPOSAL, _low(height), _low(number), block.hash
        )
        payload = block.payload if self.rng.random() < 0.9 else self.payload()
        changes = tuple(c.bare() for c in self._some_heard(RoundChange, self.round_change))
        prepares = self._some_heard(Prepare, self.prepare)
        return Proposal(height, number, payload, self._sign(digest), changes, prepares)

    def prepare(self) -> Prepare:
        """A vote to prepare."""
        return self.signed(Prepare(self.height(), self.round(), self.hash(), bytes(65)))

    def commit(self) -> Commit:
        """A vote to commit."""
        return self.signed(Commit(self.height(), self.round(), self.hash(), bytes(65)))

    def round_change(self) -> RoundChange:
        """A change to some round, with or without a block that was prepared, or was not."""
        height, number = self.height(), self.round()
        if self.rng.random() < 0.5:
            return self.signed(RoundChange(height, number, 0, bytes(32), bytes(65)))
        block, prepared = self.block(), self.round()
        vote = self._some_heard(
            Prepare, lambda: self.signed(Prepare(height, prepared, block.hash, bytes(65)))
        )
        change = RoundChange(
            height, number, prepared + 1, block.hash, bytes(65), block.payload, vote
        )
        return self.signed(change)

    def signed(self, vote: Signed) -> Signed:
        """The vote with a signature."""
        readable = msgspec.structs.replace(vote, height=_low(vote.height), round=_low(vote.round))
        if isinstance(vote, RoundChange):
            prepared = _low(vote.prepared_plus_1)
            readable = msgspec.structs.replace(readable, prepared_plus_1=prepared)
        signature = self._sign(vote_digest(self._chain.domain, readable))
        return msgspec.structs.replace(vote, signature=signature)

    def status(self) -> Status:
        """Where the liar says it is, and what it says it heard."""
        heard = [m for m in self._known.heard if isinstance(m, Prepare | Commit | RoundChange)]
        draw = self.rng.choice((self.prepare, self.commit, self.round_change))
        vote = self.rng.choice(heard) if heard and self.rng.random() < 0.5 else draw()
        return Status(self.height(), self.height(), vote if self.rng.random() < 0.7 else None)

    def blocks(self) -> Blocks:
        """Blocks that were decided or not, under certificates of something or nothing."""
        return Blocks(self.height(), self._some(self._certified))

    def _certified(self) -> CertifiedBlock:
        block = self.block()
        vote = Commit(block.height, self.round(), block.hash, bytes(65))
        seals = self._some(lambda: self.signed(vote).signature)
        certificate = Certificate(block.height, _low(vote.round), block.hash, seals)
        return CertifiedBlock(block.payload, encode(certificate))

    def transactions(self) -> Transactions:
        """Transactions that nobody waits for, or everybody."""
        made = (self._invent() for _ in range(3))
        return Transactions(tuple(raw for raw in made if raw is not None))

    def _replay(self) -> Any:
        """What another has said before, at this height or at another."""
        heard = self._known.heard
        return self.rng.choice(heard) if heard else self.status()


def _low(number: int) -> int:
    """The number as far as a signature can cover it."""
    return min(number, 2**53)
