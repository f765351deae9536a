"""A node in a plan with frozen parameters completes models from the initial one, and pulls that if
it came too late to have it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from swarm.blobs.store import BlobStore
from swarm.learning.supervisor.trainer_messages import Evaluated, Loaded, Rules, Tensor, Trained
from swarm.protocol import machine as m
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Member
from swarm.rounds.address_book import AddressBook
from swarm.rounds.collection import Collection
from swarm.rounds.evaluating import Evaluating
from swarm.rounds.exchange import Exchange
from swarm.rounds.inbox import Inbox
from swarm.rounds.joint_scores import JointScores
from swarm.rounds.kept_state import KeptState
from swarm.rounds.layouts import Layouts, initial_layout_of, update_layout_of
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.rounds.streams import Streams
from swarm.rounds.training import Training
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

PEER = Address(b"\x01" * 20)
PROGRAM = federated_averaging(20)
TRUNK = Tensor(name="trunk", dtype="F32", shape=(5000,))
HEAD = Tensor(name="head", dtype="F32", shape=(100,))
NARROW_HEAD = Tensor(name="head", dtype="BF16", shape=(100,))


def loaded(travels: Sequence[Tensor], initial: Sequence[Tensor]) -> Loaded:
    rules = Rules(
        rounds=2, min_peers=2, verify="auto", max_round_s=60.0, seed=0, epochs=1, batch_size=1,
        optimizer_state="reset", threads=1,
    )  # fmt: skip
    return Loaded(
        name="P", digest=b"", rules=rules, program=PROGRAM.blob, tensors=tuple(travels),
        initial=tuple(initial), device="cpu",
    )  # fmt: skip


class FakeTrainer:
    """Writes an update of what travels, and remembers which initial model it was given."""

    def __init__(self, described: Loaded) -> None:
        self.described = described
        self.given: list[tuple[str, Path | None]] = []

    async def describe(self) -> Loaded:
        return self.described

    async def train(
        self, round: int, base: Path, out: Path, *, initial: Path | None, **_: Any
    ) -> Trained:
        self.given.append(("train", initial))
        write(out, update_layout_of(self.described), 2)
        return Trained(samples=3, steps=1, loss=0.5, metrics={}, train_s=0.1, resumed_epochs=0)

    async def evaluate(
        self, model: Path, statistics: Path | None, initial: Path | None, kept: Any, *, test: bool
    ) -> Evaluated:
        self.given.append(("evaluate", initial))
        return Evaluated(validation={}, test={})

    async def export(self, model: Path, out: Path, initial: Path | None, kept: Any) -> None:
        self.given.append(("export", initial))
        await trio.to_thread.run_sync(out.write_bytes, b"whole")


class PeerSource:
    """A peer with a blob store."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    async def fetch_manifest(self, peer: Address, root: Digest, *, deadline_s: float) -> bytes:
        return self.store.manifest(root).encode()

    async def fetch_chunks(
        self, peer: Address, root: Digest, indices: Sequence[int], take: Any, *, stall_s: float
    ) -> None:
        for index in indices:
            chunk = memoryview(self.store.read_chunk(root, index))
            await trio.to_thread.run_sync(take, [(index, chunk)])


def write(path: Path, layout: Layout, value: int) -> Path:
    with create_file(path, layout) as file:
        for name in file:
            file[name][...] = value
    return path


def add(store: BlobStore, layout: Layout, value: int) -> Digest:
    return store.add(write(store.scratch("made"), layout, value))


@pytest.fixture
def stores(tmp_path: Path) -> tuple[BlobStore, BlobStore]:
    return BlobStore(tmp_path / "ours"), BlobStore(tmp_path / "theirs")


class Node:
    """What of a node pulls, trains and evaluates, beside a peer that has what it lacks."""

    def __init__(
        self, directory: Path, ours: BlobStore, theirs: BlobStore, trainer: Any, alone: bool = False
    ) -> None:
        exchange = Exchange(ours, PeerSource(theirs), max_blob_bytes=10**6)
        peer = Member(MemberId(1), PEER, PEER, "them")
        book = AddressBook(MemberId(0), {} if alone else {peer.id: peer})
        records = Records(directory / "records.json")
        blobs = PlanBlobs(ours, records, PROGRAM, keep_models=3)
        kept = KeptState(book.me, directory / "kept", cast(Any, None))
        self.layouts = Layouts(book.me, trainer, ours, PROGRAM)
        self.collection = Collection(PlanId(1), book, ours, exchange, self.layouts, blobs)
        self.training = Training(
            PlanId(1), book.me, trainer, ours, self.collection, blobs, kept, records, Inbox(),
            cast(Any, None), Streams(*(cast(Any, None) for _ in range(8))), cast(Any, None),
            directory / "own",
        )  # fmt: skip
        joint = JointScores(PlanId(1), book, records, SimpleNamespace())  # type: ignore[arg-type]
        self.evaluating = Evaluating(
            trainer, ours, self.layouts, self.collection, kept, records, joint
        )


def test_what_travels_and_the_initial_model_have_layouts_of_their_own() -> None:
    described = loaded([NARROW_HEAD], [TRUNK, HEAD])
    assert update_layout_of(described) == Layout.from_specs([TensorSpec("head", "BF16", (100,))])
    assert {spec.name for spec in initial_layout_of(described).specs} == {"trunk", "head"}
    same = loaded([HEAD], [])
    assert initial_layout_of(same) == update_layout_of(same)


def test_a_node_that_came_late_pulls_the_initial_model_before_it_trains(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore]
) -> None:
    ours, theirs = stores
    trainer = FakeTrainer(loaded([NARROW_HEAD], [TRUNK, HEAD]))
    node = Node(tmp_path, ours, theirs, trainer)
    node.layouts.model0 = add(theirs, initial_layout_of(trainer.described), 1)
    newest = add(theirs, update_layout_of(trainer.described), 5)

    async def scenario() -> None:
        held = await node.collection.fetch(m.Fetch(newest, True))
        assert held == m.BlobHeld(newest)
        assert not ours.has(node.layouts.model0)
        done = await node.training.train(m.Train(7, 1, "train", newest, NO_DIGEST, 7))
        assert isinstance(done, m.TrainingFinished)
        await node.evaluating.evaluate(m.Evaluate(7, newest, NO_DIGEST, False))
        await node.evaluating.export(newest, tmp_path / "exported", own_parts=True)

    trio.run(scenario)
    here = ours.path(node.layouts.model0)
    assert trainer.given == [("train", here), ("evaluate", here), ("export", here)]
    assert ours.verify(node.layouts.model0)
    assert (tmp_path / "exported").read_bytes() == b"whole"


def test_the_initial_model_is_fetched_whole_and_a_later_one_must_not_be(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore]
) -> None:
    ours, theirs = stores
    trainer = FakeTrainer(loaded([NARROW_HEAD], [TRUNK, HEAD]))
    node = Node(tmp_path, ours, theirs, trainer)
    whole = initial_layout_of(trainer.described)
    model0, impostor = add(theirs, whole, 1), add(theirs, whole, 9)
    node.layouts.model0 = model0

    async def scenario() -> None:
        assert await node.collection.fetch(m.Fetch(node.layouts.model0, True)) == m.BlobHeld(
            node.layouts.model0
        )
        failed = await node.collection.fetch(m.Fetch(impostor, True))
        assert isinstance(failed, m.FetchFailed)
        assert "has 24496 bytes where at most 4296 are expected" in failed.reason

    trio.run(scenario)


def test_a_whole_model_in_its_own_types_is_copied_without_the_trainer(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore]
) -> None:
    ours, theirs = stores
    trainer = FakeTrainer(loaded([HEAD], []))
    node = Node(tmp_path, ours, theirs, trainer)
    model = add(ours, update_layout_of(trainer.described), 4)
    export = partial(node.evaluating.export, model, tmp_path / "exported", own_parts=True)
    trio.run(export)
    assert (tmp_path / "exported").read_bytes() == ours.path(model).read_bytes()
    assert trainer.given == []


def test_without_the_initial_model_nothing_is_trained(
    tmp_path: Path, stores: tuple[BlobStore, BlobStore]
) -> None:
    ours, theirs = stores
    trainer = FakeTrainer(loaded([NARROW_HEAD], [TRUNK, HEAD]))
    node = Node(tmp_path, ours, theirs, trainer, alone=True)
    node.layouts.model0 = add(theirs, initial_layout_of(trainer.described), 1)
    base = add(ours, update_layout_of(trainer.described), 5)

    async def scenario() -> None:
        failed = await node.training.train(m.Train(7, 1, "train", base, NO_DIGEST, 7))
        assert isinstance(failed, m.TrainingFailed)
        assert not failed.fault_of_plan

    trio.run(scenario)
    assert trainer.given == []
