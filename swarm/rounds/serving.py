"""Which of a plan's blobs this node lets others read, and who has a right to wait for them.

Called in worker threads, on snapshots only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from swarm.protocol.blob_access import may_read
from swarm.protocol.machine import RoundMachine
from swarm.rounds.address_book import AddressBook
from swarm.rounds.drafts import Drafts
from swarm.rounds.retention import PlanBlobs
from swarm.types import Address, Digest


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
        kept = (*self.blobs.models().values(), *self.blobs.metas())
        is_public = blob in self.drafts.names or blob in kept
        return is_public and bool(members & (1 << reader.id))

    def may_read_soon(self, sender: Address, blob: Digest) -> bool:
        """Whether the round that runs here may come to allow it, as it may have elsewhere already:
        somebody of its roster asks for an update of it."""
        plan, reader = self.machine.plan, self.book.owner(sender)
        round = None if plan is None else plan.round
        if round is None or reader is None or not round.roster >> reader.id & 1:
            return False
        return blob in self.blobs.made_for(round.number)
