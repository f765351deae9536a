"""Who belongs to a consortium and whose nodes finalise blocks: the rules of `Membership.sol`.

Accounts govern: they propose, vote, and name the keys of their nodes. Every method that carries out
a transaction takes `sender` (the address that signed) and `now` (the block's timestamp) first, and
raises `ContractError` under the contract's own name without having changed anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from swarm.errors import ContractError
from swarm.protocol.attestation import Signatures, node_key_digest
from swarm.protocol.names import MAX_NAME_BYTES, bytes_of, find_bad_character
from swarm.protocol.state import MAX_MEMBERS, Member, majority, two_thirds
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, MemberId

MAX_VALIDATORS = 21
PROPOSAL_LIFETIME_S = 30 * 86400
DORMANT_S = 7 * 86400
MAX_CONTACT_BYTES = 512
CONTACT_EVERY_S = 60
DAY_S = 86400
MAX_A_DAY = 16
"""Membership proposals, and plans, that one member may make in a day of chain time."""


class Kind(IntEnum):
    """What a membership proposal would do."""

    ADMIT = 1
    REMOVE = 2
    UPGRADE = 3


class ProposalStatus(IntEnum):
    OPEN = 1
    PASSED = 2
    CANCELLED = 3


@dataclass
class Proposal:
    id: int
    kind: Kind
    proposer: MemberId
    account: Address
    node: Address
    name: str
    target: int
    """REMOVE: the member's number. UPGRADE: the protocol version."""
    height: int
    """UPGRADE: the block from which the version holds."""
    opened_at: int
    ayes: int = 0
    noes: int = 0
    status: ProposalStatus = ProposalStatus.OPEN
    admitted: MemberId | None = None

    def has_lapsed(self, now: int) -> bool:
        return now > self.opened_at + PROPOSAL_LIFETIME_S


@dataclass(frozen=True)
class Founder:
    account: Address
    node: Address
    name: str


@dataclass
class Budget:
    """What a member has proposed on one day, counted from 1970."""

    day: int = 0
    used: dict[str, int] = field(default_factory=dict)


def is_grave(proposal: Proposal, members: Mapping[MemberId, Member]) -> bool:
    """Whether it changes who can finalise blocks: removes an active validator, or the protocol."""
    target = members.get(MemberId(proposal.target))
    removes = proposal.kind is Kind.REMOVE and target is not None and target.present
    return proposal.kind is Kind.UPGRADE or (removes and target is not None and target.validator)


def votes_needed(proposal: Proposal, members: Mapping[MemberId, Member]) -> int:
    """More than half of the members; of the endorsed two thirds, where the validators change.

    A bare majority must not be able to change who can finalise blocks, nor to admit members of its
    own until it is two thirds: so only the endorsed are counted there.
    """
    present = [member for member in members.values() if member.present]
    if is_grave(proposal, members):
        return two_thirds(sum(member.endorsed for member in present))
    return majority(len(present))


def votes_for(proposal: Proposal, members: Mapping[MemberId, Member]) -> int:
    """The ayes that count towards `votes_needed`."""
    grave = is_grave(proposal, members)
    counted = (m for m in members.values() if m.present and (m.endorsed or not grave))
    return sum(proposal.ayes >> member.id & 1 for member in counted)


class Membership:
    """The members of one consortium, their keys, proposals and validators."""

    def __init__(self, founders: Sequence[Founder], now: int = 0) -> None:
        self.members: dict[MemberId, Member] = {}
        self.present_members = 0
        self.accounts: dict[Address, MemberId] = {}
        self.nodes: dict[Address, MemberId] = {}
        self.standbys: dict[Address, MemberId] = {}
        self.names: dict[str, MemberId] = {}
        self.proposals: dict[int, Proposal] = {}
        self.height = 0
        """The block's number, for who runs the ledger beside a chain; it activates versions."""
        self.next_version = (1, 0)
        self._version = 1
        self.rotation = NO_DIGEST
        self._budgets: dict[MemberId, Budget] = {}
        self.signatures = Signatures()
        if not founders:
            raise ContractError("ConsortiumNoFounders")
        for founder in founders:
            member = self._admit(founder.account, founder.node, founder.name, now)
            member.validator = True

    # Governing: what a member's account may do.

    def propose(
        self,
        sender: Address,
        now: int,
        kind: Kind,
        account: Address = NO_ADDRESS,
        node: Address = NO_ADDRESS,
        name: str = "",
        target: int = 0,
        height: int = 0,
    ) -> int:
        """Open a proposal and vote for it. Returns its number."""
        member = self.governor(sender)
        if kind is Kind.ADMIT:
            self._check_new_keys(account, node, name)
        else:
            if name:
                raise ContractError("ConsortiumBadName", {"size": len(bytes_of(name))})
            if kind is Kind.REMOVE:
                self._present(target)
            elif target <= self.protocol_version:
                raise ContractError("ConsortiumBadVersion", {"version": target})
        self.check_budget(member, now, "proposals")
        number = len(self.proposals) + 1
        proposal = Proposal(number, kind, member.id, account, node, name, target, height, now)
        self._vote(member, now, proposal, True)
        self.spend(member, now, "proposals")
        self.proposals[number] = proposal
        return number

    def vote(self, sender: Address, now: int, number: int, support: bool) -> None:
        """Vote once on a proposal; the vote that completes the threshold carries it out.

        An admission that has passed still takes ayes: two thirds of the endorsed endorse the new
        member, whose node may then validate and whose votes count in later endorsements.
        """
        member = self.governor(sender)
        self._vote(member, now, self._proposal(number), support)

    def cancel(self, sender: Address, now: int, number: int) -> None:
        """The proposer takes an open proposal back."""
        member = self.governor(sender)
        proposal = self._proposal(number)
        if proposal.proposer != member.id:
            raise ContractError("ConsortiumNotProposer", {"proposal": number, "member": member.id})
        if proposal.status is not ProposalStatus.OPEN or proposal.has_lapsed(now):
            raise ContractError("ConsortiumProposalClosed", {"proposal": number})
        proposal.status = ProposalStatus.CANCELLED

    def leave(self, sender: Address, now: int) -> None:
        """A member's account ends its own membership."""
        member = self.governor(sender)
        self._check_removable(member)
        self._remove(member)

    def set_node(self, sender: Address, now: int, node: Address, proof: bytes) -> None:
        """A member's account names another node key, which has signed that (`proof`): nobody can
        keep a key from whoever has it. The new node activates itself once synced; a standby that
        becomes the node is none any more, whosever it was."""
        member = self.governor(sender)
        if node == NO_ADDRESS:
            raise ContractError("ConsortiumZeroAddress")
        if node in self.nodes or self.accounts.get(node, member.id) != member.id:
            raise ContractError("ConsortiumKeyInUse", {"key": node})
        keys = self.signatures
        if keys.recover(node_key_digest(keys.domain, member.id), proof) != node:
            raise ContractError("ConsortiumBadProof", {"key": node})
        if member.validator:
            self._check_not_last_validator(member)
        self._end_claim(node)
        del self.nodes[member.node]
        self.nodes[node] = member.id
        member.node = node
        member.validator = False

    def set_standby(self, sender: Address, now: int, node: Address) -> None:
        """A member's account names a second node, which may synchronise and nothing else. The
        zero address: none."""
        member = self.governor(sender)
        if node != NO_ADDRESS and (self._is_taken(node) or node in self.standbys):
            raise ContractError("ConsortiumKeyInUse", {"key": node})
        self.standbys.pop(member.standby, None)
        if node != NO_ADDRESS:
            self.standbys[node] = member.id
        member.standby = node

    # Working: what a member's node may do.

    def set_contact(self, sender: Address, now: int, contact: bytes) -> None:
        """A member's node states where it can be reached: its signed addresses, once a minute."""
        member = self.operator(sender)
        if len(contact) > MAX_CONTACT_BYTES:
            raise ContractError("ConsortiumBadContact", {"size": len(contact)})
        free_from = member.contact_at + CONTACT_EVERY_S
        if member.contact_at and now < free_from:
            raise ContractError("ConsortiumTooSoon", {"member": member.id, "from": free_from})
        member.contact, member.contact_at, member.seen_at = contact, now, now

    def activate(self, sender: Address, now: int) -> None:
        """A member's node, once synced, becomes a validator; repeated, it only shows life."""
        member = self.operator(sender)
        if not member.endorsed:
            raise ContractError("ConsortiumNotEndorsed", {"member": member.id})
        member.validator = True
        member.seen_at = now

    def retire(self, sender: Address, now: int, target: int) -> None:
        """Any member takes a validator off that has sent nothing for `DORMANT_S`.

        Refused unless two thirds of the validators have been seen since: when a whole consortium
        slept, the first to wake must not be able to retire all the others and finalise alone.
        """
        self.either(sender)
        member = self._present(target)
        if not member.validator or now <= member.seen_at + DORMANT_S:
            raise ContractError(
                "ConsortiumNotDormant", {"member": member.id, "until": member.seen_at + DORMANT_S}
            )
        active = [m for m in self.members.values() if m.present and m.validator]
        awake = sum(now <= m.seen_at + DORMANT_S for m in active)
        if awake < two_thirds(len(active)):
            raise ContractError(
                "ConsortiumTooFewAwake", {"awake": awake, "needed": two_thirds(len(active))}
            )
        member.validator = False

    # Reading.

    @property
    def protocol_version(self) -> int:
        """The version in force at this block."""
        version, height = self.next_version
        return version if self.height >= height else self._version

    def validators(self) -> list[Address]:
        """The nodes that finalise blocks: all active ones, or `MAX_VALIDATORS` of them rotated by
        the seed of the newest well-attended final round (the contract's `getValidators`)."""
        active = [m for m in self.members.values() if m.present and m.validator]
        if len(active) > MAX_VALIDATORS:
            start = int.from_bytes(self.rotation, "big") % len(active)
            active = [active[(start + i) % len(active)] for i in range(MAX_VALIDATORS)]
        return [m.node for m in active]

    def is_member(self, key: Address) -> bool:
        """Whether this key, as account or as node, may send transactions at all."""
        return key in self.accounts or key in self.nodes

    # What the rules of plans and rounds need of it.

    def governor(self, sender: Address) -> Member:
        """The member whose account signed."""
        return self._by(self.accounts, sender)

    def operator(self, sender: Address) -> Member:
        """The member whose node signed."""
        return self._by(self.nodes, sender)

    def either(self, sender: Address) -> Member:
        """The member whose account or node signed."""
        return self._by(self.accounts if sender in self.accounts else self.nodes, sender)

    def check_budget(self, member: Member, now: int, what: str) -> None:
        """Refuse what exceeds the member's budget of the day."""
        budget = self._budgets.get(member.id, Budget())
        if budget.day == now // DAY_S and budget.used.get(what, 0) >= MAX_A_DAY:
            begins_at = (budget.day + 1) * DAY_S
            raise ContractError("ConsortiumBudget", {"member": member.id, "from": begins_at})

    def spend(self, member: Member, now: int, what: str) -> None:
        """Count what `check_budget` has allowed."""
        budget = self._budgets.setdefault(member.id, Budget())
        if budget.day != now // DAY_S:
            budget.day, budget.used = now // DAY_S, {}
        budget.used[what] = budget.used.get(what, 0) + 1

    # Steps shared by the transactions above.

    def _by(self, keys: Mapping[Address, MemberId], sender: Address) -> Member:
        if sender not in keys:
            raise ContractError("ConsortiumNotMember", {"sender": sender})
        return self.members[keys[sender]]

    def _present(self, number: int) -> Member:
        member = self.members.get(MemberId(number))
        if member is None or not member.present:
            raise ContractError("ConsortiumUnknownMember", {"member": number})
        return member

    def _proposal(self, number: int) -> Proposal:
        proposal = self.proposals.get(number)
        if proposal is None:
            raise ContractError("ConsortiumNoSuchProposal", {"proposal": number})
        return proposal

    def _is_taken(self, key: Address) -> bool:
        return key in self.accounts or key in self.nodes

    def _end_claim(self, key: Address) -> None:
        """A standby is a claim that nobody has proved: it must not keep out whoever is admitted
        with that key or changes to it, or any member could veto both."""
        claimant = self.standbys.pop(key, None)
        if claimant is not None:
            self.members[claimant].standby = NO_ADDRESS

    def _check_new_keys(self, account: Address, node: Address, name: str) -> None:
        if NO_ADDRESS in (account, node):
            raise ContractError("ConsortiumZeroAddress")
        for key in (account, node):
            if self._is_taken(key):
                raise ContractError("ConsortiumKeyInUse", {"key": key})
        check_name(name, "ConsortiumBadName")
        if name in self.names:
            raise ContractError("ConsortiumNameInUse", {"member": self.names[name]})
        if len(self.members) >= MAX_MEMBERS:
            raise ContractError("ConsortiumFull")

    def _vote(self, member: Member, now: int, proposal: Proposal, support: bool) -> None:
        number = proposal.id
        endorsing = proposal.status is ProposalStatus.PASSED and proposal.kind is Kind.ADMIT
        is_open = proposal.status is ProposalStatus.OPEN
        if proposal.has_lapsed(now) or not (is_open or endorsing):
            raise ContractError("ConsortiumProposalClosed", {"proposal": number})
        bit = 1 << member.id
        if (proposal.ayes | proposal.noes) & bit:
            raise ContractError("ConsortiumAlreadyVoted", {"proposal": number, "member": member.id})
        # Everything that can fail is decided before anything changes.
        voted = replace(proposal, ayes=proposal.ayes | (bit if support else 0))
        needed = votes_needed(proposal, self.members)
        passes = is_open and votes_for(voted, self.members) >= needed
        if passes:
            self._check_enactable(proposal)
        proposal.ayes = voted.ayes
        if not support:
            proposal.noes |= bit
        if passes:
            self._enact(proposal, now)
        if proposal.admitted is not None:
            self._endorse(proposal)

    def _check_enactable(self, proposal: Proposal) -> None:
        if proposal.kind is Kind.ADMIT:
            self._check_new_keys(proposal.account, proposal.node, proposal.name)
        elif proposal.kind is Kind.REMOVE:
            self._check_removable(self._present(proposal.target))
        elif proposal.target <= self.protocol_version:
            raise ContractError("ConsortiumBadVersion", {"version": proposal.target})

    def _enact(self, proposal: Proposal, now: int) -> None:
        proposal.status = ProposalStatus.PASSED
        if proposal.kind is Kind.ADMIT:
            member = self._admit(proposal.account, proposal.node, proposal.name, now)
            member.endorsed = False
            proposal.admitted = member.id
        elif proposal.kind is Kind.REMOVE:
            self._remove(self._present(proposal.target))
        else:
            self._version = self.protocol_version
            self.next_version = (proposal.target, proposal.height)

    def _endorse(self, proposal: Proposal) -> None:
        # The newcomer is not among the endorsed yet, so it does not endorse itself.
        assert proposal.admitted is not None
        voters = [m.id for m in self.members.values() if m.present and m.endorsed]
        ayes = sum(proposal.ayes >> voter & 1 for voter in voters)
        if ayes >= two_thirds(len(voters)):
            self.members[proposal.admitted].endorsed = True

    def _admit(self, account: Address, node: Address, name: str, now: int) -> Member:
        self._check_new_keys(account, node, name)
        for key in (account, node):
            self._end_claim(key)
        member = Member(MemberId(len(self.members)), account, node, name, seen_at=now)
        self.members[member.id] = member
        self.accounts[account] = member.id
        self.nodes[node] = member.id
        self.names[name] = member.id
        self.present_members |= 1 << member.id
        return member

    def _check_removable(self, member: Member) -> None:
        if self.present_members == 1 << member.id:
            raise ContractError("ConsortiumLastMember")
        if member.validator:
            self._check_not_last_validator(member)

    def _check_not_last_validator(self, member: Member) -> None:
        others = (m for m in self.members.values() if m.present and m.id != member.id)
        if not any(m.validator for m in others):
            raise ContractError("ConsortiumLastValidator")

    def _remove(self, member: Member) -> None:
        del self.accounts[member.account]
        del self.nodes[member.node]
        del self.names[member.name]
        self.standbys.pop(member.standby, None)
        member.standby, member.contact, member.contact_at = NO_ADDRESS, b"", 0
        member.present = False
        member.validator = False
        self.present_members &= ~(1 << member.id)


def check_name(name: str, error: str) -> None:
    """Refuse a name that people could not see as it is; under `error`, if its size is wrong."""
    raw = bytes_of(name)
    if not 0 < len(raw) <= MAX_NAME_BYTES:
        raise ContractError(error, {"size": len(raw)})
    bad = find_bad_character(raw)
    if bad is not None:
        raise ContractError("ConsortiumBadCharacter", {"at": bad})
