"""Which blobs of a node may go."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from swarm.types import Digest


@dataclass
class Pruning:
    """What the last look saw: nothing goes before it is known that nobody is about to need it."""

    _known: Set[Digest] = field(default_factory=frozenset)

    def look(self, here: Set[Digest], needed: Set[Digest], spent: Set[Digest]) -> Set[Digest]:
        """What is to be deleted of the blobs that are `here`.

        Nothing that is `needed`. Of the rest, at once what has served its purpose: what is `spent`,
        or was needed at the last look. What was not even there at the last look may have been made
        or pulled a moment ago, and its need not be known yet: it goes if the next look finds it so.
        """
        dropped = (here - needed) & (self._known | spent)
        self._known = needed | (here - dropped)
        return dropped
