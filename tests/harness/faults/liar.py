"""A member's node that lies, as a process: `python -m harness.faults.liar SEED … DIRECTORY`.

It is a real node, with what it says to others spoiled on the way out (`mouth`), and more said and
asked than it would (`hands`). Whatever stands between SEED and DIRECTORY is the command of an
honest node, in whose place it runs. What it did is counted in `lies.json`, over all its lives; it
begins once it takes part in a plan.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio

from harness.faults.hands import Hands
from harness.faults.mouth import Mouth
from swarm.chain.engine import Engine
from swarm.chain.messages import Keys
from swarm.chain.pool import Pool
from swarm.chain.rpc import Method, RpcMethods
from swarm.chain.service import ChainService, Transport, open_chain
from swarm.chain.store import VoteStore
from swarm.node import node_process
from swarm.node.chain import source
from swarm.node.home.config import load_config
from swarm.node.home.password import find_passwords, open_with
from swarm.node.node import Node
from swarm.node.wiring import open_node
from swarm.types import Address, Digest

COUNTED = "lies.json"
LOOK_S = 0.5
DRIP_S = (0.0, 0.5, 2.0)
SPOILS = (0.0, 0.3, 1.0)


def read_lies(home: Path) -> Counter[str]:
    """What the liar in this directory has done."""
    path = home / COUNTED
    return Counter(
        msgspec.json.decode(path.read_bytes(), type=dict[str, int]) if path.exists() else {}
    )


class Liar:
    """One life of it."""

    def __init__(self, directory: Path, seed: str) -> None:
        self._directory = directory
        self._told = read_lies(directory)
        self._rng = Random(f"{seed} life {self._told['lives']}")
        self._mouth: Mouth | None = None
        self._methods: Mapping[str, Method] = {}

    @asynccontextmanager
    async def open_chain(
        self,
        engine: Engine,
        votes: VoteStore,
        pool: Pool,
        keys: Keys,
        transport: Transport,
        **rest: Any,
    ) -> AsyncIterator[ChainService]:
        """The chain's service, with a mouth between it and the network, which hears, too."""
        self._mouth = mouth = Mouth(transport, engine, keys, self._rng, self._told)
        self._methods = RpcMethods(engine, pool, pool.add).methods
        async with open_chain(engine, votes, pool, keys, mouth, **rest) as chain:
            receive: Callable[[Address, bytes], Any] = chain.receive

            def hear(sender: Address, payload: bytes) -> Any:
                mouth.hear(payload)
                return receive(sender, payload)

            chain.receive = hear  # type: ignore[method-assign]
            yield chain

    @asynccontextmanager
    async def open_node(self, directory: Path, password: str | None = None) -> AsyncIterator[Node]:
        """A node, and its lies beside it."""
        async with open_node(directory, password) as node, trio.open_nursery() as nursery:
            nursery.start_soon(self._lie, node)
            yield node
            nursery.cancel_scope.cancel()

    async def _lie(self, node: Node) -> None:
        while not node.joined.parts or node.seen.me is None:  # noqa: ASYNC110 (of a node's own parts)
            await trio.sleep(LOOK_S)
        config = load_config(self._directory)
        passwords = find_passwords(self._directory, config, None)
        key = open_with(self._directory / config.key.file, passwords)
        hands = Hands(node, key, self._methods, self._rng, self._told)
        assert self._mouth is not None
        self._mouth.invent = hands.invent
        self._spoil_blobs(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._mouth.chatter)
            nursery.start_soon(hands.run)
            while True:
                await trio.sleep(LOOK_S)
                (self._directory / COUNTED).write_bytes(msgspec.json.encode(dict(self._told)))

    def _spoil_blobs(self, node: Node) -> None:
        """Serve other bytes than were promised, or late; how often is drawn for each life."""
        rng, exchange = self._rng, node.exchange
        honest, spoils, drip_s = exchange.read_chunk, rng.choice(SPOILS), rng.choice(DRIP_S)

        def read_chunk(sender: Address, root: Digest, index: int) -> bytes | memoryview:
            chunk = honest(sender, root, index)
            time.sleep(drip_s)  # in a worker thread
            if rng.random() >= spoils:
                return chunk
            self._told["false chunks"] += 1
            return rng.choice((bytes(len(chunk)), bytes(chunk)[:-1], b"", rng.randbytes(100)))

        exchange.read_chunk = read_chunk  # type: ignore[method-assign]


def main(seed: str, directory: Path) -> None:
    """Run one life, as `swarm node start` runs an honest node's."""
    liar = Liar(directory, seed)
    source.open_chain = liar.open_chain  # type: ignore[attr-defined]
    node_process.open_node = liar.open_node  # type: ignore[attr-defined]
    node_process.start_node(directory)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[-1]))
