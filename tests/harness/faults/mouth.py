"""What a lying member says to the others in consensus: its real machine's words, spoiled on the way
out, and words of its own from the grammar that liars of simulated days draw from.

It stands between the chain's service and the network, where both are real.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any

import msgspec
import rlp
import trio
from rlp.codec import length_prefix

from harness.grammar import Grammar, is_readable
from harness.liars import Conduct
from swarm.chain import codec
from swarm.chain.block import Block
from swarm.chain.engine import Engine
from swarm.chain.messages import (
    Blocks,
    Commit,
    Keys,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    decode,
    encode,
)
from swarm.chain.service import Transport
from swarm.errors import ProtocolViolation
from swarm.types import Address, Digest

REMEMBERED = 32
TICK_S = 0.05
NEWEST_BLOCKS = 3


class EngineChain:
    """The real chain, for the grammar: any block that could be written, signed by nobody yet."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def domain(self) -> Digest:
        return self._engine.vote_domain()

    def make_block(
        self, parent: Block, timestamp: int, proposer: Address, transactions: Sequence[bytes]
    ) -> Block:
        """The engine's own block of the head, with another header where that is asked for."""
        built = self._engine.build(transactions, self._engine.head.timestamp, self._me)
        said = {
            "parent_hash": parent.hash,
            "block_number": parent.height + 1,
            "timestamp": timestamp,
            "coinbase": proposer,
        }
        body = codec.stored_body(built.payload)
        header = body.header.copy(**said)
        # A typed transaction is a string in its block, a legacy one a list (EIP-2718).
        items = [raw if raw[0] >= 0xC0 else bytes(rlp.encode(raw)) for raw in body.transactions]
        parts = bytes(rlp.encode(header)), _as_list(b"".join(items)), _as_list(b"")
        return codec.to_block(header, _as_list(b"".join(parts)))

    @property
    def _me(self) -> Address:
        return self._engine.validators()[0]


def _as_list(inner: bytes) -> bytes:
    """RLP of a list whose items are encoded already."""
    return bytes(length_prefix(len(inner), 0xC0)) + inner


class Mouth:
    """A `Transport` that lies once `lies` is set; before, it passes on what it is given."""

    def __init__(
        self, transport: Transport, engine: Engine, keys: Keys, rng: Random, told: Counter[str]
    ) -> None:
        self._transport = transport
        self._engine = engine
        self._rng = rng
        self._told = told
        self.lies = False
        self.invent: Callable[[], bytes | None] = lambda: None
        self._memory: deque[Any] = deque(maxlen=REMEMBERED)
        self._late: list[tuple[float, Address, bytes]] = []
        self._conduct: Conduct | None = None
        self._grammar = Grammar(rng, keys, self, EngineChain(engine), lambda: self.invent())
        self.round = 0

    # What it knows.

    @property
    def connected(self) -> Collection[Address]:
        return self._transport.connected

    @property
    def height(self) -> int:
        return self._engine.head.height + 1

    @property
    def blocks(self) -> Sequence[Block]:
        head = self._engine.head.height
        return [self._engine.block(h) for h in range(max(0, head + 1 - NEWEST_BLOCKS), head + 1)]

    @property
    def heard(self) -> Sequence[Any]:
        return self._memory

    @property
    def others(self) -> Sequence[Address]:
        return sorted(self.connected)

    def hear(self, payload: bytes) -> None:
        """Remember what another has said."""
        try:
            message = decode(payload)
        except ProtocolViolation:
            return
        self._memory.append(message)
        if isinstance(message, Proposal | Prepare | Commit | RoundChange):
            self.round = message.round

    # What it says.

    def send(self, peer: Address, payload: bytes) -> None:
        """Say it, something else of the same kind, later, or not at all."""
        conduct, rng = self._conduct, self._rng
        if conduct is None:
            self._transport.send(peer, payload)
        elif peer in conduct.silent_to or rng.random() < conduct.withholds:
            self._told["withheld messages"] += 1
        else:
            self._spoil(conduct, peer, decode(payload))

    def _spoil(self, conduct: Conduct, peer: Address, message: Any) -> None:
        rng, grammar = self._rng, self._grammar
        made: dict[type, Callable[[], Any]] = {
            Proposal: grammar.proposal,
            Prepare: grammar.prepare,
            Commit: grammar.commit,
            RoundChange: grammar.round_change,
        }
        if isinstance(message, Blocks) and rng.random() < conduct.forges:
            message = grammar.blocks()
            self._told["forged blocks"] += 1
        elif isinstance(message, Blocks) and conduct.drips_s:
            message = Blocks(2**53, message.blocks[:1])
            self._told["drips"] += 1
            due_s = trio.current_time() + conduct.drips_s
            self._late.append((due_s, peer, encode(message)))
            return
        elif isinstance(message, Status) and rng.random() < conduct.boasts:
            head, voted = grammar.height(), grammar.height()
            message = msgspec.structs.replace(message, head=head, voted_height=voted)
            self._told["false heights"] += 1
        elif rng.random() < conduct.two_faced and (make := made.get(type(message))):
            message = make()
            self._told["contradictions"] += 1
        self._say(peer, message)

    def _say(self, peer: Address, message: Any) -> None:
        if is_readable(message):
            self._transport.send(peer, encode(message))
        else:
            self._told["unreadable messages"] += 1

    async def chatter(self) -> None:
        """Lie for as long as the node runs."""
        rng, peers = self._rng, self.others
        self._conduct = conduct = Conduct.drawn(rng, peers, ())
        self._told["lives"] += 1
        next_s = trio.current_time()
        while True:
            await trio.sleep(TICK_S)
            now_s = trio.current_time()
            for due in [each for each in self._late if each[0] <= now_s]:
                self._late.remove(due)
                self._transport.send(*due[1:])
            if now_s < next_s or not self.others:
                continue
            next_s = now_s + rng.expovariate(1 / conduct.chatter_s)
            message = await trio.to_thread.run_sync(self._grammar.message)
            self._told[f"made-up {type(message).__name__}"] += 1
            others = self.others
            for peer in rng.sample(others, rng.choice((1, len(others)))):
                for _ in range(rng.randint(1, conduct.repeats)):
                    self._say(peer, message)
