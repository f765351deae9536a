"""The work that a round machine asks for: train and fetch here, merge and check in `settling`.

One command in, one event out.

Nothing here decides. Whatever fails becomes the event that says so; the machine then knows what to
try again, and when.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import trio

from swarm.blobs.fetch import Wish
from swarm.errors import PlanError, SwarmError
from swarm.learning.messages import Progress
from swarm.protocol import machine as m
from swarm.rounds.chunk_merge import prepare
from swarm.rounds.collection import FETCH_PATIENCE_S, Settling
from swarm.tensors import Layout
from swarm.types import Digest, to_hex

log = logging.getLogger("swarm.plan")

UNIT_WEIGHT = 1


@dataclass
class Work(Settling):
    """The hands of one plan at one node."""

    progress: Progress | None = None
    """How far the running training is."""
    on_progress: Callable[[Progress], None] = lambda progress: None
    _training: trio.CancelScope | None = None

    # Training.

    async def train(self, command: m.Train) -> m.Event:
        number, base = command.number, command.base
        began = time.monotonic()
        event: m.Event = m.TrainingFailed(number, base, "it was stopped", False)
        with trio.CancelScope() as scope:
            self._training = scope
            try:
                event = await self._train(command)
            except PlanError as error:
                event = m.TrainingFailed(number, base, str(error), True)
            except SwarmError as error:
                event = m.TrainingFailed(number, base, str(error), False)
        if self._training is scope:  # and no later training's
            self._training = self.progress = None
        self.records.at(number).train_s += time.monotonic() - began
        return event

    async def prepare(self) -> None:
        """Beside the training, as the first merge would wait for it."""
        with suppress(SwarmError):  # of the trainer, which the training tells as well
            travelling, _ = await self._layouts_of_plan()
            await trio.to_thread.run_sync(prepare, travelling, abandon_on_cancel=True)  # type: ignore[call-arg]

    def stop_training(self) -> None:
        if self._training is not None:
            self._training.cancel()

    async def _train(self, command: m.Train) -> m.Event:
        store = self.exchange.store
        out = store.scratch(f"update-{command.number}")
        await trio.to_thread.run_sync(partial(out.unlink, missing_ok=True))
        meta: dict[str, object] = {"task": command.task, "base": to_hex(command.base)}
        if command.task == "statistics":
            await self.trainer.compute_statistics(out)
            samples = UNIT_WEIGHT
        else:
            trained = await self.trainer.train(
                command.number,
                store.path(command.base),
                out,
                base_digest=command.base,
                initial=await self._initial(),
                statistics=self._path(command.statistics),
                progress=self._progressed,
            )
            samples = trained.samples
            self.records.at(command.number).loss = trained.loss
            meta |= {"steps": trained.steps, "train_s": round(trained.train_s, 3)}
        update = await trio.to_thread.run_sync(store.add, out)
        described = await trio.to_thread.run_sync(
            store.add_bytes, msgspec.json.encode(meta, order="sorted")
        )
        self._note(command.number, update, described)
        return m.TrainingFinished(command.number, command.base, update, samples, described)

    def _progressed(self, progress: Progress) -> None:
        self.progress = progress
        self.on_progress(progress)

    async def evaluate(self, number: int, model: Digest, statistics: Digest) -> None:
        """Score a final model on this site's own rows. Failing costs the score, nothing else."""
        self.records.at(number).model = to_hex(model)
        try:
            scores = await self.trainer.evaluate(
                self.exchange.store.path(model), self._path(statistics), await self._initial()
            )
        except SwarmError as error:
            log.warning("the model of round %d could not be scored: %s", number, error)
            return
        metrics = {"validation": scores.validation, "test": scores.test}
        self.records.at(number).metrics = metrics
        self.records.save()

    async def export(self, model: Digest, out: Path) -> None:
        """Write a model that is here to the new file `out`, whole and in the plan's own types."""
        path = self.exchange.store.path(model)
        _, whole = await self._layouts_of_plan()
        if await trio.to_thread.run_sync(Layout.read, path) == whole:
            await trio.to_thread.run_sync(shutil.copyfile, path, out)
        else:
            await self.trainer.export(path, out, await self._initial())

    async def fetch(self, command: m.Fetch) -> m.Event:
        try:
            wish = None
            if command.is_model:
                layout = await self._layout_of_model(command.digest)
                wish = Wish(layout.file_bytes, layout)
            await self.exchange.pull(
                command.digest, self._others(), patience_s=FETCH_PATIENCE_S, wish=wish
            )
        except SwarmError as error:
            return m.FetchFailed(command.digest, str(error))
        return m.BlobHeld(command.digest)
