"""Pulling what a plan's rounds need of others: models, and the updates of a closed round.

Updates are waited for until their round is over, and no longer. Whatever of them cannot be used is
named with its reason; whatever else fails is raised.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event

import trio

from swarm.blobs.download import SMALL_BYTES
from swarm.blobs.fetch import Wish
from swarm.blobs.manifest import Origin
from swarm.blobs.store import BlobStore
from swarm.errors import (
    BlobError,
    LocalError,
    NotItsOwn,
    RemoteError,
    SchemaMismatch,
    SwarmError,
)
from swarm.learning.metrics.choice import MAX_BYTES as MAX_PAIR_BYTES
from swarm.learning.metrics.choice import read_pair_file
from swarm.learning.parameters.next_file import Folding
from swarm.protocol import machine as m
from swarm.protocol.state import Omission
from swarm.rounds.address_book import AddressBook
from swarm.rounds.chunk_merge import Incoming, MergeInputs, UnusableUpdate, check_update
from swarm.rounds.exchange import Exchange
from swarm.rounds.layouts import Layouts
from swarm.rounds.records import REASONS
from swarm.rounds.retention import PlanBlobs
from swarm.tensors import Layout
from swarm.types import Address, Digest, MemberId, PlanId

log = logging.getLogger("swarm.plan")

FETCH_PATIENCE_S = 10.0
LEAST_PATIENCE_S = 2.0


@dataclass(frozen=True)
class Patience:
    """How long an update is waited for without progress, and in all."""

    silence_s: float
    whole_s: float

    @classmethod
    def of(cls, command: m.Merge | m.Verify) -> Patience:
        """A round is void after three slots for each leader. With one for each to pull in, and one
        for each to check in, the merge of the last leader is in time if all others are gone."""
        silence_s = max(command.patience_s, LEAST_PATIENCE_S)
        return cls(silence_s, 2 * silence_s * len(command.updates))


class RoundOver(RemoteError):
    """What a round needed of others is not waited for any more: there, it is deleted by now."""


@dataclass(frozen=True)
class Job:
    """Updates that are merged, or a merge of which is checked."""

    number: int
    updates: Sequence[m.FrozenUpdate]
    folding: Folding
    base: Path | None
    """The round's base, where the folding needs it."""
    patience: Patience


@dataclass
class Collection:
    """One plan's pulls at one node."""

    plan: PlanId
    book: AddressBook
    store: BlobStore
    exchange: Exchange
    layouts: Layouts
    blobs: PlanBlobs
    _over: int = -1
    """The newest round that is over."""
    _pulls: dict[int, set[trio.CancelScope]] = field(default_factory=dict)
    """Of updates, by the round that needs them."""

    # Models.

    async def fetch(self, command: m.Fetch) -> m.Event:
        try:
            wish = None
            if command.is_model:
                wish = await self.layouts.wish_for(command.digest)
            await self._pull(command.digest, wish)
        except SwarmError as error:
            return m.FetchFailed(command.digest, str(error))
        return m.BlobHeld(command.digest)

    async def initial_model(self) -> Path | None:
        """Model 0 where later ones lack something of it: a node that came late has not pulled it
        yet. Raises RemoteError, or whatever ails the trainer that describes it.
        """
        if await self.layouts.is_whole():
            return None
        return await self.model(self.layouts.model0)

    async def base_of(self, folding: Folding, base: Digest) -> Path | None:
        """A round's base, where folding reads it. Raises as `initial_model`."""
        return await self.model(base) if folding.needs_base else None

    async def model(self, model: Digest) -> Path:
        """A model, pulled if it is not here. Raises as `initial_model`."""
        await self._pull(model, await self.layouts.wish_for(model))
        return self.store.path(model)

    async def _pull(self, blob: Digest, wish: Wish | None) -> None:
        await self.exchange.pull(blob, self.book.others(), patience_s=FETCH_PATIENCE_S, wish=wish)

    # Updates.

    async def collect(
        self, number: int, updates: Iterable[m.FrozenUpdate], layout: Layout, patience: Patience
    ) -> dict[MemberId, Omission]:
        """Pull and check these updates, all at once. Returns those that cannot be used, and why."""
        check = partial(check_update, expected=layout)
        return await self._collect(
            number, updates, Wish(layout.file_bytes, layout), check, patience
        )

    async def collect_pairs(
        self, number: int, updates: Iterable[m.FrozenUpdate], patience: Patience
    ) -> dict[MemberId, Omission]:
        """As `collect`, of what sites tell of two models (`metrics.choice`)."""
        return await self._collect(number, updates, Wish(MAX_PAIR_BYTES), read_pair_file, patience)

    async def _collect(
        self,
        number: int,
        updates: Iterable[m.FrozenUpdate],
        wish: Wish,
        check: Callable[[Path], object],
        patience: Patience,
    ) -> dict[MemberId, Omission]:
        faults: dict[MemberId, Omission] = {}
        trouble: list[SwarmError] = []  # a nursery would wrap it

        async def collect(update: m.FrozenUpdate) -> None:
            try:
                fault = await self._fault_of_update(number, update, wish, check, patience)
            except (LocalError, RoundOver) as error:
                trouble.append(error)
                return
            if fault is None:
                self.blobs.note(number, update.update)
            else:
                faults[update.member] = fault

        async with trio.open_nursery() as nursery:
            for update in updates:
                nursery.start_soon(collect, update)
        if trouble:
            raise trouble[0]
        return faults

    async def use(
        self,
        job: Job,
        only: Sequence[int] | None,
        function: Callable[..., None],
        *arguments: object,
    ) -> tuple[bool, dict[MemberId, Omission]]:
        """Pull updates, all at once, and run `function` on them in a thread meanwhile.

        `only` these chunks of each, or all. Whether it came to its end, and which updates cannot be
        used: one is enough to end it.
        """
        faults: dict[MemberId, Omission] = {}
        trouble: list[SwarmError] = []  # a nursery would wrap it
        stopped = Event()
        done = False
        opened = {u.member: trio.Event() for u in job.updates}

        async def bring(update: m.FrozenUpdate, scope: trio.CancelScope) -> None:
            up = job.folding.up
            wish = Wish(up.file_bytes, up, only=only, on_open=opened[update.member].set)
            try:
                fault = await self._fault_of_pull(job.number, update, wish, job.patience)
            except (LocalError, RoundOver) as error:
                trouble.append(error)
                scope.cancel()
                return
            self.blobs.note(job.number, update.update)
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
                inputs = MergeInputs(job.folding, updates, job.base)
                work = partial(function, inputs, *arguments, stopped)
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

    def end_rounds(self, over: int) -> None:
        """Rounds up to this one are over: their updates are not waited for any more."""
        self._over = over
        for number in [n for n in self._pulls if n <= over]:
            for scope in self._pulls.pop(number):
                scope.cancel()

    @contextmanager
    def _until_over(self, number: int) -> Iterator[None]:
        """Raises RoundOver if the round is over before the block ends."""
        with trio.CancelScope() as scope:
            if number <= self._over:
                scope.cancel()
            pulls = self._pulls.setdefault(number, set())
            pulls.add(scope)
            try:
                yield
            finally:
                pulls.discard(scope)
        if scope.cancelled_caught:
            raise RoundOver(f"round {number} is over")

    async def _fault_of_update(
        self,
        number: int,
        update: m.FrozenUpdate,
        wish: Wish,
        check: Callable[[Path], object],
        patience: Patience,
    ) -> Omission | None:
        fault = await self._fault_of_pull(number, update, wish, patience)
        if fault is not None:
            return fault
        try:
            path = self.store.path(update.update)
            await trio.to_thread.run_sync(check, path)
        except SchemaMismatch as error:
            return self._left_out(update.member, Omission.WRONG_SCHEMA, error)
        except BlobError as error:
            return self._left_out(update.member, Omission.NOT_FINITE, error)
        return None

    async def _fault_of_pull(
        self, number: int, update: m.FrozenUpdate, wish: Wish, patience: Patience
    ) -> Omission | None:
        if wish.max_bytes > SMALL_BYTES:
            wish = replace(wish, spread=self.book.spread_of_update(update.member))
        wish = replace(wish, origin=Origin(self.plan, number, update.member))
        author = self.book.addresses([update.member])
        lies: list[BlobError] = []

        def note(peer: Address, error: RemoteError) -> None:
            if peer in author and isinstance(error, BlobError):
                lies.append(error)

        try:
            with self._until_over(number):
                await self.exchange.pull(
                    update.update,
                    author + self.book.others(),
                    patience_s=patience.silence_s,
                    within_s=patience.whole_s,
                    wish=wish,
                    on_fault=note,
                )
        except RoundOver:
            raise
        except SchemaMismatch as error:
            return self._left_out(update.member, Omission.WRONG_SCHEMA, error)
        except NotItsOwn as error:
            return self._left_out(update.member, Omission.NOT_ITS_OWN, error)
        except BlobError as error:
            return self._left_out(update.member, Omission.WRONG_DIGEST, error)
        except RemoteError as error:
            # That another, who wants it too, has not given up on it yet makes the author no better.
            reason = Omission.WRONG_DIGEST if lies else Omission.UNREACHABLE
            return self._left_out(update.member, reason, error)
        return None

    def _left_out(self, member: MemberId, reason: Omission, why: RemoteError) -> Omission:
        name = self.book.name(member)
        log.warning("the update of %s is left out, %s: %s", name, REASONS[reason], why)
        return reason

    def _incoming(self, update: m.FrozenUpdate) -> Incoming:
        path, growing = self.store.path(update.update), self.store.growing(update.update)
        return Incoming(path, growing, update.samples, update.member)
