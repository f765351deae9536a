"""The chain as the rest of the node sees it: ask, send, wait for the next block; from trio.

Embedded or external, it is the same contract client in worker threads; only where new heads come
from differs.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import trio

from swarm.chain.block import Transaction
from swarm.chain.client import RESEND_S, ConsortiumClient, Receipt
from swarm.chain.codec import decode_transaction
from swarm.chain.contract import (
    Snapshot,
    UnreadableAnswer,
    arguments_of,
    function_of,
    functions_of_plans,
    look_through,
)
from swarm.errors import ChainError
from swarm.protocol.follow import follow
from swarm.protocol.ledger import Proposal
from swarm.protocol.state import Member, Plan, PlanStatus, Round
from swarm.types import Address, Digest, MemberId, PlanId

CLOCKS_DIFFER_S = 3.0
"""How much longer a block may come whose time is not past a transaction's, by another's clock."""
POLL_S = 0.5
"""How often an external endpoint is asked for its head."""
THREADS = 12

ENDINGS = frozenset({"RoundFinal", "RoundVoided"})
UNDER_WAY = (PlanStatus.PROPOSED, PlanStatus.RUNNING)

MOST_LOOKED_AT = 128
_OF_ROUNDS = ("submit", "masked", "good", "unmask", "merge", "attest")
OnSent = Callable[[str, Digest, int, Any], None]
"""Function, name and bytes of a transaction, and the plan that it is about, if it is about one."""
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
    ended: dict[PlanId, list[Round]]
    """Rounds that became final or void on the way, as they ended."""
    unreadable: dict[PlanId, str] = field(default_factory=dict)
    """Of those that changed, the ones that this release cannot read, and why."""


class WaitingCall(NamedTuple):
    """A transaction that moves a round on, before it is in a block: `arguments` begin with plan,
    round and attempt."""

    sender: Address
    function: str
    arguments: tuple[Any, ...]


@dataclass
class ChainLink:
    """One contract client, shared by all of a node's tasks."""

    client: ConsortiumClient
    wait_for_head: WaitForHead
    on_waiting: Callable[[WaitingCall], None] = lambda call: None
    """Called with each call that another member sent and that waits for a block, where this node
    replicates the chain."""
    awaits_more: Callable[[list[WaitingCall]], bool | None] = lambda calls: None
    """Asked, before this node makes a block of these, whether more belong in it; None: unknown."""
    on_observed: Callable[[], None] = lambda: None
    """To be called when `awaits_more` may have changed its mind."""
    trust_votes: Callable[[], None] | None = None
    """To be called once no other machine uses this node's key, where it was restored from a backup:
    it does not vote before."""
    missing: Callable[[], list[Address]] = list
    """The validators without whom no block is made now, where this node replicates the chain."""
    on_sent: OnSent | None = None
    """Hears of each transaction of this member's, in a worker thread."""
    _threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(THREADS))

    async def ask(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a blocking method of the client in a worker thread."""
        return await _in_thread(partial(function, *arguments), self._threads)

    async def transact(
        self,
        function: str,
        *arguments: object,
        deadline_s: float,
        try_first: bool = True,
        expires: bool = False,
    ) -> Receipt:
        """Send a transaction and wait until it counts. Raises ContractError, ChainError.

        Looks for the receipt whenever there is a new head, and not in between. `try_first`: on this
        replica, so that what cannot succeed is not sent; it costs as much as carrying it out.
        `expires`: no block made after the deadline carries it out, so that nothing happens behind
        the back of whoever asked for it and was told that it failed.
        """

        def send() -> tuple[int, Digest]:
            if try_first:
                self.client.check(function, *arguments)
            height, timestamp = self.client.head()
            if expires:
                until = max(int(time.time()), timestamp) + int(deadline_s)
                tx = self.client.send_until(until, function, *arguments)
            else:
                tx = self.client.send(function, *arguments)
            if self.on_sent is not None:
                plan = arguments[0] if function in functions_of_plans() else None
                self.on_sent(function, tx, self.client.bytes_of(tx), plan)
            return height, tx

        height, tx = await self.ask(send)
        until = trio.current_time() + deadline_s + (CLOCKS_DIFFER_S if expires else 0)
        while (receipt := await self.ask(self.client.receipt, tx)) is None:
            if trio.current_time() >= until:
                raise self.client.overdue(tx, deadline_s)
            with trio.move_on_after(RESEND_S) as waiting:
                height = await self.wait_for_head(height)
            if waiting.cancelled_caught:
                await self.ask(self.client.resend, tx)
        return receipt

    def saw_waiting(self, transaction: Transaction) -> None:
        """A transaction of another member waits for a block."""
        call = _read_call(transaction)
        if call is not None:
            self.on_waiting(call)

    def expects_more(self, waiting: Collection[Transaction]) -> bool | None:
        """Whether a block of these would better wait for others; None: unknown, or too many to look
        at again with each that comes."""
        if len(waiting) > MOST_LOOKED_AT:
            return None
        calls = (_read_call(transaction) for transaction in waiting)
        return self.awaits_more([call for call in calls if call is not None])

    async def snapshot(self, plan: PlanId) -> Snapshot:
        return await self.ask(self.client.snapshot, plan)

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        return await self.ask(self.client.past_round, plan, number, attempt)

    async def members(self) -> dict[MemberId, Member]:
        return await self.ask(self.client.members)

    async def proposals(self) -> dict[int, Proposal | UnreadableAnswer]:
        return await self.ask(self.client.proposals)

    async def news(
        self,
        since: int,
        members: Mapping[MemberId, Member],
        plans: Mapping[PlanId, Plan],
    ) -> News:
        """What changed after block `since`, where members and plans stood as given; everything, if
        `since` is negative."""
        return await self.ask(self._read_news, since, members, plans)

    def _read_news(
        self, since: int, members: Mapping[MemberId, Member], plans: Mapping[PlanId, Plan]
    ) -> News:
        client = self.client
        height, _ = client.head()
        if since < 0:
            found = News(height, client.members(), {}, {})
            numbers = range(1, client.call("planCount", height=height) + 1)
            self._read_plans(map(PlanId, numbers), found)
            return found
        found = News(height, None, {}, {})
        unclear = set[PlanId]()
        times: dict[int, int] = {}
        members_changed = False
        for event in client.events(since + 1, height) if since < height else []:
            if "plan" not in event.arguments:
                # Who is removed leaves its plans' rounds, too: of that, no event of theirs tells.
                members_changed = True
                unclear.update(n for n, p in plans.items() if p.status in UNDER_WAY)
                continue
            number = PlanId(event.arguments["plan"])
            plan = found.plans.get(number, plans.get(number))
            if plan is not None and number not in unclear:
                if event.height not in times:
                    times[event.height] = client.time_of(event)
                now = times[event.height]
                plan = follow(plan, event.name, event.arguments, now, members)
            if plan is None or number in unclear:
                unclear.add(number)
                continue
            found.plans[number] = plan
            if event.name in ENDINGS and plan.round is not None:
                found.ended.setdefault(number, []).append(plan.round)
        self._read_plans(sorted(unclear), found)
        return replace(found, members=client.members()) if members_changed else found

    def _read_plans(self, numbers: Iterable[PlanId], news: News) -> None:
        """Read these as they stand now. One that cannot be read hides no other."""
        for number in numbers:
            try:
                news.plans[number] = self.client.plan(number, news.height)
            except UnreadableAnswer as error:
                news.plans.pop(number, None)
                news.unreadable[number] = str(error)

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


@lru_cache(maxsize=2 * MOST_LOOKED_AT)
def _read_call(transaction: Transaction) -> WaitingCall | None:
    """The call in this transaction, if it is one that moves a round on."""
    _, data = look_through(decode_transaction(transaction.raw).data)
    function = function_of(data)
    if function not in _OF_ROUNDS:
        return None
    arguments = arguments_of(function, data)
    return None if arguments is None else WaitingCall(transaction.sender, function, arguments)


async def _in_thread(function: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
    """Run blocking work that a cancelled caller need not wait for: it has its own deadline."""
    # The stubs that libp2p brings are older than the trio that runs.
    return await trio.to_thread.run_sync(
        function,
        limiter=limiter,
        abandon_on_cancel=True,  # type: ignore[call-arg]
    )
