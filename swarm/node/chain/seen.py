"""What the chain says of members and plans, as this node has read it last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from swarm.chain.contract import outcome
from swarm.node.chain.link import WaitingCall
from swarm.protocol.awaited_calls import Waiting, is_more_awaited
from swarm.protocol.state import Member, Plan, member_set, member_with_node
from swarm.types import Address, Digest, MemberId, PlanId, to_hex


@dataclass
class Seen:
    """The node writes it with each block; everything else only reads it, in worker threads too."""

    own: Address
    """This node's."""
    members: dict[MemberId, Member] = field(default_factory=dict)
    """All ever."""
    plans: dict[PlanId, Plan] = field(default_factory=dict)
    height: int = -1

    @property
    def me(self) -> Member | None:
        """This node's own membership, if it has one."""
        return self.with_node(self.own)

    @property
    def present(self) -> list[Member]:
        """The members of this moment."""
        return [member for member in self.members.values() if member.present]

    def with_node(self, node: Address) -> Member | None:
        """The member whose node this is."""
        return member_with_node(self.members, node)

    def name_of_node(self, node: Address) -> str:
        member = self.with_node(node)
        return to_hex(node) if member is None else member.name

    def name_of_member(self, number: MemberId) -> str:
        member = self.members.get(number)
        return f"member {number}" if member is None else member.name

    def plan_with(self, digest: Digest) -> PlanId | None:
        """The newest plan with this code, or these stages."""
        plans = tuple(self.plans.values())
        found = [plan.id for plan in plans if digest in (plan.digest, plan.program)]
        return max(found, default=None)

    def who_know(self, plan: Plan) -> list[Address]:
        """The others' nodes, those first that are likely to have a plan's code."""
        others = [member for member in self.present if member.node != self.own]
        others.sort(key=lambda m: (m.id != plan.proposer, m.id not in plan.consents))
        return [member.node for member in others]

    def awaits_more(self, calls: Sequence[WaitingCall]) -> bool | None:
        """Whether a round still waits for more than these: then a block of them can wait too."""
        waiting: dict[PlanId, list[Waiting]] = {}
        for call in calls:
            sender = self.with_node(call.sender)
            if sender is not None:
                plan, number, attempt, *rest = call.arguments
                found = Waiting(call.function, sender.id, number, attempt)
                if call.function in ("merge", "attest"):
                    found = found._replace(outcome=outcome(rest[0]))
                waiting.setdefault(plan, []).append(found)
        present = member_set(member.id for member in self.present)
        answers = {
            is_more_awaited(self.plans[plan], present, of_plan, int(time.time()))
            for plan, of_plan in waiting.items()
            if plan in self.plans
        }
        return True if True in answers else False if answers == {False} else None
