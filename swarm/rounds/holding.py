"""Holding the plan's role, as a round machine asks for it: in a process without the site's rows."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import SwarmError
from swarm.learning.plans.stages import TRAIN
from swarm.learning.supervisor.supervisor import Trainer
from swarm.protocol import machine as m
from swarm.rounds.collection import Collection
from swarm.rounds.streams import Streams
from swarm.types import NO_DIGEST


@dataclass
class Holding:
    """One plan's role at one node. `trainer` is the process for it."""

    trainer: Trainer
    store: BlobStore
    collection: Collection
    streams: Streams
    _released: trio.Event | None = None

    async def hold(self, command: m.Hold) -> m.Event:
        """Hold the role until `release`, or until the process fails."""
        self._released = trio.Event()
        fault = None
        try:
            if command.task == TRAIN:
                await self._hold(command)
            else:
                await self._released.wait()  # nobody asks in such a round
        except SwarmError as error:
            fault = str(error)
        finally:
            self.streams.close_door()
        return m.HoldingEnded(command.number, command.attempt, fault)

    async def _hold(self, command: m.Hold) -> None:
        statistics = command.statistics
        with self.streams.open_door(command.number, command.attempt) as door:
            await self.trainer.hold(
                command.within,
                self.store.path(command.base),
                door.fileno(),
                initial=await self.collection.initial_model(),
                statistics=None if statistics == NO_DIGEST else self.store.path(statistics),
                round_in_all=command.number,
            )

    def release(self) -> None:
        """The attempt is over: streams end, and with them what the process was asked for."""
        self.streams.close_door()
        if self._released is not None:
            self._released.set()
