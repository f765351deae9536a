"""Scoring final models on this site's own rows, and writing them for people."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import BlobError, SwarmError
from swarm.learning.metrics.choice import check_counted
from swarm.learning.metrics.matrix import read_matrix
from swarm.learning.metrics.wire import SentCounts, decode_all, pack, read_sent
from swarm.learning.supervisor.supervisor import Trainer
from swarm.protocol import machine as m
from swarm.rounds.collection import Collection
from swarm.rounds.figures import read_figures
from swarm.rounds.joint_scores import JointScores
from swarm.rounds.kept_state import KeptState
from swarm.rounds.layouts import Layouts
from swarm.rounds.records import Records, known
from swarm.tensors import Layout
from swarm.types import NO_DIGEST, Digest, to_digest, to_hex

log = logging.getLogger("swarm.plan")


@dataclass
class Evaluating:
    """One plan's final models at one node."""

    trainer: Trainer
    store: BlobStore
    layouts: Layouts
    collection: Collection
    kept: KeptState
    records: Records
    joint_scores: JointScores
    min_count: int = 0
    """Of the counts that leave this site, none tells of fewer rows; 0: no minimum."""
    _table: tuple[str, dict[str, Any]] | None = None
    """The last table that was asked for, by what made it."""

    async def evaluate_and_tell(self, command: m.Evaluate) -> None:
        """Score a new final model, and tell the others what can be added up of it."""
        counts = await self.evaluate(command)
        await self.joint_scores.tell(command.number, to_hex(command.model), counts)

    async def evaluate(self, command: m.Evaluate) -> dict[str, dict[str, SentCounts]]:
        """Score a model; what can be added up of it, by part of the rows. Failing costs the score,
        nothing else."""
        number, statistics = command.number, command.statistics
        self.records.at(number).model = to_hex(command.model)
        try:
            scores = await self.trainer.evaluate(
                self.store.path(command.model),
                None if statistics == NO_DIGEST else self.store.path(statistics),
                await self.collection.initial_model(),
                self.kept.current,
                test=command.on_test_rows,
            )
        except SwarmError as error:
            log.warning("the model of round %d could not be scored: %s", number, error)
            return {}
        told = {"validation": scores.validation, "test": scores.test}
        self.records.at(number).metrics = {part: known(each) for part, each in told.items()}
        self.records.save()
        try:
            return {part: self._told(raw) for part, raw in scores.counts.items()}
        except BlobError as error:
            log.warning("the counts of round %d stay here: %s", number, error)
            return {}

    async def count(self, model: Digest, statistics: Digest, metric: str) -> SentCounts | None:
        """What this site tells of a model under one metric, on its validation rows; None if it has
        none, or too few. Raises PlanError if the plan's metric is missing, or cannot be added up.
        """
        scores = await self.trainer.evaluate(
            self.store.path(model),
            None if statistics == NO_DIGEST else self.store.path(statistics),
            await self.collection.initial_model(),
            self.kept.current,
            test=False,
        )
        check_counted(metric, scores.validation, scores.counted)
        raw = scores.counts.get("validation")
        return self._told(raw).get(metric) if raw is not None else None

    def _told(self, raw: bytes) -> dict[str, SentCounts]:
        """What leaves this site of its counts on one part of its rows."""
        if not self.min_count:
            return read_sent(raw)
        coarse = {name: c.coarsened(self.min_count) for name, c in decode_all(raw).items()}
        return {name: pack(counts) for name, counts in coarse.items() if counts.rows}

    def table_of(self, made: str, name_of: Callable[[int], str]) -> dict[str, Any] | None:
        """What the sites' rows say of each other's models, as the round that `made` this has
        gathered it, with members by name; None if that is not here."""
        if self._table is None or self._table[0] != made:
            try:
                table = read_matrix(self.store.path(to_digest(made))).table(name_of)
            except (SwarmError, OSError, ValueError):
                return None
            self._table = (made, table)
        return self._table[1]

    def figures_of(self, made: str) -> dict[str, Any] | None:
        """What the sites told of their own models in the round that `made` this, in hex; None if
        that is not here, or is something else."""
        try:
            return read_figures(self.store.path(to_digest(made)))
        except (SwarmError, OSError, ValueError):
            return None

    async def export(self, model: Digest, out: Path, *, own_parts: bool) -> None:
        """Write a model that is here to the new file `out`, whole and in the plan's own types.

        With `own_parts` it is this site's own model: what stays here is in it, and it is not for
        others. Without, these parts are those of the initial model, and equal at all members.
        """
        path = self.store.path(model)
        layout = await trio.to_thread.run_sync(Layout.read, path)
        if await self.layouts.is_export(layout):
            await trio.to_thread.run_sync(shutil.copyfile, path, out)
        else:
            initial = await self.collection.initial_model()
            kept = self.kept.current if own_parts else None
            await self.trainer.export(path, out, initial, kept)
