"""Where the node's chain comes from: the embedded one, replicated here, or an external endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from swarm.chain.client import ConsortiumClient, InProcessProvider
from swarm.chain.engine import Engine
from swarm.chain.genesis import CONTRACT_ADDRESS, Genesis, read_genesis
from swarm.chain.override import read_applied
from swarm.chain.pool import Pool
from swarm.chain.rpc import RpcMethods
from swarm.chain.service import ChainService, open_chain
from swarm.chain.signer import NodeKeys
from swarm.chain.store import VoteStore
from swarm.errors import ConfigurationError
from swarm.network.network import Network
from swarm.node.chain.link import ChainLink, polling
from swarm.node.chain.recent_blocks import describe_blocks
from swarm.node.home.config import NodeConfig, external_contract
from swarm.types import Address

TOPIC = "chain"
HEAD_PATIENCE_S = 60.0


@dataclass(frozen=True)
class OpenedChain:
    """A chain that is ready to be asked. `rpc` answers JSON-RPC bodies."""

    link: ChainLink
    rpc: RpcMethods | ElsewhereRpc
    status: Callable[[], dict[str, object]]
    genesis: Genesis | None
    copy_to: Callable[[Path], None] | None = None
    """Writes the chain to a new file, where it is kept here."""
    describe_blocks: Callable[[int], list[dict[str, Any]]] | None = None
    """So many of the newest blocks in words, where the chain is kept here."""


@dataclass(frozen=True)
class _Messages:
    """Consensus over the network's one-way messages."""

    network: Network

    @property
    def connected(self) -> Collection[Address]:
        return self.network.connected

    def send(self, peer: Address, payload: bytes) -> None:
        self.network.send(peer, TOPIC, payload)


class ElsewhereRpc:
    """Where JSON-RPC requests go when the chain is not here: nowhere, with a word of advice."""

    def __init__(self, rpc_url: str) -> None:
        self._fault = {
            "code": -32601,
            "message": f"this node replicates no chain: ask the consortium's at {rpc_url}",
        }

    def handle_bytes(self, body: bytes) -> bytes:
        return msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": self._fault})


@asynccontextmanager
async def open_embedded(
    directory: Path, genesis: Genesis, key: bytes, network: Network
) -> AsyncIterator[OpenedChain]:
    """The consortium's own chain, this node's replica of it."""
    overrides = read_applied(directory)
    engine = await trio.to_thread.run_sync(
        partial(Engine.open, directory / "chain", genesis, overrides=overrides)
    )
    with engine, closing(VoteStore(directory / "chain" / "votes.db")) as votes:
        pool = Pool(engine)
        refused = partial(_blame, network)
        async with open_chain(
            engine, votes, pool, NodeKeys(key), _Messages(network), refused=refused
        ) as chain:
            network.on_message(TOPIC, chain.receive)
            network.on_connect(chain.peer_connected)
            rpc = RpcMethods(
                engine, pool, chain.submit_from_thread, peers=lambda: len(network.connected)
            )
            client = await trio.to_thread.run_sync(
                ConsortiumClient.over, InProcessProvider(rpc.handle), CONTRACT_ADDRESS, key
            )
            link = ChainLink(client, partial(_next_head, chain))
            chain.on_admitted, chain.expects_more = link.saw_waiting, link.expects_more
            link.on_observed = chain.reconsider
            link.missing = chain.missing
            if chain.is_held:
                link.trust_votes = chain.trust_votes
            described = partial(describe_blocks, engine)
            yield OpenedChain(link, rpc, chain.status, genesis, engine.copy_to, described)


def _blame(network: Network, peer: Address, reason: str) -> None:
    network.blame(peer, "bad chain message", reason)


async def _next_head(chain: ChainService, above: int) -> int:
    while True:
        head = await chain.wait_for_head(above, HEAD_PATIENCE_S)
        if head.height > above:
            return head.height


@asynccontextmanager
async def open_external(config: NodeConfig, key: bytes) -> AsyncIterator[OpenedChain]:
    """A chain that others keep: any Ethereum JSON-RPC endpoint."""
    rpc_url, contract = config.chain.rpc_url, external_contract(config)
    assert rpc_url is not None
    assert contract is not None
    client = await trio.to_thread.run_sync(
        partial(ConsortiumClient.connect, rpc_url, contract, key, tag=config.chain.finality)
    )
    link = ChainLink(client, polling(client))
    yield OpenedChain(link, ElsewhereRpc(rpc_url), lambda: {"rpc_url": rpc_url}, None)


@asynccontextmanager
async def open_node_chain(
    directory: Path, config: NodeConfig, key: bytes, network: Network, genesis: Genesis | None
) -> AsyncIterator[OpenedChain]:
    """The chain that `node.toml` asks for."""
    if genesis is None:
        async with open_external(config, key) as opened:
            yield opened
    else:
        async with open_embedded(directory, genesis, key, network) as opened:
            yield opened


def read_network(directory: Path, config: NodeConfig) -> Genesis | None:
    """The genesis of the embedded chain; None if the chain is external."""
    if config.chain.rpc_url:
        return None
    path = directory / config.chain.network
    if not path.exists():
        raise ConfigurationError(
            f"{path} does not exist: put the network.json of your consortium there, or found one "
            "with `swarm network found`"
        )
    return read_genesis(path)
