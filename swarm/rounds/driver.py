"""Feeds one plan's round machine, and has done what it asks.

The machine decides, and everything else obeys: each command becomes a task, done by the part whose
job it is, and ends in exactly one event where the machine waits for one. So it never waits for an
answer that does not come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import trio

from swarm.protocol import machine as m
from swarm.protocol.masked_table import Work
from swarm.rounds.checking import Checking
from swarm.rounds.collection import Collection
from swarm.rounds.evaluating import Evaluating
from swarm.rounds.following import Following
from swarm.rounds.holding import Holding
from swarm.rounds.inbox import Inbox
from swarm.rounds.masked_work import MaskedWork
from swarm.rounds.merging import Merging
from swarm.rounds.selecting import Selecting
from swarm.rounds.training import Training
from swarm.rounds.transactions import Transactions

log = logging.getLogger("swarm.plan")


@dataclass
class Driver:
    """`run` it in a nursery; what goes into the inbox comes to the machine."""

    machine: m.RoundMachine
    inbox: Inbox
    on_observed: Callable[[], None]
    """Called when the machine has taken in a new head."""
    training: Training
    holding: Holding
    collection: Collection
    merging: Merging
    checking: Checking
    selecting: Selecting
    following: Following
    evaluating: Evaluating
    transactions: Transactions
    masked_work: MaskedWork
    last_report: str = ""

    async def run(self) -> None:
        """Drive the machine until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                within_s = max(0.0, self.machine.wake_at - time.time())
                event = await self.inbox.take(within_s) or m.TimePassed()
                for command in self.machine.handle(event, time.time()):
                    self._obey(command, nursery)
                if isinstance(event, m.ChainObserved):
                    self.on_observed()

    def _obey(self, command: m.Command, nursery: trio.Nursery) -> None:
        match command:
            case m.Train():
                nursery.start_soon(self._perform, self.training.train, command)
                nursery.start_soon(self.merging.prepare, command)
            case m.Hold():
                nursery.start_soon(self._perform, self.holding.hold, command)
            case m.Release():
                self.holding.release()
            case m.StopTraining():
                self.training.stop()
            case m.Fetch():
                nursery.start_soon(self._perform, self.collection.fetch, command)
            case m.Merge(best=None):
                nursery.start_soon(self._perform, self.merging.merge, command)
            case m.Merge():
                nursery.start_soon(self._perform, self.selecting.merge, command)
            case m.Verify(best=None):
                nursery.start_soon(self._perform, self.checking.verify, command)
            case m.Verify():
                nursery.start_soon(self._perform, self.selecting.verify, command)
            case m.MaskedWork(work):
                nursery.start_soon(self._mask, work)
            case m.Transact():
                nursery.start_soon(self._perform, self.transactions.transact, command)
            case m.Follow():
                nursery.start_soon(self.following.follow, command)
            case m.ExpectDraft():
                self.merging.expect(command)
            case m.DropDrafts():
                nursery.start_soon(self.following.drop, command)
            case m.Evaluate():
                nursery.start_soon(self.evaluating.evaluate_and_tell, command)
            case m.Report(text):
                self.last_report = text
                log.warning("%s", text)

    async def _mask(self, work: Work) -> None:
        await self.inbox.put(await self.masked_work.work(work, self.machine.plan))

    async def _perform(self, work: Callable[[Any], Awaitable[m.Event]], command: m.Command) -> None:
        await self.inbox.put(await work(command))
