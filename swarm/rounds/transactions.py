"""The transactions that a round machine asks for."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Protocol

from swarm.errors import ChainError, ContractError
from swarm.protocol import machine as m
from swarm.rounds.records import Records
from swarm.types import PlanId

log = logging.getLogger("swarm.plan")

TRANSACTION_DEADLINE_S = 60.0
RECORDED = ("submit", "merge", "attest")
"""What a round waits for: the time of these is told to people."""


class Sender(Protocol):
    """What is needed of the chain here. Raises ContractError and ChainError."""

    async def transact(
        self, function: str, *arguments: object, deadline_s: float, try_first: bool
    ) -> object: ...


@dataclass
class Transactions:
    """One plan's transactions from one node."""

    plan: PlanId
    chain: Sender
    records: Records

    async def transact(self, command: m.Transact) -> m.Event:
        place = () if command.function == "open" else (command.number, command.attempt)
        error: str | None = None
        began = time.monotonic()
        try:
            await self.chain.transact(
                command.function,
                self.plan,
                *place,
                *command.arguments,
                deadline_s=TRANSACTION_DEADLINE_S,
                try_first=False,  # the machine has just seen that it may
            )
        except ContractError as refused:
            # Often others were faster: the round has moved on, and that is what was wanted.
            error = refused.name
            log.debug("%s in round %d: %s", command.function, command.number, refused)
        except ChainError as failed:
            error = str(failed)
            log.warning("%s in round %d: %s", command.function, command.number, failed)
        if command.function in RECORDED:
            self.records.at(command.number).chain_s += time.monotonic() - began
        return m.TransactionSettled(command.function, command.number, command.attempt, error)
