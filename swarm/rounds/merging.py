"""The leader's merge of a closed round, which runs beside the transfers of the updates.

The others collect its result while it runs (`drafts`). Whatever cannot be used is named with its
reason, and the merge begins again without it; whatever else fails becomes the event that says so.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import trio

from swarm.blobs.partial import Draft
from swarm.blobs.store import BlobStore
from swarm.errors import RemoteError, SwarmError
from swarm.protocol import machine as m
from swarm.protocol.state import Omission, members_in
from swarm.rounds.address_book import AddressBook
from swarm.rounds.chunk_merge import merge_as_they_come
from swarm.rounds.collection import Collection, Job, Patience
from swarm.rounds.drafts import Drafts
from swarm.rounds.layouts import Layouts
from swarm.rounds.records import REASONS, Records
from swarm.rounds.retention import PlanBlobs
from swarm.types import Digest, MemberId


@dataclass
class Merging:
    """One plan's own merges at one node."""

    book: AddressBook
    store: BlobStore
    layouts: Layouts
    collection: Collection
    drafts: Drafts
    blobs: PlanBlobs
    records: Records

    async def prepare(self, command: m.Train) -> None:
        """Beside the training, as the first merge would wait for it."""
        with suppress(SwarmError):  # of the trainer, which the training tells as well
            prepare = (await self.layouts.folding(command.number)).prepare
            await trio.to_thread.run_sync(prepare, abandon_on_cancel=True)  # type: ignore[call-arg]

    def expect(self, command: m.ExpectDraft) -> None:
        """Who asks for the model already is made to wait, not refused."""
        self.drafts.expect((command.number, command.attempt, self.book.me))

    async def merge(self, command: m.Merge) -> m.Event:
        number, place = command.number, (command.number, command.attempt, self.book.me)
        try:
            folding = await self.layouts.folding(number, command.updates)
            base = await self.collection.base_of(folding, command.base)
            omitted = dict.fromkeys(members_in(command.gone), Omission.WITHDRAWN)
            model: Digest | None = None
            while model is None:
                chosen = [u for u in command.updates if u.member not in omitted]
                if len(chosen) < command.min_peers:
                    raise too_few(command, len(chosen), omitted, self.book)
                draft = await self.drafts.begin(place, folding.down(len(chosen)))
                job = Job(number, chosen, folding, base, Patience.of(command))
                model, faults = await self._merge(job, draft)
                omitted |= faults
        except SwarmError as error:
            return m.MergeFailed(number, command.attempt, str(error))
        self.blobs.note(number, model)
        self.drafts.finished(place, model)
        return m.Merged(number, command.attempt, model, *m.omission_reasons(omitted))

    async def _merge(
        self, job: Job, draft: Draft
    ) -> tuple[Digest | None, dict[MemberId, Omission]]:
        """Merge updates while they come: the model, or those that cannot be used, and why."""
        began = time.monotonic()
        done, faults = await self.collection.use(job, None, merge_as_they_come, draft)
        if faults or not done:
            return None, faults
        model = await trio.to_thread.run_sync(self.store.publish, draft)
        self.records.at(job.number).merge_s += time.monotonic() - began
        return model, {}


def too_few(
    command: m.Merge, usable: int, omitted: dict[MemberId, Omission], book: AddressBook
) -> RemoteError:
    """What is said where fewer updates can be used than the plan asks for."""
    left_out = (f"{book.name(i)} ({REASONS[o]})" for i, o in omitted.items())
    return RemoteError(
        f"only {usable} of {len(command.updates)} updates can be merged, "
        f"{command.min_peers} are needed; left out: {', '.join(left_out)}"
    )
