"""Checking a merge before it is attested: its model is pulled, and recomputed as far as the plan's
level asks. A wrong one is refused for good; one that cannot be checked yet may be tried again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from threading import Event

import trio

from swarm.blobs.download import SMALL_BYTES
from swarm.blobs.fetch import Wish
from swarm.blobs.store import BlobStore
from swarm.errors import BlobError, RemoteError, SwarmError
from swarm.learning.parameters.next_file import Folding
from swarm.protocol import machine as m
from swarm.protocol.rechecks import rechecks_of
from swarm.protocol.state import Omission, VerifyLevel, members_in
from swarm.rounds.address_book import AddressBook
from swarm.rounds.chunk_merge import MergeInputs, check_update, find_wrong_chunk
from swarm.rounds.collection import FETCH_PATIENCE_S, Collection, Job, Patience
from swarm.rounds.drafts import Drafts
from swarm.rounds.exchange import Exchange
from swarm.rounds.layouts import Layouts
from swarm.rounds.records import REASONS
from swarm.rounds.retention import PlanBlobs
from swarm.tensors import Layout
from swarm.types import Digest, MemberId, to_hex


@dataclass
class Checking:
    """One plan's checks of others' merges at one node."""

    book: AddressBook
    store: BlobStore
    exchange: Exchange
    layouts: Layouts
    collection: Collection
    drafts: Drafts
    blobs: PlanBlobs

    async def verify(self, command: m.Verify) -> m.Event:
        verdict = await judge(command, self._fault_of)
        if isinstance(verdict, m.CandidateVerified):
            self.blobs.note(command.number, command.candidate.model)
        return verdict

    async def _fault_of(self, command: m.Verify) -> str | None:
        """Why a candidate must not be attested; None if it is right. Raises RemoteError where that
        cannot be told yet."""
        model = command.candidate.model
        folding = await self.layouts.folding(command.number, command.updates)
        layout = folding.down(len(_kept(command)))
        try:
            await self._pull_model(command, layout)
            await trio.to_thread.run_sync(check_update, self.store.path(model), layout)
        except BlobError as error:
            return str(error)
        if command.level is VerifyLevel.HELD:
            return None
        return await self._fault_of_omissions(command, folding.up) or await self._fault_of_chunks(
            command, folding
        )

    async def _pull_model(self, command: m.Verify, layout: Layout) -> None:
        candidate, book = command.candidate, self.book
        spread = None
        if layout.file_bytes > SMALL_BYTES:
            spread = book.spread_of_model(candidate.leader, command.updates, command.gone)
        holders = [candidate.leader, *members_in(candidate.attesters)]
        first = book.addresses(holders) if spread is None else spread.sources
        place = (command.number, command.attempt, candidate.leader)
        draft = await self.drafts.take(place, FETCH_PATIENCE_S)
        if draft is not None and draft.layout != layout:
            draft = None  # it was followed as if other updates were merged
        if draft is not None and not draft.missing and draft.manifest.root == candidate.model:
            await trio.to_thread.run_sync(self.store.publish, draft)
            return
        await self.exchange.pull(
            candidate.model,
            first + book.others(),
            patience_s=FETCH_PATIENCE_S,
            wish=Wish(layout.file_bytes, layout, spread, draft=draft),
        )

    async def _fault_of_omissions(self, command: m.Verify, layout: Layout) -> str | None:
        """Whether it leaves out what can be pulled here and used."""
        out = command.candidate.omitted & ~command.gone
        left_out = [u for u in command.updates if out >> u.member & 1]
        unusable = await self.collection.collect(
            command.number, left_out, layout, Patience.of(command)
        )
        wronged = [u.member for u in left_out if u.member not in unusable]
        if not wronged:
            return None
        names = ", ".join(map(self.book.name, wronged))
        return f"it leaves out the update of {names}, which is here and valid"

    async def _fault_of_chunks(self, command: m.Verify, folding: Folding) -> str | None:
        """Whether recomputing this node's share of it gives something else."""
        model = command.candidate.model
        base = await self.collection.base_of(folding, command.base)
        job = Job(command.number, _kept(command), folding, base, Patience.of(command))
        wrong, missing = await self._recheck(job, model, self._share(command, folding.up))
        copied = [i for i, reason in missing.items() if reason is Omission.NOT_ITS_OWN]
        if copied:
            return f"it counts another's update for {', '.join(map(self.book.name, copied))}"
        if missing:
            names = ", ".join(f"{self.book.name(i)} ({REASONS[o]})" for i, o in missing.items())
            raise RemoteError(f"updates that it contains cannot be checked here: {names}")
        if wrong is None:
            return None
        return f"{to_hex(model)} is not what recomputing it from chunk {wrong} of the updates gives"

    async def _recheck(
        self, job: Job, model: Digest, chunks: Sequence[int]
    ) -> tuple[int | None, dict[MemberId, Omission]]:
        """Recompute a model from chunks of the updates: the first that gives something else, and
        the updates that did not come."""
        path = self.store.path(model)
        wrong: list[int | None] = []

        def find(inputs: MergeInputs, stopped: Event) -> None:
            wrong.append(find_wrong_chunk(inputs, path, chunks, stopped))

        _, faults = await self.collection.use(job, chunks, find)
        return (wrong[0] if wrong else None), faults

    def _share(self, command: m.Verify, up: Layout) -> Sequence[int]:
        """The chunks of the updates from which this node recomputes."""
        me, everything = self.book.me, range(up.chunks)
        if command.level is VerifyLevel.FULL:
            return everything
        out = command.gone | 1 << command.candidate.leader
        checkers = [u.member for u in command.updates if not out >> u.member & 1]
        if me not in checkers:
            return everything
        return rechecks_of(me, checkers, command.seed, command.candidate.model, up.chunks)


def _kept(command: m.Verify) -> list[m.FrozenUpdate]:
    """The updates that a candidate says that it is made of."""
    return [u for u in command.updates if not command.candidate.omitted >> u.member & 1]


async def judge(
    command: m.Verify, find_fault: Callable[[m.Verify], Awaitable[str | None]]
) -> m.Event:
    """What a check of a candidate comes to. `find_fault` says why it must not be attested, None if
    it may be; it raises SwarmError where that cannot be told yet."""
    candidate = command.candidate
    place = (command.number, command.attempt, candidate.model, candidate.omitted)
    try:
        fault = await find_fault(command)
    except SwarmError as error:
        return m.CandidateRefused(*place, str(error), False)
    if fault is not None:
        return m.CandidateRefused(*place, fault, True)
    return m.CandidateVerified(*place)
