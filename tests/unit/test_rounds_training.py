"""What a site's limits do to a training while it runs: nothing over them is there for others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

import swarm
from swarm.blobs.store import BlobStore
from swarm.errors import BlobError
from swarm.learning.metrics.wire import encode_all
from swarm.learning.supervisor.trainer_messages import CopiesScored, Personalised, Trained
from swarm.protocol import machine as m
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Plan, Rules
from swarm.rounds.figures import read_figures
from swarm.rounds.inbox import Inbox
from swarm.rounds.kept_state import KeptState
from swarm.rounds.metas import Meta, decode_meta, encode_meta
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.rounds.site_limits import NO_LIMITS, SiteLimits
from swarm.rounds.streams import Streams
from swarm.rounds.training import Training
from swarm.tensors import Layout, TensorSpec, create_file, open_file
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId, to_hex

BASE = Digest(b"\x01" * 32)
SAMPLES = 40


class Trainer:
    """Takes so long, and writes so many numbers, whatever it is asked for."""

    pid = 4711

    def __init__(self, seconds: float = 0.0, values: tuple[float, ...] = (20.0, 3.0)) -> None:
        self.seconds, self.values = seconds, values

    async def describe(self) -> Any:
        return SimpleNamespace(keeps_state=False, rules=SimpleNamespace(privacy=None))

    async def compute_statistics(self, out: Path) -> None:
        await trio.sleep(self.seconds)
        with create_file(
            out, Layout.from_specs([TensorSpec("n", "F64", (len(self.values),))])
        ) as f:
            f["n"][...] = self.values

    async def train(self, round: int, base: Path, out: Path, **rest: object) -> Trained:
        await self.compute_statistics(out)
        return Trained(
            samples=SAMPLES, steps=1, loss=0.5, metrics={}, train_s=1.0, resumed_epochs=0
        )

    async def personalise(self, round: int, base: Path, out: Path, **rest: object) -> Personalised:
        await self.compute_statistics(out)
        scores = {"auc": 0.75}
        return Personalised(steps=3, loss=0.5, train_s=1.0, before=scores, after=scores, rows=20)

    async def send_copy(self, model: Path, out: Path, *given: object) -> None:
        self.copied = (model, *given)
        await self.compute_statistics(out)

    async def score_copies(self, model: Path, copies: Path | None, *given: object) -> CopiesScored:
        await trio.sleep(self.seconds)
        self.scored = (model, copies, *given)
        rows = encode_all({"right": RIGHT})
        return CopiesScored(counts={-1: rows, 4: rows})


RIGHT = swarm.metrics.confusion(np.zeros(10), np.eye(2)[[0] * 7 + [1] * 3], 2)


async def no_initial() -> None:
    return None


def run(
    folder: Path, trainer: Trainer, limits: SiteLimits, task: str, **given: Any
) -> tuple[m.Event, BlobStore]:
    store = BlobStore(folder / "blobs")
    records = Records(folder / "records.jsonl")
    collection: Any = SimpleNamespace(initial_model=no_initial)
    blobs = PlanBlobs(store, records, federated_averaging(3, True), 1)
    told: Any = trainer
    nobody: Any = None
    training = Training(
        PlanId(1),
        MemberId(0),
        told,
        store,
        collection,
        blobs,
        KeptState(MemberId(0), folder / "kept", nobody),
        records,
        Inbox(),
        nobody,
        Streams(*(nobody for _ in range(8))),
        nobody,
        folder / "own",
        limits,
    )
    command = m.Train(2, 1, task, BASE, NO_DIGEST, 1, **given)
    clock = trio.testing.MockClock(autojump_threshold=0.05)
    return trio.run(training.train, command, clock=clock), store


def test_an_update_within_the_sites_limits_is_there_for_others(tmp_path: Path) -> None:
    limits = SiteLimits(train_s=60, round_bytes=10**6, min_rows=SAMPLES, min_count=10)
    event, store = run(tmp_path, Trainer(59.0), limits, "train")
    assert isinstance(event, m.TrainingFinished)
    assert event.samples == SAMPLES
    assert store.has(event.update)


@pytest.mark.parametrize(
    ("trainer", "limits", "task", "words"),
    [
        (Trainer(61.0), SiteLimits(train_s=60), "train", "for more than the 1 minutes that"),
        (Trainer(61.0), SiteLimits(train_s=60), "personalise", "for more than the 1 minutes that"),
        (Trainer(61.0), SiteLimits(train_s=60), "cross-evaluate", "for more than the 1 minutes "),
        (Trainer(), SiteLimits(round_bytes=100), "send copy", "`policy.max_round_mb` allows 100"),
        (Trainer(), SiteLimits(min_rows=SAMPLES + 1), "train", "`policy.min_rows` is 41"),
        (Trainer(), SiteLimits(round_bytes=100), "train", "`policy.max_round_mb` allows 100"),
        (Trainer(), SiteLimits(round_bytes=100), "statistics", "`policy.max_round_mb`"),
        (Trainer(values=(2.5,)), SiteLimits(min_count=10), "statistics", "`policy.min_count` is"),
    ],
)
def test_what_is_over_a_limit_ends_the_plan_here_and_leaves_nothing_for_others(
    tmp_path: Path, trainer: Trainer, limits: SiteLimits, task: str, words: str
) -> None:
    event, store = run(tmp_path, trainer, limits, task)
    assert isinstance(event, m.TrainingFailed)
    assert event.fault_of_plan
    assert words in event.reason
    assert store.roots() == set()


def test_small_counts_are_zero_in_the_only_statistics_that_others_can_read(tmp_path: Path) -> None:
    event, store = run(tmp_path, Trainer(), SiteLimits(min_count=10), "statistics")
    assert isinstance(event, m.TrainingFinished)
    assert np.array(open_file(store.path(event.update))["n"]).tolist() == [20.0, 0.0]
    event, store = run(tmp_path / "free", Trainer(), NO_LIMITS, "statistics")
    assert isinstance(event, m.TrainingFinished)
    assert np.array(open_file(store.path(event.update))["n"]).tolist() == [20.0, 3.0]


@pytest.mark.parametrize(
    ("limits", "sites"),
    [
        (NO_LIMITS, 1),
        (SiteLimits(min_count=20), 1),
        (SiteLimits(min_count=21), 0),
        (SiteLimits(shares_scores=False), 0),
    ],
)
def test_scores_of_a_sites_own_model_leave_it_only_if_the_site_agrees_and_rows_are_enough(
    tmp_path: Path, limits: SiteLimits, sites: int
) -> None:
    event, store = run(tmp_path, Trainer(), limits, "personalise")
    assert isinstance(event, m.TrainingFinished)
    told = read_figures(store.path(event.update))
    score = 0.75 if sites else None
    assert told == {"sites": sites, "before": {"auc": score}, "after": {"auc": score}}
    own = tmp_path / "own"
    assert own.exists()  # and in no place from which others are served
    assert store.roots() == {event.update, event.meta}


def test_a_site_sends_what_it_has_fine_tuned_or_the_newest_model_with_what_it_keeps(
    tmp_path: Path,
) -> None:
    trainer, own = Trainer(), tmp_path / "own"
    event, store = run(tmp_path, trainer, NO_LIMITS, "send copy")
    assert isinstance(event, m.TrainingFinished)
    assert trainer.copied == (store.path(BASE), None, None)
    own.write_bytes(b"fine-tuned")
    run(tmp_path, trainer, NO_LIMITS, "send copy")
    assert trainer.copied == (own, None)


@pytest.mark.parametrize(
    ("limits", "rows"),
    [
        (NO_LIMITS, 10),
        (SiteLimits(min_count=3), 10),
        (SiteLimits(min_count=4), 0),
        (SiteLimits(shares_scores=False), 0),
    ],
)
def test_what_test_rows_say_of_copies_leaves_a_site_only_if_it_agrees_and_rows_are_enough(
    tmp_path: Path, limits: SiteLimits, rows: int
) -> None:
    best, copies, trainer = Digest(b"\2" * 32), Digest(b"\3" * 32), Trainer()
    event, store = run(tmp_path, trainer, limits, "cross-evaluate", best=best, rows=copies)
    assert isinstance(event, m.TrainingFinished)
    assert trainer.scored == (store.path(best), store.path(copies), None, None)
    told = open_file(store.path(event.update))
    assert told["copies"].tolist() == [-1, 4]
    assert told["counts/right"].sum(axis=1).tolist() == [rows] * 2
    run(tmp_path, trainer, limits, "cross-evaluate", rows=NO_DIGEST)
    assert trainer.scored == (store.path(BASE), None, None, None)


def test_what_a_site_says_of_an_update_is_typed_and_kept_as_long_as_the_plan(
    tmp_path: Path,
) -> None:
    event, store = run(tmp_path, Trainer(), NO_LIMITS, "train")
    assert isinstance(event, m.TrainingFinished)
    said = decode_meta(store.path(event.meta).read_bytes())
    assert said == Meta(base=to_hex(BASE), task="train", steps=1, train_s=1.0)
    records = Records(tmp_path / "records.jsonl")  # after a restart
    blobs = PlanBlobs(store, records, federated_averaging(3, True), 1)
    assert blobs.metas() == {event.meta}
    blobs.observe(Plan(PlanId(1), MemberId(0), "p", BASE, BASE, BASE, Rules(4, 2)))
    assert event.meta in blobs.needed()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b'{"base":"0x12","task":"train"}',
        b"[" * 5000,
        encode_meta(Meta(to_hex(BASE), "train")).replace(b"}", b',"more":1}'),
    ],
)
def test_what_says_nothing_of_an_update_is_refused(raw: bytes) -> None:
    with pytest.raises(BlobError, match=r"says? nothing of an update"):
        decode_meta(raw)
