"""Members whose nodes have another key from some block on: told, so that nobody takes it for a
stranger's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from swarm.protocol.state import Member
from swarm.types import Address, MemberId, to_hex

log = logging.getLogger("swarm.node")

TOLD_FOR_S = 86400.0


@dataclass
class NewKeys:
    """What has changed while this node ran."""

    former: dict[str, str] = field(default_factory=dict)
    """Whose a former key was, by the key's address."""
    _told: dict[Address, tuple[str, float]] = field(default_factory=dict)

    def note(
        self, before: Mapping[MemberId, Member], now: Mapping[MemberId, Member], height: int
    ) -> None:
        """The members before a block, and after it."""
        for old in before.values():
            new = now[old.id]
            if old.present and not new.present:
                log.warning(
                    "%s is no member any more since block %d: it has left, or was removed",
                    new.name,
                    height,
                )
            if old.present and new.present and old.node != new.node:
                told = (
                    f"its node key is {to_hex(new.node)} since block {height}, in the place of "
                    f"{to_hex(old.node)}"
                )
                log.warning("%s: %s", new.name, told)
                self.former[to_hex(old.node)] = f"{new.name}, by a former key"
                self._told[new.node] = told, trio.current_time() + TOLD_FOR_S

    def news(self) -> dict[Address, str]:
        """What is still told, by the node's new address."""
        now = trio.current_time()
        return {node: told for node, (told, until) in self._told.items() if now < until}
