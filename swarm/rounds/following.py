"""Collecting a model while another leader merges it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from swarm.blobs.download import SMALL_BYTES
from swarm.errors import SwarmError
from swarm.protocol import machine as m
from swarm.rounds.address_book import AddressBook
from swarm.rounds.drafts import Drafts
from swarm.rounds.layouts import Layouts

log = logging.getLogger("swarm.plan")


@dataclass
class Following:
    """One plan's merges by others at one node. Failing costs the head start, nothing else."""

    book: AddressBook
    layouts: Layouts
    drafts: Drafts

    async def follow(self, command: m.Follow) -> None:
        number, attempt, leader = command.number, command.attempt, command.leader
        spread = self.book.spread_of_model(leader, command.updates, command.gone)
        if spread is None:
            return
        try:
            folding = await self.layouts.folding(number, command.updates)
            merged = sum(not command.gone >> u.member & 1 for u in command.updates)
            layout = folding.down(merged)  # if nothing else is left out
            # A small one comes as soon when it has its name.
            if layout.file_bytes > SMALL_BYTES:
                await self.drafts.follow((number, attempt, leader), layout, spread)
        except SwarmError as error:
            log.info("round %d is not followed while it is merged: %s", number, error)

    async def drop(self, command: m.DropDrafts) -> None:
        await self.drafts.forget((command.number, command.attempt))
