"""The chain as the rest of the node sees it: ask, send, wait for the next block; from trio.

Embedded or external, it is the same contract client in worker threads; only where new heads come
from differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from swarm.chain.client import RESEND_S, ConsortiumClient, Receipt
from swarm.chain.contract import Event, Snapshot
from swarm.errors import ChainError
from swarm.protocol.ledger import Proposal
from swarm.protocol.state import Member, Round
from swarm.types import Digest, MemberId, PlanId

POLL_S = 0.5
"""How often an external endpoint is asked for its head."""
THREADS = 12

T = TypeVar("T")
WaitForHead = Callable[[int], Awaitable[int]]
"""Given the newest known height, returns a greater one once there is one."""


@dataclass
class ChainLink:
    """One contract client, shared by all of a node's tasks."""

    client: ConsortiumClient
    wait_for_head: WaitForHead
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(THREADS))

    async def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a blocking method of the client in a worker thread."""
        return await _in_thread(partial(function, *arguments), self._threads)

    async def transact(self, function: str, *arguments: object, deadline_s: float) -> Receipt:
        """Send a transaction and wait until it counts. Raises ContractError, ChainError.

        Looks for the receipt whenever there is a new head, and not in between.
        """

        def send() -> tuple[int, Digest]:
            self.client.check(function, *arguments)
            height, _ = self.client.head()
            return height, self.client.send(function, *arguments)

        height, tx = await self.ask(send)
        until = trio.current_time() + deadline_s
        while (receipt := await self.ask(self.client.receipt, tx)) is None:
            if trio.current_time() >= until:
                raise self.client.overdue(tx, deadline_s)
            with trio.move_on_after(RESEND_S) as waiting:
                height = await self.wait_for_head(height)
            if waiting.cancelled_caught:
                await self.ask(self.client.resend, tx)
        return receipt

    async def snapshot(self, plan: PlanId) -> Snapshot:
        return await self.ask(self.client.snapshot, plan)

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        return await self.ask(self.client.past_round, plan, number, attempt)

    async def members(self) -> dict[MemberId, Member]:
        return await self.ask(self.client.members)

    async def proposals(self) -> dict[int, Proposal]:
        return await self.ask(self.client.proposals)

    async def height(self) -> int:
        return (await self.ask(self.client.head))[0]

    async def events(self, first: int, last: int) -> list[Event]:
        """The contract's events in the blocks first..last."""
        return await self.ask(self.client.events, first, last) if first <= last else []

    async def plan_count(self) -> int:
        return await self.ask(self.client.plan_count)


def polling(client: ConsortiumClient) -> WaitForHead:
    """New heads of an external endpoint. An endpoint that is away is asked again."""

    async def wait(above: int) -> int:
        while True:
            try:
                height, _ = await _in_thread(client.head, None)
            except ChainError:
                height = above
            if height > above:
                return height
            await trio.sleep(POLL_S)

    return wait


async def _in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
    """Run blocking work that a cancelled caller need not wait for: it has its own deadline."""
    # The stubs that libp2p brings are older than the trio that runs.
    return await trio.to_thread.run_sync(
        function,
        limiter=limiter,
        abandon_on_cancel=True,  # type: ignore[call-arg]
    )
