"""The trainer's work on this site's own rows, as a round machine asks for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from swarm.blobs.store import BlobStore
from swarm.blobs.tree import Origin
from swarm.errors import PlanError, SwarmError
from swarm.learning.messages import Progress
from swarm.learning.supervisor import Trainer
from swarm.protocol import machine as m
from swarm.rounds.collection import Collection
from swarm.rounds.inbox import Inbox
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.types import NO_DIGEST, MemberId, PlanId, to_hex

UNIT_WEIGHT = 1


@dataclass
class Training:
    """One plan's trainings at one node, one at a time."""

    plan: PlanId
    me: MemberId
    trainer: Trainer
    store: BlobStore
    collection: Collection
    blobs: PlanBlobs
    records: Records
    inbox: Inbox
    progress: Progress | None = None
    """How far the running training is."""
    _running: trio.CancelScope | None = None

    @property
    def pid(self) -> int | None:
        """The trainer's process, if it has one."""
        return self.trainer.pid

    async def train(self, command: m.Train) -> m.Event:
        number, base = command.number, command.base
        began = time.monotonic()
        event: m.Event = m.TrainingFailed(number, base, "it was stopped", False)
        with trio.CancelScope() as scope:
            self._running = scope
            try:
                event = await self._train(command)
            except PlanError as error:
                event = m.TrainingFailed(number, base, str(error), True)
            except SwarmError as error:
                event = m.TrainingFailed(number, base, str(error), False)
        if self._running is scope:  # and no later training's
            self._running = self.progress = None
        self.records.at(number).train_s += time.monotonic() - began
        return event

    def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _train(self, command: m.Train) -> m.Event:
        out = self.store.scratch(f"update-{command.number}")
        await trio.to_thread.run_sync(partial(out.unlink, missing_ok=True))
        meta: dict[str, object] = {"task": command.task, "base": to_hex(command.base)}
        if command.task == "statistics":
            await self.trainer.compute_statistics(out)
            samples = UNIT_WEIGHT
        else:
            statistics = command.statistics
            trained = await self.trainer.train(
                command.within,
                self.store.path(command.base),
                out,
                base_digest=command.base,
                initial=await self.collection.initial_model(),
                statistics=None if statistics == NO_DIGEST else self.store.path(statistics),
                progress=self._progressed,
                round_in_all=command.number,
            )
            samples = trained.samples
            self.records.at(command.number).loss = trained.loss
            meta |= {"steps": trained.steps, "train_s": round(trained.train_s, 3)}
        origin = Origin(self.plan, command.number, self.me)
        update = await trio.to_thread.run_sync(self.store.add, out, origin)
        described = await trio.to_thread.run_sync(
            self.store.add_bytes, msgspec.json.encode(meta, order="sorted")
        )
        self.blobs.note(command.number, update, described)
        return m.TrainingFinished(command.number, command.base, update, samples, described)

    def _progressed(self, progress: Progress) -> None:
        self.progress = progress
        # Only the newest matters.
        self.inbox.offer(m.TrainingProgressed(int(progress.fraction * 1000)))
