"""Real nodes on loopback, one of them behind a proxy that lets a hundredth of the bytes through.

Slowness is not failure: a peer that makes progress is waited for, for as long as its own transfer
takes and no longer, and nobody else waits with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio

from swarm.blobs.download import Spread
from swarm.blobs.fetch import Wish
from swarm.blobs.store import BlobStore
from swarm.network import Network, open_network
from swarm.rounds.exchange import Exchange
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import Digest

Stream = trio.SocketStream

LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (250_000,))])  # 1 MB
SLOW_BYTES_PER_S = 300_000
TRANSFER_S = LAYOUT.file_bytes / SLOW_BYTES_PER_S
STALL_S = 2.0
"""Below the time of the slow transfer: to be waited for, it must count as progress."""


@dataclass
class Throttle:
    """A TCP proxy to one port. All its connections together carry `bytes_per_s` from there."""

    target: int
    bytes_per_s: float
    port: int = 0
    _free_at: float = 0.0

    async def serve(self, task_status: trio.TaskStatus[int]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        await trio.serve_listeners(self._carry, [listener], task_status=task_status)

    async def _carry(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self.target)
        # A short queue: what the throttle has taken has not arrived yet.
        near.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 16 * 1024)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, near, far, False, nursery.cancel_scope)
            nursery.start_soon(self._copy, far, near, True, nursery.cancel_scope)

    async def _copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        slowly: bool,
        end: trio.CancelScope,
    ) -> None:
        try:
            while data := await source.receive_some(4096):
                if slowly:
                    now = trio.current_time()
                    self._free_at = max(self._free_at, now) + len(data) / self.bytes_per_s
                    await trio.sleep(self._free_at - now)
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        end.cancel()


@dataclass
class Node:
    network: Network
    exchange: Exchange

    @property
    def store(self) -> BlobStore:
        return self.exchange.store

    def add_update(self, seed: int) -> Digest:
        path = self.store.scratch("update")
        with create_file(path, LAYOUT) as file:
            file["w"][...] = np.random.default_rng(seed).standard_normal(250_000, np.float32)
        return self.store.add(path)

    async def pull(self, root: Digest, peers: list[Node], spread: Spread | None = None) -> float:
        began = trio.current_time()
        wish = Wish(LAYOUT.file_bytes, LAYOUT, spread)
        addresses = [peer.network.address for peer in peers]
        await self.exchange.pull(root, addresses, patience_s=STALL_S, wish=wish)
        return trio.current_time() - began


async def open_node(stack: AsyncExitStack, directory: Path, number: int) -> Node:
    key = hashlib.sha256(b"throttled %d" % number).digest()
    network = await stack.enter_async_context(open_network(key))
    exchange = Exchange(BlobStore(directory / str(number)), network, 10 * LAYOUT.file_bytes)
    exchange.rules.append(lambda sender, blob: True)
    network.serve_blobs(exchange)
    return Node(network, exchange)


@asynccontextmanager
async def opened_nodes(
    directory: Path, count: int, bytes_per_s: float
) -> AsyncIterator[list[Node]]:
    """Nodes that know each other; the last is reached through the throttle, and dials nobody."""
    async with trio.open_nursery() as proxies:
        async with AsyncExitStack() as stack:
            nodes = [await open_node(stack, directory, number) for number in range(count)]
            *others, slow = nodes
            (port,) = {int(text.split("/")[4]) for text in slow.network.addresses}
            throttle = Throttle(port, bytes_per_s)
            await proxies.start(throttle.serve)
            known = {node.network.address: list(node.network.addresses) for node in others}
            known[slow.network.address] = [f"/ip4/127.0.0.1/tcp/{throttle.port}"]
            for node in others:
                node.network.set_members(known)
            slow.network.set_members({node.network.address: () for node in others})
            for node in nodes:
                await node.network.wait_connected(known.keys() - {node.network.address}, 10)
            yield nodes
        proxies.cancel_scope.cancel()


def test_a_hundredth_of_the_bandwidth_delays_a_round_by_its_own_transfer_and_is_not_dropped(
    tmp_path: Path,
) -> None:
    took: dict[str, float] = {}

    async def scenario() -> None:
        async with opened_nodes(tmp_path, 3, SLOW_BYTES_PER_S) as (leader, quick, slow):
            updates = quick.add_update(1), slow.add_update(2)

            async def pull(name: str, root: Digest, owner: Node) -> None:
                took[name] = await leader.pull(root, [owner])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(pull, "quick", updates[0], quick)
                nursery.start_soon(pull, "slow", updates[1], slow)
            assert all(leader.store.verify(root) for root in updates)
            offences = leader.network.status()["peers"]
            assert all(not peer["score"] for peer in offences.values())  # type: ignore[attr-defined]

    trio.run(scenario)
    assert TRANSFER_S > STALL_S
    assert took["quick"] < TRANSFER_S / 2
    assert 0.8 * TRANSFER_S < took["slow"] < TRANSFER_S + STALL_S


def test_a_slow_one_among_those_who_share_a_model_holds_the_others_up_for_moments(
    tmp_path: Path,
) -> None:
    """It is the first taker of a third of the chunks, and what it has it passes on too slowly."""
    took: dict[int, float] = {}

    async def scenario() -> None:
        async with opened_nodes(tmp_path, 4, SLOW_BYTES_PER_S / 10) as (leader, *takers):
            root = leader.add_update(3)
            addresses = [node.network.address for node in takers]

            async def pull(number: int, node: Node) -> None:
                spread = Spread(leader.network.address, addresses, node.network.address)
                peers = [leader, *(other for other in takers if other is not node)]
                took[number] = await node.pull(root, peers, spread)

            async with trio.open_nursery() as nursery:
                for number, node in enumerate(takers):
                    nursery.start_soon(pull, number, node)
            assert all(node.store.verify(root) for node in takers)

    trio.run(scenario)
    third_s = LAYOUT.file_bytes / 3 / (SLOW_BYTES_PER_S / 10)
    assert third_s > 10
    assert max(took.values()) < third_s / 2
