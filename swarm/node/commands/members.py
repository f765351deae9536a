"""What people may ask about the consortium itself: its contract, its members, their decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.chain.client import Receipt
from swarm.chain.contract import UnreadableAnswer
from swarm.chain.genesis import Founder, read_card
from swarm.errors import ConfigurationError
from swarm.node.chain.link import ChainLink
from swarm.node.commands.common import find_member, number_in, transact
from swarm.node.commands.control import Handler
from swarm.protocol.ledger import Kind, Proposal, votes_for, votes_needed
from swarm.protocol.names import lookalike_key
from swarm.protocol.state import Member
from swarm.types import NO_ADDRESS, MemberId, to_address, to_hex

Members = Mapping[MemberId, Member]


@dataclass(frozen=True)
class MemberCommands:
    """All answers are as the newest block has it."""

    chain: ChainLink

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "contract_info": self.contract_info,
            "members": self.members,
            "propose_member": self.propose_member,
            "vote": self.vote,
            "cancel": self.cancel,
            "set_standby": self.set_standby,
            "leave": self.leave,
        }

    async def contract_info(self) -> object:
        chain, client = self.chain, self.chain.client
        members = await chain.members()
        names = {m.node: m.name for m in members.values()}
        validators = await chain.ask(client.validators)
        height, timestamp = await chain.ask(client.head)
        return {
            "contract": to_hex(client.contract),
            "chain_id": client.chain_id,
            "protocol_version": int(await chain.ask(client.call, "protocolVersion")),
            "height": height,
            "timestamp": timestamp,
            "members": [m.name for m in members.values() if m.present],
            "validators": [names.get(v, to_hex(v)) for v in validators],
        }

    async def members(self) -> object:
        members = await self.chain.members()
        proposals = await self.chain.proposals()
        return {
            "members": [
                {
                    "id": m.id,
                    "name": m.name,
                    "account": to_hex(m.account),
                    "node": to_hex(m.node),
                    "standby": None if m.standby == NO_ADDRESS else to_hex(m.standby),
                    "present": m.present,
                    "validator": m.validator,
                }
                for m in members.values()
            ],
            "proposals": [_listed(number, p, members) for number, p in proposals.items()],
        }

    async def propose_member(self, card: str | None, remove: str | None) -> object:
        if card is not None:
            founder = await trio.to_thread.run_sync(read_card, Path(card))
            _refuse_lookalike(founder, await self.chain.members())
            arguments = (Kind.ADMIT, founder.account, founder.node, founder.name, 0, 0)
        else:
            member = find_member(str(remove), await self.chain.members())
            arguments = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", member.id, 0)
        receipt = await self._govern("propose", *arguments)
        return await self._describe(number_in(receipt, "Proposed", "proposal"))

    async def vote(self, proposal: int, support: bool) -> object:
        await self._govern("vote", proposal, support)
        return await self._describe(proposal)

    async def cancel(self, proposal: int) -> object:
        """Take back a proposal of this member's own that is still open."""
        await self._govern("cancel", proposal)
        return await self._describe(proposal)

    async def leave(self) -> object:
        await self._govern("leave")
        return {}

    async def set_standby(self, node: str | None) -> object:
        """Name the key of a second node, which may follow the chain; None: no such node any more.
        The member's name and its standby, as they are then."""
        key = NO_ADDRESS if node is None else to_address(node)
        await self._govern("setStandby", key)
        [me] = [m for m in (await self.chain.members()).values() if self._is_governed(m)]
        return {"member": me.name, "standby": node}

    async def set_node(self, node: str, proof: str) -> object:
        """Name another node key, which has signed that it is to be this member's."""
        await self._govern("setNode", to_address(node), bytes.fromhex(proof.removeprefix("0x")))
        return {}

    def _is_governed(self, member: Member) -> bool:
        return member.present and member.account == self.chain.client.account

    async def _govern(self, function: str, *arguments: object) -> Receipt:
        """Send what only an account may decide. Raises ConfigurationError where the key that signs
        here is a node's whose account is another, and as `transact`."""
        for member in (await self.chain.members()).values():
            is_node = member.present and member.node == self.chain.client.account
            if is_node and not self._is_governed(member):
                raise ConfigurationError(
                    f"what {member.name} decides is signed by {to_hex(member.account)}, whose key "
                    "this node does not have: give that key's file with --account"
                )
        return await transact(self.chain, function, *arguments)

    async def _describe(self, proposal: int) -> object:
        found = (await self.chain.proposals())[proposal]
        if isinstance(found, UnreadableAnswer):
            raise found
        return _proposal(found, await self.chain.members())


def _refuse_lookalike(card: Founder, members: Members) -> None:
    """Raise ConfigurationError if a person would take a newcomer's name for a member's. A card of a
    member's own key is the contract's to refuse."""
    for member in members.values():
        is_other = member.present and member.account != card.account
        if is_other and lookalike_key(member.name) == lookalike_key(card.name):
            raise ConfigurationError(
                f"the name {card.name!a} looks like that of member {member.id}, "
                f"{member.name!a}: have the newcomer choose another with `swarm init --name`"
            )


def _listed(
    number: int, found: Proposal | UnreadableAnswer, members: dict[Any, Member]
) -> dict[str, Any]:
    if isinstance(found, UnreadableAnswer):
        return {"id": number, "unreadable": str(found)}
    return _proposal(found, members)


def _named(member: Member) -> str:
    return f"{member.name} ({to_hex(member.account)})"


def _proposal(proposal: Proposal, members: dict[Any, Member]) -> dict[str, Any]:
    target = members.get(proposal.target)
    what = {
        Kind.ADMIT: f"admit {proposal.name} ({to_hex(proposal.account)})",
        Kind.REMOVE: f"remove {_named(target) if target else proposal.target}",
        Kind.UPGRADE: f"protocol version {proposal.target} from block {proposal.height}",
    }[proposal.kind]
    return {
        "id": proposal.id,
        "what": what,
        "status": proposal.status.name.lower(),
        "ayes": votes_for(proposal, members),
        "noes": proposal.noes.bit_count(),
        "needed": votes_needed(proposal, members),
    }
