"""A Byzantine validator: it equivocates, sends garbage, withholds, and forges what others ask for.

It runs the real machine, and spoils what that says on the way out. What it sends is signed with its
own key or with nobody's: signatures of others it can only replay.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from harness.simnet import Port
from harness.validators import (
    GENESIS_HASH,
    SimValidator,
    ValidatorWorld,
    make_block,
    read_block,
)
from swarm.chain import steps
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
from swarm.protocol.state import two_thirds
from swarm.types import Address

GARBAGE = 0.1
"""Chance that something senseless goes out beside a message."""
REMEMBERED = 32


class TwoFacedValidator(SimValidator):
    """Proposes two blocks, votes for everything, never tells why, and believes in nothing."""

    def __init__(self, port: Port, world: ValidatorWorld) -> None:
        self._heard: deque[Any] = deque(maxlen=REMEMBERED)
        super().__init__(port, world)

    def receive(self, sender: Address, message: Any) -> None:
        """Remember what others say, to replay it."""
        self._heard.append(message)
        super().receive(sender, message)

    def broadcast(self, message: Any) -> None:
        """Tell one half of the others one thing and the other half another."""
        rng, peers = self.port.rng, [v for v in self.machine.validators if v != self.port.name]
        if rng.random() < GARBAGE:
            self.world.count("garbage from liars")
            self._send_all(peers, self._garbage())
        if isinstance(message, Proposal):
            self._propose_two(peers, message)
        elif isinstance(message, Prepare | Commit):
            rivals = self.world.rivals.get((message.height, message.round), ())
            for block_hash in sorted({message.block_hash, *rivals}):
                self._send_all(
                    peers, self._signed(msgspec.structs.replace(message, block_hash=block_hash))
                )
        elif isinstance(message, RoundChange) and rng.random() < 0.5:
            forgetful = RoundChange(message.height, message.round, 0, bytes(32), bytes(65))
            self.world.count("forgetful round-changes")
            self._split(peers, message, self._signed(forgetful))
        else:
            self._send_all(peers, message)

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
            self.port.send(peer, one if index % 2 else other)

    def _send_all(self, peers: Iterable[Address], message: Any) -> None:
        for peer in peers:
            self.port.send(peer, message)

    def _garbage(self) -> Any:
        """A message that no honest validator sends."""
        rng, height = self.port.rng, self.machine.height
        nothing = rng.randbytes(32)
        far = rng.choice([0, 1, 5, 10**6])
        match rng.randrange(7):
            case 0 if self._heard:
                return rng.choice(self._heard)
            case 1:
                return Proposal(height, self.machine.round, rng.randbytes(20), bytes(65))
            case 2:
                return self._signed(Commit(height + far, rng.randrange(3), nothing, bytes(65)))
            case 3:
                return self._signed(RoundChange(height, 1 + far, 0, bytes(32), bytes(65)))
            case 4:
                return self._signed(self._unproved())
            case 5:
                return self.forged_blocks(self.head.height + 1)
        return Prepare(height, self.machine.round, nothing, rng.randbytes(65))

    def _unproved(self) -> RoundChange:
        """A round-change that names a block as prepared, by nobody but this liar."""
        block = make_block(self.head, self.head.timestamp, self.port.name, ())
        height = self.machine.height
        vote = self._signed(Prepare(height, 0, block.hash, bytes(65)))
        assert isinstance(vote, Prepare)
        prepares = (vote,) * two_thirds(len(self.machine.validators))
        return RoundChange(height, 1, 1, block.hash, bytes(65), block.payload, prepares)

    def forged_blocks(self, first: int) -> Blocks:
        """A block that nobody decided, with a certificate that bears one seal many times."""
        parent: Block = self.chain[min(max(first, 1), len(self.chain)) - 1]
        block = make_block(parent, parent.timestamp, self.port.name, ())
        seal = self._signed(Commit(block.height, 0, block.hash, bytes(65))).signature
        seals = (seal,) * two_thirds(len(self.machine.validators))
        certificate = Certificate(block.height, 0, block.hash, seals)
        return Blocks(10**6, (CertifiedBlock(block.payload, encode(certificate)),))

    def send_blocks(self, to: Address, first: int) -> None:
        """Hand a forged block to who asks, now and then."""
        if self.port.rng.random() < 0.3:
            self.world.count("forged blocks")
            self.port.send(to, self.forged_blocks(first))
        else:
            super().send_blocks(to, first)

    def do(self, command: steps.Command) -> None:
        """Answer questions about heights with lies."""
        if isinstance(command, steps.Send) and isinstance(command.message, Status):
            height = self.port.rng.choice([0, 10**6])
            lie = msgspec.structs.replace(command.message, head=height, voted_height=height)
            command = steps.Send(command.to, lie)
        super().do(command)
