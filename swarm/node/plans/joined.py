"""The plans that this member has joined, and this node's part in each.

One plan's trouble stays in that plan: whatever goes wrong inside its work ends that work here, and
nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from swarm.chain.contract import outcome
from swarm.errors import (
    ChainError,
    ConfigurationError,
    LocalError,
    PlanError,
    RemoteError,
    SwarmError,
)
from swarm.learning.metrics.wire import read_told
from swarm.node.chain.link import UNDER_WAY, WaitingCall
from swarm.node.chain.seen import Seen
from swarm.node.consent.admission import Admission
from swarm.node.plans.sources import RETRY_S, PlanSources
from swarm.protocol.machine import MergeAnnounced
from swarm.protocol.program import Program
from swarm.protocol.state import Member, Plan, Round
from swarm.rounds.participation import Participation, Stage
from swarm.types import Address, Digest, PlanId

log = logging.getLogger("swarm.node")

Open = Callable[[Plan, Member, Program], Awaitable[Participation]]


@dataclass
class JoinedPlans:
    """`open_part` puts together this member's part in a plan. Whatever `observe` begins runs in the
    nursery that it is given."""

    seen: Seen
    sources: PlanSources
    admission: Admission
    open_part: Open
    parts: dict[PlanId, Participation] = field(default_factory=dict)
    refused: dict[PlanId, str] = field(default_factory=dict)
    """Plans that this member has joined and this node takes no part in, and why."""
    _joining: set[PlanId] = field(default_factory=set)
    _stages: set[Stage | None] = field(default_factory=set)

    async def observe(self, plan: Plan, ended: list[Round], nursery: trio.Nursery) -> bool:
        """A plan as it stands now, and the rounds that are known to have ended since the last look;
        whether it is one that this member has joined.

        Raises ChainError if the chain does not answer: the whole look at it is repeated.
        """
        if plan.id in self.parts:
            with self.contained(plan.id, passing=(ChainError,)):
                await self.parts[plan.id].observe(plan, self.seen.members, ended)
            return True
        me = self.seen.me
        if plan.id in self._joining or plan.id in self.refused:
            return True
        if me is None or me.id not in plan.consents:
            return False
        self._joining.add(plan.id)
        nursery.start_soon(self._participate, plan, me)
        return True

    def turned(self) -> bool:
        """Whether a round of these plans has come to another stage since this was last asked."""
        stages = {part.stage for part in self.parts.values()}
        before, self._stages = self._stages, stages
        return stages != before

    async def _participate(self, plan: Plan, me: Member) -> None:
        """Take part in one plan for as long as the node runs, if it is one that this node can."""
        with self.contained(plan.id):
            await self.sources.await_code(plan)
            try:
                if plan.status in UNDER_WAY:  # one that is over trains nothing any more
                    self.admission.require_proposal(plan, self.seen.members)
                program = await self.sources.await_program(plan)
            except (ConfigurationError, PlanError) as error:
                log.warning("no part is taken in plan %d: %s", plan.id, error)
                self._refuse(plan.id, str(error))
                return
            part = await self.open_part(plan, me, program)
            self.parts[plan.id] = part
            await part.observe(self.seen.plans[plan.id], self.seen.members, [])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._recount, part, plan)
                await part.run()
                nursery.cancel_scope.cancel()

    async def _recount(self, part: Participation, plan: Plan) -> None:
        """Count what the chain shows that this site's rows have spent, also for plans that are
        over: before its next training, each plan does so for itself."""
        while True:
            try:
                loaded = await self.sources.describe(plan)
                await part.recount_privacy(plan, loaded.rules)
                return
            except (ChainError, LocalError) as error:
                log.info("what plan %d has spent cannot be counted yet: %s", plan.id, error)
                await trio.sleep(RETRY_S)
            except SwarmError:
                return  # its code cannot be asked, and so not be trained

    @contextmanager
    def contained(self, plan: PlanId, passing: tuple[type[SwarmError], ...] = ()) -> Iterator[None]:
        """Whatever goes wrong inside halts that plan here; but for errors that are `passing`, which
        somebody else deals with."""
        try:
            yield
        except passing:
            raise
        except Exception as error:
            # A plan is what others proposed, computed from what others sent. All that can be wrong
            # with that is meant to be told by our own errors, and dealt with where it is met. A
            # case that nobody has thought of must not end the node with it, at each start anew:
            # it makes blocks for all, and has other plans. So everything is caught here, and the
            # traceback of what nobody has thought of goes to the log.
            unforeseen = None if isinstance(error, SwarmError) else error
            log.error("plan %d is halted here: %s", plan, error, exc_info=unforeseen)
            self._halt(plan, _in_words(error))

    def _halt(self, plan: PlanId, why: str) -> None:
        part = self.parts.get(plan)
        if part is not None:
            part.halt(why)
        if part is None or part.plan is None:
            self._refuse(plan, why)

    def _refuse(self, plan: PlanId, why: str) -> None:
        self.refused[plan] = why
        if plan not in self.parts:
            self._joining.discard(plan)

    def hear_waiting(self, call: WaitingCall) -> None:
        """A transaction waits for a block: if it is a leader's merge, its plan may know already."""
        leader = self.seen.with_node(call.sender)
        if call.function == "merge" and leader is not None:
            plan, number, attempt, said, _ = call.arguments
            if plan in self.parts:
                announced = MergeAnnounced(number, attempt, leader.id, outcome(said))
                self.parts[plan].announce(announced)

    async def hear_scores(self, sender: Address, payload: bytes) -> bytes:
        """Answer a member that tells what its rows say of a model. Raises RemoteError."""
        part = self.parts.get(PlanId(read_told(payload).plan))
        if part is None:
            raise RemoteError("this node takes no part in that plan")
        return part.hear_scores(sender, payload)

    def halted(self) -> list[PlanId]:
        """The plans that this node has stopped working on by itself."""
        return [number for number, part in self.parts.items() if part.halted is not None]

    def know_needs(self) -> bool:
        """Whether the chain has been read, and every plan that this node joined has told what it
        needs: before that, after a start, everything here would look unneeded. As it would at one
        that is no member any more, and keeps what it has."""
        joined = [self.parts.get(plan) for plan in self._joining]
        is_read = self.seen.height >= 0 and self.seen.me is not None
        return is_read and all(part is not None and part.knows_needs for part in joined)

    def needed(self) -> set[Digest]:
        """The blobs that these plans still need."""
        return set[Digest]().union(*(part.needed() for part in self.parts.values()))

    def take_spent(self) -> set[Digest]:
        """The blobs that have served; told once."""
        return set[Digest]().union(*(part.take_spent() for part in self.parts.values()))


def _in_words(error: BaseException) -> str:
    """A sentence for the status, of what went wrong first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SwarmError):
        return str(error)
    return (
        f"a fault of this program ({type(error).__name__}: {error}), which the log describes: "
        "please report it. After a restart the node tries again"
    )
