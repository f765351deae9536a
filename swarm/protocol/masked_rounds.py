"""Masked rounds: the transactions between the close of a masked round and its end.

Members post the digests of their masked updates themselves; votes lock one set of them and their
sum; then shares are published that open that sum and no other (docs/decisions/0019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from swarm.errors import ContractError
from swarm.protocol.masking import CODE_BYTES, EPOCHS, SHARE_BYTES, Keys, Masking, read_keys
from swarm.protocol.state import (
    Member,
    MemberSet,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    majority,
    mask_deadline,
    present_in,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId


class Rounds(Protocol):
    """What masked rounds need of the ledger."""

    @property
    def present_members(self) -> MemberSet: ...

    def in_round(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int
    ) -> tuple[Member, Plan, Round]:
        """A participant of a masked plan that is in the roster of its current attempt still."""

    def find_round(
        self, sender: Address, plan_id: PlanId, number: int, attempt: int, status: RoundStatus
    ) -> tuple[Member, Plan, Round, Masking]:
        """A member of the roster and its masked round of this status."""

    def note_seen(self, plan: Plan, member: Member, now: int) -> None: ...

    def void_attempt(self, plan: Plan, round: Round, now: int) -> None: ...


@dataclass
class MaskedRounds:
    """What happens between the close of a masked round and its end."""

    rounds: Rounds
    locks: dict[tuple[Digest, int, PlanId | None], MemberSet] = field(default_factory=dict)
    """By base, output slot and, in plans that reopen, plan: whose sum may come out."""
    _used: set[tuple[MemberId, bytes]] = field(default_factory=set)

    # Asked by the ledger, in the order of a round.

    def take_keys(self, member: Member, raw: bytes) -> Keys:
        """The keys of a submission, which the same member never posted before. That others may
        have is no reason to refuse them: whoever builds the block could copy them first."""
        keys = read_keys(raw)
        if keys is None:
            raise ContractError("RoundBadKeys", {"size": len(raw)})
        self._use_up(member, keys.used_up, len(raw))
        return keys

    def take_receiving_key(self, member: Member, key: Digest) -> Digest:
        """A receiving key that comes without a submission: one, and never posted before."""
        if key == NO_DIGEST:
            raise ContractError("RoundBadKeys", {"size": 0})
        self._use_up(member, (key,), len(key))
        return key

    def _use_up(self, member: Member, keys: Sequence[bytes], size: int) -> None:
        if any((member.id, key) in self._used for key in keys):
            raise ContractError("RoundBadKeys", {"size": size})
        self._used |= {(member.id, key) for key in keys}

    def begin(self, plan: Plan, round: Round, now: int) -> None:
        """The close of a masked round: all who submitted are to mask among themselves."""
        round.status = RoundStatus.MASKING
        frozen = round.submitted
        round.masking = Masking(round.roster, plan.rules.colluders, frozen, frozen, now)

    def lock(self, plan: Plan, round: Round, slot: int, total: Digest, now: int) -> bool:
        """Lock the contributors and their sum; whether no other set is locked already."""
        masking = _masking(round)
        key = (round.base, slot, plan.id if plan.rules.reopens else None)
        if self.locks.setdefault(key, masking.contributors) != masking.contributors:
            return False
        if plan.rules.reopens:
            self.locks.setdefault((round.base, slot, None), masking.contributors)
        masking.sum = total
        round.status = RoundStatus.LOCKED
        round.candidates = []
        round.closed_at, round.eligible = now, tuple(_in(round.roster))
        return True

    # Transactions.

    def renew_key(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int, key: Digest
    ) -> None:
        """A member of the roster that sends no update in this attempt brings the key to which
        shares are sealed from the next on. Who trains brings it with the submission, and may bring
        it so only once it is too late for that."""
        member, plan, round = self.rounds.in_round(sender, plan_id, number, attempt)
        trains = round.status is RoundStatus.OPEN and round.trainers >> member.id & 1
        consent = plan.consents[member.id]
        if not plan.is_masked or trains or consent.next_receiving_key != NO_DIGEST:
            raise ContractError("RoundKeyNotDue", {"member": member.id})
        consent.next_receiving_key = self.take_receiving_key(member, key)
        self.rounds.note_seen(plan, member, now)

    def masked(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        epoch: int,
        masked: Digest,
        macs: bytes,
    ) -> None:
        """A contributor posts the digest of its masked update, and a code for each other one."""
        member, plan, round, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.MASKING
        )
        if epoch != masking.epoch:
            raise ContractError("RoundWrongEpoch", {"given": epoch, "now": masking.epoch})
        if not masking.contributors >> member.id & 1:
            raise ContractError("RoundNotSubmitter", {"member": member.id})
        if member.id in masking.posted:
            raise ContractError("RoundAlreadyMasked", {"member": member.id})
        if masked == NO_DIGEST:
            raise ContractError("RoundBadDigest")
        if len(macs) != CODE_BYTES * (masking.contributors.bit_count() - 1):
            raise ContractError("RoundBadKeys", {"size": len(macs)})
        masking.posted[member.id], masking.codes[member.id] = masked, macs
        if masking.is_complete:
            round.closed_at = now  # the leaders' slots begin
        self.rounds.note_seen(plan, member, now)

    def good(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        dealers: MemberSet,
        complaints: MemberSet,
    ) -> None:
        """A roster member says whose shares for it are right, and whose are not; more of either
        later. A complaint alone evicts nobody: the dealer answers it. Who has no key that counts
        was dealt no shares."""
        member, plan, _, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.MASKING
        )
        if plan.consents[member.id].receiving_key == NO_DIGEST:
            raise ContractError("RoundNoKey", {"member": member.id})
        if (dealers | complaints) & ~masking.submitters or dealers & complaints:
            raise ContractError("RoundBadDealers", {"dealers": dealers, "complaints": complaints})
        masking.good[member.id] = masking.good.get(member.id, 0) | dealers
        masking.complaints[member.id] = masking.complaints.get(member.id, 0) | complaints
        self.rounds.note_seen(plan, member, now)

    def answer(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        epoch: int,
        complainant: int,
        share: bytes,
    ) -> None:
        """A dealer publishes a share that was complained about: then anyone can check it."""
        member, plan, _, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.MASKING
        )
        key = (epoch, member.id, MemberId(complainant))
        said = masking.complaints.get(MemberId(complainant), 0)
        if epoch != masking.epoch or not said >> member.id & 1 or key in masking.answers:
            raise ContractError("RoundNoComplaint", {"epoch": epoch, "complainant": complainant})
        if len(share) != SHARE_BYTES:
            raise ContractError("RoundBadKeys", {"size": len(share)})
        masking.answers[key] = share
        self.rounds.note_seen(plan, member, now)

    def next_epoch(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int
    ) -> None:
        """Mask afresh among those who posted in time, are still there, and have dealt well; or
        give the attempt up, if those are too few, or this was the last epoch."""
        _, plan, round, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.MASKING
        )
        remaining = masking.remaining(present_in(round, self.rounds.present_members))
        if now < mask_deadline(plan, round) or remaining == masking.contributors:
            raise ContractError("RoundNotRemaskable", {"round": number, "attempt": attempt})
        enough = remaining.bit_count() >= plan.rules.min_peers  # two more than colluders at least
        if not enough or masking.epoch + 1 == EPOCHS:
            round.behind = round.submitted & ~remaining
            self.rounds.void_attempt(plan, round, now)
            return
        masking.epoch += 1
        round.epoch = masking.epoch
        masking.contributors, masking.began_at = remaining, now
        masking.posted, masking.codes = {}, {}
        round.eligible = tuple(_in(remaining & round.revealed or remaining))
        round.candidates = []

    def unmask(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        owners: MemberSet,
        shares: bytes,
    ) -> None:
        """A holder of the locked sum reveals its shares of the contributors' self masks: once, and
        also if it has withdrawn from the plan since."""
        member, plan, _, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.LOCKED
        )
        if member.id in masking.opened:
            raise ContractError("RoundAlreadyUnmasked", {"member": member.id})
        if owners != masking.contributors or len(shares) != SHARE_BYTES * owners.bit_count():
            raise ContractError("RoundBadKeys", {"size": len(shares)})
        masking.opened[member.id] = shares
        self.rounds.note_seen(plan, member, now)

    def abandon(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int
    ) -> None:
        """More than half of the opening roster give a locked round up, and the plan with it."""
        member, plan, round, masking = self.rounds.find_round(
            sender, plan_id, number, attempt, RoundStatus.LOCKED
        )
        masking.abandoned |= 1 << member.id
        if masking.abandoned.bit_count() >= majority(round.roster.bit_count()):
            round.status, plan.status = RoundStatus.VOID, PlanStatus.STOPPED


def _masking(round: Round) -> Masking:
    assert round.masking is not None
    return round.masking


def _in(members: MemberSet) -> list[MemberId]:
    return [MemberId(i) for i in range(members.bit_length()) if members >> i & 1]
