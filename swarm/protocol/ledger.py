"""The consortium contract's rules as an executable specification.

One method a transaction, in the order: find, check, change. A refused call raises `ContractError`
with the contract's own error name and changes nothing. The Solidity contract in `contracts/` is
tested against this class with the same random sequences of calls; the simulator runs it instead of
the EVM, because it is a thousand times faster; the round machine asks the same predicates (in
`state`) before it sends a transaction.

Every method takes `sender` (the address that signed) and `now` (the block's timestamp) first. Plans
and rounds are here, members in `membership`; `transact` knows the functions of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.errors import ContractError
from swarm.protocol.attestation import Attestation, attestation_digest
from swarm.protocol.election import commitment_to, reveal_term, round_seed
from swarm.protocol.masked_rounds import MaskedRounds
from swarm.protocol.masking import Masking
from swarm.protocol.membership import (
    DORMANT_S,
    MAX_VALIDATORS,
    PROPOSAL_LIFETIME_S,
    Founder,
    Kind,
    Membership,
    Proposal,
    ProposalStatus,
    check_name,
    votes_for,
    votes_needed,
)
from swarm.protocol.state import (
    FIRST_NAMED,
    MAX_MEMBERS,
    MOST_SAMPLES,
    PLAIN,
    SLOTS,
    UNDER_WAY,
    Candidate,
    Consent,
    Duty,
    Member,
    MemberSet,
    Omission,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Submission,
    Terms,
    VerifyLevel,
    contributors,
    expired,
    has_majority,
    majority,
    masked_voters,
    may_close,
    may_open,
    may_void,
    members_in,
    merge_seconds,
    opened,
    pending,
    present_in,
    submitters,
    two_thirds,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

MAX_OPEN_PLANS = 16
"""Of one proposer: every node keeps the code of every plan."""
LIVE = (PlanStatus.PROPOSED, PlanStatus.RUNNING)
MAX_ROUNDS = 100_000
MAX_SECONDS = 30 * 86400
DEFAULT_INVITATION_S = 7 * 86400
LONGEST_INVITATION_S = 90 * 86400
ALL_DUTIES = int(Duty.TRAIN | Duty.HOLD | Duty.TEST)


class Ledger:
    """The state of one consortium contract and every transaction on it."""

    def __init__(self, founders: Sequence[Founder], now: int = 0) -> None:
        self.membership = Membership(founders, now)
        self.masked_rounds = MaskedRounds(self)
        self.plans: dict[PlanId, Plan] = {}

    def transact(self, sender: Address, now: int, function: str, *arguments: Any) -> Any:
        """Carry a transaction out: `function` is a method's name, here or in one of the parts."""
        owners = (self, self.membership, self.masked_rounds)
        owner = next(o for o in owners if hasattr(o, function))
        return getattr(owner, function)(sender, now, *arguments)

    def until(
        self, sender: Address, now: int, time: int, function: str, arguments: tuple[Any, ...]
    ) -> Any:
        """Carry out another call, unless its time has passed: then nothing happens at all."""
        if now > time:
            raise ContractError("Expired", {"time": time, "now": now})
        if function == "until":
            raise ContractError("UntilNested")
        return self.transact(sender, now, function, *arguments)

    @property
    def members(self) -> dict[MemberId, Member]:
        return self.membership.members

    @property
    def present_members(self) -> MemberSet:
        return self.membership.present_members

    # Plans: what is trained, by whom, under which rules.

    def propose_plan(
        self,
        sender: Address,
        now: int,
        name: str,
        code: Digest,
        program: Digest,
        base: Digest,
        rules: Rules,
        invited: MemberSet,
        until: int,
    ) -> PlanId:
        """Put a plan up for consent. Returns its number. Proposing is not consenting."""
        member = self._either(sender)
        check_name(name, "PlanBadName")
        if NO_DIGEST in (code, program, base):
            raise ContractError("PlanBadDigest")
        if not self._are_sane(rules):
            raise ContractError("PlanBadRules")
        present = self.present_members
        few = bool(invited) and invited.bit_count() < rules.min_peers
        ends_at = until or now + DEFAULT_INVITATION_S
        if invited & ~present or few or not now <= ends_at <= now + LONGEST_INVITATION_S:
            raise ContractError("PlanBadInvitation", {"invited": invited, "until": until})
        own = [plan for plan in self.plans.values() if plan.proposer == member.id]
        if sum(plan.status in LIVE for plan in own) >= MAX_OPEN_PLANS:
            raise ContractError("PlanTooMany", {"member": member.id})
        self.membership.check_budget(member, now, "plans")
        self.membership.spend(member, now, "plans")
        number = PlanId(len(self.plans) + 1)
        self.plans[number] = Plan(
            number,
            member.id,
            name,
            code,
            program,
            base,
            rules,
            invited=invited or present,
            invited_only=bool(invited),
            until=ends_at,
            outputs=(base, *(NO_DIGEST,) * (SLOTS - 1)),
        )
        member.seen_at = now
        return number

    def consent(
        self, sender: Address, now: int, plan_id: PlanId, code: Digest, terms: Terms
    ) -> None:
        """A member joins a plan, naming the code that it has read, and what it will do.

        Where a plan names whom it invites, only they may. Where the last undecided consents, the
        first round opens. A consent that has ended may be given anew, which withdraws the old one.
        """
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        if code != plan.digest:
            raise ContractError("PlanDigestMismatch", {"expected": plan.digest, "given": code})
        bit = 1 << member.id
        if plan.invited_only and not plan.invited & bit:
            raise ContractError("PlanNotInvited", {"member": member.id})
        if plan.participants & bit & ~expired(plan, now):
            raise ContractError("PlanAlreadyConsented", {"member": member.id})
        if not 1 <= terms.duties <= ALL_DUTIES:
            raise ContractError("PlanBadDuties", {"duties": terms.duties})
        trains = bool(terms.duties & Duty.TRAIN)
        least, most = (max(1, plan.rules.min_rows), MOST_SAMPLES) if trains else (0, 0)
        if not least <= terms.max_samples <= most:
            raise ContractError("RoundBadSamples", {"given": terms.max_samples, "most": most})
        if terms.until and now > terms.until:
            raise ContractError("Expired", {"time": terms.until, "now": now})
        # In an attempt that runs, shares are sealed to what counted at its opening.
        counting, following = NO_DIGEST, NO_DIGEST
        if plan.is_masked:
            following = self.masked_rounds.take_receiving_key(member, terms.receiving_key)
            if member.id in plan.consents:
                counting = plan.consents[member.id].receiving_key
        if plan.participants & bit:
            self._leave(plan, member, now)
        plan.participants |= bit
        plan.declined &= ~bit
        plan.consents[member.id] = Consent(
            member.id,
            terms.duties,
            terms.max_samples,
            terms.commitment,
            *plan.place,
            now,
            terms.until,
            terms.permit,
            counting,
            terms.meta,
            following,
        )
        member.seen_at = now
        self._open_if_decided(plan, now)

    def decline(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """An invited member takes no part, so that nobody waits for its answer. Where it was the
        last undecided, the first round opens."""
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        bit = 1 << member.id
        if not plan.invited & bit:
            raise ContractError("PlanNotInvited", {"member": member.id})
        if plan.participants & bit:
            raise ContractError("PlanAlreadyConsented", {"member": member.id})
        if plan.declined & bit:
            raise ContractError("PlanAlreadyDeclined", {"member": member.id})
        plan.declined |= bit
        member.seen_at = now
        self._open_if_decided(plan, now)

    def withdraw(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """A participant leaves the plan: out of later rosters at once, and out of the running
        round's numerator and denominator. Nobody waits for another answer of an invited one."""
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        self._participant(plan, member)
        plan.participants &= ~(1 << member.id)
        plan.stop_votes &= ~(1 << member.id)
        plan.declined |= plan.invited & (1 << member.id)
        self._leave(plan, member, now)

    def stop(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """The proposer ends the plan, or more than half of those who train in it do; once a round
        is LOCKED, only they. Before the first round only the proposer may: the first to consent
        would be a majority of one."""
        member = self._either(sender)
        plan = self._running_plan(plan_id)
        round = plan.round
        is_locked = round is not None and round.status is RoundStatus.LOCKED
        if member.id != plan.proposer or is_locked:
            self._participant(plan, member)
            if round is None:
                raise ContractError("PlanNotProposer", {"member": member.id})
            plan.stop_votes |= 1 << member.id
            voters = plan.participants & self.present_members & round.trainers
            if (plan.stop_votes & voters).bit_count() < majority(voters.bit_count()):
                return
        plan.status = PlanStatus.STOPPED
        if round is not None and round.status in UNDER_WAY:
            round.status = RoundStatus.VOID

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
        """A participant that still trains, or holds the role, says so, and is waited for."""
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
        keys: bytes,
    ) -> None:
        """One trainer's update, once per attempt. `reveal` opens its previous commitment (32
        zero bytes: not revealed, not eligible); `commitment` is for its next submission; `keys` is
        empty in plain plans. The submission that completes the live trainers closes the round."""
        member, plan, round = self._in_round(sender, plan_id, number, attempt)
        self._require(round, RoundStatus.OPEN)
        bit = 1 << member.id
        if not round.trainers & bit:
            raise ContractError("RoundNotTrainer", {"member": member.id})
        if round.submitted & bit:
            raise ContractError("RoundAlreadySubmitted", {"member": member.id})
        consent = plan.consents[member.id]
        if not 1 <= samples <= consent.max_samples:
            raise ContractError("RoundBadSamples", {"given": samples, "most": consent.max_samples})
        # Training is repeatable: a digest of an update would let everybody test guesses of it.
        if (update == NO_DIGEST) != plan.is_masked:
            raise ContractError("RoundBadDigest")
        if keys and not plan.is_masked:
            raise ContractError("RoundBadKeys", {"size": len(keys)})
        revealed = reveal != bytes(32)
        if revealed and commitment_to(reveal) != consent.commitment:
            raise ContractError("RoundBadReveal", {"member": member.id})
        if plan.is_masked:
            taken = self.masked_rounds.take_keys(member, keys)
            consent.next_receiving_key = Digest(taken.next_receiving)

        submission = Submission(member.id, update, samples, meta, revealed, keys)
        round.submissions[member.id] = submission
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
        outcome: Outcome,
        reasons: bytes,
    ) -> None:
        """A leader posts its merge of all frozen updates but the omitted ones, each with a reason.

        Whoever leads now or has led since the close may post one candidate of its own; a merge
        that is posted already counts as an attestation. Posting attests.
        """
        member, plan, round = self._voting(sender, plan_id, number, attempt)
        first = round.first_slot_of(member.id)
        if first is None or round.slot_at(now) < first:
            raise ContractError("RoundNotLeader", {"member": member.id})
        if any(c.leader == member.id for c in round.candidates):
            raise ContractError("RoundAlreadyMerged", {"member": member.id})
        spoiled = round.status is RoundStatus.LOCKED and outcome.model == NO_DIGEST
        if outcome.model == NO_DIGEST and not spoiled:
            raise ContractError("RoundBadDigest")
        if outcome.slot >= SLOTS or (outcome.next and outcome.next < round.stage):
            raise ContractError("RoundBadOutcome", {"slot": outcome.slot, "next": outcome.next})
        self._check_omissions(round, outcome.omitted, reasons)
        few = contributors(round, outcome.omitted).bit_count() < plan.rules.min_peers
        if few and round.masking is None:
            raise ContractError("RoundTooFewContributors", {"needed": plan.rules.min_peers})
        candidate = round.candidate(outcome)
        if candidate is None:
            candidate = Candidate(member.id, outcome, 0, now, reasons)
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
        outcome: Outcome,
        level: int,
        meta: Digest,
    ) -> None:
        """A frozen submitter states that it holds this merge and has checked it to `level`."""
        member, plan, round = self._voting(sender, plan_id, number, attempt)
        if not self._voters(round) & (1 << member.id):
            raise ContractError("RoundNotSubmitter", {"member": member.id})
        self._check_level(plan, level)
        candidate = self._candidate(round, outcome)
        if candidate.attesters & (1 << member.id):
            raise ContractError("RoundAlreadyAttested", {"member": member.id})
        candidate.attesters |= 1 << member.id
        self._seen(plan, member, now)
        self._finalise_if_majority(plan, round, candidate, now)

    def attest_many(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        outcome: Outcome,
        level: int,
        metas: Sequence[Digest],
        signatures: Sequence[bytes],
    ) -> None:
        """Anyone in the roster carries others' attestations, signed with their node keys. Those
        that are no attestation of a frozen submitter, or a second one, are skipped."""
        _, plan, round = self._voting(sender, plan_id, number, attempt)
        self._check_level(plan, level)
        candidate = self._candidate(round, outcome)
        counted = False
        pairs = zip(metas, signatures, strict=True) if len(metas) == len(signatures) else ()
        for meta, signature in pairs:
            said = Attestation(
                plan_id, number, attempt, outcome, level, meta, round.epoch, round.status
            )
            keys = self.membership.signatures
            signer = keys.recover(attestation_digest(keys.domain, said), signature)
            member = None if signer is None else self.membership.nodes.get(signer)
            voters = self._voters(round) & ~candidate.attesters
            if member is not None and voters >> member & 1:
                candidate.attesters |= 1 << member
                self._seen(plan, self.members[member], now)
                counted = True
        if not counted:
            raise ContractError("RoundNoneCounted", {"round": number, "attempt": attempt})
        self._finalise_if_majority(plan, round, candidate, now)

    def finalise(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        outcome: Outcome,
    ) -> None:
        """Count again after somebody withdrew or was removed: any participant may ask."""
        _, plan, round = self._in_round(sender, plan_id, number, attempt, roster_only=False)
        self._require(round, RoundStatus.CLOSED)
        candidate = self._candidate(round, outcome)
        if not has_majority(round, candidate, self.present_members):
            raise ContractError("RoundNoMajority", {"round": number, "attempt": attempt})
        self._finalise_if_majority(plan, round, candidate, now)

    def void(self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int) -> None:
        """Give an attempt up that cannot become final: same round and base, next attempt."""
        _, plan, round = self._in_round(sender, plan_id, number, attempt, roster_only=False)
        if round.status not in (RoundStatus.OPEN, RoundStatus.CLOSED, RoundStatus.MASKING):
            raise ContractError("RoundWrongStatus", {"status": int(round.status)})
        if not may_void(plan, round, self.present_members, now):
            raise ContractError("RoundNotVoidable", {"round": number, "attempt": attempt})
        if round.status in (RoundStatus.CLOSED, RoundStatus.MASKING):
            plan.merge_s = merge_seconds(plan.merge_s, now - round.closed_at, round.slot_s)
        self.void_attempt(plan, round, now)

    # Asked by masked rounds.

    def void_attempt(self, plan: Plan, round: Round, now: int) -> None:
        """End an attempt, and open the next if that is possible."""
        round.status = RoundStatus.VOID
        if may_open(plan, self.present_members, now):
            self._open(plan, now)

    def find_round(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int, status: RoundStatus
    ) -> tuple[Member, Plan, Round, Masking]:
        """A member of the roster and its masked round of this status; once that is LOCKED, of the
        opening roster, whoever has withdrawn since."""
        locked = status is RoundStatus.LOCKED
        found = self._in_locked if locked else self._in_round
        member, plan, round = found(sender, plan_id, number, attempt)
        self._require(round, status)
        assert round.masking is not None
        return member, plan, round, round.masking

    def in_round(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int
    ) -> tuple[Member, Plan, Round]:
        """A participant that is in the roster of the current attempt still, and that attempt."""
        return self._in_round(sender, plan_id, number, attempt)

    def note_seen(self, plan: Plan, member: Member, now: int) -> None:
        """A member has shown that it lives."""
        self._seen(plan, member, now)

    # Steps shared by the transactions above. None of them is reachable from outside.

    def _open(self, plan: Plan, now: int) -> None:
        changed = opened(plan, self.present_members, now)
        plan.status, plan.participants, plan.round = (
            changed.status,
            changed.participants,
            changed.round,
        )
        plan.consents = changed.consents

    def _open_if_decided(self, plan: Plan, now: int) -> None:
        if plan.status is PlanStatus.PROPOSED and may_open(plan, self.present_members, now):
            self._open(plan, now)

    def _leave(self, plan: Plan, member: Member, now: int) -> None:
        if plan.round is not None:
            plan.round.left |= plan.round.roster & (1 << member.id)
            self._close_if_complete(plan, plan.round, now)

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
        if plan.is_masked:
            self.masked_rounds.begin(plan, round, now)

    def _finalise_if_majority(
        self, plan: Plan, round: Round, candidate: Candidate, now: int
    ) -> None:
        if not has_majority(round, candidate, self.present_members):
            return
        outcome = candidate.outcome
        if round.status is RoundStatus.MASKING:
            if not self.masked_rounds.lock(plan, round, outcome.slot, outcome.model, now):
                self.void_attempt(plan, round, now)
            return
        if outcome.model == NO_DIGEST:  # the sum was spoiled: the same set comes again, or nobody
            assert round.masking is not None
            plan.spoiled = round.masking.contributors
            self.void_attempt(plan, round, now)
            return
        round.status = RoundStatus.FINAL
        plan.spoiled = 0
        plan.take_output(round.number, outcome)
        plan.seed = round.seed
        # A plan of one's own, run alone, must not be a way to choose who finalises blocks.
        voters = submitters(round, self.present_members).bit_count()
        if voters >= two_thirds(self.present_members.bit_count()):
            self.membership.rotation = round.seed
        began_at = round.slot_begins_at(round.first_slot_of(candidate.leader) or 0)
        plan.merge_s = merge_seconds(plan.merge_s, now - began_at, round.slot_s)
        if outcome.next == 0 or round.number >= plan.rules.rounds:
            plan.status = PlanStatus.COMPLETED
        elif may_open(plan, self.present_members, now):
            self._open(plan, now)

    def _check_omissions(self, round: Round, omitted: MemberSet, reasons: bytes) -> None:
        gone = round.submitted & ~submitters(round, self.present_members)
        kinds = [int(k) for k in Omission]
        if round.masking is not None:  # the set of contributors says whose updates are in it
            if omitted or reasons:
                raise ContractError("RoundBadOmission", {"omitted": omitted})
            return
        if (
            omitted & ~round.submitted
            or gone & ~omitted
            or len(reasons) != omitted.bit_count()
            or any(reason not in kinds for reason in reasons)
        ):
            raise ContractError("RoundBadOmission", {"omitted": omitted})

    @staticmethod
    def _check_level(plan: Plan, level: int) -> None:
        needed = int(plan.rules.verify_level)
        if not needed <= level <= VerifyLevel.FULL:
            raise ContractError("RoundBadLevel", {"given": level, "needed": needed})

    def _candidate(self, round: Round, outcome: Outcome) -> Candidate:
        candidate = round.candidate(outcome)
        if candidate is None:
            told = {"model": outcome.model, "omitted": outcome.omitted}
            more = {"slot": outcome.slot, "next": outcome.next}
            raise ContractError("RoundUnknownCandidate", told | more)
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

    def _voting(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int
    ) -> tuple[Member, Plan, Round]:
        """A member of the roster and its round, if that is to be voted on: a closed round's merge,
        a masked round's sum, or a locked one's model."""
        self._operator(sender)
        plan = self._running_plan(plan_id)
        locked = plan.round is not None and plan.round.status is RoundStatus.LOCKED
        found = self._in_locked if locked else self._in_round
        member, plan, round = found(sender, plan_id, number, attempt)
        if not plan.is_masked:
            self._require(round, RoundStatus.CLOSED)
            return member, plan, round
        if not locked:
            self._require(round, RoundStatus.MASKING)
        masking = round.masking
        assert masking is not None
        if not locked and not masking.may_lock():
            raise ContractError("RoundNotLockable", {"round": number, "attempt": attempt})
        if locked and len(masking.opened) < masking.needed:
            raise ContractError("RoundNotOpen", {"round": number, "attempt": attempt})
        return member, plan, round

    def _voters(self, round: Round) -> MemberSet:
        if round.masking is not None:
            return masked_voters(round, round.masking)
        return submitters(round, self.present_members)

    def _in_locked(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int
    ) -> tuple[Member, Plan, Round]:
        member = self._operator(sender)
        plan = self._running_plan(plan_id)
        round = plan.round
        if round is None or (round.number, round.attempt) != (number, attempt):
            raise ContractError("RoundNotCurrent", {"round": number, "attempt": attempt})
        if not round.roster >> member.id & 1:
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
        if plan.status not in LIVE:
            raise ContractError("PlanEnded", {"status": int(plan.status)})
        return plan

    def _operator(self, sender: Address) -> Member:
        return self.membership.operator(sender)

    def _either(self, sender: Address) -> Member:
        return self.membership.either(sender)

    def _are_sane(self, rules: Rules) -> bool:
        named = rules.holder - FIRST_NAMED
        return (
            1 <= rules.rounds <= MAX_ROUNDS
            and 1 <= rules.min_peers <= MAX_MEMBERS
            and rules.verify_level in tuple(VerifyLevel)
            and 1 <= rules.slot_s <= rules.max_round_s <= MAX_SECONDS
            and 1 <= rules.liveness_s <= MAX_SECONDS
            and rules.grace_s <= rules.max_round_s
            and rules.window_s <= rules.max_round_s
            and (named < 0 or bool(self.present_members >> named & 1))
            and (rules.colluders == PLAIN or rules.min_peers >= rules.colluders + 2)
        )


__all__ = [
    "DORMANT_S",
    "MAX_VALIDATORS",
    "PROPOSAL_LIFETIME_S",
    "Founder",
    "Kind",
    "Ledger",
    "Proposal",
    "ProposalStatus",
    "votes_for",
    "votes_needed",
]
