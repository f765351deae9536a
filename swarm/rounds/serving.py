"""Which of a plan's blobs this node lets others read, and who has a right to wait for them.

Called in worker threads, on snapshots only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from swarm.learning.plans.stages import SEND_COPY
from swarm.protocol.blob_access import may_read
from swarm.protocol.machine import RoundMachine
from swarm.protocol.masking import read_keys
from swarm.protocol.state import MODEL_SLOT, Round
from swarm.rounds.address_book import AddressBook
from swarm.rounds.drafts import Drafts
from swarm.rounds.outgoing import Purpose
from swarm.rounds.retention import PlanBlobs
from swarm.types import Address, Digest, PlanId


@dataclass(frozen=True)
class Serving:
    """One plan's rules for the exchange, as the round machine sees the plan."""

    machine: RoundMachine
    book: AddressBook
    drafts: Drafts
    blobs: PlanBlobs

    def may_read(self, sender: Address, blob: Digest) -> bool:
        plan, members = self.machine.plan, self.machine.members
        reader = self.book.owner(sender)
        if plan is None or reader is None:
            return False
        if may_read(plan, members, reader.id, blob, int(time.time())):
            return True
        round = plan.round
        if round is not None and blob in self.blobs.sums_for(round.number):
            return bool(members & round.roster & (1 << reader.id))
        kept = (*self.blobs.models().values(), *self.blobs.metas())
        is_public = blob in self.drafts.names or blob in kept
        return is_public and bool(members & (1 << reader.id))

    def purpose_of(self, blob: Digest) -> Purpose | None:
        """What a blob of this plan is; None of another's."""
        plan = self.machine.plan
        if plan is None:
            return None
        if blob == plan.base:
            return Purpose("model", plan.id, 0)
        if blob in plan.outputs:
            number = plan.output_rounds[plan.outputs.index(blob)]
            return Purpose(self._kind(number, "model", "sums"), plan.id, number)
        of_round = None if plan.round is None else self._purpose_in(plan.id, plan.round, blob)
        if of_round is not None:
            return of_round
        if blob in self.drafts.names:
            number = 0 if plan.round is None else plan.round.number
            return Purpose(self._kind(number, "model", "sums"), plan.id, number)
        made = [n for n, model in self.blobs.models().items() if model == blob]
        return Purpose("model", plan.id, made[0]) if made else None

    def _purpose_in(self, plan: PlanId, round: Round, blob: Digest) -> Purpose | None:
        number = round.number
        for submission in round.submissions.values():
            if blob == submission.update:
                kind = self._kind(number, "update", "statistics")
                return Purpose(kind, plan, number, submission.member)
            keys = read_keys(submission.keys)
            if keys is not None and blob == keys.envelope:
                return Purpose("shares", plan, number, submission.member, masked=True)
            if blob == submission.meta:
                return Purpose("timings", plan, number, submission.member)
        posted = {} if round.masking is None else round.masking.posted
        owners = [member for member, masked in posted.items() if masked == blob]
        if owners:
            kind = self._kind(number, "update", "statistics")
            return Purpose(kind, plan, number, owners[0], masked=True)
        if blob in self.blobs.sums_for(number):
            return Purpose("sums", plan, number, masked=True)
        if any(blob == candidate.model for candidate in round.candidates):
            return Purpose(self._kind(number, "model", "sums"), plan, number)
        return None

    def _kind(self, number: int, of_model: str, of_others: str) -> str:
        place = self.machine.program.place(number)
        if place is not None and place.stage.task == SEND_COPY:
            return "own model" if of_model == "update" else "own models"
        return of_model if place is None or place.stage.slot == MODEL_SLOT else of_others

    def may_read_soon(self, sender: Address, blob: Digest) -> bool:
        """Whether the round that runs here may come to allow it, as it may have elsewhere already:
        somebody of its roster asks for an update of it."""
        plan, reader = self.machine.plan, self.book.owner(sender)
        round = None if plan is None else plan.round
        if round is None or reader is None or not round.roster >> reader.id & 1:
            return False
        return blob in self.blobs.made_for(round.number)
