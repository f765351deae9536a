"""One plan at one node: feeds the round machine, and has done what it asks.

The machine decides, everything else obeys: each command becomes a task in this plan's nursery, and
each task ends in exactly one event, so the machine never waits for an answer that does not come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from swarm.errors import ChainError, ContractError
from swarm.learning.messages import Progress
from swarm.protocol import machine as m
from swarm.protocol.access import may_read
from swarm.protocol.state import (
    Member,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    member_set,
    member_with_node,
    winner,
)
from swarm.rounds.records import RECENT_ROUNDS, Meters
from swarm.rounds.training import Work
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_hex

log = logging.getLogger("swarm.plan")

TRANSACTION_DEADLINE_S = 60.0
EVENTS_WAITING = 256
Stage = tuple[int, int, RoundStatus]
"""Round, attempt and status of a plan's newest round."""


class Chain(Protocol):
    """What a participant needs of the chain: transactions, and rounds of the past."""

    async def transact(
        self, function: str, *arguments: object, deadline_s: float, try_first: bool
    ) -> object: ...
    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None: ...


@dataclass
class Driver:
    """One plan. `run` it in a nursery; call `observe` with every new snapshot of the chain."""

    machine: m.RoundMachine
    chain: Chain
    work: Work
    keep_models: int
    traffic: Callable[[], tuple[int, int]]
    """(bytes sent, bytes received) by this node so far."""
    last_report: str = ""
    _newest: Plan | None = None
    """As last observed: the machine may not have seen it yet."""

    def __post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[m.Event](EVENTS_WAITING)
        self.work.exchange.rules.append(self._may_read)
        self.work.exchange.soon.append(self._may_read_soon)
        self.work.on_progress = self._progressed

    @property
    def plan(self) -> Plan | None:
        return self.machine.plan

    @property
    def models(self) -> dict[int, Digest]:
        """The final models that are kept here, by training round."""
        newest = list(self.work.records.models().items())[-self.keep_models :]
        return {n: digest for n, digest in newest if self.work.exchange.store.has(digest)}

    async def observe(
        self, plan: Plan, members: dict[MemberId, Member], ended: list[Round]
    ) -> None:
        """A new head: the plan as it stands there, all members ever, and the rounds that are known
        to have ended since the last one."""
        self.work.members = members
        self.work.model0 = plan.model0
        present = member_set(i for i, member in members.items() if member.present)
        await self._note_rounds(self.machine.plan, plan, present, ended)
        self._newest = plan
        self.work.end_rounds(_over(plan))
        await self._send.send(m.ChainObserved(plan, present))

    def announce(self, merge: m.MergeAnnounced) -> None:
        """A merge waits for a block. It is in order to miss that: the block will tell of it."""
        with suppress(trio.WouldBlock):
            self._send.send_nowait(merge)

    async def run(self) -> None:
        """Drive the machine until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                event: m.Event = m.TimePassed()
                with trio.move_on_after(max(0.0, self.machine.wake_at - time.time())):
                    event = await self._receive.receive()
                for command in self.machine.handle(event, time.time()):
                    self._obey(command, nursery)
                if isinstance(event, m.ChainObserved):
                    self.work.exchange.rules_changed()

    @property
    def stage(self) -> Stage | None:
        """Where the plan's newest round stands; None before its first."""
        round = None if self._newest is None else self._newest.round
        return None if round is None else (round.number, round.attempt, round.status)

    @property
    def has_observed(self) -> bool:
        """Whether it knows its plan, and so what it needs."""
        return self._newest is not None

    def needed(self) -> set[Digest]:
        """The blobs that this plan still needs, here or for others: updates until their round is
        final or the plan stopped."""
        if self._newest is None:
            return set()
        recent = m.blobs_to_keep(self._newest, self.models.values())
        passing = self.work.passing
        return set(recent).union(*(passing[n] for n in passing if n > self.work.over))

    def take_spent(self) -> set[Digest]:
        """What was made or pulled for rounds that are over; told once."""
        passing = self.work.passing
        over = [n for n in passing if n <= self.work.over]
        return set[Digest]().union(*(passing.pop(n) for n in over))

    def _obey(self, command: m.Command, nursery: trio.Nursery) -> None:
        match command:
            case m.Train():
                nursery.start_soon(self._perform, self.work.train, command)
                nursery.start_soon(self.work.prepare)
            case m.StopTraining():
                self.work.stop_training()
            case m.Fetch():
                nursery.start_soon(self._perform, self.work.fetch, command)
            case m.Merge():
                nursery.start_soon(self._perform, self.work.merge, command)
            case m.Verify():
                nursery.start_soon(self._perform, self.work.verify, command)
            case m.Follow():
                nursery.start_soon(self.work.follow, command)
            case m.DropDrafts(number, attempt):
                nursery.start_soon(self.work.drafts.forget, (number, attempt))
            case m.Evaluate(number, model, statistics):
                nursery.start_soon(self.work.evaluate, number, model, statistics)
            case m.Transact():
                nursery.start_soon(self._perform, self._transact, command)
            case m.Report(text):
                self.last_report = text
                log.warning("%s", text)

    async def _perform(self, work: Callable[..., Awaitable[m.Event]], *arguments: Any) -> None:
        await self._send.send(await work(*arguments))

    async def _transact(self, command: m.Transact) -> m.Event:
        place = () if command.function == "open" else (command.number, command.attempt)
        error: str | None = None
        began = time.monotonic()
        try:
            await self.chain.transact(
                command.function,
                self.machine.plan_id,
                *place,
                *command.arguments,
                deadline_s=TRANSACTION_DEADLINE_S,
                try_first=False,  # the machine has just seen that it may
            )
        except ContractError as refused:
            # Often others were faster: the round has moved on, and that is what was wanted.
            error = refused.name
            log.debug("%s in round %d: %s", command.function, command.number, refused)
        except ChainError as failed:
            error = str(failed)
            log.warning("%s in round %d: %s", command.function, command.number, failed)
        if command.function in ("submit", "merge", "attest"):
            self.work.records.at(command.number).chain_s += time.monotonic() - began
        return m.TransactionSettled(command.function, command.number, command.attempt, error)

    def _progressed(self, progress: Progress) -> None:
        # Only the newest matters: when other events are waiting, this one may be lost.
        with suppress(trio.WouldBlock):
            self._send.send_nowait(m.TrainingProgressed(int(progress.fraction * 1000)))

    def _may_read(self, sender: Address, blob: Digest) -> bool:
        """The plan's rule for the exchange; called in worker threads, on snapshots only."""
        plan, members = self.machine.plan, self.machine.members
        if plan is None:
            return False
        reader = member_with_node(self.work.members, sender)
        if reader is None:
            return False
        if may_read(plan, members, reader.id, blob, int(time.time())):
            return True
        is_public = blob in self.work.drafts.names or blob in tuple(self.models.values())
        return is_public and bool(members & (1 << reader.id))

    def _may_read_soon(self, sender: Address, blob: Digest) -> bool:
        """Whether the round that runs here may come to allow it, as it may have elsewhere already:
        somebody of its roster asks for an update of it. Called in worker threads."""
        plan, reader = self.machine.plan, member_with_node(self.work.members, sender)
        round = None if plan is None else plan.round
        if round is None or reader is None or not round.roster >> reader.id & 1:
            return False
        return blob in self.work.passing.get(round.number, ())

    # Records.

    def _meters(self) -> Meters:
        return Meters(time.monotonic(), self.work.exchange.busy_s, *self.traffic())

    async def _note_rounds(
        self, old: Plan | None, new: Plan, members: int, ended: list[Round]
    ) -> None:
        """Record which round opened, which became final, and by whose merge."""
        before = None if old is None else old.round
        now = new.round
        over = {_place(round): round for round in (*ended, *([now] if now else []))}
        known = (0, 0)  # up to here, all is recorded; before the first look, nothing is to be
        if before is None:
            over.clear()
        elif before.status is RoundStatus.FINAL:
            known = _place(before)
        elif _place(before) not in over:
            past = await self.chain.past_round(new.id, *_place(before))
            over |= {} if past is None else {_place(before): past}
        for place, round in sorted(over.items()):
            won = winner(round, members) if place > known else None
            if won is not None:
                self.work.records.finalised(round, won, self._meters())
                log.info("round %d is final: %s", round.number, to_hex(won.model))
        if now is not None and now.status is RoundStatus.OPEN:
            self.work.records.opened(now, self._meters())
        if now is not None and now.status is RoundStatus.CLOSED:
            self.work.records.closed(now, self._meters())

    def status(self) -> dict[str, Any]:
        """For people and programs; everything in it may be shown to anyone at this site."""
        plan = self.plan
        if plan is None:
            return {"id": self.machine.plan_id}
        round = plan.round
        names = self._names()
        leader = None
        if round is not None and round.status is RoundStatus.CLOSED:
            leader = names.get(round.leader_at(int(time.time())))
        progress = self.work.progress
        return {
            "id": plan.id,
            "name": plan.name,
            "digest": to_hex(plan.digest),
            "status": plan.status.name.lower(),
            "rounds": plan.rules.rounds,
            "round": None if round is None else round.number,
            "attempt": None if round is None else round.attempt,
            "phase": None if round is None else round.status.name.lower(),
            "leader": leader,
            "submitted": []
            if round is None
            else [names.get(i, str(i)) for i in sorted(round.submissions)],
            "training": None if progress is None else round_progress(progress),
            "model": to_hex(plan.model),
            "model_round": plan.model_round,
            "model_held": self.work.exchange.store.has(plan.model),
            "statistics": to_hex(plan.statistics) if plan.statistics != NO_DIGEST else None,
            "halted": self.machine.halted,
            "last_report": self.last_report,
            "records": self.work.records.as_list(names, RECENT_ROUNDS),
        }

    def records(self) -> list[dict[str, Any]]:
        """All rounds that are remembered here, oldest first; a status has the newest of them."""
        return self.work.records.as_list(self._names())

    def _names(self) -> dict[MemberId, str]:
        return {i: member.name for i, member in self.work.members.items()}


def _over(plan: Plan) -> int:
    """The newest round that is over: final, or ended with its plan."""
    if plan.status is PlanStatus.STOPPED:
        return plan.rules.rounds
    if plan.round is None:
        return -1
    return plan.round.number - (plan.round.status is not RoundStatus.FINAL)


def _place(round: Round) -> tuple[int, int]:
    return round.number, round.attempt


def round_progress(progress: Progress) -> dict[str, float]:
    """How far a training is, for a status."""
    return {"fraction": progress.fraction, "epoch": progress.epoch, "loss": progress.loss}
