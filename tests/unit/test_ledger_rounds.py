"""The contract's rules by their counter-examples: what must not happen, and what happens instead.

Each test runs on the executable specification and on the Solidity contract.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from harness.evm import Book, EvmContract, LedgerContract, proof_of

from swarm.chain.signer import NodeKeys
from swarm.errors import ContractError
from swarm.protocol.election import commitment_to, reveal_term, round_seed, slot_start
from swarm.protocol.ledger import (
    DORMANT_S,
    MAX_OPEN_PLANS,
    PROPOSAL_LIFETIME_S,
    Founder,
    Kind,
)
from swarm.protocol.state import (
    Duty,
    Omission,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
    member_set,
    submitters,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

START = 1_700_000_000
CODE, MODEL_0, UPDATE, META, PROGRAM = (Digest(bytes([n]) * 32) for n in (1, 2, 3, 4, 5))
MODEL_A, MODEL_B = Digest(b"\xaa" * 32), Digest(b"\xbb" * 32)
NOTHING = bytes(32)


class Site:
    """A consortium whose members have an account and a node key each, and one plan."""

    def __init__(self, make: Callable[..., Book], members: int, **rules: Any) -> None:
        founders = [Founder(account(n), node(n), f"site {n}") for n in range(members)]
        self.book = make(founders, START)
        self.now = START
        self.id = PlanId(1)
        self.salt = 0
        settings = {"rounds": 5, "min_peers": 2, "slot_s": 10}
        what = ("plan", CODE, PROGRAM, MODEL_0, Rules(**settings | rules), 0, 0)
        self.send(0, "proposePlan", *what)
        for n in range(members):
            self.send(n, "consent", self.id, CODE, terms(100, commitment_to(secret(n, 0))))

    def send(self, who: int | Address, function: str, *arguments: Any) -> Any:
        sender = node(who) if isinstance(who, int) else who
        return self.book.send(sender, self.now, function, *arguments)

    def refused(self, who: int | Address, function: str, *arguments: Any) -> ContractError:
        with pytest.raises(ContractError) as caught:
            self.send(who, function, *arguments)
        return caught.value

    @property
    def plan(self) -> Plan:
        return self.book.plan(self.id)

    @property
    def round(self) -> Round:
        current = self.plan.round
        assert current is not None
        return current

    @property
    def at(self) -> tuple[PlanId, int, int]:
        return self.id, self.round.number, self.round.attempt

    @property
    def leader(self) -> int:
        return self.round.leader_at(self.now)

    def submit(self, who: int, reveal: bytes = NOTHING, samples: int = 10) -> None:
        commitment = commitment_to(secret(who, self.round.number))
        self.send(who, "submit", *self.at, UPDATE, samples, reveal, commitment, META, b"")

    def all_submit(self, *who: int) -> None:
        for n in who:
            self.submit(n)

    def merge(self, who: int, model: Digest = MODEL_A, *omitted: int) -> None:
        reasons = bytes([Omission.UNREACHABLE]) * len(omitted)
        self.send(who, "merge", *self.at, Outcome(model, member_set(omitted)), reasons)

    def attest(self, who: int, model: Digest = MODEL_A, *omitted: int) -> None:
        self.send(who, "attest", *self.at, Outcome(model, member_set(omitted)), 3, META)


def terms(samples: int, commitment: Digest = NO_DIGEST) -> Terms:
    return Terms(Duty.TRAIN, samples, commitment=commitment)


def account(number: int) -> Address:
    return Address(b"\xa1" + number.to_bytes(19, "big"))


def node(number: int) -> Address:
    return Address(b"\xb2" + number.to_bytes(19, "big"))


def secret(member: int, round: int) -> bytes:
    return bytes([member + 1, round + 1]).ljust(32, b"\x05")


@pytest.fixture(params=[LedgerContract, EvmContract], ids=["specification", "contract"])
def found(request: pytest.FixtureRequest) -> Callable[..., Site]:
    def make(members: int, **rules: Any) -> Site:
        return Site(request.param, members, **rules)

    return make


Found = Callable[..., Site]


def test_a_lone_leader_cannot_make_its_own_merge_final(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    leader = site.leader
    site.merge(leader)
    assert site.round.status is RoundStatus.CLOSED
    candidate = site.round.candidates[0]
    assert candidate.attesters == 1 << leader
    place = (*site.at, Outcome(MODEL_A, 0))
    assert site.refused(leader, "attest", *place, 3, META).name == "RoundAlreadyAttested"
    assert site.refused(leader, "merge", *place, b"").name == "RoundAlreadyMerged"
    assert site.refused(leader, "finalise", *place).name == "RoundNoMajority"


def test_a_majority_of_the_frozen_submitters_makes_a_merge_final(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    leader = site.leader
    site.now += 4
    site.merge(leader)
    site.attest((leader + 1) % 3)
    assert (site.plan.model, site.plan.model_round) == (MODEL_A, 1)
    assert (site.round.number, site.round.attempt, site.round.base) == (2, 1, MODEL_A)
    assert site.plan.merge_s == 2  # half of four, half of nothing


def split(site: Site) -> tuple[list[int], list[int]]:
    """Eight submitters, two candidates with four attestations each."""
    site.all_submit(*range(8))
    first = site.leader
    site.merge(first, MODEL_A)
    site.now += 10
    second = site.leader
    assert second != first
    site.merge(second, MODEL_B)
    rest = [n for n in range(8) if n not in (first, second)]
    for n in rest[:3]:
        site.attest(n, MODEL_A)
    for n in rest[3:]:
        site.attest(n, MODEL_B)
    assert site.round.status is RoundStatus.CLOSED
    return [first, *rest[:3]], [second, *rest[3:]]


def test_four_against_four_is_final_for_neither_until_one_agrees(found: Found) -> None:
    site = found(8)
    _, for_b = split(site)
    assert [c.attesters.bit_count() for c in site.round.candidates] == [4, 4]
    site.attest(for_b[0], MODEL_A)
    assert site.plan.model == MODEL_A


def test_four_against_four_may_be_voided_after_two_leader_cycles(found: Found) -> None:
    site = found(8)
    split(site)
    site.now = site.round.voidable_at - 1
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)
    assert (site.round.number, site.round.attempt, site.round.base) == (1, 2, MODEL_0)


def test_a_late_submission_is_refused_between_close_and_merge(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1)
    site.now += 30
    site.send(0, "close", *site.at)
    assert site.round.submitted == 0b011
    late = site.refused(2, "submit", *site.at, UPDATE, 10, NOTHING, CODE, META, b"")
    assert (late.name, late.arguments) == ("RoundWrongStatus", {"status": 2})
    site.merge(site.leader)
    assert (
        site.refused(2, "attest", *site.at, Outcome(MODEL_A, 0), 3, META).name
        == "RoundNotSubmitter"
    )


def test_when_nobody_reveals_everyone_is_eligible(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    assert site.round.eligible == (0, 1, 2)
    assert site.round.seed == round_seed(NO_DIGEST, 0)


def test_who_withholds_its_reveal_is_not_eligible(found: Found) -> None:
    site = found(3)
    site.submit(0, secret(0, 0))
    site.submit(1)
    site.submit(2, secret(2, 0))
    assert site.round.eligible == (0, 2)
    terms = reveal_term(account(0), secret(0, 0)) ^ reveal_term(account(2), secret(2, 0))
    assert site.round.seed == round_seed(NO_DIGEST, terms)
    site.now += 10_000
    assert site.refused(1, "merge", *site.at, Outcome(MODEL_A, 0), b"").name == "RoundNotLeader"


def test_a_replayed_or_stale_reveal_is_refused(found: Found) -> None:
    site = found(2)
    for reveal in (secret(1, 0), secret(0, 7)):
        wrong = site.refused(0, "submit", *site.at, UPDATE, 10, reveal, CODE, META, b"")
        assert (wrong.name, wrong.arguments) == ("RoundBadReveal", {"member": 0})
    site.submit(0, secret(0, 0))
    site.submit(1, secret(1, 0))
    site.merge(site.leader)
    site.attest(1 - site.leader)
    stale = site.refused(0, "submit", *site.at, UPDATE, 10, secret(0, 0), CODE, META, b"")
    assert stale.name == "RoundBadReveal"
    site.submit(0, secret(0, 1))


def test_two_of_three_dead_after_submitting_end_in_a_new_attempt(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    alive = 0
    site.now += slot_start(site.round.first_slot_of(0) or 0, site.round.slot_s, 3)
    site.merge(alive)
    site.now = site.round.voidable_at
    site.send(alive, "void", *site.at)
    assert (site.round.attempt, site.round.base, site.round.submitted) == (2, MODEL_0, 0)


def test_a_withdrawal_before_a_merge_leaves_numerator_and_denominator(found: Found) -> None:
    site = found(4)
    site.all_submit(0, 1, 2, 3)
    gone = (site.leader + 1) % 4
    site.send(gone, "withdraw", site.id)
    bad = site.refused(site.leader, "merge", *site.at, Outcome(MODEL_A, 0), b"")
    assert (bad.name, bad.arguments) == ("RoundBadOmission", {"omitted": 0})
    leader = site.leader
    site.merge(leader, MODEL_A, gone)
    left = site.refused(gone, "attest", *site.at, Outcome(MODEL_A, 1 << gone), 3, META)
    assert left.name == "PlanNotParticipant"
    site.attest(next(n for n in range(4) if n not in (gone, leader)), MODEL_A, gone)
    assert site.plan.model == MODEL_A  # two of the three that remain


def test_a_withdrawal_after_a_merge_leaves_the_merge_and_may_complete_it(found: Found) -> None:
    site = found(4)
    site.all_submit(0, 1, 2, 3)
    leader = site.leader
    others = [n for n in range(4) if n != leader]
    site.merge(leader)
    site.attest(others[0])
    site.send(others[1], "withdraw", site.id)
    site.send(others[2], "finalise", *site.at, Outcome(MODEL_A, 0))  # two of three
    assert site.plan.model == MODEL_A


def test_the_withdrawal_of_the_last_one_missing_closes_the_round(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1)
    site.send(2, "withdraw", site.id)
    assert site.round.status is RoundStatus.CLOSED
    assert site.round.left == 0b100


def test_a_member_removed_in_the_middle_counts_no_longer(found: Found) -> None:
    site = found(4)
    site.all_submit(0, 1, 2, 3)
    gone = next(n for n in range(4) if n != site.leader)
    voters = [n for n in range(4) if n != gone]
    proposal = site.send(account(voters[0]), "propose", Kind.REMOVE, *[NO_ADDRESS] * 2, "", gone, 0)
    site.send(account(voters[1]), "vote", proposal, True)
    assert site.round.submitted == 0b1111  # three of four: it is a validator
    site.send(account(voters[2]), "vote", proposal, True)
    assert submitters(site.round, member_set(voters)) == member_set(voters)
    assert site.refused(gone, "close", *site.at).name == "ConsortiumNotMember"
    leader = site.leader
    site.merge(leader, MODEL_A, gone)
    site.attest(next(n for n in voters if n != leader), MODEL_A, gone)
    assert site.round.roster == member_set(voters)


def test_a_merge_before_the_leaders_slot_is_refused_and_after_it_accepted(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    first, second = site.leader, site.round.leader_at(site.now + 10)
    early = site.refused(second, "merge", *site.at, Outcome(MODEL_B, 0), b"")
    assert (early.name, early.arguments) == ("RoundNotLeader", {"member": second})
    site.now += 10
    site.merge(second, MODEL_B)
    site.merge(first, MODEL_A)  # its slot is over, its merge still counts
    assert [c.leader for c in site.round.candidates] == [second, first]


def test_equal_merges_of_successive_leaders_add_up(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    site.merge(site.leader)
    site.now += 10
    site.merge(site.leader)
    assert site.plan.model == MODEL_A


def test_an_attestation_for_another_digest_or_other_omissions_is_refused(found: Found) -> None:
    site = found(3)
    site.all_submit(0, 1, 2)
    leader = site.leader
    site.merge(leader)
    other = (leader + 1) % 3
    for model, omitted in ((MODEL_B, 0), (MODEL_A, 1)):
        unknown = site.refused(other, "attest", *site.at, Outcome(model, omitted), 3, META)
        assert unknown.name == "RoundUnknownCandidate"
        assert unknown.arguments == {"model": model, "omitted": omitted, "slot": 0, "next": 1}


def test_an_attestation_below_the_plans_level_is_refused(found: Found) -> None:
    site = found(2, verify_level=VerifyLevel.SHARED)
    site.all_submit(0, 1)
    leader = site.leader
    site.merge(leader)
    for level in (1, 4):
        low = site.refused(1 - leader, "attest", *site.at, Outcome(MODEL_A, 0), level, META)
        assert (low.name, low.arguments) == ("RoundBadLevel", {"given": level, "needed": 2})
    site.send(1 - leader, "attest", *site.at, Outcome(MODEL_A, 0), 2, META)


def test_a_second_submission_is_refused(found: Found) -> None:
    site = found(2)
    site.submit(0)
    again = site.refused(0, "submit", *site.at, MODEL_A, 1, NOTHING, CODE, META, b"")
    assert again.name == "RoundAlreadySubmitted"
    assert site.round.submissions[0].update == UPDATE


def test_more_samples_than_declared_at_consent_are_refused(found: Found) -> None:
    site = found(2)
    for samples in (0, 101):
        bad = site.refused(0, "submit", *site.at, UPDATE, samples, NOTHING, CODE, META, b"")
        assert (bad.name, bad.arguments) == ("RoundBadSamples", {"given": samples, "most": 100})
    bad = site.refused(0, "submit", *site.at, NO_DIGEST, 1, NOTHING, CODE, META, b"")
    assert bad.name == "RoundBadDigest"


def test_too_few_contributors_are_refused(found: Found) -> None:
    site = found(3, min_peers=3)
    site.all_submit(0, 1, 2)
    reasons = bytes([Omission.NOT_FINITE])
    few = site.refused(site.leader, "merge", *site.at, Outcome(MODEL_A, 1), reasons)
    assert (few.name, few.arguments) == ("RoundTooFewContributors", {"needed": 3})
    for reasons in (b"", b"\x00", b"\x07", b"\x01\x01"):
        bad = site.refused(site.leader, "merge", *site.at, Outcome(MODEL_A, 1), reasons)
        assert bad.name == "RoundBadOmission"


def test_below_min_peers_nothing_closes_until_the_round_is_voided(found: Found) -> None:
    site = found(3, min_peers=2, max_round_s=100)
    site.submit(0)
    site.now += 99
    assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)
    assert site.round.attempt == 2


def test_who_checks_in_is_waited_for_until_the_rounds_budget_is_spent(found: Found) -> None:
    site = found(3, liveness_s=20, grace_s=2, max_round_s=60)
    site.all_submit(0, 1)
    for _ in range(3):
        site.now += 15
        site.send(2, "checkIn", *site.at, 500)
        assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    site.now += 15
    site.send(0, "close", *site.at)
    assert site.round.status is RoundStatus.CLOSED
    assert site.refused(2, "checkIn", *site.at, 500).name == "RoundWrongStatus"


def test_who_was_seen_in_the_round_before_is_live_at_the_opening_of_the_next(found: Found) -> None:
    site = found(3, liveness_s=20, slot_s=100)
    site.all_submit(0, 1, 2)
    site.now += 90
    leader = site.leader
    silent, other = (n for n in range(3) if n != leader)
    site.merge(leader)
    site.attest(other)
    site.all_submit(leader, other)  # at once, 90 s after the third was seen
    assert site.round.status is RoundStatus.OPEN
    site.submit(silent)
    assert site.round.submitted == 0b111


def test_leader_slots_double_with_every_cycle(found: Found) -> None:
    site = found(2)
    site.all_submit(0, 1)
    assert site.round.slot_s == 10
    assert [site.round.slot_begins_at(n) - site.now for n in range(6)] == [0, 10, 20, 40, 60, 100]
    for seconds, slot in ((9, 0), (10, 1), (20, 2), (39, 2), (40, 3), (60, 4), (99, 4), (100, 5)):
        assert site.round.slot_at(site.now + seconds) == slot


def test_a_slow_merge_widens_the_next_rounds_slots_and_a_fast_one_narrows_them(
    found: Found,
) -> None:
    site = found(2, max_round_s=50, rounds=9)
    for merge_took_s, next_slot_s in ((15, 17), (0, 10), (60, 21), (60, 43), (90, 50)):
        site.all_submit(0, 1)
        leader = site.leader
        site.now += merge_took_s
        site.merge(leader)
        site.attest(1 - leader)
        assert min(max(10, 2 * site.plan.merge_s + 1), 50) == next_slot_s
    site.all_submit(0, 1)
    assert site.round.slot_s == 50


def test_leaders_that_die_do_not_widen_the_next_rounds_slots(found: Found) -> None:
    site = found(4)
    for _ in range(3):
        site.all_submit(0, 1, 2, 3)
        assert site.round.slot_s == 10
        site.now += 20  # two leaders die, one after the other
        leader = site.leader
        site.now += 2
        site.merge(leader)
        for number in (leader + 1, leader + 2):
            site.attest(number % 4)
    assert site.plan.merge_s == 2


def test_a_void_widens_the_slots_so_that_a_long_merge_fits_in_the_end(found: Found) -> None:
    site = found(2)
    slots = []
    for _ in range(3):
        site.all_submit(0, 1)
        slots.append(site.round.slot_s)
        site.now = site.round.voidable_at
        site.send(0, "void", *site.at)
    assert slots == [10, 21, 43]


def test_an_outage_between_close_and_final_does_not_make_slots_as_long_as_itself(
    found: Found,
) -> None:
    site = found(2)
    site.all_submit(0, 1)
    leader = site.leader
    site.now += 2 * 3600
    site.merge(leader)
    site.attest(1 - leader)
    site.all_submit(0, 1)
    assert site.round.slot_s == 21


def test_a_consent_in_mid_plan_notes_its_place_so_that_no_secret_is_used_twice(
    found: Found,
) -> None:
    site = found(3)
    assert site.plan.consents[2].committed_attempt == 0
    site.send(2, "withdraw", site.id)
    site.send(2, "consent", site.id, CODE, terms(100, commitment_to(secret(2, 1))))
    own = site.plan.consents[2]
    assert (own.committed_round, own.committed_attempt) == site.plan.place == (1, 1)


def test_what_goes_to_another_output_leaves_the_model_in_place(found: Found) -> None:
    site = found(2, rounds=2)
    for outcome in (Outcome(MODEL_B, 0, 1, 2), Outcome(MODEL_A, 0, 0, 0)):
        assert site.round.base == MODEL_0
        site.all_submit(0, 1)
        leader = site.leader
        site.send(leader, "merge", *site.at, outcome, b"")
        site.send(1 - leader, "attest", *site.at, outcome, 3, META)
    assert (site.plan.outputs[:2], site.plan.output_rounds[:2]) == ((MODEL_A, MODEL_B), (2, 1))
    assert (site.round.number, site.round.stage) == (2, 2)
    assert site.plan.status is PlanStatus.COMPLETED
    assert site.refused(0, "open", site.id).name == "PlanEnded"


def test_a_call_for_another_round_or_attempt_is_refused(found: Found) -> None:
    site = found(2)
    for number, attempt in ((2, 1), (1, 2), (1, 0)):
        old = site.refused(0, "checkIn", site.id, number, attempt, 0)
        assert (old.name, old.arguments) == (
            "RoundNotCurrent",
            {"round": number, "attempt": attempt},
        )
    assert site.refused(0, "checkIn", *site.at, 1001).name == "RoundBadProgress"


def test_one_alone_does_not_choose_the_validators_of_all(found: Found) -> None:
    """Nor do a few: only a round of two thirds of the members turns the ring of validators."""
    site = found(24, min_peers=1, max_round_s=10, liveness_s=1)
    before = site.book.validators()
    site.submit(3)
    site.now += 10
    site.send(3, "close", *site.at)
    site.merge(3)
    assert site.plan.model == MODEL_A
    assert site.book.validators() == before == [node(n) for n in range(21)]
    site.all_submit(*range(24))
    leader = site.leader
    site.merge(leader)
    for n in [n for n in range(24) if n != leader][:12]:
        site.attest(n)
    assert site.plan.model_round == 2
    after = site.book.validators()
    start = int.from_bytes(site.plan.seed, "big") % 24
    assert after == [node((start + n) % 24) for n in range(21)]


def test_the_first_to_wake_cannot_retire_those_who_slept(found: Found) -> None:
    site = found(4)
    site.now += DORMANT_S + 1
    site.send(0, "activate")
    alone = site.refused(0, "retire", 1)
    assert (alone.name, alone.arguments) == ("ConsortiumTooFewAwake", {"awake": 1, "needed": 3})
    for n in (1, 2):
        site.send(n, "activate")
    assert site.refused(0, "retire", 1).name == "ConsortiumNotDormant"
    site.send(0, "retire", 3)
    assert site.book.validators() == [node(n) for n in range(3)]


def test_a_newcomer_validates_only_once_two_thirds_back_it(found: Found) -> None:
    site = found(5)
    number = site.send(account(0), "propose", Kind.ADMIT, account(9), node(9), "site 9", 0, 0)
    for n in (1, 2):
        site.send(account(n), "vote", number, True)
    refused = site.refused(node(9), "activate")
    assert (refused.name, refused.arguments) == ("ConsortiumNotEndorsed", {"member": 5})
    site.send(account(9), "vote", number, True)  # its own voice does not count
    assert site.refused(node(9), "activate").name == "ConsortiumNotEndorsed"
    site.send(account(3), "vote", number, True)
    site.send(node(9), "activate")
    assert site.book.validators()[-1] == node(9)


def test_a_proposal_whose_own_vote_is_refused_leaves_no_trace(found: Found) -> None:
    site = found(1, min_peers=1)
    last = site.refused(account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 0, 0)
    assert last.name == "ConsortiumLastMember"
    assert site.book.proposals() == {}
    assert site.refused(account(0), "vote", 1, True).name == "ConsortiumNoSuchProposal"


def test_a_proposal_lapses(found: Found) -> None:
    site = found(3)
    number = site.send(account(0), "propose", Kind.ADMIT, account(9), node(9), "site 9", 0, 0)
    site.now += PROPOSAL_LIFETIME_S + 1
    closed = site.refused(account(1), "vote", number, True)
    assert (closed.name, closed.arguments) == ("ConsortiumProposalClosed", {"proposal": 1})


def test_a_protocol_version_holds_from_its_height_and_yields_to_the_next(found: Found) -> None:
    site = found(1, min_peers=1)
    site.book.height = 5
    for version, height in ((2, 8), (3, 20)):
        site.send(account(0), "propose", Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "", version, height)
        site.book.height = height - 1
        assert site.book.protocol_version() == version - 1
        site.book.height = height
        assert site.book.protocol_version() == version
    old = site.refused(account(0), "propose", Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "", 3, 30)
    assert (old.name, old.arguments) == ("ConsortiumBadVersion", {"version": 3})


def test_a_majority_cannot_admit_members_of_its_own_until_it_is_two_thirds(found: Found) -> None:
    site = found(5)
    for n in range(20, 25):  # three of five, and then their own creatures with them
        number = site.send(account(0), "propose", Kind.ADMIT, account(n), node(n), f"x{n}", 0, 0)
        for other in (1, 2, *range(5, len(site.book.members()))):
            if site.book.proposals()[number].admitted is None:
                mine = account(other if other < 5 else 15 + other)
                site.send(mine, "vote", number, True)
    members = site.book.members()
    assert len(members) == 10
    assert [m.endorsed for m in members.values()] == [True] * 5 + [False] * 5
    removal = site.send(account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 4, 0)
    for voter in (account(1), account(2), *(account(n) for n in range(20, 25))):
        site.send(voter, "vote", removal, True)  # eight of ten
    assert site.book.members()[MemberId(4)].present
    site.send(account(3), "vote", removal, True)  # four of the five founders
    assert not site.book.members()[MemberId(4)].present


def test_nobody_proposes_plans_without_end(found: Found) -> None:
    site = found(2)
    rules = Rules(1, 2)

    def propose(who: int) -> PlanId:
        number = site.send(who, "proposePlan", "p", CODE, PROGRAM, MODEL_0, rules, 0, 0)
        return PlanId(number)

    made = [propose(0) for _ in range(MAX_OPEN_PLANS - 1)]  # it has one
    with pytest.raises(ContractError) as refused:
        propose(0)
    assert (refused.value.name, refused.value.arguments) == ("PlanTooMany", {"member": 0})
    propose(1)
    site.send(0, "stop", made[-1])
    with pytest.raises(ContractError, match="ConsortiumBudget"):
        propose(0)
    site.now += 86_400
    propose(0)


# Attacks, by who makes them.


def calls(site: Site) -> list[tuple[Any, ...]]:
    """One call of everything that changes the contract, each of which some member could make."""
    at, rules = site.at, Rules(1, 2)
    return [
        ("propose", Kind.ADMIT, account(70), node(70), "x", 0, 0),
        ("vote", 1, True),
        ("leave",),
        ("cancel", 1),
        ("setNode", node(71), b""),
        ("setStandby", node(72)),
        ("setContact", b"here"),
        ("activate",),
        ("retire", 1),
        ("proposePlan", "p", CODE, PROGRAM, MODEL_0, rules, 0, 0),
        ("consent", site.id, CODE, terms(10)),
        ("decline", site.id),
        ("withdraw", site.id),
        ("stop", site.id),
        ("open", site.id),
        ("checkIn", *at, 1),
        ("submit", *at, UPDATE, 1, NOTHING, CODE, META, b""),
        ("close", *at),
        ("merge", *at, Outcome(MODEL_A, 0), b""),
        ("attest", *at, Outcome(MODEL_A, 0), 3, META),
        ("attestMany", *at, Outcome(MODEL_A, 0), 3, [META], [bytes(65)]),
        ("finalise", *at, Outcome(MODEL_A, 0)),
        ("void", *at),
        ("until", START * 2, "activate"),
    ]


GOVERNING = {"propose", "vote", "cancel", "leave", "setNode", "setStandby"}
OPERATING = {
    "setContact", "activate", "open", "checkIn", "submit", "close", "merge", "attest", "attestMany",
    "finalise", "void", "until",
}  # fmt: skip


def test_strangers_and_removed_members_are_refused_everywhere(found: Found) -> None:
    site = found(4)
    number = site.send(account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 3, 0)
    for n in (1, 2):
        site.send(account(n), "vote", number, True)
    for key in (account(99), account(3), node(3), NO_ADDRESS):
        for function, *arguments in calls(site):
            refused = site.refused(key, function, *arguments)
            assert (refused.name, refused.arguments) == ("ConsortiumNotMember", {"sender": key})


def test_a_node_key_does_not_govern_and_an_account_does_not_operate(found: Found) -> None:
    site = found(3)
    for function, *arguments in calls(site):
        key = node(0) if function in GOVERNING else account(0)
        if function in GOVERNING | OPERATING:
            assert site.refused(key, function, *arguments).name == "ConsortiumNotMember", function


def test_nobody_takes_a_key_that_is_anothers(found: Found) -> None:
    site = found(3)
    for key in (account(1), node(1), node(0)):
        taken = site.refused(account(0), "setNode", key, b"")
        assert (taken.name, taken.arguments) == ("ConsortiumKeyInUse", {"key": key})
        bad = site.refused(account(0), "propose", Kind.ADMIT, key, key, "x", 0, 0)
        assert bad.name == "ConsortiumKeyInUse"
    assert site.refused(account(0), "setNode", NO_ADDRESS, b"").name == "ConsortiumZeroAddress"


def test_an_old_node_key_is_nobodys_and_the_new_one_validates_only_after_activation(
    found: Found,
) -> None:
    site = found(3)
    secret = b"\x50" * 32
    key = NodeKeys(secret).address
    site.send(account(0), "setNode", key, proof_of(secret, 0))
    assert site.refused(node(0), "checkIn", *site.at, 1).name == "ConsortiumNotMember"
    assert site.book.validators() == [node(1), node(2)]
    site.send(key, "activate")
    assert site.book.validators() == [key, node(1), node(2)]


def test_the_votes_of_those_who_left_do_not_count(found: Found) -> None:
    site = found(5)
    number = site.send(account(0), "propose", Kind.ADMIT, account(9), node(9), "nine", 0, 0)
    site.send(account(1), "vote", number, True)
    for n in (0, 1):
        site.send(account(n), "leave")
    site.send(account(2), "vote", number, True)  # one of the three that remain
    assert site.book.proposals()[number].admitted is None
    assert site.refused(account(2), "vote", number, False).name == "ConsortiumAlreadyVoted"
    site.send(account(3), "vote", number, True)
    assert site.book.proposals()[number].admitted == MemberId(5)


def test_a_reveal_of_another_attempt_or_plan_is_refused(found: Found) -> None:
    site = found(2, max_round_s=20, liveness_s=1)
    site.submit(0, secret(0, 0))
    site.now += 20
    site.send(0, "void", *site.at)
    replayed = site.refused(0, "submit", *site.at, UPDATE, 1, secret(0, 0), CODE, META, b"")
    assert replayed.name == "RoundBadReveal"
    rules = Rules(1, 2)
    other = site.send(0, "proposePlan", "q", CODE, PROGRAM, MODEL_0, rules, 0, 0)
    for n in (0, 1):
        site.send(n, "consent", other, CODE, terms(100, commitment_to(secret(n, 40))))
    replayed = site.refused(0, "submit", other, 1, 1, UPDATE, 1, secret(0, 1), CODE, META, b"")
    assert (replayed.name, replayed.arguments) == ("RoundBadReveal", {"member": 0})


def test_what_belongs_to_another_phase_is_refused(found: Found) -> None:
    site = found(3)
    for function, *arguments in (
        ("merge", *site.at, Outcome(MODEL_A, 0), b""),
        ("attest", *site.at, Outcome(MODEL_A, 0), 3, META),
        ("finalise", *site.at, Outcome(MODEL_A, 0)),
    ):
        assert site.refused(0, function, *arguments).name == "RoundWrongStatus"
    assert site.refused(0, "open", site.id).name == "RoundNotOpenable"
    old = site.at
    site.all_submit(0, 1, 2)
    assert (
        site.refused(0, "attest", *old, Outcome(MODEL_A, 0), 3, META).name
        == "RoundUnknownCandidate"
    )
    leader = site.leader
    site.merge(leader)
    site.attest((leader + 1) % 3)
    for function, *arguments in (
        ("merge", *old, Outcome(MODEL_B, 0), b""),
        ("attest", *old, Outcome(MODEL_A, 0), 3, META),
        ("void", *old),
        ("close", *old),
        ("checkIn", *old, 5),
    ):
        late = site.refused((leader + 2) % 3, function, *arguments)
        assert (late.name, late.arguments) == ("RoundNotCurrent", {"round": 1, "attempt": 1})


def test_rules_beyond_their_bounds_are_refused_and_at_them_nothing_overflows(found: Found) -> None:
    site = found(2)
    most = 30 * 86_400
    widest: dict[str, Any] = {"rounds": 100_000, "min_peers": 2, "min_rows": 2**32 - 1}
    widest |= dict.fromkeys(("window_s", "grace_s", "liveness_s", "max_round_s", "slot_s"), most)

    def propose(**changes: Any) -> None:
        rules = Rules(**widest | changes)
        arguments = ("wide", CODE, PROGRAM, MODEL_0, rules, 0, 0)
        site.id = PlanId(site.send(0, "proposePlan", *arguments))

    for changes in (
        {"rounds": 0}, {"rounds": 100_001}, {"min_peers": 0}, {"min_peers": 257},
        {"slot_s": 0}, {"slot_s": most + 1}, {"max_round_s": most + 1}, {"max_round_s": 1},
        {"liveness_s": 0}, {"liveness_s": most + 1},
        {"window_s": most + 1}, {"grace_s": most + 1}, {"holder": 4}, {"holder": 258},
    ):  # fmt: skip
        with pytest.raises(ContractError, match="PlanBadRules"):
            propose(**changes)
    propose()
    for n in (0, 1):
        site.send(n, "consent", site.id, CODE, terms(2**45 - 1))
    site.all_submit(0, 1)
    site.merge(site.leader)
    site.now = site.round.voidable_at
    site.send(0, "void", *site.at)
    assert (site.round.number, site.round.attempt) == (1, 2)


def test_nobody_names_a_newcomers_key_as_its_own_and_blocks_that_admission(found: Found) -> None:
    site = found(3)
    secret = b"\x09" * 32
    key = NodeKeys(secret).address
    number = site.send(account(0), "propose", Kind.ADMIT, account(9), key, "nine", 0, 0)
    theirs = proof_of(b"\x0a" * 32, 2)
    for proof in (b"", bytes(65), theirs, proof_of(secret, 1), proof_of(secret, 2)[:64]):
        bad = site.refused(account(2), "setNode", key, proof)
        assert (bad.name, bad.arguments) == ("ConsortiumBadProof", {"key": key})
    site.send(account(1), "vote", number, True)
    assert site.book.members()[MemberId(3)].node == key
