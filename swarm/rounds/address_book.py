"""Who the members are and where their nodes are, as one of them knows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from swarm.blobs.download import Spread
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.state import Member, MemberSet, member_with_node
from swarm.types import Address, MemberId


@dataclass
class AddressBook:
    """All members ever, as of the newest head that was observed; `me` is this node's own number."""

    me: MemberId
    members: dict[MemberId, Member] = field(default_factory=dict)

    def name(self, member: MemberId) -> str:
        return self.members[member].name if member in self.members else f"member {member}"

    def names(self) -> dict[MemberId, str]:
        return {i: member.name for i, member in self.members.items()}

    def owner(self, node: Address) -> Member | None:
        """The present member whose node has this address."""
        return member_with_node(self.members, node)

    def addresses(self, members: Iterable[MemberId]) -> list[Address]:
        """Where the nodes of these are, without this one and those who have left."""
        chosen = [self.members[i] for i in members if i in self.members and i != self.me]
        return [member.node for member in chosen if member.present]

    def others(self) -> list[Address]:
        """All of them, those after this node first: so that not all ask the same one."""
        ordered = sorted(self.members)
        return self.addresses(
            [i for i in ordered if i > self.me] + [i for i in ordered if i < self.me]
        )

    def spread_of_model(
        self, leader: MemberId, updates: Iterable[FrozenUpdate], gone: MemberSet
    ) -> Spread | None:
        """How the submitters share out the leader's model among them: all of them want it now.

        None if this node is not one of them.
        """
        wanting = [u.member for u in updates if not gone >> u.member & 1]
        return self.spread_among(leader, wanting)

    def spread_among(self, leader: MemberId, wanting: Iterable[MemberId]) -> Spread | None:
        """How these share out what its leader has, in this order; None if this node is not one of
        them."""
        takers = [self.members[i].node for i in wanting if i != leader and i in self.members]
        me = self.members.get(self.me)
        if me is None or me.node not in takers or leader not in self.members:
            return None
        return Spread(self.members[leader].node, takers, me.node)

    def spread_of_update(self, owner: MemberId) -> Spread | None:
        """All of an update from its owner: its leader, who has it too, has enough to send."""
        sender, me = self.members.get(owner), self.members.get(self.me)
        return None if sender is None or me is None else Spread(sender.node, [me.node], me.node)
