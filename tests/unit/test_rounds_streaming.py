"""Merging as a stream: several nodes' hands on a network in memory, no chain and no trainer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import trio
import trio.testing
from harness.memory_network import MemorySwitch
from harness.merging import merge_files

from swarm.blobs import download
from swarm.blobs.manifest import Origin
from swarm.blobs.store import BlobStore
from swarm.errors import ChunkPending
from swarm.protocol import machine as m
from swarm.protocol.program import federated_averaging
from swarm.protocol.rechecks import CHECKERS, rechecks_of
from swarm.protocol.state import (
    Candidate,
    Member,
    Omission,
    Outcome,
    VerifyLevel,
)
from swarm.rounds import collection
from swarm.rounds.address_book import AddressBook
from swarm.rounds.checking import Checking
from swarm.rounds.chunk_merge import Incoming
from swarm.rounds.collection import Collection
from swarm.rounds.drafts import Drafts, draft_name
from swarm.rounds.exchange import Exchange
from swarm.rounds.following import Following
from swarm.rounds.layouts import Layouts
from swarm.rounds.merging import Merging
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

ELEMENTS = 250_000
LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (ELEMENTS,))])  # 1 MB, 246 chunks of 4 KiB
SEED = Digest(b"s" * 32)
LEADER = MemberId(0)
PLAN = PlanId(1)
PROGRAM = federated_averaging(20)


class Site(Exchange):
    """An exchange that does what a test wants before it serves a chunk."""

    before_serving: Callable[[Digest, int], None] = staticmethod(lambda root, index: None)
    alter: Callable[[Digest, int, bytes], bytes] = staticmethod(lambda root, index, chunk: chunk)

    described: tuple[Digest, ...] = ()
    """The blobs whose manifests others asked for."""

    def manifest(self, sender: Address, root: Digest) -> bytes:
        self.described += (root,)
        return super().manifest(sender, root)

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
        self.before_serving(root, index)
        return self.alter(root, index, bytes(super().read_chunk(sender, root, index)))


class Node:
    """What of a node collects, merges, follows and checks; its trainer is not asked."""

    def __init__(
        self,
        me: MemberId,
        members: dict[MemberId, Member],
        store: BlobStore,
        exchange: Exchange,
        drafts: Drafts,
        records: Records,
    ) -> None:
        book, trainer = AddressBook(me, members), cast(Any, None)
        blobs = PlanBlobs(store, records, PROGRAM, keep_models=3)
        layouts = Layouts(me, trainer, store, PROGRAM, _described=(LAYOUT, LAYOUT))
        self.drafts = drafts
        self.collection = collection = Collection(PLAN, book, store, exchange, layouts, blobs)
        self.merging = Merging(book, store, layouts, collection, drafts, blobs, records)
        self.checking = Checking(book, store, exchange, layouts, collection, drafts, blobs)
        self.following = Following(book, layouts, drafts)


class Consortium:
    """Nodes that each hold their own update of round 1; node 0 leads."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self.switch = MemorySwitch()
        self.directory = directory
        self.members = {
            MemberId(i): Member(
                MemberId(i), Address(bytes(20)), Address(bytes([i + 1] * 20)), f"n{i}"
            )
            for i in range(nodes)
        }
        self.stores = [BlobStore(directory / str(i)) for i in range(nodes)]
        self.updates = tuple(self._update(i) for i in range(nodes))
        self.nodes: list[Node] = []
        self.sites: list[Site] = []
        self.networks: list[Any] = []

    def _update(self, i: int) -> m.FrozenUpdate:
        path = self.stores[i].scratch("update")
        with create_file(path, LAYOUT) as file:
            file["w"][...] = np.random.default_rng(i).standard_normal(ELEMENTS, np.float32)
        update = self.stores[i].add(path, Origin(PLAN, 1, i))
        return m.FrozenUpdate(MemberId(i), update, 10 + i)

    def copy(self, i: int, owner: int) -> None:
        """Have a node submit another's update as its own."""
        copied = replace(self.updates[i], update=self.updates[owner].update)
        self.updates = tuple(copied if u.member == i else u for u in self.updates)

    def spoil(self, i: int) -> None:
        """Give a node an update that is not finite, near its end."""
        path = self.stores[i].scratch("update")
        with create_file(path, LAYOUT) as file:
            file["w"][-5] = np.nan
        update = self.stores[i].add(path, Origin(PLAN, 1, i))
        spoilt = replace(self.updates[i], update=update)
        self.updates = tuple(spoilt if u.member == i else u for u in self.updates)

    async def open(self, stack: AsyncExitStack) -> None:
        for i, member in self.members.items():
            network = await stack.enter_async_context(self.switch.open(member.node))
            site = Site(self.stores[i], network, 10 * LAYOUT.file_bytes)
            site.rules.append(lambda sender, blob: True)
            network.serve_blobs(site)
            records = Records(self.directory / f"{i}.jsonl")
            drafts = Drafts(PLAN, self.stores[i], site)
            self.nodes.append(Node(i, self.members, self.stores[i], site, drafts, records))
            self.networks.append(network)
            self.sites.append(site)
        for network in self.networks:
            network.set_members({member.node: () for member in self.members.values()})

    def merge(self, min_peers: int = 2) -> m.Merge:
        return m.Merge(1, 1, NO_DIGEST, self.updates, 0, min_peers, 5.0)

    def verify(self, merged: m.Merged, level: VerifyLevel) -> m.Verify:
        candidate = Candidate(LEADER, Outcome(merged.model, merged.omitted), 1, 0)
        return m.Verify(1, 1, NO_DIGEST, candidate, self.updates, 0, level, SEED, patience_s=5.0)

    def expected(self, but: int | None = None) -> Digest:
        """The digest of a merge of whole files, in one piece."""
        chosen = [u for u in self.updates if u.member != but]
        paths = [self.stores[u.member].path(u.update) for u in chosen]
        out = self.directory / "whole"
        merge_files(paths, [u.samples for u in chosen], out)
        return BlobStore(self.directory / "aside").add(
            out.rename(BlobStore(self.directory / "aside").scratch("whole"))
        )

    def sent(self, i: int) -> float:
        return float(self.networks[i].traffic().sent_bytes / LAYOUT.file_bytes)


def play(
    consortium: Consortium, level: VerifyLevel, merge: m.Merge | None = None
) -> tuple[m.Event, list[m.Event]]:
    """One merge that all others follow and then check: what the leader and the others said."""
    heard: dict[int, m.Event] = {}

    async def check(i: int, merged: m.Merged) -> None:
        heard[i] = await consortium.nodes[i].checking.verify(consortium.verify(merged, level))

    async def scenario() -> m.Event:
        async with AsyncExitStack() as stack:
            await consortium.open(stack)
            follow = m.Follow(1, 1, LEADER, consortium.updates, 0)
            consortium.nodes[0].drafts.expect((1, 1, LEADER))
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    for node in consortium.nodes[1:]:
                        nursery.start_soon(node.following.follow, follow)
                    merged = await consortium.nodes[0].merging.merge(merge or consortium.merge())
                    if isinstance(merged, m.Merged):
                        for i in range(1, len(consortium.nodes)):
                            nursery.start_soon(check, i, merged)
                    else:
                        nursery.cancel_scope.cancel()
        return merged

    said = trio.run(scenario)
    return said, [heard[i] for i in sorted(heard)]


def test_the_others_have_most_of_the_model_before_the_last_update_has_reached_its_leader(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path, 4)
    last = LAYOUT.chunks - 1
    name = draft_name(PLAN, (1, 1, LEADER))

    def hold_back(root: Digest, index: int) -> None:
        """The end of node 3's update stays where it is until node 1 has the model's half."""
        draft = consortium.sites[1].drafts.get(name)
        has_half = draft is not None and len(draft.missing) < LAYOUT.chunks / 2
        if root == consortium.updates[3].update and index == last and not has_half:
            raise ChunkPending("held back")

    Site.before_serving = staticmethod(hold_back)
    try:
        merged, heard = play(consortium, VerifyLevel.HELD)
    finally:
        Site.before_serving = staticmethod(lambda root, index: None)
    assert isinstance(merged, m.Merged)
    assert merged.model == consortium.expected()
    assert all(isinstance(event, m.CandidateVerified) for event in heard)


def test_a_model_that_was_followed_to_its_end_is_known_by_its_name_without_asking(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path, 4)
    merged, heard = play(consortium, VerifyLevel.HELD)
    assert isinstance(merged, m.Merged)
    assert all(isinstance(event, m.CandidateVerified) for event in heard)
    assert all(store.verify(merged.model) for store in consortium.stores)
    assert not any(merged.model in site.described for site in consortium.sites)


def test_a_followed_model_may_be_checked_again(tmp_path: Path) -> None:
    """A check that could not be finished, for want of an update say, is made again."""
    consortium = Consortium(tmp_path, 4)
    first: list[m.Event] = []

    async def open_and_check_twice(stack: AsyncExitStack) -> None:
        await Consortium.open(consortium, stack)
        checking = consortium.nodes[1].checking
        verify = checking.verify

        async def twice(command: m.Verify) -> m.Event:
            first.append(await verify(command))
            return await verify(command)

        checking.verify = twice  # type: ignore[method-assign]

    consortium.open = open_and_check_twice  # type: ignore[method-assign]
    _, heard = play(consortium, VerifyLevel.SHARED)
    assert all(isinstance(event, m.CandidateVerified) for event in (*first, *heard))
    assert len(first) == 1


def test_a_merged_model_may_be_asked_for_before_its_merge_is_in_a_block(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, 3)
    merged, _ = play(consortium, VerifyLevel.HELD)
    assert isinstance(merged, m.Merged)
    drafts = consortium.nodes[0].drafts
    assert merged.model in drafts.names
    trio.run(drafts.forget, (2, 1))
    assert drafts.names == frozenset()


def test_seven_followers_cost_the_leader_one_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine that stands still for a second makes others take over: no less right, but counted.
    monkeypatch.setattr(download, "TAKE_OVER_AFTER_S", 60.0)
    consortium = Consortium(tmp_path, 8)
    merged, heard = play(consortium, VerifyLevel.HELD)
    assert isinstance(merged, m.Merged)
    assert all(isinstance(event, m.CandidateVerified) for event in heard)
    assert all(store.verify(merged.model) for store in consortium.stores)
    assert consortium.sent(0) < 1.6
    assert max(consortium.sent(i) for i in range(1, 8)) < 2.6  # its update, and as much again


@pytest.mark.parametrize("liar", [0, 2])
def test_who_sends_a_wrong_draft_costs_a_transfer_and_harms_nothing(
    tmp_path: Path, liar: int
) -> None:
    consortium = Consortium(tmp_path, 4)
    name = draft_name(PLAN, (1, 1, LEADER))

    async def open_with_liar(stack: AsyncExitStack) -> None:
        await Consortium.open(consortium, stack)
        site = consortium.sites[liar]
        site.alter = lambda root, index, chunk: bytes(len(chunk)) if root == name else chunk  # type: ignore[method-assign]

    consortium.open = open_with_liar  # type: ignore[method-assign]
    merged, heard = play(consortium, VerifyLevel.FULL)
    assert isinstance(merged, m.Merged)
    assert all(isinstance(event, m.CandidateVerified) for event in heard)
    assert all(store.verify(merged.model) for store in consortium.stores)


def test_an_update_that_is_not_finite_is_left_out_and_the_merge_begins_again(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path, 4)
    consortium.spoil(2)
    merged, heard = play(consortium, VerifyLevel.SHARED)
    assert isinstance(merged, m.Merged)
    assert merged.omitted == 1 << 2
    assert merged.reasons == bytes([Omission.NOT_FINITE])
    assert merged.model == consortium.expected(but=2)
    assert all(isinstance(event, m.CandidateVerified) for event in heard)


@pytest.mark.parametrize(("copier", "owner"), [(1, 3), (3, 1)])
def test_a_copied_digest_counts_for_its_maker_and_costs_the_copier_its_place(
    tmp_path: Path, copier: int, owner: int, caplog: pytest.LogCaptureFixture
) -> None:
    consortium = Consortium(tmp_path, 4)
    consortium.copy(copier, owner)
    merged, heard = play(consortium, VerifyLevel.FULL)
    assert isinstance(merged, m.Merged)
    assert merged.omitted == 1 << copier
    assert merged.reasons == bytes([Omission.NOT_ITS_OWN])
    assert merged.model == consortium.expected(but=copier)
    assert all(isinstance(event, m.CandidateVerified) for event in heard)
    assert f"the update of n{copier} is left out, not its own" in caplog.text
    assert f"an update, member {owner}'s of round 1 of plan 1" in caplog.text


@pytest.mark.parametrize("level", [VerifyLevel.SHARED, VerifyLevel.FULL])
def test_a_merge_that_counts_a_copied_digest_is_refused_for_good(
    tmp_path: Path, level: VerifyLevel
) -> None:
    consortium = Consortium(tmp_path, 4)
    consortium.copy(2, 1)
    verify = consortium.verify
    consortium.verify = lambda merged, level: verify(replace(merged, omitted=0), level)  # type: ignore[method-assign]
    merged, heard = play(consortium, level)
    assert isinstance(merged, m.Merged)
    for event in heard:
        assert isinstance(event, m.CandidateRefused)
        assert event.final
        assert event.reason == "it counts another's update for n2"


def test_a_submitter_that_drips_is_left_out_as_unreachable_in_good_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consortium = Consortium(tmp_path, 4)
    dripper = consortium.members[MemberId(3)].node
    monkeypatch.setattr(collection, "LEAST_PATIENCE_S", 0.1)

    class Dripping:
        """A network over which one member's chunks come one by one, each just in time."""

        def __init__(self, network: Any) -> None:
            self.fetch_manifest = network.fetch_manifest
            self.network = network

        async def fetch_chunks(
            self, peer: Address, root: Digest, indices: Any, take: Any, **how: Any
        ) -> None:
            if peer != dripper:
                await self.network.fetch_chunks(peer, root, indices, take, **how)
                return
            for index in indices:
                await trio.sleep(0.09)
                await self.network.fetch_chunks(peer, root, [index], take, **how)

    async def scenario() -> m.Event:
        async with AsyncExitStack() as stack:
            await consortium.open(stack)
            site = consortium.sites[LEADER]
            site.source = Dripping(site.source)
            with trio.fail_after(5):  # the whole update would take 22 s
                return await consortium.nodes[LEADER].merging.merge(
                    replace(consortium.merge(), patience_s=0.1)
                )

    merged = trio.run(scenario)
    assert isinstance(merged, m.Merged)
    assert merged.omitted == 1 << 3
    assert merged.reasons == bytes([Omission.UNREACHABLE])
    assert merged.model == consortium.expected(but=3)


def test_a_merge_without_enough_updates_fails_in_words(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, 3)
    consortium.spoil(2)
    failed, _ = play(consortium, VerifyLevel.HELD, consortium.merge(min_peers=3))
    assert isinstance(failed, m.MergeFailed)
    assert "only 2 of 3 updates can be merged" in failed.reason
    assert "n2 (not finite)" in failed.reason


def test_a_shared_check_pulls_only_its_chunks_and_finds_a_wrong_one_among_them(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path, 6)
    path = consortium.stores[0].scratch("wrong")
    consortium.expected()
    path.write_bytes((tmp_path / "aside").glob("*.blob").__next__().read_bytes())
    wrong = 100
    with path.open("r+b") as file:
        file.seek(wrong * LAYOUT.chunk_bytes)
        file.write(np.float32(0.5).tobytes())
    model = consortium.stores[0].add(path)
    checkers = [MemberId(i) for i in range(1, 6)]
    verdicts: dict[int, m.Event] = {}

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            await consortium.open(stack)
            merged = m.Merged(1, 1, model, 0, b"")

            async def check(i: int) -> None:
                command = consortium.verify(merged, VerifyLevel.SHARED)
                verdicts[i] = await consortium.nodes[i].checking.verify(command)

            async with trio.open_nursery() as nursery:
                for i in checkers:
                    nursery.start_soon(check, i)

    trio.run(scenario)
    finders = {i for i, event in verdicts.items() if isinstance(event, m.CandidateRefused)}
    assert len(finders) == CHECKERS
    for i in checkers:
        share = rechecks_of(i, checkers, SEED, model, LAYOUT.chunks)
        assert (wrong in share) == (i in finders)
        event = verdicts[i]
        if isinstance(event, m.CandidateRefused):
            assert event.final
            assert f"chunk {wrong} " in event.reason
    received = consortium.networks[1].traffic().received_bytes / LAYOUT.file_bytes
    assert received < 1 + 5 * 0.6  # the model, and two fifths of five updates


@pytest.mark.parametrize("checkers", [1, 2, 3, 7, 15])
def test_every_chunk_is_drawn_for_two_checkers_and_everybody_has_about_as_many(
    checkers: int,
) -> None:
    members = [MemberId(3 * i) for i in range(checkers)]
    shares = {i: rechecks_of(i, members, SEED, NO_DIGEST, 1000) for i in members}
    counts = [sum(chunk in share for share in shares.values()) for chunk in range(1000)]
    assert set(counts) == {min(CHECKERS, checkers)}
    even = 1000 * min(CHECKERS, checkers) / checkers
    assert all(0.7 * even <= len(share) <= 1.3 * even for share in shares.values())


def test_a_check_whose_updates_are_deleted_under_it_is_given_up_and_ends_nothing(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path, 3)

    async def open_with_deletions(stack: AsyncExitStack) -> None:
        await Consortium.open(consortium, stack)
        late = consortium.nodes[1].collection
        late._incoming = lambda update: Incoming(tmp_path / "pruned.blob", None, 1, update.member)  # type: ignore[method-assign]

    consortium.open = open_with_deletions  # type: ignore[method-assign]
    merged, heard = play(consortium, VerifyLevel.SHARED)
    assert isinstance(merged, m.Merged)
    refused, verified = heard
    assert isinstance(refused, m.CandidateRefused)
    assert not refused.final
    assert "No such file" in refused.reason
    assert isinstance(verified, m.CandidateVerified)


@pytest.mark.parametrize("waits_first", [True, False])
def test_a_merge_whose_round_is_over_waits_for_no_update_and_blames_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, waits_first: bool
) -> None:
    consortium = Consortium(tmp_path, 3)

    async def scenario() -> m.Event:
        async with AsyncExitStack() as stack:
            await consortium.open(stack)
            leader = consortium.nodes[LEADER]
            consortium.sites[2].rules[:] = [lambda sender, blob: False]  # for it, all is over

            async def end_round() -> None:
                if waits_first:
                    await trio.sleep(0.1)
                leader.collection.end_rounds(1)

            with trio.fail_after(1):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(end_round)
                    if not waits_first:
                        await trio.testing.wait_all_tasks_blocked()
                    return await leader.merging.merge(consortium.merge())

    failed = trio.run(scenario)
    assert isinstance(failed, m.MergeFailed)
    assert failed.reason == "round 1 is over"
    assert "left out" not in caplog.text


def test_another_model_or_seed_draws_other_chunks() -> None:
    members = [MemberId(i) for i in range(5)]
    draws = {
        tuple(rechecks_of(members[0], members, seed, model, 300))
        for seed in (SEED, Digest(b"t" * 32))
        for model in (NO_DIGEST, Digest(b"m" * 32))
    }
    assert len(draws) == 4
