"""Settling a closed round: pull the updates, merge them while they come, check others' merges.

The leader's merge runs beside the transfers (`merging`), and the others collect its result while
it runs (`drafts`). Whatever cannot be used is named with its reason, and the merge begins again
without it; whatever else fails becomes the event that says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event

import trio

from swarm.blobs.download import SMALL_BYTES, Spread
from swarm.blobs.fetch import Wish
from swarm.blobs.partial import Draft
from swarm.blobs.tree import Manifest
from swarm.errors import BlobError, LocalError, RemoteError, SchemaMismatch, SwarmError
from swarm.learning.merge import METHODS, MergeMethod
from swarm.learning.supervisor import Trainer
from swarm.protocol import machine as m
from swarm.protocol.rechecks import rechecks_of
from swarm.protocol.state import (
    Member,
    Omission,
    VerifyLevel,
    members_in,
)
from swarm.rounds.chunk_merge import (
    Incoming,
    UnusableUpdate,
    check_update,
    find_wrong_chunk,
    merge_as_they_come,
)
from swarm.rounds.drafts import Drafts
from swarm.rounds.exchange import Exchange
from swarm.rounds.layouts import initial_layout_of, layout_of
from swarm.rounds.records import REASONS, Records
from swarm.tensors import Layout
from swarm.types import NO_DIGEST, Address, Digest, MemberId, to_hex

log = logging.getLogger("swarm.plan")

FETCH_PATIENCE_S = 10.0
LEAST_PATIENCE_S = 2.0


class RoundOver(RemoteError):
    """What a round needed of others is not waited for any more: there, it is deleted by now."""


@dataclass(frozen=True)
class _Job:
    """Updates that are merged, or a merge of which is checked."""

    number: int
    updates: Sequence[m.FrozenUpdate]
    layout: Layout
    method: MergeMethod
    patience_s: float


@dataclass
class Settling:
    """One plan's rounds at one node, from the close to the attestation."""

    me: MemberId
    exchange: Exchange
    trainer: Trainer
    records: Records
    drafts: Drafts
    model0: Digest = NO_DIGEST
    members: dict[MemberId, Member] = field(default_factory=dict)
    passing: dict[int, set[Digest]] = field(default_factory=dict)
    """Blobs that were made or pulled for a round, by its number."""
    over: int = -1
    """The newest round that is over."""
    _pulls: dict[int, set[trio.CancelScope]] = field(default_factory=dict)
    """Of updates, by the round that needs them."""
    _layouts: tuple[Layout, Layout] | None = None

    async def merge(self, command: m.Merge) -> m.Event:
        number = command.number
        self.drafts.expect((number, command.attempt, self.me))
        try:
            layout = await self._layout_of(number, command.updates)
            omitted = dict.fromkeys(members_in(command.gone), Omission.WITHDRAWN)
            model: Digest | None = None
            while model is None:
                chosen = [u for u in command.updates if u.member not in omitted]
                if len(chosen) < command.min_peers:
                    left_out = (f"{self._name(i)} ({REASONS[o]})" for i, o in omitted.items())
                    raise RemoteError(
                        f"only {len(chosen)} of {len(command.updates)} updates can be merged, "
                        f"{command.min_peers} are needed; left out: {', '.join(left_out)}"
                    )
                draft = await self.drafts.begin((number, command.attempt, self.me), layout)
                job = _Job(number, chosen, layout, METHODS[command.method], command.patience_s)
                model, faults = await self._merge(job, draft)
                omitted |= faults
        except SwarmError as error:
            return m.MergeFailed(number, command.attempt, str(error))
        self._note(number, model)
        self.drafts.finished((number, command.attempt, self.me), model)
        return m.Merged(number, command.attempt, model, *m.omission_reasons(omitted))

    async def verify(self, command: m.Verify) -> m.Event:
        candidate = command.candidate
        place = (command.number, command.attempt, candidate.model, candidate.omitted)
        try:
            fault = await self._fault_of(command)
        except SwarmError as error:
            return m.CandidateRefused(*place, str(error), False)
        if fault is not None:
            return m.CandidateRefused(*place, fault, True)
        self._note(command.number, candidate.model)
        return m.CandidateVerified(*place)

    async def _fault_of(self, command: m.Verify) -> str | None:
        """Why a candidate must not be attested; None if it is right. Raises RemoteError where that
        cannot be told yet."""
        candidate, number = command.candidate, command.number
        layout = await self._layout_of(number, command.updates)
        try:
            await self._pull_candidate(command, layout)
            path = self.exchange.store.path(candidate.model)
            await trio.to_thread.run_sync(check_update, path, layout)
        except BlobError as error:
            return str(error)
        if command.level is VerifyLevel.HELD:
            return None
        kept = [u for u in command.updates if not candidate.omitted >> u.member & 1]
        left_out = [
            u
            for u in command.updates
            if candidate.omitted >> u.member & 1 and not command.gone >> u.member & 1
        ]
        unusable = await self._collect(number, left_out, layout, command.patience_s)
        wronged = [u.member for u in left_out if u.member not in unusable]
        if wronged:
            names = ", ".join(map(self._name, wronged))
            return f"it leaves out the update of {names}, which is here and valid"
        job = _Job(number, kept, layout, METHODS[command.method], command.patience_s)
        chunks = self._share(command, layout)
        wrong, missing = await self._recheck(
            job, self.exchange.store.manifest(candidate.model), chunks
        )
        if missing:
            names = ", ".join(f"{self._name(i)} ({REASONS[o]})" for i, o in missing.items())
            raise RemoteError(f"updates that it contains cannot be checked here: {names}")
        if wrong is not None:
            return f"chunk {wrong} of {to_hex(candidate.model)} is not what recomputing it gives"
        return None

    async def _pull_candidate(self, command: m.Verify, layout: Layout) -> None:
        candidate = command.candidate
        spread = None
        if layout.file_bytes > SMALL_BYTES:
            spread = self._spread(candidate.leader, command.updates, command.gone)
        holders = [candidate.leader, *members_in(candidate.attesters)]
        first = self._addresses(holders) if spread is None else spread.sources
        place = (command.number, command.attempt, candidate.leader)
        draft = await self.drafts.take(place, FETCH_PATIENCE_S)
        if draft is not None and not draft.missing and draft.manifest.root == candidate.model:
            await trio.to_thread.run_sync(self.exchange.store.publish, draft)
            return
        await self.exchange.pull(
            candidate.model,
            first + self._others(),
            patience_s=FETCH_PATIENCE_S,
            wish=Wish(layout.file_bytes, layout, spread, draft=draft),
        )

    def _share(self, command: m.Verify, layout: Layout) -> Sequence[int]:
        """The chunks that this node recomputes."""
        if command.level is VerifyLevel.FULL:
            return range(layout.chunks)
        leader = command.candidate.leader
        checkers = [
            u.member
            for u in command.updates
            if u.member != leader and not command.gone >> u.member & 1
        ]
        if self.me not in checkers:
            return range(layout.chunks)
        return rechecks_of(self.me, checkers, command.seed, command.candidate.model, layout.chunks)

    async def follow(self, command: m.Follow) -> None:
        """Collect the model of a closed round while its leader merges it."""
        number, attempt, leader = command.number, command.attempt, command.leader
        spread = self._spread(leader, command.updates, command.gone)
        if spread is None:
            return
        try:
            layout = await self._layout_of(number, command.updates)
            # A small one comes as soon when it has its name.
            if layout.file_bytes > SMALL_BYTES:
                await self.drafts.follow((number, attempt, leader), layout, spread)
        except SwarmError as error:
            log.info("round %d is not followed while it is merged: %s", number, error)

    async def _collect(
        self,
        number: int,
        updates: Iterable[m.FrozenUpdate],
        layout: Layout,
        patience_s: float,
    ) -> dict[MemberId, Omission]:
        """Pull and check these updates, all at once. Returns those that cannot be used, and why."""
        faults: dict[MemberId, Omission] = {}
        trouble: list[SwarmError] = []  # a nursery would wrap it

        async def collect(update: m.FrozenUpdate) -> None:
            try:
                fault = await self._fault_of_update(number, update, layout, patience_s)
            except (LocalError, RoundOver) as error:
                trouble.append(error)
                return
            if fault is None:
                self._note(number, update.update)
            else:
                faults[update.member] = fault

        async with trio.open_nursery() as nursery:
            for update in updates:
                nursery.start_soon(collect, update)
        if trouble:
            raise trouble[0]
        return faults

    async def _fault_of_update(
        self, number: int, update: m.FrozenUpdate, layout: Layout, patience_s: float
    ) -> Omission | None:
        wish = Wish(layout.file_bytes, layout)
        fault = await self._fault_of_pull(number, update, wish, patience_s)
        if fault is not None:
            return fault
        try:
            path = self.exchange.store.path(update.update)
            await trio.to_thread.run_sync(check_update, path, layout)
        except SchemaMismatch as error:
            return self._left_out(update.member, Omission.WRONG_SCHEMA, error)
        except BlobError as error:
            return self._left_out(update.member, Omission.NOT_FINITE, error)
        return None

    async def _fault_of_pull(
        self, number: int, update: m.FrozenUpdate, wish: Wish, patience_s: float
    ) -> Omission | None:
        owner, me = self.members.get(update.member), self.members.get(self.me)
        if owner is not None and me is not None and wish.max_bytes > SMALL_BYTES:
            # From its owner: its leader, who has it too, has enough to send.
            wish = replace(wish, spread=Spread(owner.node, [me.node], me.node))
        author = self._addresses([update.member])
        lies: list[BlobError] = []

        def note(peer: Address, error: RemoteError) -> None:
            if peer in author and isinstance(error, BlobError):
                lies.append(error)

        try:
            with self._until_over(number):
                await self.exchange.pull(
                    update.update,
                    author + self._others(),
                    patience_s=max(patience_s, LEAST_PATIENCE_S),
                    wish=wish,
                    on_fault=note,
                )
        except RoundOver:
            raise
        except SchemaMismatch as error:
            return self._left_out(update.member, Omission.WRONG_SCHEMA, error)
        except BlobError as error:
            return self._left_out(update.member, Omission.WRONG_DIGEST, error)
        except RemoteError as error:
            # That another, who wants it too, has not given up on it yet makes the author no better.
            reason = Omission.WRONG_DIGEST if lies else Omission.UNREACHABLE
            return self._left_out(update.member, reason, error)
        return None

    def end_rounds(self, over: int) -> None:
        """Rounds up to this one are over: their updates are not waited for any more."""
        self.over = over
        for number in [n for n in self._pulls if n <= over]:
            for scope in self._pulls.pop(number):
                scope.cancel()

    @contextmanager
    def _until_over(self, number: int) -> Iterator[None]:
        """Raises RoundOver if the round is over before the block ends."""
        with trio.CancelScope() as scope:
            if number <= self.over:
                scope.cancel()
            pulls = self._pulls.setdefault(number, set())
            pulls.add(scope)
            try:
                yield
            finally:
                pulls.discard(scope)
        if scope.cancelled_caught:
            raise RoundOver(f"round {number} is over")

    def _left_out(self, member: MemberId, reason: Omission, why: RemoteError) -> Omission:
        name = self._name(member)
        log.warning("the update of %s is left out, %s: %s", name, REASONS[reason], why)
        return reason

    async def _merge(
        self, job: _Job, draft: Draft
    ) -> tuple[Digest | None, dict[MemberId, Omission]]:
        """Merge updates while they come: the model, or those that cannot be used, and why."""
        began = time.monotonic()
        done, faults = await self._with_updates(job, None, merge_as_they_come, draft)
        if faults or not done:
            return None, faults
        model = await trio.to_thread.run_sync(self.exchange.store.publish, draft)
        self.records.at(job.number).merge_s += time.monotonic() - began
        return model, {}

    async def _recheck(
        self, job: _Job, model: Manifest, chunks: Sequence[int]
    ) -> tuple[int | None, dict[MemberId, Omission]]:
        """Recompute chunks of a model: the first wrong one, and the updates that did not come."""
        wrong: list[int | None] = []

        def find(
            layout: Layout, updates: Sequence[Incoming], method: MergeMethod, stopped: Event
        ) -> None:
            wrong.append(find_wrong_chunk(layout, updates, method, model, chunks, stopped))

        _, faults = await self._with_updates(job, chunks, find)
        return (wrong[0] if wrong else None), faults

    async def _with_updates(
        self,
        job: _Job,
        only: Sequence[int] | None,
        function: Callable[..., None],
        *arguments: object,
    ) -> tuple[bool, dict[MemberId, Omission]]:
        """Pull updates, all at once, and run `function` on them in a thread meanwhile.

        Whether it came to its end, and which updates cannot be used: one is enough to end it.
        """
        faults: dict[MemberId, Omission] = {}
        trouble: list[SwarmError] = []  # a nursery would wrap it
        stopped = Event()
        done = False
        opened = {u.member: trio.Event() for u in job.updates}

        async def bring(update: m.FrozenUpdate, scope: trio.CancelScope) -> None:
            wish = Wish(
                job.layout.file_bytes, job.layout, only=only, on_open=opened[update.member].set
            )
            try:
                fault = await self._fault_of_pull(job.number, update, wish, job.patience_s)
            except (LocalError, RoundOver) as error:
                trouble.append(error)
                scope.cancel()
                return
            self._note(job.number, update.update)
            if fault is not None:
                faults[update.member] = fault
                scope.cancel()

        async with trio.open_nursery() as nursery:
            for update in job.updates:
                nursery.start_soon(bring, update, nursery.cancel_scope)
            try:
                for event in opened.values():
                    await event.wait()
                updates = [self._incoming(u) for u in job.updates]
                work = partial(function, job.layout, updates, job.method, *arguments, stopped)
                await trio.to_thread.run_sync(
                    work,
                    abandon_on_cancel=True,  # type: ignore[call-arg]
                )
                done = True
            except UnusableUpdate as error:
                reason = Omission.WRONG_SCHEMA if error.is_schema else Omission.NOT_FINITE
                member = job.updates[error.contributor].member
                faults[member] = self._left_out(member, reason, error)
                nursery.cancel_scope.cancel()
            except SwarmError as error:
                trouble.append(error)
                nursery.cancel_scope.cancel()
            finally:
                stopped.set()
        if trouble:
            raise trouble[0]
        return done and not faults, faults

    def _incoming(self, update: m.FrozenUpdate) -> Incoming:
        store = self.exchange.store
        return Incoming(store.path(update.update), store.growing(update.update), update.samples)

    # What the work above needs to know.

    async def _layout_of_model(self, model: Digest) -> Layout:
        """What a model must look like; model 0 may hold more than later ones, in other types."""
        travelling, initial = await self._layouts_of_plan()
        return initial if model == self.model0 else travelling

    async def _layouts_of_plan(self) -> tuple[Layout, Layout]:
        """Of what travels in each round, and of model 0."""
        if self._layouts is None:
            described = await self.trainer.describe()
            self._layouts = layout_of(described), initial_layout_of(described)
        return self._layouts

    async def _initial(self) -> Path | None:
        """Model 0 where it has frozen tensors: a node that came late has not pulled it yet."""
        travelling, layout = await self._layouts_of_plan()
        if len(travelling.specs) == len(layout.specs):
            return None
        await self.exchange.pull(
            self.model0,
            self._others(),
            patience_s=FETCH_PATIENCE_S,
            wish=Wish(layout.file_bytes, layout),
        )
        return self.exchange.store.path(self.model0)

    async def _layout_of(self, number: int, updates: tuple[m.FrozenUpdate, ...]) -> Layout:
        """What every update of this round must look like: the model, or this site's statistics."""
        if number != 0:
            return (await self._layouts_of_plan())[0]
        own = next((u.update for u in updates if u.member == self.me), None)
        if own is None or not self.exchange.store.has(own):
            raise RemoteError("this site's own statistics, to compare the others' with, are gone")
        return await trio.to_thread.run_sync(Layout.read, self.exchange.store.path(own))

    def _path(self, digest: Digest) -> Path | None:
        return None if digest == NO_DIGEST else self.exchange.store.path(digest)

    def _addresses(self, members: Iterable[MemberId]) -> list[Address]:
        chosen = [self.members[i] for i in members if i in self.members and i != self.me]
        return [member.node for member in chosen if member.present]

    def _others(self) -> list[Address]:
        """All of them, those after this node first: so that not all ask the same one."""
        ordered = sorted(self.members)
        return self._addresses(
            [i for i in ordered if i > self.me] + [i for i in ordered if i < self.me]
        )

    def _spread(
        self, leader: MemberId, updates: Iterable[m.FrozenUpdate], gone: int
    ) -> Spread | None:
        """How the submitters share out the leader's model among them: all of them want it now."""
        takers = [
            self.members[u.member].node
            for u in updates
            if u.member != leader and not gone >> u.member & 1 and u.member in self.members
        ]
        me = self.members.get(self.me)
        if me is None or me.node not in takers or leader not in self.members:
            return None
        return Spread(self.members[leader].node, takers, me.node)

    def _name(self, member: MemberId) -> str:
        return self.members[member].name if member in self.members else f"member {member}"

    def _note(self, number: int, *blobs: Digest) -> None:
        self.passing.setdefault(number, set()).update(blobs)
