"""The consortium contract's rules as an executable specification.

One method a transaction, in the order: find, check, change. A refused call raises `ContractError`
with the contract's own error name and changes nothing. The Solidity contract in `contracts/` is
tested against this class with the same random sequences of calls; the simulator runs it instead of
the EVM, because it is a thousand times faster; the round machine asks the same predicates (in
`state`) before it sends a transaction.

Every method takes `sender` (the address that signed) and `now` (the block's timestamp) first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from swarm.errors import ContractError
from swarm.protocol.election import commitment_to, reveal_term, round_seed
from swarm.protocol.state import (
    MAX_MEMBERS,
    Candidate,
    Consent,
    Member,
    Omission,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Submission,
    VerifyLevel,
    contributors,
    has_majority,
    majority,
    may_close,
    may_open,
    may_void,
    members_in,
    merge_seconds,
    pending,
    present_in,
    submitters,
    two_thirds,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

MAX_NAME_BYTES = 64
MAX_VALIDATORS = 21
PROPOSAL_LIFETIME_S = 30 * 86400
DORMANT_S = 7 * 86400
MAX_OPEN_PLANS = 16
"""Of one proposer: every node keeps the code of every plan."""
LIVE = (PlanStatus.PROPOSED, PlanStatus.RUNNING)
MAX_ROUNDS = 100_000
MAX_SECONDS = 30 * 86400


class Kind(IntEnum):
    """What a membership proposal would do."""

    ADMIT = 1
    REMOVE = 2
    UPGRADE = 3


class ProposalStatus(IntEnum):
    OPEN = 1
    PASSED = 2


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


@dataclass(frozen=True)
class Founder:
    account: Address
    node: Address
    name: str


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


class Ledger:
    """The state of one consortium contract and every transaction on it."""

    def __init__(self, founders: Sequence[Founder], now: int = 0) -> None:
        self.members: dict[MemberId, Member] = {}
        self.present_members = 0
        self.accounts: dict[Address, MemberId] = {}
        self.nodes: dict[Address, MemberId] = {}
        self.proposals: dict[int, Proposal] = {}
        self.plans: dict[PlanId, Plan] = {}
        self.height = 0
        """The block's number, for who runs the ledger beside a chain; it activates versions."""
        self.next_version = (1, 0)
        self._version = 1
        self.rotation = NO_DIGEST
        if not founders:
            raise ContractError("ConsortiumNoFounders")
        for founder in founders:
            member = self._admit(founder.account, founder.node, founder.name, now)
            member.validator = True

    # Membership: the consortium and its validators.

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
        """Open a proposal and vote for it. Returns its number. Only a member's account may."""
        member = self._governor(sender)
        if kind is Kind.ADMIT:
            self._check_new_keys(account, node, name)
        else:
            if len(name.encode()) > MAX_NAME_BYTES:
                raise ContractError("ConsortiumBadName", {"size": len(name.encode())})
            if kind is Kind.REMOVE:
                self._present(target)
            elif target <= self.protocol_version:
                raise ContractError("ConsortiumBadVersion", {"version": target})
        number = len(self.proposals) + 1
        proposal = Proposal(number, kind, member.id, account, node, name, target, height, now)
        self._vote(member, now, proposal, True)
        self.proposals[number] = proposal
        return number

    def vote(self, sender: Address, now: int, number: int, support: bool) -> None:
        """Vote once on a proposal; the vote that completes the threshold carries it out.

        An admission that has passed still takes ayes: two thirds of the endorsed endorse the new
        member, whose node may then validate and whose votes count in later endorsements.
        """
        member = self._governor(sender)
        proposal = self.proposals.get(number)
        if proposal is None:
            raise ContractError("ConsortiumNoSuchProposal", {"proposal": number})
        self._vote(member, now, proposal, support)

    def _vote(self, member: Member, now: int, proposal: Proposal, support: bool) -> None:
        number = proposal.id
        endorsing = proposal.status is ProposalStatus.PASSED and proposal.kind is Kind.ADMIT
        lapsed = now > proposal.opened_at + PROPOSAL_LIFETIME_S
        if lapsed or (proposal.status is ProposalStatus.PASSED and not endorsing):
            raise ContractError("ConsortiumProposalClosed", {"proposal": number})
        bit = 1 << member.id
        if (proposal.ayes | proposal.noes) & bit:
            raise ContractError("ConsortiumAlreadyVoted", {"proposal": number, "member": member.id})
        # Everything that can fail is decided before anything changes.
        voted = replace(proposal, ayes=proposal.ayes | (bit if support else 0))
        needed = votes_needed(proposal, self.members)
        passes = not endorsing and votes_for(voted, self.members) >= needed
        if passes:
            self._check_enactable(proposal)
        proposal.ayes = voted.ayes
        if not support:
            proposal.noes |= bit
        if passes:
            self._enact(proposal, now)
        if proposal.admitted is not None:
            self._endorse(proposal)

    def leave(self, sender: Address, now: int) -> None:
        """A member's account ends its own membership."""
        member = self._governor(sender)
        self._check_removable(member)
        self._remove(member)

    def set_node(self, sender: Address, now: int, node: Address) -> None:
        """A member's account names another node key. The new node activates itself once synced."""
        member = self._governor(sender)
        if node == NO_ADDRESS:
            raise ContractError("ConsortiumZeroAddress")
        if node == member.node or not self._key_free(node, member):
            raise ContractError("ConsortiumKeyInUse", {"key": node})
        if member.validator:
            self._check_not_last_validator(member)
        del self.nodes[member.node]
        self.nodes[node] = member.id
        member.node = node
        member.validator = False

    def activate(self, sender: Address, now: int) -> None:
        """A member's node, once synced, becomes a validator; repeated, it only shows life."""
        member = self._operator(sender)
        if not member.endorsed:
            raise ContractError("ConsortiumNotEndorsed", {"member": member.id})
        member.validator = True
        member.seen_at = now

    def retire(self, sender: Address, now: int, target: int) -> None:
        """Any member takes a validator off that has sent nothing for `DORMANT_S`.

        Refused unless two thirds of the validators have been seen since: when a whole consortium
        slept, the first to wake must not be able to retire all the others and finalise alone.
        """
        self._either(sender)
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

    # Plans: what is trained, by whom, under which rules.

    def propose_plan(
        self,
        sender: Address,
        now: int,
        name: str,
        digest: Digest,
        model0: Digest,
        workflow: Digest,
        workflow_version: int,
        merge: Digest,
        rules: Rules,
    ) -> PlanId:
        """Put a plan up for consent. Returns its number. Proposing is not consenting."""
        member = self._either(sender)
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise ContractError("PlanBadName", {"size": len(name.encode())})
        if NO_DIGEST in (digest, model0):
            raise ContractError("PlanBadDigest")
        if not _rules_sane(rules):
            raise ContractError("PlanBadRules")
        own = [plan for plan in self.plans.values() if plan.proposer == member.id]
        if sum(plan.status in LIVE for plan in own) >= MAX_OPEN_PLANS:
            raise ContractError("PlanTooMany", {"member": member.id})
        number = PlanId(len(self.plans) + 1)
        self.plans[number] = Plan(
            number,
            member.id,
            name,
            digest,
            model0,
            workflow,
            workflow_version,
            merge,
            rules,
            model=model0,
        )
        member.seen_at = now
        return number

    def consent(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        digest: Digest,
        max_samples: int,
        commitment: Digest,
    ) -> None:
        """A member joins a plan, naming the digest that it has read and the most samples that it
        will ever claim. The consent that makes every member a participant opens the first round.
        """
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        if digest != plan.digest:
            raise ContractError("PlanDigestMismatch", {"expected": plan.digest, "given": digest})
        if plan.participants & (1 << member.id):
            raise ContractError("PlanAlreadyConsented", {"member": member.id})
        if max_samples < 1:
            raise ContractError("RoundBadSamples", {"given": max_samples, "most": 0})
        plan.participants |= 1 << member.id
        consent = Consent(member.id, max_samples, commitment, *plan.place, seen_at=now)
        plan.consents[member.id] = consent
        member.seen_at = now
        willing = plan.participants & self.present_members
        if plan.min_consents_at == 0 and willing.bit_count() >= plan.rules.min_peers:
            plan.min_consents_at = now
        if plan.status is PlanStatus.PROPOSED and may_open(plan, self.present_members, now):
            self._open(plan, now)

    def withdraw(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """A participant leaves the plan: out of later rosters at once, and out of the running
        round's numerator and denominator."""
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        self._participant(plan, member)
        plan.participants &= ~(1 << member.id)
        if plan.round is not None:
            plan.round.left |= plan.round.roster & (1 << member.id)
            self._close_if_complete(plan, plan.round, now)

    def stop(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """The proposer ends the plan, or more than half of its participants do."""
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        if member.id != plan.proposer:
            self._participant(plan, member)
            plan.stop_votes |= 1 << member.id
            voters = plan.participants & self.present_members
            if (plan.stop_votes & voters).bit_count() < majority(voters.bit_count()):
                return
        plan.status = PlanStatus.STOPPED
        if plan.round is not None and plan.round.status in (RoundStatus.OPEN, RoundStatus.CLOSED):
            plan.round.status = RoundStatus.VOID

    # Rounds: open, submit, close, merge, attest, final.

    def open(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """Any participant opens the next attempt where none runs and enough are willing."""
        member = self._operator(sender)
        plan = self._running_plan(plan_id)
        self._participant(plan, member)
        if not may_open(plan, self.present_members, now):
            raise ContractError("RoundNotOpenable", {"plan": plan_id})
        self._open(plan, now)

    def check_in(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        permille: int,
    ) -> None:
        """A participant that still trains says so, and is waited for."""
        member, plan, round = self._in_round(sender, plan_id, number, attempt)
        self._require(round, RoundStatus.OPEN)
        if permille > 1000:
            raise ContractError("RoundBadProgress", {"permille": permille})
        self._seen(plan, member, now)

    def submit(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        update: Digest,
        samples: int,
        reveal: bytes,
        commitment: Digest,
        meta: Digest,
    ) -> None:
        """One participant's update, once per attempt. `reveal` opens its previous commitment (32
        zero bytes: not revealed, not eligible); `commitment` is for its next submission. The
        submission that completes the live roster closes the round."""
        member, plan, round = self._in_round(sender, plan_id, number, attempt)
        self._require(round, RoundStatus.OPEN)
        bit = 1 << member.id
        if round.submitted & bit:
            raise ContractError("RoundAlreadySubmitted", {"member": member.id})
        consent = plan.consents[member.id]
        if not 1 <= samples <= consent.max_samples:
            raise ContractError("RoundBadSamples", {"given": samples, "most": consent.max_samples})
        if update == NO_DIGEST:
            raise ContractError("RoundBadDigest")
        revealed = reveal != bytes(32)
        if revealed and commitment_to(reveal) != consent.commitment:
            raise ContractError("RoundBadReveal", {"member": member.id})

        round.submissions[member.id] = Submission(member.id, update, samples, meta, revealed)
        round.submitted |= bit
        if revealed:
            round.revealed |= bit
            round.reveals_xor ^= reveal_term(member.account, reveal)
        consent.commitment = commitment
        consent.committed_round, consent.committed_attempt = number, attempt
        self._seen(plan, member, now)
        enough = submitters(round, self.present_members).bit_count() >= plan.rules.min_peers
        if enough and round.min_peers_at == 0:
            round.min_peers_at = now
        self._close_if_complete(plan, round, now)

    def close(self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int) -> None:
        """Any participant closes submission once nobody live is missing, or patience has ended."""
        _, plan, round = self._in_round(sender, plan_id, number, attempt, roster_only=False)
        self._require(round, RoundStatus.OPEN)
        if not may_close(plan, round, self.present_members, now):
            raise ContractError("RoundNotClosable", {"round": number, "attempt": attempt})
        self._close(plan, round, now)

    def merge(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        model: Digest,
        omitted: int,
        reasons: bytes,
    ) -> None:
        """A leader posts its merge of all frozen updates but the omitted ones, each with a reason.

        Whoever leads now or has led since the close may post, once. Posting attests.
        """
        member, plan, round = self._in_round(sender, plan_id, number, attempt)
        self._require(round, RoundStatus.CLOSED)
        first = round.first_slot_of(member.id)
        if first is None or round.slot_at(now) < first:
            raise ContractError("RoundNotLeader", {"member": member.id})
        if any(c.leader == member.id for c in round.candidates):
            raise ContractError("RoundAlreadyMerged", {"member": member.id})
        if model == NO_DIGEST:
            raise ContractError("RoundBadDigest")
        gone = round.submitted & ~submitters(round, self.present_members)
        kinds = [int(k) for k in Omission]
        if (
            omitted & ~round.submitted
            or gone & ~omitted
            or len(reasons) != omitted.bit_count()
            or any(reason not in kinds for reason in reasons)
        ):
            raise ContractError("RoundBadOmission", {"omitted": omitted})
        if contributors(round, omitted).bit_count() < plan.rules.min_peers:
            raise ContractError("RoundTooFewContributors", {"needed": plan.rules.min_peers})
        candidate = round.candidate(model, omitted)
        if candidate is None:
            candidate = Candidate(member.id, model, omitted, 0, now, reasons)
            round.candidates.append(candidate)
        candidate.attesters |= 1 << member.id
        self._seen(plan, member, now)
        self._finalise_if_majority(plan, round, candidate, now)

    def attest(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        model: Digest,
        omitted: int,
        level: int,
        meta: Digest,
    ) -> None:
        """A frozen submitter states that it holds this merge and has checked it to `level`."""
        member, plan, round = self._in_round(sender, plan_id, number, attempt)
        self._require(round, RoundStatus.CLOSED)
        if not round.submitted & (1 << member.id):
            raise ContractError("RoundNotSubmitter", {"member": member.id})
        if level < plan.rules.verify_level or level > VerifyLevel.FULL:
            raise ContractError(
                "RoundBadLevel", {"given": level, "needed": int(plan.rules.verify_level)}
            )
        candidate = self._candidate(round, model, omitted)
        if candidate.attesters & (1 << member.id):
            raise ContractError("RoundAlreadyAttested", {"member": member.id})
        candidate.attesters |= 1 << member.id
        self._seen(plan, member, now)
        self._finalise_if_majority(plan, round, candidate, now)

    def finalise(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        model: Digest,
        omitted: int,
    ) -> None:
        """Count again after somebody withdrew or was removed: any participant may ask."""
        _, plan, round = self._in_round(sender, plan_id, number, attempt, roster_only=False)
        self._require(round, RoundStatus.CLOSED)
        candidate = self._candidate(round, model, omitted)
        if not has_majority(round, candidate, self.present_members):
            raise ContractError("RoundNoMajority", {"round": number, "attempt": attempt})
        self._finalise_if_majority(plan, round, candidate, now)

    def void(self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int) -> None:
        """Give an attempt up that cannot become final: same round and base, next attempt."""
        _, plan, round = self._in_round(sender, plan_id, number, attempt, roster_only=False)
        if round.status not in (RoundStatus.OPEN, RoundStatus.CLOSED):
            raise ContractError("RoundWrongStatus", {"status": int(round.status)})
        if not may_void(plan, round, self.present_members, now):
            raise ContractError("RoundNotVoidable", {"round": number, "attempt": attempt})
        if round.status is RoundStatus.CLOSED:
            plan.merge_s = merge_seconds(plan.merge_s, now - round.closed_at, round.slot_s)
        round.status = RoundStatus.VOID
        if may_open(plan, self.present_members, now):
            self._open(plan, now)

    def post(
        self, sender: Address, now: int, plan_id: PlanId, number: int, phase: int, digest: Digest
    ) -> None:
        """Put a digest on record for a workflow with further phases (keys, shares)."""
        member = self._operator(sender)
        plan = self._running_plan(plan_id)
        self._participant(plan, member)
        if digest == NO_DIGEST:
            raise ContractError("RoundBadDigest")
        self._seen(plan, member, now)

    # Steps shared by the transactions above. None of them is reachable from outside.

    def _open(self, plan: Plan, now: int) -> None:
        previous = plan.round
        credit_from = 0 if previous is None else previous.opened_at
        if previous is None:
            number, attempt = (0 if plan.rules.statistics_round else 1), 1
        elif previous.status is RoundStatus.VOID:
            number, attempt = previous.number, previous.attempt + 1
        else:
            number, attempt = previous.number + 1, 1
        plan.status = PlanStatus.RUNNING
        plan.round = Round(
            number,
            attempt,
            RoundStatus.OPEN,
            now,
            credit_from,
            plan.model,
            plan.participants & self.present_members,
        )

    def _close_if_complete(self, plan: Plan, round: Round, now: int) -> None:
        if round.status is not RoundStatus.OPEN:
            return
        if submitters(round, self.present_members).bit_count() < plan.rules.min_peers:
            return
        if not pending(plan, round, self.present_members, now):
            self._close(plan, round, now)

    def _close(self, plan: Plan, round: Round, now: int) -> None:
        frozen = submitters(round, self.present_members)
        round.status = RoundStatus.CLOSED
        round.submitted = frozen
        round.closed_at = now
        round.seed = round_seed(plan.seed, round.reveals_xor)
        round.eligible = tuple(members_in(frozen & round.revealed or frozen))
        round.slot_s = min(max(plan.rules.slot_s, 2 * plan.merge_s + 1), plan.rules.max_round_s)

    def _finalise_if_majority(
        self, plan: Plan, round: Round, candidate: Candidate, now: int
    ) -> None:
        if not has_majority(round, candidate, self.present_members):
            return
        round.status = RoundStatus.FINAL
        if round.number == 0:
            plan.statistics = candidate.model
        else:
            plan.model, plan.model_round = candidate.model, round.number
        plan.seed = round.seed
        # A plan of one's own, run alone, must not be a way to choose who finalises blocks.
        voters = submitters(round, self.present_members).bit_count()
        if voters >= two_thirds(self.present_members.bit_count()):
            self.rotation = round.seed
        began_at = round.slot_begins_at(round.first_slot_of(candidate.leader) or 0)
        plan.merge_s = merge_seconds(plan.merge_s, now - began_at, round.slot_s)
        if round.number >= plan.rules.rounds:
            plan.status = PlanStatus.COMPLETED
        elif may_open(plan, self.present_members, now):
            self._open(plan, now)

    def _candidate(self, round: Round, model: Digest, omitted: int) -> Candidate:
        candidate = round.candidate(model, omitted)
        if candidate is None:
            raise ContractError("RoundUnknownCandidate", {"model": model, "omitted": omitted})
        return candidate

    def _in_round(
        self,
        sender: Address,
        plan_id: PlanId,
        number: int,
        attempt: int,
        roster_only: bool = True,
    ) -> tuple[Member, Plan, Round]:
        member = self._operator(sender)
        plan = self._running_plan(plan_id)
        self._participant(plan, member)
        round = plan.round
        if round is None or (round.number, round.attempt) != (number, attempt):
            raise ContractError("RoundNotCurrent", {"round": number, "attempt": attempt})
        if roster_only and not present_in(round, self.present_members) & (1 << member.id):
            raise ContractError("RoundNotInRoster", {"member": member.id})
        return member, plan, round

    @staticmethod
    def _require(round: Round, status: RoundStatus) -> None:
        if round.status is not status:
            raise ContractError("RoundWrongStatus", {"status": int(round.status)})

    @staticmethod
    def _seen(plan: Plan, member: Member, now: int) -> None:
        plan.consents[member.id].seen_at = now
        member.seen_at = now

    @staticmethod
    def _participant(plan: Plan, member: Member) -> None:
        if not plan.participants & (1 << member.id):
            raise ContractError("PlanNotParticipant", {"member": member.id})

    def _running_plan(self, plan_id: PlanId) -> Plan:
        plan = self.plans.get(plan_id)
        if plan is None:
            raise ContractError("PlanUnknown", {"plan": plan_id})
        if plan.status not in (PlanStatus.PROPOSED, PlanStatus.RUNNING):
            raise ContractError("PlanEnded", {"status": int(plan.status)})
        return plan

    def is_member(self, key: Address) -> bool:
        """Whether this key, as account or as node, may send transactions at all."""
        return key in self.accounts or key in self.nodes

    def _governor(self, sender: Address) -> Member:
        return self._by(self.accounts, sender)

    def _operator(self, sender: Address) -> Member:
        return self._by(self.nodes, sender)

    def _either(self, sender: Address) -> Member:
        return self._by(self.accounts if sender in self.accounts else self.nodes, sender)

    def _by(self, keys: dict[Address, MemberId], sender: Address) -> Member:
        if sender not in keys:
            raise ContractError("ConsortiumNotMember", {"sender": sender})
        return self.members[keys[sender]]

    def _present(self, number: int) -> Member:
        member = self.members.get(MemberId(number))
        if member is None or not member.present:
            raise ContractError("ConsortiumUnknownMember", {"member": number})
        return member

    def _key_free(self, key: Address, owner: Member | None = None) -> bool:
        holders = (self.accounts.get(key), self.nodes.get(key))
        allowed = (None,) if owner is None else (None, owner.id)
        return all(holder in allowed for holder in holders)

    def _check_new_keys(self, account: Address, node: Address, name: str) -> None:
        if NO_ADDRESS in (account, node):
            raise ContractError("ConsortiumZeroAddress")
        for key in (account, node):
            if not self._key_free(key):
                raise ContractError("ConsortiumKeyInUse", {"key": key})
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            raise ContractError("ConsortiumBadName", {"size": len(name.encode())})
        if len(self.members) >= MAX_MEMBERS:
            raise ContractError("ConsortiumFull")

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
        member = Member(MemberId(len(self.members)), account, node, name, seen_at=now)
        self.members[member.id] = member
        self.accounts[account] = member.id
        self.nodes[node] = member.id
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
        member.present = False
        member.validator = False
        self.present_members &= ~(1 << member.id)


def _rules_sane(rules: Rules) -> bool:
    return (
        1 <= rules.rounds <= MAX_ROUNDS
        and 1 <= rules.min_peers <= MAX_MEMBERS
        and rules.verify_level in tuple(VerifyLevel)
        and 1 <= rules.slot_s <= rules.max_round_s <= MAX_SECONDS
        and 1 <= rules.liveness_s <= MAX_SECONDS
        and max(rules.consent_s, rules.window_s, rules.grace_s) <= MAX_SECONDS
        and rules.grace_s <= rules.max_round_s
        and rules.window_s <= rules.max_round_s
    )
