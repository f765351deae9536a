"""The best model at a node: chosen from what sites count, and checked before it is attested."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

import swarm
from swarm.blobs.store import BlobStore
from swarm.errors import PlanError
from swarm.learning.metrics.choice import Pair, encode_pair, read_pair, read_pair_file
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import pack
from swarm.protocol import machine as m
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import (
    BEST_SLOT,
    Candidate,
    Omission,
    Outcome,
    VerifyLevel,
    member_set,
)
from swarm.rounds.records import Records
from swarm.rounds.selecting import Selecting
from swarm.rounds.site_limits import NO_LIMITS, SiteLimits
from swarm.types import NO_DIGEST, Digest, MemberId

NEWEST, BEST, OTHER = (Digest(bytes([n]) * 32) for n in (1, 2, 3))
ROUND = 2
PROGRAM = Program(
    (
        Stage("training", "train", "mean", 1),
        Stage("select", "select", "highest accuracy", 1, BEST_SLOT),
    )
)
UNREACHABLE, GARBAGE = 7, 8
"""Members whose counts do not come, or are none."""


def right(rows: int) -> Counts:
    """Of ten rows."""
    y = np.zeros(10)
    return swarm.metrics.confusion(y, np.eye(2)[[0] * rows + [1] * (10 - rows)], 2)


@dataclass
class Collected:
    """What the node has pulled."""

    store: BlobStore
    pulled: list[Digest] = field(default_factory=list)

    async def model(self, model: Digest) -> Path:
        self.pulled.append(model)
        return self.store.path(model)

    async def collect_pairs(
        self, number: int, updates: list[m.FrozenUpdate], patience: object
    ) -> dict[MemberId, Omission]:
        faults = {UNREACHABLE: Omission.UNREACHABLE, GARBAGE: Omission.WRONG_SCHEMA}
        return {u.member: faults[u.member] for u in updates if u.member in faults}


@dataclass
class Node:
    folder: Path
    counted: dict[Digest, Counts] = field(default_factory=dict)
    limits: SiteLimits = NO_LIMITS

    def __post_init__(self) -> None:
        self.store = BlobStore(self.folder / "blobs")
        self.collected = Collected(self.store)
        self.records = Records(self.folder / "records.jsonl")
        others: Any = SimpleNamespace(name=lambda member: f"member {member}", count=self.count)
        collection: Any = self.collected
        self.selecting = Selecting(
            PROGRAM, others, self.store, collection, others, self.records, self.limits
        )

    async def count(self, model: Digest, statistics: Digest, metric: str) -> Any:
        assert metric == "accuracy"
        return pack(self.counted[model])

    def update(self, member: int, newest: int, best: int) -> m.FrozenUpdate:
        """A member's: of ten rows each, how many the two models get right."""
        told = encode_pair(Pair(pack(right(newest)), pack(right(best))))
        return m.FrozenUpdate(MemberId(member), self.store.add_bytes(told), 1)

    def merge(self, *updates: m.FrozenUpdate, best: Digest = BEST, gone: int = 0) -> m.Event:
        command = m.Merge(ROUND, 1, NEWEST, updates, gone, 2, 1.0, best)
        return trio.run(self.selecting.merge, command)

    def verify(
        self, model: Digest, *updates: m.FrozenUpdate, omitted: int = 0, level: int = 3
    ) -> m.Event:
        candidate = Candidate(MemberId(0), Outcome(model, omitted, BEST_SLOT), 0, 0)
        level = VerifyLevel(level)
        command = m.Verify(ROUND, 1, NEWEST, candidate, updates, 0, level, NO_DIGEST, 1.0, BEST)
        return trio.run(self.selecting.verify, command)


def test_the_leader_takes_the_model_that_more_rows_of_all_sites_speak_for(tmp_path: Path) -> None:
    node = Node(tmp_path)
    updates = node.update(0, 9, 4), node.update(1, 4, 6)
    assert node.merge(*updates) == m.Merged(ROUND, 1, NEWEST, 0, b"")
    assert node.records.at(ROUND).choice == {"newest": 0.65, "best before": 0.5}
    assert node.records.counted() == {update.update for update in updates}
    assert node.merge(node.update(0, 4, 4), node.update(1, 4, 6)) == m.Merged(
        ROUND, 1, BEST, 0, b""
    )
    assert node.collected.pulled == [NEWEST, BEST], "it is attested by those who hold it"


def test_before_there_is_a_best_model_the_newest_is(tmp_path: Path) -> None:
    node = Node(tmp_path)
    event = node.merge(node.update(0, 1, 9), node.update(1, 1, 9), best=NO_DIGEST)
    assert isinstance(event, m.Merged)
    assert event.model == NEWEST


def test_counts_that_cannot_be_used_are_left_out_and_too_few_choose_nothing(
    tmp_path: Path,
) -> None:
    node = Node(tmp_path)
    updates = [node.update(i, 6, 5) for i in (0, 1, 2, UNREACHABLE, GARBAGE)]
    event = node.merge(*updates, gone=member_set([2]))
    out = member_set([2, UNREACHABLE, GARBAGE])
    reasons = bytes([Omission.WITHDRAWN, Omission.UNREACHABLE, Omission.WRONG_SCHEMA])
    assert event == m.Merged(ROUND, 1, NEWEST, out, reasons)
    failed = node.merge(*updates[1:], gone=member_set([2]))
    assert isinstance(failed, m.MergeFailed)
    assert "only 1 of 4 updates can be merged, 2 are needed" in failed.reason


def test_a_choice_is_attested_if_the_counts_make_it_here_too(tmp_path: Path) -> None:
    node = Node(tmp_path)
    updates = node.update(0, 9, 4), node.update(1, 4, 6)
    assert isinstance(node.verify(NEWEST, *updates), m.CandidateVerified)


@pytest.mark.parametrize(
    ("model", "members", "omitted", "words", "for_good"),
    [
        (OTHER, (0, 1), (), "is neither the newest nor the best model", True),
        (BEST, (0, 1), (), "is not the model that the sites' counts choose", True),
        (NEWEST, (0, 1), (1,), "it leaves out the counts of member 1, which are here", True),
        (NEWEST, (0, 1, GARBAGE), (), "it adds what is no counts, of member 8", True),
        (NEWEST, (0, 1, UNREACHABLE), (), "member 7 (unreachable)", False),
    ],
)
def test_a_wrong_choice_is_refused_and_one_that_cannot_be_checked_is_looked_at_again(
    tmp_path: Path,
    model: Digest,
    members: tuple[int, ...],
    omitted: tuple[int, ...],
    words: str,
    for_good: bool,
) -> None:
    node = Node(tmp_path)
    updates = [node.update(i, 6, 5) for i in members]
    event = node.verify(model, *updates, omitted=member_set(omitted))
    assert isinstance(event, m.CandidateRefused)
    assert words in event.reason
    assert event.final is for_good


def test_who_may_not_read_counts_attests_a_model_that_it_holds(tmp_path: Path) -> None:
    node = Node(tmp_path)
    updates = node.update(0, 9, 4), node.update(1, 9, 4)
    assert isinstance(node.verify(BEST, *updates, level=1), m.CandidateVerified)
    assert isinstance(node.verify(OTHER, *updates, level=1), m.CandidateRefused)
    assert node.collected.pulled == [BEST]


def test_a_site_counts_both_models_and_one_that_tells_no_scores_sends_none(
    tmp_path: Path,
) -> None:
    counted = {NEWEST: right(6), BEST: right(5)}
    command = m.Train(ROUND, 1, "select", NEWEST, NO_DIGEST, 1, best=BEST)
    told = trio.run(Node(tmp_path / "a", counted).selecting.count, command)
    assert read_pair(told) == (right(6), right(5))
    silent = Node(tmp_path / "b", counted, SiteLimits(shares_scores=False))
    file = tmp_path / "told"
    file.write_bytes(trio.run(silent.selecting.count, command))
    assert read_pair_file(file) == (None, None)


def test_counts_that_are_too_many_to_send_are_refused_with_what_to_do(tmp_path: Path) -> None:
    labels = np.arange(120_000) % 250
    many = swarm.metrics.confusion(labels, np.random.default_rng(0).random((120_000, 250)), 250)
    command = m.Train(ROUND, 1, "select", NEWEST, NO_DIGEST, 1, best=BEST)
    with pytest.raises(PlanError, match="262144 are the most: count fewer bins or classes"):
        trio.run(Node(tmp_path, {NEWEST: many, BEST: many}).selecting.count, command)
