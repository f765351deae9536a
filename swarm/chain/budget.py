"""How many bytes of transactions each member may send on one day of chain time (UTC). Pure.

The chain keeps every transaction for ever, so a member's share of it is bounded by the day. Whoever
builds a block leaves out what is beyond, and a block that holds more is refused; so it is a rule
for blocks, and no matter of who has heard what.
"""

from __future__ import annotations

from collections.abc import Mapping

DAY_S = 86_400
"""Days of chain time are counted from 1970."""


class DayBudget:
    """What members have sent on the day of `timestamp`, of `most_bytes` each. Members are numbers,
    as the contract counts them."""

    def __init__(self, most_bytes: int, timestamp: int, spent: Mapping[int, int]) -> None:
        self.most_bytes = most_bytes
        self._day = timestamp // DAY_S
        self.spent = dict(spent)

    def at(self, timestamp: int) -> DayBudget:
        """A copy for a block at this time, before its first transaction."""
        spent = self.spent if timestamp // DAY_S == self._day else {}
        return DayBudget(self.most_bytes, timestamp, spent)

    def room(self, member: int) -> int:
        """How many bytes the member may still send on that day."""
        return max(0, self.most_bytes - self.spent.get(member, 0))

    def take(self, member: int, size_bytes: int) -> None:
        """Count a transaction that is in the block."""
        self.spent[member] = self.spent.get(member, 0) + size_bytes
