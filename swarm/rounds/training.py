"""The trainer's work on this site's own rows, as a round machine asks for it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from swarm.blobs.manifest import Origin
from swarm.blobs.store import BlobStore
from swarm.errors import LocalError, PlanError, SwarmError
from swarm.learning.metrics.counts import MAX_ROWS
from swarm.learning.metrics.matrix import write_counts
from swarm.learning.metrics.wire import decode_all
from swarm.learning.plans.stages import (
    CROSS_EVALUATE,
    PERSONALISE,
    SELECT,
    SEND_COPY,
    STATISTICS,
)
from swarm.learning.supervisor.supervisor import Trainer
from swarm.learning.supervisor.trainer_messages import Loaded, Personalised, Progress, Trained
from swarm.protocol import machine as m
from swarm.rounds.collection import Collection
from swarm.rounds.figures import write_figures
from swarm.rounds.hidden_updates import HiddenUpdates
from swarm.rounds.inbox import Inbox
from swarm.rounds.kept_state import KeptState
from swarm.rounds.metas import Meta, encode_meta
from swarm.rounds.private_rounds import PrivateRounds
from swarm.rounds.records import Records, known
from swarm.rounds.retention import PlanBlobs
from swarm.rounds.selecting import Selecting
from swarm.rounds.site_limits import NO_LIMITS, SiteLimits
from swarm.rounds.small_counts import withhold
from swarm.rounds.streams import Streams
from swarm.tensors import move_durably
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId, to_hex

log = logging.getLogger("swarm.plan")

UNIT_WEIGHT = 1
Done = TypeVar("Done")


@dataclass
class Training:
    """One plan's trainings at one node, one at a time."""

    plan: PlanId
    me: MemberId
    trainer: Trainer
    store: BlobStore
    collection: Collection
    blobs: PlanBlobs
    kept: KeptState
    records: Records
    inbox: Inbox
    private: PrivateRounds
    streams: Streams
    selecting: Selecting
    own_model: Path
    """Where this site's own model is kept, if the plan makes one. It never leaves."""
    limits: SiteLimits = NO_LIMITS
    hidden: HiddenUpdates | None = None
    """Where updates of a masked plan are kept, of which nothing but masked sums leaves."""
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
        number, base = command.number, command.base
        if self.hidden is not None:
            kept = await self.hidden.recall(number, base)
            if kept is not None:  # trained once for all attempts
                return m.TrainingFinished(number, base, NO_DIGEST, kept.samples, kept.meta)
        out = self.store.scratch(f"update-{command.number}")
        await trio.to_thread.run_sync(partial(out.unlink, missing_ok=True))
        meta = Meta(to_hex(command.base), command.task)
        if command.task == SELECT:
            told = await self.selecting.count(command)
            update = await trio.to_thread.run_sync(self.store.add_bytes, told)
            self.blobs.note(number, update)
            described = await self._describe(command, meta)
            return m.TrainingFinished(number, base, update, UNIT_WEIGHT, described)
        keeps, promised = False, None
        if command.task == STATISTICS:
            await self.trainer.compute_statistics(out)
            samples = UNIT_WEIGHT
            if self.limits.min_count:
                await self._withhold(out)
        elif command.task == PERSONALISE:
            personal = await self._personalise(command, out)
            samples = UNIT_WEIGHT
            meta = replace(meta, steps=personal.steps, train_s=round(personal.train_s, 3))
        elif command.task == SEND_COPY:
            await self._send_copy(command, out)
            samples = UNIT_WEIGHT
        elif command.task == CROSS_EVALUATE:
            await self._score_copies(command, out)
            samples = UNIT_WEIGHT
        else:
            loaded = await self.trainer.describe()
            keeps, promised = loaded.keeps_state, loaded.rules.privacy
            if promised is not None:
                made = await trio.to_thread.run_sync(self.private.made_before, number, base)
                if made is not None:
                    self.blobs.note(number, made.update)
                    samples = self.private.declared_rows()
                    return m.TrainingFinished(number, base, made.update, samples, made.meta)
            trained = await self._trained(command, out, loaded)
            samples = trained.samples
            record = self.records.at(command.number)
            record.loss, record.own_metrics = trained.loss, known(trained.metrics)
            meta = replace(meta, steps=trained.steps, train_s=round(trained.train_s, 3))
            if promised is not None:
                samples = self.private.declared_rows()
                spent = await trio.to_thread.run_sync(self.private.spent, promised)
                meta = replace(meta, epsilon=round(spent, 4), delta=promised.delta)
        self._refuse_large(out.stat().st_size)
        if self.hidden is not None:
            described = await self._describe(command, meta)
            await self.hidden.keep(command, out, samples, described)
            if promised is not None:  # nobody else has it, and it may leave in sums from now on
                note = partial(self.private.made, number, base, NO_DIGEST, described)
                await trio.to_thread.run_sync(note)
            return m.TrainingFinished(number, base, NO_DIGEST, samples, described)
        origin = Origin(self.plan, command.number, self.me)
        update = await trio.to_thread.run_sync(self.store.add, out, origin)
        if keeps:
            await trio.to_thread.run_sync(self.kept.note, command.number, update)
        described = await self._describe(command, meta)
        if promised is not None:
            await trio.to_thread.run_sync(self.private.made, number, base, update, described)
        self.blobs.note(command.number, update)
        return m.TrainingFinished(number, base, update, samples, described)

    async def _describe(self, command: m.Train, meta: Meta) -> Digest:
        """Keep what is said of an update beside it, for the others too."""
        described = await trio.to_thread.run_sync(self.store.add_bytes, encode_meta(meta))
        self.records.at(command.number).meta = to_hex(described)
        self.records.save()
        return described

    async def _trained(self, command: m.Train, out: Path, loaded: Loaded) -> Trained:
        """Train within what this site allows. Raises PlanError if that is not enough."""
        keeps = loaded.keeps_state
        if keeps:
            await trio.to_thread.run_sync(self.kept.check_settled, command.number)
        given = await self._given(command, out)
        if self.hidden is not None:
            given["entropy"] = await self.hidden.entropy_for(command.number, command.base)
        if loaded.rules.privacy is not None:
            await self.private.recount(self.private.observed(), loaded.rules)
            given["noise"] = await trio.to_thread.run_sync(
                self.private.charge, command.number, command.base, loaded.rules
            )
        if keeps:
            given["kept_out"] = await trio.to_thread.run_sync(self.kept.scratch)

        async def train(stream: int | None) -> Trained:
            work = partial(self.trainer.train, **given, stream=stream)
            return await self._in_time(command, work)

        trained = await self.streams.asking(command, train)
        if trained.samples < self.limits.min_rows:
            raise PlanError(
                f"the plan trained on {trained.samples} rows of this site, and its "
                f"`policy.min_rows` is {self.limits.min_rows}: withdraw, or lower it"
            )
        return trained

    async def _personalise(self, command: m.Train, out: Path) -> Personalised:
        """Keep this site's own model, and write to `out` what it tells the others of it."""
        own = self.store.scratch(f"own-{command.number}")
        await trio.to_thread.run_sync(partial(own.unlink, missing_ok=True))
        work = partial(self.trainer.personalise, epochs=command.epochs or None)
        given = await self._given(command, own)
        told = await self._in_time(command, partial(work, **given))
        await trio.to_thread.run_sync(self._keep_own, own)
        record = self.records.at(command.number)
        record.loss = told.loss
        record.metrics = {"before": known(told.before), "after": known(told.after)}
        enough = self.limits.shares_scores and told.rows >= self.limits.min_count
        scores = {"before": told.before, "after": told.after}
        await trio.to_thread.run_sync(write_figures, out, scores, told.rows if enough else 0)
        return told

    async def _send_copy(self, command: m.Train, out: Path) -> None:
        """Write this site's own model to `out`: what it has fine-tuned, or the newest model with
        what the site keeps."""
        own, initial = self.own_model, await self.collection.initial_model()
        if await trio.to_thread.run_sync(own.exists):
            await self.trainer.send_copy(own, out, initial)
        else:
            base = self.store.path(command.base)
            await self.trainer.send_copy(base, out, initial, self.kept.current)

    async def _score_copies(self, command: m.Train, out: Path) -> None:
        """Write to `out` what this site's test rows say of each site's own model."""
        statistics, copies = command.statistics, command.rows
        work = partial(
            self.trainer.score_copies,
            self.store.path(command.best or command.base),
            None if copies is None or copies == NO_DIGEST else self.store.path(copies),
            None if statistics == NO_DIGEST else self.store.path(statistics),
            await self.collection.initial_model(),
        )
        told = await self._in_time(command, work)
        least = self.limits.min_count if self.limits.shares_scores else MAX_ROWS + 1

        def write() -> None:
            counts = {copy: decode_all(raw) for copy, raw in told.counts.items()}
            write_counts(
                out,
                {
                    copy: {name: each.coarsened(least) for name, each in of.items()}
                    for copy, of in counts.items()
                },
            )

        await trio.to_thread.run_sync(write)

    async def _given(self, command: m.Train, out: Path) -> dict[str, Any]:
        """What the trainer is given for a round."""
        statistics = command.statistics
        return {
            "round": command.within,
            "base": self.store.path(command.base),
            "out": out,
            "base_digest": command.base,
            "initial": await self.collection.initial_model(),
            "statistics": None if statistics == NO_DIGEST else self.store.path(statistics),
            "kept": self.kept.current,
            "progress": self._progressed,
            "round_in_all": command.number,
        }

    async def _in_time(self, command: m.Train, work: Callable[[], Awaitable[Done]]) -> Done:
        """Have work done in the time that this site allows a round. Raises PlanError otherwise."""
        most_s = self.limits.train_s
        with trio.move_on_after(math.inf if most_s is None else most_s):
            return await work()
        raise PlanError(
            f"round {command.within} trained for more than the {(most_s or 0) / 60:g} minutes "
            "that this site's `policy.max_round_minutes` allows, and was ended: raise it in "
            "node.toml and restart the node, or withdraw"
        )

    def _keep_own(self, made: Path) -> None:
        """Give this site's own model its place, durably; the one before is there until then."""
        try:
            self.own_model.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            move_durably(made, self.own_model)
        except OSError as error:
            raise LocalError(f"cannot write {self.own_model}: {error.strerror}") from error

    async def _withhold(self, out: Path) -> None:
        withheld = await trio.to_thread.run_sync(withhold, out, self.limits.min_count)
        for name, cells in withheld.items():
            log.info(
                "%d numbers of the statistics %r tell of fewer than %d rows and are withheld",
                *(cells, name, self.limits.min_count),
            )

    def _refuse_large(self, size_bytes: int) -> None:
        most = self.limits.round_bytes
        if most is not None and size_bytes > most:
            raise PlanError(
                f"the plan made {size_bytes} bytes to be sent in one round, and this site's "
                f"`policy.max_round_mb` allows {most}: raise it in node.toml and restart the node, "
                "or withdraw"
            )

    def _progressed(self, progress: Progress) -> None:
        self.progress = progress
        # Only the newest matters.
        self.inbox.offer(m.TrainingProgressed(int(progress.fraction * 1000)))
