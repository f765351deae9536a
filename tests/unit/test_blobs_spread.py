"""One origin, many takers at once, on a network in memory that counts every byte.

What must hold: the origin sends the blob about once however many want it, nobody else sends more
than it receives, and a taker that is gone, silent or late costs the others little.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
import trio
from harness.memory_network import MemoryNetwork, MemorySwitch

from swarm.blobs import download
from swarm.blobs.download import Spread
from swarm.blobs.fetch import Wish
from swarm.blobs.partial import Draft
from swarm.blobs.store import BlobStore
from swarm.errors import ChunkPending
from swarm.network.bulk_transfer import PENDING_S
from swarm.rounds.exchange import Exchange
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import Address, Digest

LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (500_000,))])  # 2 MB, 246 chunks of 8 KiB


class Crowd:
    """The origin (number 0) and takers, each with a store and an exchange."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.addresses = [Address(bytes([0x10 + number]) * 20) for number in range(nodes)]
        self.stores = [BlobStore(directory / str(number)) for number in range(nodes)]
        self.switch = MemorySwitch()
        self.networks: list[MemoryNetwork] = []
        self.exchanges: list[Exchange] = []
        path = self.stores[0].scratch("model")
        with create_file(path, LAYOUT) as file:
            file["w"][...] = np.random.default_rng(2).standard_normal(500_000, np.float32)
        self.root = self.stores[0].add(path)

    async def open(self, stack: AsyncExitStack) -> None:
        for address, store in zip(self.addresses, self.stores, strict=True):
            network = await stack.enter_async_context(self.switch.open(address))
            exchange = Exchange(store, network, 10 * LAYOUT.file_bytes)
            exchange.rules.append(lambda sender, blob: True)
            network.serve_blobs(exchange)
            self.networks.append(network)
            self.exchanges.append(exchange)
        for network in self.networks:
            network.set_members(dict.fromkeys(self.addresses, ()))

    def spread(self, me: int, takers: Sequence[int]) -> Spread:
        return Spread(self.addresses[0], [self.addresses[i] for i in takers], self.addresses[me])

    async def pull(self, me: int, takers: Sequence[int]) -> None:
        spread = self.spread(me, takers)
        wish = Wish(LAYOUT.file_bytes, LAYOUT, spread)
        await self.exchanges[me].pull(self.root, spread.sources, patience_s=10, wish=wish)

    def sent(self, number: int) -> float:
        """How many times the blob's size a node has sent."""
        return self.networks[number].traffic().sent_bytes / LAYOUT.file_bytes


async def pull_all(crowd: Crowd, pulling: Sequence[int], takers: Sequence[int]) -> float:
    """All of them at once; the seconds until the last one has it."""
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in pulling:
            nursery.start_soon(crowd.pull, number, takers)
    return trio.current_time() - began


def test_seven_takers_cost_the_origin_the_blob_once(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, 8)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            takers = range(1, 8)
            await pull_all(crowd, takers, takers)

    trio.run(scenario)
    for store in crowd.stores:
        assert store.verify(crowd.root)
    assert 1.0 <= crowd.sent(0) < 1.5
    assert max(crowd.sent(number) for number in range(1, 8)) < 1.5
    received = [network.traffic().received_bytes for network in crowd.networks[1:]]
    assert max(received) < 1.2 * LAYOUT.file_bytes  # hardly a chunk comes twice


def test_a_taker_that_is_gone_costs_the_origin_its_share_for_each_of_the_others(
    tmp_path: Path,
) -> None:
    crowd = Crowd(tmp_path, 8)

    async def scenario() -> float:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            for other in range(8):
                crowd.switch.cut(crowd.addresses[7], crowd.addresses[other])
            return await pull_all(crowd, range(1, 7), range(1, 8))

    assert trio.run(scenario) < 10
    for store in crowd.stores[:7]:
        assert store.verify(crowd.root)
    assert crowd.sent(0) < 3


def test_a_taker_that_never_begins_holds_nobody_up_for_long(tmp_path: Path) -> None:
    crowd = Crowd(tmp_path, 5)

    async def scenario() -> float:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            return await pull_all(crowd, range(1, 4), range(1, 5))

    assert trio.run(scenario) < 10
    assert all(store.verify(crowd.root) for store in crowd.stores[:4])
    assert crowd.sent(0) < 3


def test_followers_that_ask_before_the_origin_begins_do_not_wait_for_each_other(
    tmp_path: Path,
) -> None:
    crowd = Crowd(tmp_path, 4)
    has_begun = False
    drafts: list[Draft] = []

    async def follow(me: int) -> None:
        exchange = crowd.exchanges[me]
        draft = exchange.store.draft("draft", LAYOUT)
        drafts.append(draft)
        exchange.drafts[crowd.root] = draft
        await exchange.follow(crowd.root, draft, crowd.spread(me, range(1, 4)), lambda: True)

    async def scenario() -> float:
        nonlocal has_begun
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            crowd.exchanges[0].rules[:] = [lambda sender, blob: has_begun]
            async with trio.open_nursery() as nursery:
                for me in range(1, 4):
                    nursery.start_soon(follow, me)
                await trio.sleep(0.5)
                assert not any(draft.holds(draft.chunks - 1) for draft in drafts)
                has_begun, began = True, trio.current_time()
            return trio.current_time() - began

    assert trio.run(scenario) < PENDING_S / 2
    assert all(not draft.missing for draft in drafts)
    assert crowd.sent(0) < 1.5


def test_followers_whose_first_chunk_comes_as_patience_ends_still_ask_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TAKE_OVER_AFTER_S", 60.0)  # nobody may need it
    crowd = Crowd(tmp_path, 4)

    async def follow(me: int) -> None:
        exchange = crowd.exchanges[me]
        draft = exchange.store.draft("draft", LAYOUT)
        exchange.drafts[crowd.root] = draft
        missing, spread = len(draft.missing), crowd.spread(me, range(1, 4))
        await exchange.follow(
            crowd.root, draft, spread, is_patient=lambda: len(draft.missing) == missing
        )

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    for me in range(1, 4):
                        nursery.start_soon(follow, me)

    trio.run(scenario)
    assert crowd.sent(0) < 1.5


def test_when_the_origin_dies_the_takers_finish_with_what_they_have_among_them(
    tmp_path: Path,
) -> None:
    crowd = Crowd(tmp_path, 4)
    # Node 3 has it whole already: it attested before.
    path = crowd.stores[3].scratch("copy")
    path.write_bytes(crowd.stores[0].path(crowd.root).read_bytes())
    crowd.stores[3].add(path)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            for other in range(1, 4):
                crowd.switch.cut(crowd.addresses[0], crowd.addresses[other])
            await pull_all(crowd, range(1, 3), range(1, 4))

    trio.run(scenario)
    assert all(store.verify(crowd.root) for store in crowd.stores[1:])


@pytest.mark.parametrize("owner_is_slow", [False, True])
def test_an_owner_sends_its_blob_itself_and_is_helped_only_if_it_is_slow(
    tmp_path: Path, owner_is_slow: bool
) -> None:
    crowd = Crowd(tmp_path, 3)
    path = crowd.stores[2].scratch("copy")
    path.write_bytes(crowd.stores[0].path(crowd.root).read_bytes())
    crowd.stores[2].add(path)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            served = 0

            def serve_slowly(sender: Address, root: Digest, index: int) -> bytes:
                nonlocal served
                if served > 20:
                    raise ChunkPending("slow")
                served += 1
                return crowd.stores[0].read_chunk(root, index)

            if owner_is_slow:
                crowd.exchanges[0].read_chunk = serve_slowly  # type: ignore[method-assign]
            spread = Spread(crowd.addresses[0], [crowd.addresses[1]], crowd.addresses[1])
            wish = Wish(LAYOUT.file_bytes, LAYOUT, spread)
            peers = [crowd.addresses[0], crowd.addresses[2]]
            await crowd.exchanges[1].pull(crowd.root, peers, patience_s=10, wish=wish)

    trio.run(scenario)
    assert crowd.stores[1].verify(crowd.root)
    if owner_is_slow:
        assert 0.8 < crowd.sent(2) < 1.0
    else:
        assert crowd.sent(2) == 0


def test_a_chunk_that_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    """What one node receives flows on to the next before it is whole."""
    crowd = Crowd(tmp_path, 3)
    manifest = crowd.stores[0].manifest(crowd.root)

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await crowd.open(stack)
            partial = crowd.stores[1].partial(crowd.root, manifest, max_bytes=LAYOUT.file_bytes)
            crowd.switch.cut(crowd.addresses[0], crowd.addresses[2])
            async with trio.open_nursery() as nursery:

                async def pull() -> None:
                    await crowd.exchanges[2].pull(crowd.root, [crowd.addresses[1]], patience_s=10)

                nursery.start_soon(pull)
                for index in range(manifest.chunks):
                    await trio.sleep(0.002)
                    chunk = crowd.stores[0].read_chunk(crowd.root, index)
                    partial.write_chunk(index, chunk)

    trio.run(scenario)
    assert crowd.stores[2].verify(crowd.root)


def test_every_chunk_has_one_first_taker_and_the_others_ask_it() -> None:
    addresses = [Address(bytes([i]) * 20) for i in range(1, 6)]
    origin, takers = addresses[0], addresses[1:]
    for index in range(20):
        asked = [Spread(origin, takers, me).source_of(index) for me in takers]
        first = takers[asked.index(origin)]
        assert asked.count(origin) == 1
        assert asked.count(first) == len(takers) - 1
