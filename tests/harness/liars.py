"""A Byzantine validator: it says anything to anyone, at any time, or nothing.

It runs the real machine, so that it is where the others are, and spoils what that says on the way
out; beside that it makes up messages of its own (`grammar`). How it behaves is its `Conduct`, drawn
anew in every life: whom it never answers, how it drips blocks to who is behind, what it leaves out
as a proposer, how often it contradicts itself. What it sends is signed with its own key or with
nobody's: signatures of others it can only replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

import msgspec

from harness.grammar import Grammar, is_readable
from harness.simnet import Port
from harness.validators import (
    GENESIS_HASH,
    SimValidator,
    ValidatorWorld,
    make_block,
    read_block,
)
from swarm.chain import consensus_steps as steps
from swarm.chain.block import Block
from swarm.chain.messages import (
    PROPOSAL,
    Blocks,
    Certificate,
    CertifiedBlock,
    Commit,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    encode,
    signing_digest,
    vote_digest,
)
from swarm.chain.sync_sources import FIRST_PATIENCE_S, PATIENCE_S
from swarm.protocol.state import two_thirds
from swarm.types import Address

REMEMBERED = 32
MORE_AT_ONCE = 8
A_MOMENT_S = 0.1
"""Just before patience runs out."""


@dataclass(frozen=True)
class Conduct:
    """How a liar behaves in one life. Chances are of each occasion."""

    chatter_s: float
    """Seconds between made-up messages, on average."""
    repeats: int
    """How often it says the same, at most."""
    silent_to: frozenset[Address]
    """Whom it never answers, and tells nothing."""
    two_faced: float
    """Chance that it tells one half of the others one thing and the other half another."""
    withholds: float
    """Chance that it keeps a vote or an answer to itself."""
    boasts: float
    """Chance that it lies about where it is."""
    forges: float
    """Chance that it hands over blocks which nobody decided."""
    drips_s: float
    """How long it takes to hand over one block to who asks; 0: all of them at once."""
    shuns: frozenset[object]
    """Whose transactions it leaves out of its blocks."""
    builds_empty: bool
    """Whether it proposes without any transaction, as long as it leaves some out."""
    fills_budget: bool
    """Whether it sends whatever it can think of, until nothing more of it is taken that day."""
    overspends: bool
    """Whether its blocks hold more of a member than that may send."""

    @classmethod
    def drawn(cls, rng: Random, peers: Sequence[Address], senders: Sequence[object]) -> Conduct:
        """Some conduct; none of its parts is certain, nor excluded."""

        def chance() -> float:
            return rng.choice((0.0, 0.0, 0.3, 0.6, 1.0))

        def some(all_: Sequence[Any]) -> frozenset[Any]:
            count = rng.choice((0, 0, 1, 1, len(all_)))
            return frozenset(rng.sample(list(all_), min(count, len(all_))))

        return cls(
            chatter_s=rng.choice((0.5, 2.0, 8.0)),
            repeats=rng.choice((1, 1, 2, 5)),
            silent_to=some(peers),
            two_faced=chance(),
            withholds=rng.choice((0.0, 0.0, 0.2, 1.0)),
            boasts=chance(),
            forges=chance(),
            drips_s=rng.choice((0.0, 0.0, FIRST_PATIENCE_S, PATIENCE_S)),
            shuns=some(senders),
            builds_empty=rng.random() < 0.5,
            fills_budget=rng.random() < 0.3,
            overspends=rng.random() < 0.5,
        )

    def told(self, label: Callable[[Address], str]) -> str:
        """For the story."""
        silent = " ".join(label(a) for a in sorted(self.silent_to)) or "nobody"
        shuns = " ".join(map(str, sorted(self.shuns, key=str))) or "nobody"
        return (
            f"lies: something new every {self.chatter_s:g} s, silent to {silent}, shuns {shuns}; "
            f"two-faced {self.two_faced:g}, withholds {self.withholds:g}, boasts {self.boasts:g}, "
            f"forges {self.forges:g}, drips a block in {self.drips_s:g} s"
        )


class SimChain:
    """The simulated chain: a transaction is its number."""

    domain = GENESIS_HASH

    def make_block(
        self, parent: Block, timestamp: int, proposer: Address, transactions: Sequence[bytes]
    ) -> Block:
        numbers = [int.from_bytes(raw, "big") for raw in transactions]
        return make_block(parent, timestamp, proposer, numbers)


class LyingValidator(SimValidator):
    """Proposes two blocks, votes for everything, never tells why, and believes in nothing."""

    def __init__(self, port: Port, world: ValidatorWorld) -> None:
        self.heard: deque[Any] = deque(maxlen=REMEMBERED)
        rng, peers = port.rng, [a for a in world.addresses if a != port.name]
        self.conduct = Conduct.drawn(rng, peers, world.senders)
        port.log(self.conduct.told(port.label))
        super().__init__(port, world)
        self._grammar = Grammar(rng, self.keys, self, SimChain(), self._invent)
        self._chatter()

    def _invent(self) -> bytes | None:
        number = self.world.invent(self)
        return None if number is None else number.to_bytes(4, "big")

    # What it knows.

    @property
    def height(self) -> int:
        """Where it is."""
        return self.machine.height

    @property
    def round(self) -> int:
        """Where it is."""
        return self.machine.round

    @property
    def blocks(self) -> Sequence[Block]:
        """The chain."""
        return self.chain

    @property
    def others(self) -> Sequence[Address]:
        """Whom it can lie to."""
        return [a for a in self.world.addresses if a != self.port.name]

    def receive(self, sender: Address, message: Any) -> None:
        """Remember what others say, to replay it; answer those whom it answers."""
        self.heard.append(message)
        super().receive(sender, message)

    # What it makes up.

    def _chatter(self) -> None:
        rng = self.port.rng
        self.port.call_later(rng.expovariate(1 / self.conduct.chatter_s), self._chatter)
        if self.conduct.fills_budget:
            made = [self._invent() for _ in range(MORE_AT_ONCE)]
            self.learn(int.from_bytes(raw, "big") for raw in made if raw is not None)
            self._gossip(self.others)
        message = self._grammar.message()
        others = self.others
        count = rng.choice((1, len(others)))
        self.world.count("made-up messages")
        for peer in rng.sample(others, min(count, len(others))):
            for _ in range(rng.randint(1, self.conduct.repeats)):
                self.say(peer, message)

    def say(self, peer: Address, message: Any) -> None:
        """Send, as far as it says anything to this peer and the peer could read it."""
        if peer in self.conduct.silent_to:
            self.world.count("silence of liars")
        elif is_readable(message):
            self.port.send(peer, message)
        else:
            self.world.count("unreadable messages of liars")

    # How it spoils what its machine says.

    def broadcast(self, message: Any) -> None:
        """Tell one half of the others one thing and the other half another."""
        rng, conduct = self.port.rng, self.conduct
        peers = [v for v in self.machine.validators if v != self.port.name]
        if rng.random() < conduct.withholds:
            self.world.count("withheld votes")
            return
        if rng.random() >= conduct.two_faced:
            self._say_all(peers, message)
        elif isinstance(message, Proposal):
            self._propose_two(peers, message)
        elif isinstance(message, Prepare | Commit):
            rivals = self.world.rivals.get((message.height, message.round), ())
            for block_hash in sorted({message.block_hash, *rivals}):
                self._say_all(
                    peers, self._signed(msgspec.structs.replace(message, block_hash=block_hash))
                )
        elif isinstance(message, RoundChange):
            forgetful = RoundChange(message.height, message.round, 0, bytes(32), bytes(65))
            self.world.count("forgetful round-changes")
            self._split(peers, message, self._signed(forgetful))
        else:
            self._say_all(peers, message)

    def _propose_two(self, peers: list[Address], message: Proposal) -> None:
        """Propose another block to half of the others; in a later round, one without reasons."""
        timestamp = max(int(self.port.clock_s), self.head.timestamp)
        other = make_block(self.head, timestamp, self.port.name, ())
        digest = signing_digest(GENESIS_HASH, PROPOSAL, message.height, message.round, other.hash)
        lie = msgspec.structs.replace(
            message, block=other.payload, signature=self.keys.sign(digest)
        )
        if message.round > 0 and self.port.rng.random() < 0.5:
            self.world.count("proposals without justification")
            lie = msgspec.structs.replace(lie, round_changes=(), prepares=())
        self.world.count("two-faced proposals")
        blocks = read_block(message.block).hash, other.hash
        self.world.rivals[message.height, message.round] = blocks
        self._split(peers, message, lie)

    def _signed(self, vote: Prepare | Commit | RoundChange) -> Prepare | Commit | RoundChange:
        signature = self.keys.sign(vote_digest(GENESIS_HASH, vote))
        return msgspec.structs.replace(vote, signature=signature)

    def _split(self, peers: list[Address], one: Any, other: Any) -> None:
        self.port.rng.shuffle(peers)
        for index, peer in enumerate(peers):
            self.say(peer, one if index % 2 else other)

    def _say_all(self, peers: Iterable[Address], message: Any) -> None:
        for peer in peers:
            self.say(peer, message)

    def do(self, command: steps.Command) -> None:
        """Answer questions about heights with lies."""
        rng, conduct = self.port.rng, self.conduct
        if isinstance(command, steps.Send):
            message = command.message
            if isinstance(message, Status) and rng.random() < conduct.boasts:
                head, voted = self._grammar.height(), self._grammar.height()
                message = msgspec.structs.replace(message, head=head, voted_height=voted)
                self.world.count("false heights")
            if rng.random() >= conduct.withholds:
                self.say(command.to, message)
        else:
            super().do(command)

    # Blocks: what it proposes, and what it hands over.

    def choose(self, timestamp: int) -> Collection[int]:
        """Leave some members out, and let some send more than they may."""
        waiting: Collection[int] = self.affordable(timestamp)
        if self.conduct.overspends and len(waiting) < len(self.pool):
            self.world.count("blocks beyond a budget")
            waiting = self.pool
        shunned = [n for n in waiting if self.world.sender_of(n) in self.conduct.shuns]
        if not shunned:
            return waiting
        self.world.count("blocks that leave members out")
        return () if self.conduct.builds_empty else set(waiting).difference(shunned)

    def forged_blocks(self, first: int) -> Blocks:
        """A block that nobody decided, with a certificate that bears one seal many times."""
        parent: Block = self.chain[min(max(first, 1), len(self.chain)) - 1]
        block = make_block(parent, parent.timestamp, self.port.name, ())
        seal = self._signed(Commit(block.height, 0, block.hash, bytes(65))).signature
        seals = (seal,) * two_thirds(len(self.machine.validators))
        certificate = Certificate(block.height, 0, block.hash, seals)
        return Blocks(2**53, (CertifiedBlock(block.payload, encode(certificate)),))

    def answer(self, peer: Address, first: int) -> None:
        """Forge, drip, or hand over what was asked for; or nothing."""
        rng, conduct = self.port.rng, self.conduct
        if rng.random() < conduct.forges:
            self.world.count("forged blocks")
            self.say(peer, self.forged_blocks(first))
        elif rng.random() >= conduct.withholds:
            message = self._blocks_from(first)
            if conduct.drips_s:
                self.world.count("drips")
                message = Blocks(2**53, message.blocks[:1])
                wait_s = conduct.drips_s - A_MOMENT_S
                self.port.call_later(wait_s, partial(self.say, peer, message))
            else:
                self.say(peer, message)
