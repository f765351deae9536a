"""What each new head tells of a plan's rounds, for the records: opened, closed, final by whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from swarm.protocol.state import MemberSet, Plan, Round, RoundStatus, winner
from swarm.rounds.records import Meters, Records
from swarm.types import PlanId, to_hex

log = logging.getLogger("swarm.plan")


class Past(Protocol):
    """What is needed of the chain here."""

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None: ...


@dataclass
class History:
    """Writes one plan's records as its rounds go by."""

    records: Records
    chain: Past
    read_meters: Callable[[], Meters]

    async def note(
        self, old: Plan | None, new: Plan, members: MemberSet, ended: list[Round]
    ) -> None:
        """The plan was `old` and is `new`; these rounds are known to have `ended` meanwhile."""
        before = None if old is None else old.round
        now = new.round
        over = {_place(round): round for round in (*ended, *([now] if now else []))}
        known = (0, 0)  # up to here, all is recorded; before the first look, nothing is to be
        if before is None:
            over.clear()
        elif before.status is RoundStatus.FINAL:
            known = _place(before)
        elif _place(before) not in over:
            past = await self.chain.past_round(new.id, *_place(before))
            over |= {} if past is None else {_place(before): past}
        for place, round in sorted(over.items()):
            won = winner(round, members) if place > known else None
            if won is not None:
                self.records.finalised(round, won, self.read_meters())
                log.info("round %d is final: %s", round.number, to_hex(won.model))
        if now is not None and now.status is RoundStatus.OPEN:
            self.records.opened(now, self.read_meters())
        if now is not None and now.status in (RoundStatus.CLOSED, RoundStatus.MASKING):
            self.records.closed(now, self.read_meters())


def _place(round: Round) -> tuple[int, int]:
    return round.number, round.attempt
