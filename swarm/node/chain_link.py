"""The chain as the rest of the node sees it: ask, send, wait for the next block; from trio.

Embedded or external, it is the same contract client in worker threads; only where new heads come
from differs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio

from swarm.chain.client import RESEND_S, ConsortiumClient, Receipt
from swarm.chain.contract import Snapshot
from swarm.errors import ChainError
from swarm.protocol.ledger import Proposal
from swarm.protocol.state import Member, Plan, Round
from swarm.types import Digest, MemberId, PlanId

POLL_S = 0.5
"""How often an external endpoint is asked for its head."""
THREADS = 12

PASSING_EVENTS = frozenset({"Submitted", "Attested", "CheckedIn"})
"""What all members do, about the same time: what comes of it is an event of its own."""

T = TypeVar("T")
WaitForHead = Callable[[int], Awaitable[int]]
"""Given the newest known height, returns a greater one once there is one."""


@dataclass(frozen=True)
class News:
    """What the blocks since the last look have changed."""

    height: int
    members: dict[MemberId, Member] | None
    """All members ever, if any of them may have changed."""
    plans: dict[PlanId, Plan]
    """Those that changed, as they stand now."""
    passing: frozenset[PlanId]
    """Those of which only passing events came: there is no hurry to read them."""


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

    async def news(self, since: int, known: Collection[PlanId], due: Collection[PlanId]) -> News:
        """What changed after block `since`; everything, if that is negative.

        Plans in `due` are read in any case, those in `known` whenever a member changed.
        """
        return await self.ask(self._read_news, since, known, due)

    def _read_news(self, since: int, known: Collection[PlanId], due: Collection[PlanId]) -> News:
        client = self.client
        height, _ = client.head()
        if since < 0:
            plans = {PlanId(number) for number in range(1, client.plan_count() + 1)}
            return self._read(height, plans, frozenset(), True)
        events = client.events(since + 1, height) if since < height else []
        changed, passing, members = set(due), set[PlanId](), False
        for event in events:
            if "plan" not in event.arguments:
                members = True
                changed.update(known)
                continue
            plan = PlanId(int(str(event.arguments["plan"])))
            (passing if event.name in PASSING_EVENTS else changed).add(plan)
        return self._read(height, changed, frozenset(passing - changed), members)

    def _read(
        self, height: int, plans: set[PlanId], passing: frozenset[PlanId], members: bool
    ) -> News:
        found = self.client.members() if members else None
        return News(height, found, {p: self.client.plan(p) for p in sorted(plans)}, passing)

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
