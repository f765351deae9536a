"""Every bound of the contract at its last permitted value and one beyond, by name.

Each test runs on the executable specification and on the Solidity contract: random sequences seldom
meet a bound exactly, and `<` in the place of `<=` shows nowhere else.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from eth_abi.codec import ABICodec
from eth_abi.registry import registry
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak
from harness.evm import AT, CHAIN_ID, DOMAIN, Book, EvmContract, LedgerContract, proof_of

from swarm.chain import contract
from swarm.chain.contract import MEMBERS_A_PAGE
from swarm.chain.rules import ChainRules
from swarm.chain.signer import NodeKeys
from swarm.errors import ContractError
from swarm.protocol.attestation import (
    FIELDS,
    Attestation,
    attestation_digest,
    domain_of,
    node_key_digest,
    sign,
    signer_of,
)
from swarm.protocol.election import HOLDER_DOMAIN, secret_for, slot_start, slots_elapsed
from swarm.protocol.ledger import DEFAULT_INVITATION_S, LONGEST_INVITATION_S, MAX_OPEN_PLANS
from swarm.protocol.membership import (
    CONTACT_EVERY_S,
    DAY_S,
    DORMANT_S,
    MAX_A_DAY,
    MAX_CONTACT_BYTES,
    PROPOSAL_LIFETIME_S,
    Founder,
    Kind,
    ProposalStatus,
)
from swarm.protocol.names import FORBIDDEN
from swarm.protocol.state import (
    MOST_SAMPLES,
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
    may_open,
    may_void,
    member_set,
    member_with_node,
    waited_for,
    winner,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

START = 20_000 * DAY_S + 5000
"""Not long after a day's turn."""
CODE, PROGRAM, BASE, UPDATE, META, MODEL = (Digest(bytes([n]) * 32) for n in range(1, 7))
SECRETS = [(n + 1).to_bytes(2, "little") * 16 for n in range(256)]
NODES = [NodeKeys(secret).address for secret in SECRETS]
SECOND_SECRET = b"\x77" * 32
SECOND = NodeKeys(SECOND_SECRET).address
PLAN = PlanId(1)
MERGED = Outcome(MODEL, 0)


def account(number: int) -> Address:
    return Address(b"\xa1" + number.to_bytes(19, "big"))


class Site:
    """A consortium whose node keys are real, and one plan once `propose` was called."""

    def __init__(self, make: Callable[..., Book], members: int) -> None:
        founders = [Founder(account(n), NODES[n], f"site {n}") for n in range(members)]
        self.book = make(founders, START)
        self.now = START

    def send(self, who: int | Address, function: str, *arguments: Any) -> Any:
        sender = NODES[who] if isinstance(who, int) else who
        return self.book.send(sender, self.now, function, *arguments)

    def refused(self, who: int | Address, function: str, *arguments: Any) -> ContractError:
        with pytest.raises(ContractError) as caught:
            self.send(who, function, *arguments)
        return caught.value

    def propose(self, *, invited: int = 0, until: int = 0, **rules: Any) -> PlanId:
        settings: dict[str, Any] = {"rounds": 5, "min_peers": 2, "slot_s": 10} | rules
        what = ("plan", CODE, PROGRAM, BASE, Rules(**settings), invited, until)
        return PlanId(self.send(0, "proposePlan", *what))

    def consent(self, *who: int, **terms: Any) -> None:
        for n in who:
            self.consent_as(NODES[n], **terms)

    def consent_as(self, sender: Address, **terms: Any) -> None:
        given = Terms(**{"duties": Duty.TRAIN, "max_samples": 100} | terms)
        self.send(sender, "consent", PLAN, CODE, given)

    def begin(self, members: int, **rules: Any) -> None:
        """Propose a plan that all consent to, so that its first round opens."""
        self.propose(**rules)
        self.consent(*range(members))

    @property
    def plan(self) -> Plan:
        return self.book.plan(PLAN)

    @property
    def round(self) -> Round:
        current = self.plan.round
        assert current is not None
        return current

    @property
    def at(self) -> tuple[PlanId, int, int]:
        return PLAN, self.round.number, self.round.attempt

    def submit(self, *who: int) -> None:
        for n in who:
            update = (UPDATE, 10, bytes(32), NO_DIGEST, META, b"")
            self.send(n, "submit", *self.at, *update)

    def merge(self, outcome: Outcome = MERGED) -> int:
        leader = self.round.leader_at(self.now)
        reasons = bytes(outcome.omitted.bit_count() * [1])
        self.send(leader, "merge", *self.at, outcome, reasons)
        return leader


Found = Callable[[int], Site]


@pytest.fixture(params=[LedgerContract, EvmContract], ids=["specification", "contract"])
def found(request: pytest.FixtureRequest) -> Found:
    def make(members: int) -> Site:
        return Site(request.param, members)

    return make


# Times of a round.


def test_a_round_closes_at_the_end_of_its_window_and_not_a_second_before(found: Found) -> None:
    site = found(3)
    site.begin(3, window_s=50, grace_s=0, liveness_s=5, max_round_s=600)
    site.submit(0, 1)
    site.now = START + 49
    assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    site.now += 1
    site.send(0, "close", *site.at)


def test_a_round_closes_at_the_end_of_its_grace_and_not_a_second_before(found: Found) -> None:
    site = found(3)
    site.begin(3, grace_s=40, liveness_s=30, max_round_s=600)
    site.submit(0)
    site.now += 10
    site.submit(1)
    site.now += 39
    assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    site.now += 1
    site.send(0, "close", *site.at)


def test_a_live_trainer_is_waited_for_until_the_last_second_of_its_interval(found: Found) -> None:
    site = found(3)
    site.begin(3, grace_s=0, liveness_s=20, max_round_s=600)
    site.now += 7
    site.send(2, "checkIn", *site.at, 1)
    site.submit(0, 1)
    site.now += 20
    assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    site.now += 1
    site.send(0, "close", *site.at)


def test_the_longest_round_ends_the_waiting_exactly_then(found: Found) -> None:
    site = found(3)
    site.begin(3, grace_s=0, liveness_s=600, max_round_s=60)
    site.submit(0, 1)
    site.now = START + 59
    assert site.refused(0, "close", *site.at).name == "RoundNotClosable"
    site.now += 1
    site.send(0, "close", *site.at)


def test_a_round_with_too_few_updates_is_voidable_from_its_longest_time_on(found: Found) -> None:
    site = found(3)
    site.begin(3, max_round_s=60)
    site.submit(0)
    site.now = START + 59
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)


# The invitation.


def test_the_first_round_opens_at_the_invitations_end_and_not_a_second_before(
    found: Found,
) -> None:
    site = found(3)
    site.propose(until=START + 100)
    site.consent(0, 1)
    site.now = START + 99
    assert site.refused(0, "open", PLAN).name == "RoundNotOpenable"
    site.now += 1
    site.send(0, "open", PLAN)
    assert site.round.roster == 0b011


def test_the_invited_have_seven_days_unless_the_proposer_says_otherwise(found: Found) -> None:
    site = found(3)
    site.propose()
    assert site.plan.until == START + DEFAULT_INVITATION_S == START + 7 * DAY_S
    site.consent(0, 1)
    site.now = START + 7 * DAY_S - 1
    assert site.refused(0, "open", PLAN).name == "RoundNotOpenable"
    site.now += 1
    site.send(0, "open", PLAN)


def test_an_invitation_lasts_ninety_days_at_most_and_none_has_ended_already(found: Found) -> None:
    site = found(3)
    for until in (START - 1, START + LONGEST_INVITATION_S + 1):
        with pytest.raises(ContractError) as refused:
            site.propose(until=until)
        assert refused.value.name == "PlanBadInvitation"
        assert refused.value.arguments == {"invited": 0, "until": until}
    site.propose(until=START)
    site.propose(until=START + 90 * DAY_S)


def test_only_members_are_invited_and_at_least_as_many_as_the_plan_needs(found: Found) -> None:
    site = found(3)
    for invited in (0b1000, 0b0001, 1 << 255):
        with pytest.raises(ContractError, match="PlanBadInvitation"):
            site.propose(invited=invited)
    site.propose(invited=0b011)
    assert site.plan.invited == 0b011
    site.consent(0)
    assert site.plan.round is None  # one of the invited is undecided
    site.consent(1)
    assert site.round.roster == 0b011


def admit(site: Site, n: int) -> None:
    """Admit somebody with account and node number `n`."""
    what = (Kind.ADMIT, account(n), NODES[n], f"site {n}", 0, 0)
    number = site.send(account(0), "propose", *what)
    for voter in (1, 2):
        if site.book.proposals()[number].status is ProposalStatus.OPEN:
            site.send(account(voter), "vote", number, True)


def test_a_plan_that_names_whom_it_invites_takes_nobody_else(found: Found) -> None:
    site = found(3)
    site.propose(invited=0b011, until=START + 10)
    assert site.plan.invited_only
    for late in (0, 11):
        site.now = START + late
        refused = site.refused(2, "consent", PLAN, CODE, Terms(1, 10))
        assert (refused.name, refused.arguments) == ("PlanNotInvited", {"member": 2})
    site.consent(0, 1)
    assert site.refused(2, "consent", PLAN, CODE, Terms(1, 10)).name == "PlanNotInvited"
    admit(site, 3)
    assert site.refused(3, "consent", PLAN, CODE, Terms(1, 10)).name == "PlanNotInvited"
    site.send(1, "withdraw", PLAN)
    site.consent(1)  # who was invited comes back
    assert site.plan.participants == 0b011


def test_naming_all_members_leaves_later_ones_out_and_naming_nobody_does_not(found: Found) -> None:
    for invited, joins in ((0, True), (0b111, False)):
        site = found(3)
        site.propose(invited=invited)
        assert (site.plan.invited, site.plan.invited_only) == (0b111, not joins)
        admit(site, 3)
        if not joins:
            assert site.refused(3, "consent", PLAN, CODE, Terms(1, 10)).name == "PlanNotInvited"
            continue
        site.consent(3, 0, 1)
        assert site.plan.round is None  # the late one is taken, and not waited for
        site.consent(2)
        assert site.round.roster == 0b1111


def test_who_declines_is_not_waited_for_and_may_still_think_again(found: Found) -> None:
    site = found(3)
    site.propose(invited=0b111)
    site.consent(0, 1)
    assert site.plan.round is None
    site.send(2, "decline", PLAN)
    assert site.round.roster == 0b011
    again = site.refused(2, "decline", PLAN)
    assert (again.name, again.arguments) == ("PlanAlreadyDeclined", {"member": 2})
    assert site.refused(0, "decline", PLAN).name == "PlanAlreadyConsented"
    site.consent(2)
    assert (site.plan.declined, site.plan.participants) == (0, 0b111)


def test_who_was_not_invited_has_nothing_to_decline(found: Found) -> None:
    site = found(3)
    site.propose(invited=0b011)
    refused = site.refused(2, "decline", PLAN)
    assert (refused.name, refused.arguments) == ("PlanNotInvited", {"member": 2})


def test_a_withdrawal_before_the_first_round_is_an_answer(found: Found) -> None:
    site = found(3)
    site.propose()
    site.consent(2)
    site.send(2, "withdraw", PLAN)
    site.consent(0, 1)
    assert site.round.roster == 0b011


def test_a_member_that_has_gone_is_not_waited_for(found: Found) -> None:
    site = found(4)
    site.propose()
    site.consent(0, 1, 2)
    site.send(account(3), "leave")
    site.send(0, "open", PLAN)
    assert site.round.roster == 0b0111


# Consents.


def test_a_consent_counts_until_its_last_second_and_not_a_second_longer(found: Found) -> None:
    for late, roster in ((0, 0b111), (1, 0b110)):
        site = found(3)
        site.propose(until=START + 1000)
        site.consent(0, until=START + 500)
        site.consent(1)
        site.now = START + 500 + late
        site.consent(2)
        assert site.plan.round is not None
        assert (site.round.roster, site.plan.participants) == (roster, roster)


def test_a_consent_that_ends_in_mid_round_ends_with_the_round(found: Found) -> None:
    site = found(3)
    site.propose()
    site.consent(0, until=START + 5)
    site.consent(1, 2)
    site.now += 6
    site.submit(0, 1, 2)
    leader = site.merge()
    site.send((leader + 1) % 3, "attest", *site.at, Outcome(MODEL, 0), 3, META)
    assert (site.round.number, site.round.roster) == (2, 0b110)
    site.consent(0)
    assert site.plan.participants == 0b111


def test_a_consent_is_given_anew_only_once_it_has_ended(found: Found) -> None:
    site = found(3)
    site.propose()
    site.consent(0, until=START + 5)
    site.consent(1, 2)
    site.now = START + 5
    assert site.refused(0, "consent", PLAN, CODE, Terms(1, 7)).name == "PlanAlreadyConsented"
    site.now += 1
    site.consent(0, max_samples=7)
    assert site.plan.consents[MemberId(0)].max_samples == 7
    assert site.round.left == 0b001  # or a fresh commitment could steer the draw
    assert site.refused(0, "submit", *site.at, UPDATE, 1, bytes(32), CODE, META, b"").name == (
        "RoundNotInRoster"
    )


def test_each_opening_leaves_out_those_whose_consents_have_ended_by_then(found: Found) -> None:
    site = found(5)
    site.propose(min_peers=1, max_round_s=60, until=START + 1)
    for n, ends_after_s in ((0, 0), (1, 300), (2, 100), (3, 200), (4, 40)):
        site.consent(n, until=ends_after_s and START + ends_after_s)
    site.send(4, "withdraw", PLAN)  # the first end of all goes with it
    for at, roster in ((100, 0b01111), (101, 0b01011), (200, 0b01011), (201, 0b00011), (301, 1)):
        site.now = START + at
        if site.now < site.round.opened_at + 60:
            site.now = site.round.opened_at + 60
            continue
        site.send(0, "void", *site.at)
        assert site.round.roster == site.round.trainers == roster


def test_the_duties_of_the_newest_consent_hold(found: Found) -> None:
    site = found(3)
    site.propose(holder=1, until=START + 100)
    site.consent(0, 1, duties=Duty.TRAIN | Duty.HOLD)
    site.send(0, "withdraw", PLAN)
    site.send(1, "withdraw", PLAN)
    site.consent(0, duties=Duty.TRAIN)
    site.consent(1, duties=Duty.HOLD, max_samples=0)
    site.now += 100
    assert site.refused(0, "open", PLAN).name == "RoundNotOpenable"  # one trainer of two
    site.consent(2)
    assert (site.round.trainers, site.round.holder) == (0b101, 1)


def test_a_consent_that_has_ended_already_is_refused(found: Found) -> None:
    site = found(2)
    site.propose()
    late = site.refused(0, "consent", PLAN, CODE, Terms(1, 10, until=START - 1))
    assert (late.name, late.arguments) == ("Expired", {"time": START - 1, "now": START})
    site.consent(0, until=START)


@pytest.mark.parametrize("duties", [0, 8, 9, 255])
def test_duties_are_some_of_the_three(found: Found, duties: int) -> None:
    site = found(2)
    site.propose()
    bad = site.refused(0, "consent", PLAN, CODE, Terms(duties, 10))
    assert (bad.name, bad.arguments) == ("PlanBadDuties", {"duties": duties})


@pytest.mark.parametrize(
    ("duties", "min_rows", "good", "bad", "most"),
    [
        (Duty.TRAIN, 0, (1, MOST_SAMPLES), (0, 2**45), MOST_SAMPLES),
        (Duty.TRAIN, 30, (30, MOST_SAMPLES), (29, 2**45, 2**64 - 1), MOST_SAMPLES),
        (Duty.TEST, 30, (0,), (1, 2**45 - 1), 0),
        (Duty.HOLD | Duty.TEST, 0, (0,), (1,), 0),
    ],
)
def test_the_most_samples_of_a_site_lie_within_its_duties(
    found: Found,
    duties: Duty,
    min_rows: int,
    good: tuple[int, ...],
    bad: tuple[int, ...],
    most: int,
) -> None:
    site = found(2)
    site.propose(min_rows=min_rows)
    for samples in bad:
        refused = site.refused(0, "consent", PLAN, CODE, Terms(duties, samples))
        assert refused.name == "RoundBadSamples"
        assert refused.arguments == {"given": samples, "most": most}
    for samples in good:
        site.consent(0, duties=duties, max_samples=samples)
        site.send(0, "withdraw", PLAN)
    assert MOST_SAMPLES == 2**45 - 1


def test_who_only_tests_is_neither_waited_for_nor_allowed_to_submit(found: Found) -> None:
    site = found(3)
    site.propose()
    site.consent(2, duties=Duty.TEST, max_samples=0)
    site.consent(0, 1)
    assert (site.round.roster, site.round.trainers) == (0b111, 0b011)
    refused = site.refused(2, "submit", *site.at, UPDATE, 1, bytes(32), CODE, META, b"")
    assert (refused.name, refused.arguments) == ("RoundNotTrainer", {"member": 2})
    site.submit(0, 1)
    assert site.round.status is RoundStatus.CLOSED


def test_those_who_do_not_train_do_not_make_up_the_numbers(found: Found) -> None:
    site = found(3)
    site.propose(min_peers=2, until=START + 10)
    site.consent(1, 2, duties=Duty.TEST | Duty.HOLD, max_samples=0)
    site.consent(0)
    site.now += 10
    assert site.refused(0, "open", PLAN).name == "RoundNotOpenable"


def test_the_votes_for_a_stop_of_those_who_left_do_not_count(found: Found) -> None:
    site = found(5)
    site.begin(5, min_peers=1)
    site.send(1, "stop", PLAN)
    site.send(2, "stop", PLAN)
    site.send(1, "withdraw", PLAN)
    site.send(3, "stop", PLAN)  # two of the four that remain
    assert site.plan.status is PlanStatus.RUNNING
    site.send(4, "stop", PLAN)
    assert site.plan.status is PlanStatus.STOPPED


def test_before_its_first_round_only_its_proposer_stops_a_plan(found: Found) -> None:
    site = found(3)
    site.propose()
    site.consent(1, duties=Duty.TEST, max_samples=0)  # a majority of one
    refused = site.refused(1, "stop", PLAN)
    assert (refused.name, refused.arguments) == ("PlanNotProposer", {"member": 1})
    site.send(0, "stop", PLAN)
    assert site.plan.status is PlanStatus.STOPPED


def test_those_who_do_not_train_have_no_vote_on_a_stop(found: Found) -> None:
    site = found(5)
    site.propose()
    site.consent(3, 4, duties=Duty.TEST, max_samples=0)
    site.consent(0, 1, 2)
    for n in (3, 4, 1):
        site.send(n, "stop", PLAN)
    assert site.plan.status is PlanStatus.RUNNING  # one of three that train
    site.send(2, "stop", PLAN)
    assert site.plan.status is PlanStatus.STOPPED


def test_whoever_withdraws_takes_its_vote_for_a_stop_along(found: Found) -> None:
    site = found(3)
    site.begin(3, min_peers=1)
    site.send(1, "stop", PLAN)
    site.send(1, "withdraw", PLAN)
    site.consent(1)
    assert site.plan.stop_votes == 0
    site.send(2, "stop", PLAN)
    assert site.plan.status is PlanStatus.RUNNING


def test_half_of_the_participants_do_not_stop_a_plan(found: Found) -> None:
    site = found(4)
    site.begin(4)
    for n in (1, 2):
        site.send(n, "stop", PLAN)
    assert site.plan.status is PlanStatus.RUNNING
    site.send(3, "stop", PLAN)
    assert site.plan.status is PlanStatus.STOPPED


# What a round ends with.


def test_an_outcome_goes_to_one_of_four_outputs(found: Found) -> None:
    site = found(2)
    site.begin(2)
    site.submit(0, 1)
    leader = site.round.leader_at(site.now)
    bad = site.refused(leader, "merge", *site.at, Outcome(MODEL, 0, 4), b"")
    assert (bad.name, bad.arguments) == ("RoundBadOutcome", {"slot": 4, "next": 1})
    outcome = Outcome(MODEL, 0, 3)
    site.merge(outcome)
    site.send(1 - leader, "attest", *site.at, outcome, 3, META)
    assert site.plan.outputs == (BASE, NO_DIGEST, NO_DIGEST, MODEL)
    assert site.plan.output_rounds == (0, 0, 0, 1)


def test_no_round_goes_back_to_an_earlier_stage(found: Found) -> None:
    site = found(2)
    site.begin(2)
    for stage, following in ((1, 3), (3, 3), (3, 255)):
        assert site.round.stage == stage
        site.submit(0, 1)
        leader = site.round.leader_at(site.now)
        if stage > 1:
            back = Outcome(MODEL, 0, 0, stage - 1)
            bad = site.refused(leader, "merge", *site.at, back, b"")
            assert (bad.name, bad.arguments) == ("RoundBadOutcome", {"slot": 0, "next": stage - 1})
        outcome = Outcome(MODEL, 0, 0, following)
        site.merge(outcome)
        site.send(1 - leader, "attest", *site.at, outcome, 3, META)
    assert (site.round.number, site.round.stage) == (4, 255)


def test_a_void_attempt_is_tried_again_in_the_same_stage(found: Found) -> None:
    site = found(2)
    site.begin(2, max_round_s=60)
    site.submit(0, 1)
    outcome = Outcome(MODEL, 0, 0, 2)
    leader = site.merge(outcome)
    site.send(1 - leader, "attest", *site.at, outcome, 3, META)
    site.now += 60
    site.send(0, "void", *site.at)
    assert (site.round.number, site.round.attempt, site.round.stage) == (2, 2, 2)


def test_stage_nought_completes_a_plan_and_so_does_its_last_round(found: Found) -> None:
    for rounds, following in ((5, 0), (1, 1)):
        site = found(2)
        site.begin(2, rounds=rounds)
        site.submit(0, 1)
        outcome = Outcome(MODEL, 0, 0, following)
        leader = site.merge(outcome)
        site.send(1 - leader, "attest", *site.at, outcome, 3, META)
        assert (site.plan.status, site.plan.model_round) == (PlanStatus.COMPLETED, 1)


@pytest.mark.parametrize("change", [{"slot": 1}, {"next": 2}, {"next": 0}, {"omitted": 1}])
def test_attestations_of_outcomes_that_differ_in_anything_do_not_add_up(
    found: Found, change: dict[str, int]
) -> None:
    site = found(3)
    site.begin(3)
    site.submit(0, 1, 2)
    leader = site.merge()
    other = (leader + 1) % 3
    twisted = replace(Outcome(MODEL, 0), **change)
    assert site.refused(other, "attest", *site.at, twisted, 3, META).name == (
        "RoundUnknownCandidate"
    )
    site.now += 10
    reasons = bytes(twisted.omitted.bit_count() * [1])
    site.send(site.round.leader_at(site.now), "merge", *site.at, twisted, reasons)
    assert site.round.status is RoundStatus.CLOSED
    assert [c.attesters.bit_count() for c in site.round.candidates] == [1, 1]


def test_who_is_left_out_is_so_for_one_of_six_reasons(found: Found) -> None:
    site = found(3)
    site.begin(3)
    site.submit(0, 1, 2)
    leader = site.round.leader_at(site.now)
    outcome = Outcome(MODEL, 1 << (leader + 1) % 3)
    for reasons in (b"", b"\x00", bytes([len(Omission) + 1]), b"\x01\x01"):
        bad = site.refused(leader, "merge", *site.at, outcome, reasons)
        assert (bad.name, bad.arguments) == ("RoundBadOmission", {"omitted": outcome.omitted})
    site.send(leader, "merge", *site.at, outcome, bytes([len(Omission)]))
    assert len(Omission) == 6


# The role.


def test_a_silent_holder_lets_the_attempt_be_voided_a_second_after_its_interval(
    found: Found,
) -> None:
    site = found(3)
    site.propose(holder=1, liveness_s=20, max_round_s=600)
    site.consent(2, duties=Duty.HOLD, max_samples=0)
    site.consent(0, 1)
    assert (site.round.holder, site.round.trainers) == (2, 0b011)
    site.now += 5
    site.send(2, "checkIn", *site.at, 0)
    site.now += 20
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)
    assert site.round.attempt == 2


def test_whoever_becomes_the_holder_has_the_whole_interval_from_then_on(found: Found) -> None:
    site = found(3)
    site.propose(holder=2 + 2, liveness_s=20, max_round_s=600)
    site.consent(2, duties=Duty.HOLD, max_samples=0)
    site.consent(0, 1)
    for _ in range(2):  # nothing for it to send, and two rounds go by
        site.now += 15
        site.submit(0, 1)
        leader = site.merge()
        site.send(1 - leader, "attest", *site.at, MERGED, 3, META)
    assert site.round.number == 3
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 20
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)


def test_a_holder_that_withdraws_lets_the_attempt_be_voided_at_once(found: Found) -> None:
    site = found(4)
    site.propose(holder=1)
    site.consent(2, 3, duties=Duty.HOLD, max_samples=0)
    site.consent(0, 1)
    gone = site.round.holder
    assert gone in (2, 3)
    site.send(gone, "withdraw", PLAN)
    site.send(0, "void", *site.at)
    assert site.round.holder == 5 - gone


def test_a_named_holder_is_a_member_and_no_round_opens_without_it(found: Found) -> None:
    site = found(3)
    for holder in (2 + 3, 2 + 255, 2 + 256, 65_535):
        with pytest.raises(ContractError, match="PlanBadRules"):
            site.propose(holder=holder)
    site.propose(holder=2 + 2, until=START + 10)
    site.consent(0, 1, duties=Duty.TRAIN | Duty.HOLD)
    site.now += 10
    assert site.refused(0, "open", PLAN).name == "RoundNotOpenable"
    site.consent(2, duties=Duty.HOLD, max_samples=0)
    assert site.round.holder == 2


def test_whoever_is_drawn_holds_a_role_only_if_it_is_willing_to(found: Found) -> None:
    site = found(3)
    site.propose(holder=1, until=START + 10)
    site.consent(0, 1, 2)
    assert site.plan.round is None
    site.send(1, "withdraw", PLAN)
    site.consent(1, duties=Duty.TRAIN | Duty.HOLD)
    assert site.round.holder == 1


def test_nobody_moves_the_draw_of_a_holder_among_the_others(found: Found) -> None:
    drawn: dict[frozenset[int], int | None] = {}
    for without in (None, 0, 1, 2, 3):
        site = found(4)
        site.propose(holder=1, min_peers=1)
        for n in range(4):
            duties = Duty.TRAIN if n == without else Duty.TRAIN | Duty.HOLD
            site.consent(n, duties=duties)
        drawn[frozenset(range(4)) - {without}] = site.round.holder
    first = drawn.pop(frozenset(range(4)))
    seed = bytes(32) + HOLDER_DOMAIN + bytes([0, 0, 0, 1, 0, 0, 0, 1])
    place = keccak(seed)
    assert first == min(range(4), key=lambda n: keccak(place + bytes([n])))
    for willing, holder in drawn.items():
        assert holder in willing
        assert first not in willing or holder == first


def test_the_last_of_all_numbers_may_hold_the_role(found: Found) -> None:
    site = found(256)
    site.propose(holder=2 + 255, invited=1 << 255, min_peers=1)
    assert site.plan.rules.holder == 257
    site.consent_as(account(255), duties=Duty.TRAIN | Duty.HOLD)
    assert site.round.holder == 255
    site.now += 3600
    site.send(255, "void", *site.at)
    assert (site.round.attempt, site.round.holder) == (2, 255)


def test_a_plan_without_a_role_has_no_holder(found: Found) -> None:
    site = found(2)
    site.propose()
    site.consent(0, 1, duties=Duty.TRAIN | Duty.HOLD)
    assert site.round.holder is None


# A time for any transaction.


def test_a_dated_transaction_is_carried_out_until_its_time_and_not_a_second_later(
    found: Found,
) -> None:
    site = found(2)
    site.propose()
    site.now = START + 10
    late = site.refused(0, "until", START + 9, "consent", PLAN, CODE, Terms(1, 10))
    assert (late.name, late.arguments) == ("Expired", {"time": START + 9, "now": START + 10})
    assert site.plan.participants == 0
    site.send(0, "until", START + 10, "consent", PLAN, CODE, Terms(1, 10))
    assert site.plan.participants == 1


def test_a_dated_transaction_fails_as_it_would_without_its_time(found: Found) -> None:
    site = found(2)
    for key in (SECOND, account(0)):
        plain = site.refused(key, "activate")
        dated = site.refused(key, "until", START, "activate")
        assert (plain.name, plain.arguments) == (dated.name, dated.arguments)
    assert dated.arguments == {"sender": account(0)}


def test_a_dated_transaction_is_dated_once(found: Found) -> None:
    site = found(2)
    assert site.refused(0, "until", START, "until", START, "activate").name == "UntilNested"
    assert site.refused(0, "until", START - 1, "until", START, "activate").name == "Expired"


def test_a_dated_proposal_is_its_senders_own(found: Found) -> None:
    site = found(3)
    removal = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 2, 0)
    assert site.send(account(1), "until", START, "propose", *removal) == 1
    assert site.book.proposals()[1].proposer == 1


# What one member may do in a day.


def test_a_member_makes_sixteen_proposals_a_day_and_no_more_until_the_days_turn(
    found: Found,
) -> None:
    site = found(3)
    removal = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 2, 0)
    for _ in range(MAX_A_DAY):
        site.send(account(0), "propose", *removal)
    tomorrow = (START // DAY_S + 1) * DAY_S
    site.now = tomorrow - 1
    refused = site.refused(account(0), "propose", *removal)
    assert (refused.name, refused.arguments) == (
        "ConsortiumBudget",
        {"member": 0, "from": tomorrow},
    )
    site.send(account(1), "propose", *removal)
    site.now = tomorrow
    site.send(account(0), "propose", *removal)


def test_a_member_proposes_sixteen_plans_a_day_and_no_more_until_the_days_turn(
    found: Found,
) -> None:
    site = found(2)
    for _ in range(MAX_A_DAY - 1):
        site.send(0, "stop", site.propose())
    site.propose()  # one that stays open
    tomorrow = (START // DAY_S + 1) * DAY_S
    site.now = tomorrow - 1
    with pytest.raises(ContractError) as refused:
        site.propose()
    assert refused.value.name == "ConsortiumBudget"
    assert refused.value.arguments == {"member": 0, "from": tomorrow}
    site.send(
        account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 1, 0
    )  # another budget
    site.now = tomorrow
    for _ in range(MAX_OPEN_PLANS - 1):
        site.propose()
    with pytest.raises(ContractError, match="PlanTooMany"):
        site.propose()


# Members.


def test_a_proposal_takes_votes_for_exactly_thirty_days(found: Found) -> None:
    admission = (Kind.ADMIT, SECOND, SECOND, "new", 0, 0)
    for late, admitted in ((0, True), (1, False)):
        site = found(2)
        site.send(account(0), "propose", *admission)
        site.now += PROPOSAL_LIFETIME_S + late
        if admitted:
            site.send(account(1), "vote", 1, True)
            assert site.book.proposals()[1].admitted == 2
        else:
            assert site.refused(account(1), "vote", 1, True).name == "ConsortiumProposalClosed"
            assert site.refused(account(0), "cancel", 1).name == "ConsortiumProposalClosed"


def test_only_its_proposer_takes_a_proposal_back_and_only_while_it_is_open(found: Found) -> None:
    site = found(3)
    admission = (Kind.ADMIT, SECOND, SECOND, "new", 0, 0)
    site.send(account(0), "propose", *admission)
    other = site.refused(account(1), "cancel", 1)
    assert (other.name, other.arguments) == ("ConsortiumNotProposer", {"proposal": 1, "member": 1})
    site.send(account(0), "cancel", 1)
    assert site.book.proposals()[1].status is ProposalStatus.CANCELLED
    for sender, call in ((account(1), ("vote", 1, True)), (account(0), ("cancel", 1))):
        assert site.refused(sender, *call).name == "ConsortiumProposalClosed"
    site.send(account(0), "propose", *admission)
    site.send(account(1), "vote", 2, True)
    assert site.refused(account(0), "cancel", 2).name == "ConsortiumProposalClosed"
    assert site.refused(account(0), "cancel", 3).name == "ConsortiumNoSuchProposal"
    assert site.refused(account(0), "cancel", 0).name == "ConsortiumNoSuchProposal"


def test_a_version_is_newer_than_the_one_in_force_and_holds_from_its_height(found: Found) -> None:
    site = found(1)
    upgrade = (Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "")
    for version in (0, 1):
        old = site.refused(account(0), "propose", *upgrade, version, 9)
        assert (old.name, old.arguments) == ("ConsortiumBadVersion", {"version": version})
    site.book.height = 5
    site.send(account(0), "propose", *upgrade, 2, 7)
    for height, version in ((6, 1), (7, 2)):
        site.book.height = height
        assert site.book.protocol_version() == version
    assert site.refused(account(0), "propose", *upgrade, 2, 9).name == "ConsortiumBadVersion"
    site.send(account(0), "propose", *upgrade, 3, 7)
    assert site.book.protocol_version() == 3


def test_a_version_that_is_overtaken_before_it_passes_is_refused(found: Found) -> None:
    site = found(3)
    upgrade = (Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "")
    site.send(account(0), "propose", *upgrade, 2, 0)
    site.send(account(0), "propose", *upgrade, 2, 0)
    site.send(account(1), "vote", 1, True)
    late = site.refused(account(1), "vote", 2, True)
    assert (late.name, late.arguments) == ("ConsortiumBadVersion", {"version": 2})


def test_a_validator_is_dormant_a_second_after_seven_days(found: Found) -> None:
    site = found(3)
    site.now += DORMANT_S
    early = site.refused(0, "retire", 2)
    until = START + DORMANT_S
    assert (early.name, early.arguments) == ("ConsortiumNotDormant", {"member": 2, "until": until})
    for n in (0, 1):
        site.send(n, "activate")
    site.now += 1
    site.send(0, "retire", 2)
    assert site.book.validators() == NODES[:2]
    assert site.refused(0, "retire", 2).name == "ConsortiumNotDormant"


def test_two_thirds_of_the_validators_must_be_awake_to_retire_one(found: Found) -> None:
    for awake, enough in ((3, False), (4, True)):
        site = found(6)
        site.now += 1
        for n in range(awake):
            site.send(n, "activate")
        site.now = START + DORMANT_S + 1  # to the second, those who woke are awake still
        if enough:
            site.send(0, "retire", 5)
        else:
            refused = site.refused(0, "retire", 5)
            assert refused.name == "ConsortiumTooFewAwake"
            assert refused.arguments == {"awake": 3, "needed": 4}


def test_a_contact_has_512_bytes_at_most_and_is_stated_once_a_minute(found: Found) -> None:
    site = found(2)
    bad = site.refused(0, "setContact", bytes(MAX_CONTACT_BYTES + 1))
    assert (bad.name, bad.arguments) == ("ConsortiumBadContact", {"size": 513})
    site.send(0, "setContact", bytes(MAX_CONTACT_BYTES))
    assert site.book.members()[MemberId(0)].contact == bytes(512)
    site.now += CONTACT_EVERY_S - 1
    soon = site.refused(0, "setContact", b"here")
    assert (soon.name, soon.arguments) == ("ConsortiumTooSoon", {"member": 0, "from": START + 60})
    site.send(1, "setContact", b"there")
    site.now += 1
    site.send(0, "setContact", b"here")
    assert site.book.members()[MemberId(0)].contact == b"here"
    assert site.refused(account(0), "setContact", b"").name == "ConsortiumNotMember"


def test_a_standby_may_do_nothing_and_becomes_the_node_by_the_accounts_word(found: Found) -> None:
    site = found(3)
    site.send(account(0), "setStandby", SECOND)
    assert site.refused(SECOND, "activate").name == "ConsortiumNotMember"
    for member in (0, 1):  # nobody's key any more, not even its own member's second time
        taken = site.refused(account(member), "setStandby", SECOND)
        assert (taken.name, taken.arguments) == ("ConsortiumKeyInUse", {"key": SECOND})
    for key in (account(0), account(1), NODES[0], NODES[1]):
        assert site.refused(account(0), "setStandby", key).name == "ConsortiumKeyInUse"
    site.send(account(0), "setNode", SECOND, proof_of(SECOND_SECRET, 0))
    member = site.book.members()[MemberId(0)]
    assert (member.node, member.standby) == (SECOND, NO_ADDRESS)
    site.send(SECOND, "activate")
    site.send(account(1), "setStandby", NODES[0])  # the old node's key is free


def test_a_standby_keeps_nobody_out_who_is_admitted_or_changes_to_its_key(found: Found) -> None:
    site = found(3)
    third = account(88)
    site.send(account(0), "setStandby", SECOND)
    site.send(account(1), "setNode", SECOND, proof_of(SECOND_SECRET, 1))
    told = list(getattr(site.book, "events", ()))
    assert site.book.members()[MemberId(0)].standby == NO_ADDRESS
    assert site.book.members()[MemberId(1)].node == SECOND
    if isinstance(site.book, EvmContract):  # the specification has no events
        assert ("StandbyChanged", {"member": 0, "standby": NO_ADDRESS}) in told
    site.send(account(0), "setStandby", third)
    number = site.send(account(1), "propose", Kind.ADMIT, account(9), third, "new", 0, 0)
    site.send(account(2), "vote", number, True)
    assert site.book.members()[MemberId(3)].node == third
    assert site.book.members()[MemberId(0)].standby == NO_ADDRESS
    site.send(account(0), "setStandby", account(99))  # its place is free for another


def test_a_standby_is_taken_back_and_goes_with_its_member(found: Found) -> None:
    site = found(3)
    site.send(account(0), "setStandby", SECOND)
    site.send(account(0), "setStandby", NO_ADDRESS)
    site.send(account(1), "setStandby", SECOND)
    site.send(account(1), "leave")
    site.send(account(2), "setStandby", SECOND)
    site.send(account(2), "setNode", NODES[77], proof_of(SECRETS[77], 2))
    assert site.book.members()[MemberId(2)].standby == SECOND  # another key leaves it where it is


def test_a_node_key_is_named_with_its_own_signature_for_that_member(found: Found) -> None:
    site = found(3)
    good = proof_of(SECOND_SECRET, 0)
    foreign = sign(SECOND_SECRET, node_key_digest(domain_of(CHAIN_ID + 1, AT), 0))
    for bad in (b"", bytes(65), good[:64], good + b"\0", proof_of(SECOND_SECRET, 1), foreign):
        refused = site.refused(account(0), "setNode", SECOND, bad)
        assert (refused.name, refused.arguments) == ("ConsortiumBadProof", {"key": SECOND})
    assert site.refused(account(1), "setNode", SECOND, good).name == "ConsortiumBadProof"
    nobodys = Address(bytes(19) + b"\1")  # the key of no signature is nobody's, and not this one
    for size in (0, 64, 66):
        refused = site.refused(account(0), "setNode", nobodys, bytes(size))
        assert refused.name == "ConsortiumBadProof"
    site.send(account(0), "setNode", SECOND, good)
    assert site.book.members()[MemberId(0)].node == SECOND


def test_contact_and_standby_go_with_their_member(found: Found) -> None:
    site = found(3)
    site.send(account(1), "setStandby", SECOND)
    site.send(1, "setContact", b"here")
    site.send(2, "setContact", b"there")
    number = site.send(account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 1, 0)
    site.send(account(2), "vote", number, True)
    gone = site.book.members()[MemberId(1)]
    assert (gone.present, gone.standby, gone.contact, gone.contact_at) == (
        False,
        NO_ADDRESS,
        b"",
        0,
    )
    assert site.book.members()[MemberId(2)].contact == b"there"


def test_members_are_read_in_pages_of_any_size() -> None:
    book = EvmContract([Founder(account(n), NODES[n], f"site {n}") for n in range(5)], START)
    assert book.ask("memberCount") == 5
    for first, count, ids in (
        (0, 5, [0, 1, 2, 3, 4]),
        (0, 2, [0, 1]),
        (2, 2, [2, 3]),
        (4, 2**256 - 1, [4]),
        (5, 1, []),
        (2**256 - 1, 2**256 - 1, []),
        (1, 0, []),
    ):
        assert [row[0] for row in book.ask("getMembers", first, count)] == ids


def test_a_page_of_members_with_full_contacts_is_far_below_what_a_view_may_take() -> None:
    founders = [Founder(account(n), NODES[n], "x" * 60 + f"{n:04}") for n in range(MEMBERS_A_PAGE)]
    book = EvmContract(founders, START)
    for n in range(MEMBERS_A_PAGE):
        book.send(account(n), START, "setStandby", account(1000 + n))
        book.send(NODES[n], START, "setContact", b"\xff" * MAX_CONTACT_BYTES)
    book._execute(NO_ADDRESS, START, contract.call_data("getMembers", 0, MEMBERS_A_PAGE))
    assert book.gas_used < ChainRules().view_gas * 2 // 3
    assert len(contract.all_members(partial(book.ask, "getMembers"))) == MEMBERS_A_PAGE


def test_a_consent_that_has_ended_makes_one_opening_dearer_and_not_all_that_follow() -> None:
    spent = []
    for members in (4, 24):
        site = Site(EvmContract, members)
        site.propose(max_round_s=60)
        site.consent(0, until=START + 30)
        site.consent(*range(1, members))
        for attempt in (1, 2):  # the first opening after it looks at everybody's
            site.now += 60
            site.send(1, "void", PLAN, 1, attempt)
        assert isinstance(site.book, EvmContract)
        spent.append(site.book.gas_used)
    assert abs(spent[1] - spent[0]) < 200


# Names.


def propose_named(site: Site, name: bytes) -> None:
    """Propose to admit somebody of this name, which need not be text."""
    fresh = Address(b"\x66" * 20)
    what = (Kind.ADMIT, fresh, fresh)
    if isinstance(site.book, EvmContract):
        entry = contract.interface().functions["propose"]
        types = ["bytes" if kind == "string" else kind for kind in entry.types]
        data = entry.selector + ABICodec(registry).encode(types, [*what, name, 0, 0])
        site.book._execute(account(0), site.now, data)
    else:
        site.send(account(0), "propose", *what, name.decode("utf-8", "surrogateescape"), 0, 0)


def bad_at(site: Site, name: bytes) -> object:
    with pytest.raises(ContractError) as refused:
        propose_named(site, name)
    assert refused.value.name == "ConsortiumBadCharacter", name
    return refused.value.arguments["at"]


def test_no_name_has_a_character_that_cannot_be_seen(found: Found) -> None:
    site = found(2)
    for first, last in FORBIDDEN:
        for point in (first, last):
            assert bad_at(site, f"né{chr(point)}x".encode()) == 3, hex(point)
        for point in (first - 1, last + 1):
            beside = any(a <= point <= b for a, b in FORBIDDEN)
            if point >= 0 and not beside:
                site = found(2)
                propose_named(site, f"né{chr(point)}x".encode())


@pytest.mark.parametrize(
    ("raw", "at"),
    [
        (b"a\x80", 1),  # a continuation without a beginning
        (b"a\xbf", 1),
        (b"a\xc3", 1),  # truncated
        (b"a\xe2\x82", 1),
        (b"a\xf0\x9f\x98", 1),
        (b"\xe2\x28\xa1", 0),  # broken off by another character
        (b"ab\xc3\x28", 2),
        (b"a\xc0\x80", 1),  # overlong
        (b"a\xc1\xbf", 1),
        (b"a\xe0\x9f\xbf", 1),
        (b"a\xf0\x8f\xbf\xbf", 1),
        (b"a\xed\xa0\x80", 1),  # surrogates
        (b"a\xed\xbf\xbf", 1),
        (b"a\xf4\x90\x80\x80", 1),  # beyond the last code point
        (b"a\xf5\x80\x80\x80", 1),
        (b"a\xff", 1),
        (b"\x00\xff", 0),  # what comes first is told
        (b"\xff\x00", 0),
    ],
)
def test_a_name_that_is_no_utf_8_is_refused_where_it_stops_being_it(
    found: Found, raw: bytes, at: int
) -> None:
    assert bad_at(found(2), raw) == at


@pytest.mark.parametrize(
    "name", ["\u0080"[:0] + "\u00a0", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\U00010000"]
)
def test_the_first_and_last_code_points_of_each_length_are_names(found: Found, name: str) -> None:
    propose_named(found(2), name.encode())


def test_the_very_last_code_point_is_a_name(found: Found) -> None:
    propose_named(found(2), "\U0010ffff".encode())


def test_a_name_has_1_to_64_bytes(found: Found) -> None:
    for name in (b"", b"x" * 65, "é".encode() * 33):
        with pytest.raises(ContractError) as refused:
            propose_named(found(2), name)
        assert refused.value.name == "ConsortiumBadName"
        assert refused.value.arguments == {"size": len(name)}
    for name in (b"x", b"x" * 64, "é".encode() * 32):
        propose_named(found(2), name)


def test_plans_have_names_by_the_same_rules_and_may_share_them(found: Found) -> None:
    site = found(2)
    rules = Rules(1, 2)
    for name, error in (("", "PlanBadName"), ("x" * 65, "PlanBadName")):
        bad = site.refused(0, "proposePlan", name, CODE, PROGRAM, BASE, rules, 0, 0)
        assert (bad.name, bad.arguments) == (error, {"size": len(name)})
    bad = site.refused(0, "proposePlan", "a\u202eb", CODE, PROGRAM, BASE, rules, 0, 0)
    assert (bad.name, bad.arguments) == ("ConsortiumBadCharacter", {"at": 1})
    for _ in range(2):
        site.send(0, "proposePlan", "x" * 64, CODE, PROGRAM, BASE, rules, 0, 0)


def test_a_proposal_that_admits_nobody_has_no_name(found: Found) -> None:
    site = found(3)
    for kind, target in ((Kind.REMOVE, 2), (Kind.UPGRADE, 2)):
        bad = site.refused(account(0), "propose", kind, NO_ADDRESS, NO_ADDRESS, "x", target, 0)
        assert (bad.name, bad.arguments) == ("ConsortiumBadName", {"size": 1})


def test_a_name_is_one_members_until_that_member_has_gone(found: Found) -> None:
    site = found(3)
    admission = (Kind.ADMIT, SECOND, SECOND, "site 1", 0, 0)
    taken = site.refused(account(0), "propose", *admission)
    assert (taken.name, taken.arguments) == ("ConsortiumNameInUse", {"member": 1})
    site.send(account(1), "leave")
    site.send(account(0), "propose", *admission)
    site.send(account(2), "vote", 1, True)
    assert site.book.members()[MemberId(3)].name == "site 1"


def test_of_two_admissions_under_one_name_the_first_to_pass_has_it(found: Found) -> None:
    site = found(2)
    for n in (20, 21):
        key = account(n)
        site.send(account(0), "propose", Kind.ADMIT, key, key, "new", 0, 0)
    site.send(account(1), "vote", 2, True)
    late = site.refused(account(1), "vote", 1, True)
    assert (late.name, late.arguments) == ("ConsortiumNameInUse", {"member": 2})


# Attestations that others carry.


def signed(site: Site, who: int, merged: Outcome, **changes: Any) -> bytes:
    said = replace(Attestation(*site.at, merged, 3, META), **changes)
    return sign(SECRETS[who], attestation_digest(DOMAIN, said))


def closed(found: Found, members: int = 5, **rules: Any) -> tuple[Site, int]:
    """A round with one candidate, and its leader."""
    site = found(members)
    site.begin(members, **rules)
    site.submit(*range(members))
    return site, site.merge()


def carry(site: Site, who: int, outcome: Outcome, *signatures: bytes, level: int = 3) -> None:
    metas = [META] * len(signatures)
    site.send(who, "attestMany", *site.at, outcome, level, metas, list(signatures))


def test_one_transaction_carries_a_majoritys_attestations(found: Found) -> None:
    site, leader = closed(found)
    outcome = Outcome(MODEL, 0)
    others = [n for n in range(5) if n != leader][:2]
    carry(site, leader, outcome, *(signed(site, n, outcome) for n in others))
    assert site.plan.model == MODEL
    assert site.plan.consents[MemberId(others[0])].seen_at == site.now


def test_signatures_of_others_on_other_things_or_twice_are_skipped(found: Found) -> None:
    site, leader = closed(found)
    outcome = Outcome(MODEL, 0)
    one, two, three, _ = (n for n in range(5) if n != leader)
    good = signed(site, one, outcome)
    foreign = attestation_digest(
        domain_of(CHAIN_ID + 1, AT), Attestation(*site.at, outcome, 3, META)
    )
    bad = [
        signed(site, leader, outcome),  # it has attested by its merge
        signed(site, 20, outcome),  # no member
        *(
            signed(site, two, outcome, **change)
            for change in (
                {"plan": 2},
                {"round": 2},
                {"attempt": 2},
                {"epoch": 1},
                {"status": RoundStatus.LOCKED},
                {"level": 2},
                {"meta": CODE},
                {"outcome": replace(outcome, slot=1)},
                {"outcome": replace(outcome, next=2)},
                {"outcome": replace(outcome, omitted=1)},
                {"outcome": replace(outcome, model=CODE)},
            )
        ),
        sign(SECRETS[two], foreign),
        b"",
        bytes(65),
        good[:64],
        good + b"\0",
        good[:64] + bytes([good[64] - 27]),
        b"\xff" * 65,
    ]
    none = site.refused(three, "attestMany", *site.at, outcome, 3, [META] * len(bad), bad)
    assert (none.name, none.arguments) == ("RoundNoneCounted", {"round": 1, "attempt": 1})
    carry(site, three, outcome, *bad[:3], good, good, *bad[3:])
    assert site.round.candidates[0].attesters == member_set([leader, one])
    assert (
        site.refused(three, "attestMany", *site.at, outcome, 3, [META], [good]).name
        == "RoundNoneCounted"
    )


def test_a_signature_counts_in_either_of_its_two_forms_but_once(found: Found) -> None:
    site, leader = closed(found)
    outcome = Outcome(MODEL, 0)
    one = next(n for n in range(5) if n != leader)
    good = signed(site, one, outcome)
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    high = (order - int.from_bytes(good[32:64], "big")).to_bytes(32, "big")
    other_form = good[:32] + high + bytes([55 - good[64]])
    carry(site, leader, outcome, other_form, good)
    assert site.round.candidates[0].attesters == member_set([leader, one])


def test_only_the_roster_carries_and_only_frozen_submitters_are_carried(found: Found) -> None:
    site = found(4)
    site.begin(4, grace_s=0, liveness_s=5, max_round_s=600)
    site.submit(0, 1, 2)
    site.now += 6
    site.send(0, "close", *site.at)
    leader = site.merge()
    outcome = Outcome(MODEL, 0)
    late = signed(site, 3, outcome)
    none = site.refused(3, "attestMany", *site.at, outcome, 3, [META], [late])
    assert none.name == "RoundNoneCounted"
    gone = next(n for n in range(3) if n != leader)
    theirs = signed(site, gone, outcome)
    site.send(gone, "withdraw", PLAN)
    assert site.refused(gone, "attestMany", *site.at, outcome, 3, [META], [theirs]).name == (
        "PlanNotParticipant"
    )
    none = site.refused(3, "attestMany", *site.at, outcome, 3, [META], [theirs])
    assert none.name == "RoundNoneCounted"
    other = next(n for n in range(3) if n not in (leader, gone))
    carry(site, 3, outcome, signed(site, other, outcome))  # who did not submit may carry
    assert site.plan.model == MODEL


def test_what_is_carried_has_the_plans_level_and_a_meta_for_each_signature(found: Found) -> None:
    site, leader = closed(found, verify_level=VerifyLevel.SHARED)
    outcome = Outcome(MODEL, 0)
    one = next(n for n in range(5) if n != leader)
    for level in (1, 4):
        low = site.refused(one, "attestMany", *site.at, outcome, level, [META], [b""])
        assert (low.name, low.arguments) == ("RoundBadLevel", {"given": level, "needed": 2})
    good = signed(site, one, outcome, level=2)
    for metas in ([], [META, META]):
        none = site.refused(one, "attestMany", *site.at, outcome, 2, metas, [good])
        assert none.name == "RoundNoneCounted"
    none = site.refused(one, "attestMany", *site.at, outcome, 2, [], [])
    assert none.name == "RoundNoneCounted"
    unknown = replace(outcome, slot=1)
    assert site.refused(one, "attestMany", *site.at, unknown, 2, [META], [good]).name == (
        "RoundUnknownCandidate"
    )
    carry(site, one, outcome, good, level=2)


# Masked rounds have tests of their own; plain ones have none of it.


def test_plain_rounds_are_never_masked_or_locked(found: Found) -> None:
    site = found(3)
    site.begin(3)
    for function, *arguments in (
        ("masked", *site.at, 0, MODEL, b"macs"),
        ("good", *site.at, 3, 0),
        ("answer", *site.at, 0, 1, b"share"),
        ("nextEpoch", *site.at),
        ("unmask", *site.at, 3, b"shares"),
        ("abandon", *site.at),
    ):
        assert site.refused(0, function, *arguments).name == "RoundWrongStatus"


def test_keys_are_for_masked_rounds_only(found: Found) -> None:
    site = found(2)
    site.begin(2)
    bad = site.refused(0, "submit", *site.at, UPDATE, 1, bytes(32), CODE, META, b"k")
    assert (bad.name, bad.arguments) == ("RoundBadKeys", {"size": 1})


# Who, when and with what: each refusal, and the last that is not one.


def test_a_plan_names_its_code_its_program_and_its_base(found: Found) -> None:
    site = found(2)
    for digests in (
        (NO_DIGEST, PROGRAM, BASE),
        (CODE, NO_DIGEST, BASE),
        (CODE, PROGRAM, NO_DIGEST),
    ):
        bad = site.refused(0, "proposePlan", "plan", *digests, Rules(1, 2), 0, 0)
        assert bad.name == "PlanBadDigest"


def test_a_consent_names_the_plans_own_code(found: Found) -> None:
    site = found(2)
    site.propose()
    bad = site.refused(0, "consent", PLAN, PROGRAM, Terms(1, 10))
    assert (bad.name, bad.arguments) == ("PlanDigestMismatch", {"expected": CODE, "given": PROGRAM})


def test_a_site_may_have_all_three_duties(found: Found) -> None:
    site = found(2)
    site.propose()
    site.consent(0, duties=Duty.TRAIN | Duty.HOLD | Duty.TEST)
    assert site.plan.consents[MemberId(0)].duties == 7


def seen_at(site: Site, n: int) -> int:
    return site.book.members()[MemberId(n)].seen_at


def test_whatever_a_member_sends_of_a_plan_shows_that_it_lives(found: Found) -> None:
    site = found(4)
    site.now += 10
    site.propose(max_round_s=600, liveness_s=100)
    assert seen_at(site, 0) == site.now
    for n in (0, 1, 2):
        site.now += 1
        site.consent(n)
        assert (seen_at(site, n), site.plan.consents[MemberId(n)].seen_at) == (site.now, site.now)
    site.now += 1
    site.send(3, "decline", PLAN)
    assert seen_at(site, 3) == site.now
    sends: list[tuple[int, Callable[[], object]]] = [
        (0, lambda: site.send(0, "checkIn", *site.at, 1000)),
        (0, lambda: site.submit(0)),
        (1, lambda: site.submit(1)),
        (2, lambda: site.submit(2)),
    ]
    for n, send in sends:
        site.now += 1
        send()
        assert (seen_at(site, n), site.plan.consents[MemberId(n)].seen_at) == (site.now, site.now)
    site.now += 1
    leader = site.merge()
    assert (seen_at(site, leader), site.plan.consents[MemberId(leader)].seen_at) == (
        site.now,
        site.now,
    )
    site.now += 1
    other = (leader + 1) % 3
    site.send(other, "attest", *site.at, MERGED, 3, META)
    assert (seen_at(site, other), site.plan.consents[MemberId(other)].seen_at) == (
        site.now,
        site.now,
    )


def test_progress_is_told_in_thousandths(found: Found) -> None:
    site = found(2)
    site.begin(2)
    bad = site.refused(0, "checkIn", *site.at, 1001)
    assert (bad.name, bad.arguments) == ("RoundBadProgress", {"permille": 1001})
    site.send(0, "checkIn", *site.at, 1000)


def test_an_update_counts_from_one_sample_up_to_all_that_were_declared(found: Found) -> None:
    site = found(2)
    site.begin(2)
    for samples in (0, 101):
        bad = site.refused(0, "submit", *site.at, UPDATE, samples, bytes(32), CODE, META, b"")
        assert (bad.name, bad.arguments) == ("RoundBadSamples", {"given": samples, "most": 100})
    site.send(0, "submit", *site.at, UPDATE, 1, bytes(32), CODE, META, b"")
    site.send(1, "submit", *site.at, UPDATE, 100, bytes(32), CODE, META, b"")
    assert [s.samples for s in site.round.submissions.values()] == [1, 100]


def test_no_update_and_no_merge_is_nothing(found: Found) -> None:
    site = found(2)
    site.begin(2)
    nothing = site.refused(0, "submit", *site.at, NO_DIGEST, 1, bytes(32), CODE, META, b"")
    assert nothing.name == "RoundBadDigest"
    site.submit(0, 1)
    leader = site.round.leader_at(site.now)
    nothing = site.refused(leader, "merge", *site.at, Outcome(NO_DIGEST, 0), b"")
    assert nothing.name == "RoundBadDigest"


def test_a_submission_says_where_its_commitment_was_made(found: Found) -> None:
    site = found(3)
    site.begin(3)
    site.now += 3600
    site.send(0, "void", *site.at)
    site.submit(0)
    consents = site.plan.consents
    places = [
        (consents[MemberId(n)].committed_round, consents[MemberId(n)].committed_attempt)
        for n in (0, 1)
    ]
    assert places == [(1, 2), (0, 0)]


def test_grace_runs_from_the_submission_that_makes_enough(found: Found) -> None:
    site = found(4)
    site.begin(4)
    times = []
    for n in range(3):
        site.now += 5
        site.submit(n)
        times.append(site.round.min_peers_at)
    assert times == [0, START + 10, START + 10]


def test_who_submitted_and_left_before_the_close_is_not_among_the_frozen(found: Found) -> None:
    site = found(4)
    site.begin(4)
    site.submit(0, 1, 2)
    site.send(1, "withdraw", PLAN)
    site.submit(3)
    assert (site.round.status, site.round.submitted) == (RoundStatus.CLOSED, 0b1101)


def test_a_latecomers_consent_does_not_close_the_running_round(found: Found) -> None:
    site = found(4)
    site.propose(until=START + 1, grace_s=0, liveness_s=5, max_round_s=600)
    site.consent(0, 1, 2)
    site.now += 1
    site.send(0, "open", PLAN)
    site.submit(0, 1)
    site.now += 20
    site.consent(3)
    assert site.round.status is RoundStatus.OPEN


def test_a_withdrawal_declines_for_the_one_who_was_invited_and_nobody_else(found: Found) -> None:
    site = found(3)
    site.propose(min_peers=1)
    site.consent(0)
    site.send(0, "withdraw", PLAN)
    assert site.plan.declined == 0b001
    admit(site, 3)
    site.consent(3)
    site.send(3, "withdraw", PLAN)
    assert site.plan.declined == 0b001


def test_who_takes_no_part_neither_leaves_nor_stops_nor_opens_nor_sends_of_rounds(
    found: Found,
) -> None:
    site = found(4)
    site.propose(until=START + 1)
    site.consent(0, 1)
    site.now += 1
    bad = site.refused(3, "open", PLAN)
    assert (bad.name, bad.arguments) == ("PlanNotParticipant", {"member": 3})
    site.send(0, "open", PLAN)
    for function, *more in (("withdraw",), ("stop",), ("open",)):
        bad = site.refused(3, function, PLAN, *more)
        assert (bad.name, bad.arguments) == ("PlanNotParticipant", {"member": 3})
    for function, *arguments in (("checkIn", 1), ("close",), ("void",), ("finalise", MERGED)):
        assert site.refused(3, function, *site.at, *arguments).name == "PlanNotParticipant"


def test_a_proposer_that_takes_no_part_stops_its_running_plan_and_voids_the_round(
    found: Found,
) -> None:
    site = found(3)
    site.propose(until=START + 1)
    site.consent(1, 2)
    site.now += 1
    site.send(1, "open", PLAN)
    site.send(0, "stop", PLAN)
    assert (site.plan.status, site.round.status) == (PlanStatus.STOPPED, RoundStatus.VOID)


def test_a_stop_by_the_majority_voids_the_round_and_leaves_a_final_one_as_it_is(
    found: Found,
) -> None:
    site = found(3)
    site.begin(3, min_peers=1, rounds=5)
    for n in (1, 2):
        site.send(n, "stop", PLAN)
    assert (site.plan.status, site.round.status) == (PlanStatus.STOPPED, RoundStatus.VOID)
    site = found(2)
    site.propose()
    site.consent(0, until=START + 5)
    site.consent(1)
    site.now += 6
    site.submit(0, 1)
    leader = site.merge()
    site.send(1 - leader, "attest", *site.at, MERGED, 3, META)
    assert site.round.status is RoundStatus.FINAL  # and too few are left for the next one
    site.send(0, "stop", PLAN)
    assert (site.plan.status, site.round.status) == (PlanStatus.STOPPED, RoundStatus.FINAL)


def late_joiner(found: Found, **rules: Any) -> Site:
    """A running round of three, and a fourth participant outside of its roster."""
    site = found(4)
    site.propose(until=START + 1, **rules)
    site.consent(0, 1, 2)
    site.now += 1
    site.send(0, "open", PLAN)
    site.consent(3)
    return site


def test_a_participant_outside_of_the_roster_may_close_finalise_and_void(found: Found) -> None:
    site = late_joiner(found, grace_s=0, liveness_s=5, max_round_s=600)
    site.submit(0, 1)
    site.now += 10
    site.send(3, "close", *site.at)
    leader = site.merge()
    gone = next(n for n in (0, 1) if n != leader)
    site.send(gone, "withdraw", PLAN)
    site.send(3, "finalise", *site.at, MERGED)
    assert site.plan.model == MODEL
    site = late_joiner(found, max_round_s=600)
    site.now += 600
    site.send(3, "void", *site.at)
    assert site.round.attempt == 2


def test_each_step_of_a_round_has_its_time(found: Found) -> None:
    site = found(3)
    site.begin(3)
    early = (("merge", MERGED, b""), ("attest", MERGED, 3, META), ("finalise", MERGED))
    for function, *arguments in (*early, ("attestMany", MERGED, 3, [META], [b""])):
        bad = site.refused(0, function, *site.at, *arguments)
        assert (bad.name, bad.arguments) == ("RoundWrongStatus", {"status": 1})
    site.submit(0, 1, 2)
    for function, *arguments in (
        ("close",),
        ("checkIn", 1),
        ("submit", UPDATE, 1, bytes(32), CODE, META, b""),
    ):
        bad = site.refused(0, function, *site.at, *arguments)
        assert (bad.name, bad.arguments) == ("RoundWrongStatus", {"status": 2})


def test_a_void_attempt_is_not_voided_again(found: Found) -> None:
    site = found(2)
    site.begin(2)
    site.send(1, "withdraw", PLAN)
    at = site.at
    site.send(0, "void", *at)
    again = site.refused(0, "void", *at)
    assert (again.name, again.arguments) == ("RoundWrongStatus", {"status": 4})


def test_a_void_after_the_close_widens_the_next_slots(found: Found) -> None:
    site = found(2)
    site.begin(2, slot_s=10, max_round_s=3600)
    site.submit(0, 1)
    site.now += 59
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)
    assert site.plan.merge_s == 10  # at most a slot
    site.now += 5
    site.submit(0, 1)
    assert site.round.slot_s == 21


def test_two_thirds_of_all_members_turn_the_validators_and_one_fewer_does_not(
    found: Found,
) -> None:
    for trainers, turns in ((16, True), (15, False)):
        site = found(24)
        before = site.book.validators()
        site.propose(min_peers=1, until=START + 1)
        site.consent(*range(trainers))
        site.now += 1
        site.send(0, "open", PLAN)
        for n in range(trainers):
            secret = bytes([n + 1]) * 32
            site.send(n, "submit", *site.at, UPDATE, 10, bytes(32), keccak(secret), META, b"")
        leader = site.merge()
        for n in [n for n in range(trainers) if n != leader][: trainers // 2]:
            site.send(n, "attest", *site.at, MERGED, 3, META)
        assert site.plan.model == MODEL
        assert (site.book.validators() != before) == turns


def test_nobody_founds_a_consortium_of_nobody(found: Found) -> None:
    with pytest.raises(ContractError, match="ConsortiumNoFounders"):
        found(0)


def test_there_are_no_plans_but_those_proposed(found: Found) -> None:
    site = found(2)
    site.propose()
    for plan in (0, 2):
        bad = site.refused(0, "consent", plan, CODE, Terms(1, 10))
        assert (bad.name, bad.arguments) == ("PlanUnknown", {"plan": plan})


def test_the_widest_and_the_narrowest_rules_are_rules(found: Found) -> None:
    site = found(2)
    site.propose(min_peers=256, slot_s=1, max_round_s=1, liveness_s=1, window_s=1, grace_s=1)
    assert (site.plan.rules.min_peers, site.plan.rules.slot_s) == (256, 1)
    for wrong in ({"min_peers": 257}, {"slot_s": 0}, {"slot_s": 61, "max_round_s": 60}):
        with pytest.raises(ContractError, match="PlanBadRules"):
            site.propose(**wrong)


@pytest.mark.parametrize("level", VerifyLevel)
def test_a_plan_may_ask_for_any_way_of_checking(found: Found, level: VerifyLevel) -> None:
    site = found(2)
    site.propose(verify_level=level)
    assert site.plan.rules.verify_level is level


def test_a_holder_that_has_left_cannot_be_named(found: Found) -> None:
    site = found(3)
    site.send(account(0), "leave")
    for holder, good in ((2, False), (3, True)):
        what = ("plan", CODE, PROGRAM, BASE, Rules(1, 1, holder=holder), 0, 0)
        if good:
            site.send(1, "proposePlan", *what)
        else:
            assert site.refused(1, "proposePlan", *what).name == "PlanBadRules"


def test_only_who_is_a_member_can_be_removed(found: Found) -> None:
    site = found(3)
    site.send(account(2), "leave")
    for target in (2, 3, 255, 256, 2**64 - 1):
        bad = site.refused(
            account(0), "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", target, 0
        )
        assert (bad.name, bad.arguments) == ("ConsortiumUnknownMember", {"member": target})


def test_no_old_version_is_even_proposed(found: Found) -> None:
    site = found(3)
    upgrade = (Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "")
    for version in (0, 1):
        old = site.refused(account(0), "propose", *upgrade, version, 9)
        assert (old.name, old.arguments) == ("ConsortiumBadVersion", {"version": version})
    site.send(account(0), "propose", *upgrade, 2, 9)
    assert site.book.protocol_version() == 1


def test_the_last_member_and_the_last_validator_stay(found: Found) -> None:
    site = found(1)
    assert site.refused(account(0), "leave").name == "ConsortiumLastMember"
    bad = site.refused(account(0), "setNode", SECOND, proof_of(SECOND_SECRET, 0))
    assert bad.name == "ConsortiumLastValidator"
    site = found(2)
    site.send(account(1), "setNode", SECOND, proof_of(SECOND_SECRET, 1))  # validates no more
    assert site.refused(account(0), "leave").name == "ConsortiumLastValidator"
    removal = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 0, 0)
    number = site.send(account(0), "propose", *removal)
    assert site.refused(account(1), "vote", number, True).name == "ConsortiumLastValidator"
    site.send(SECOND, "activate")
    site.send(account(0), "leave")
    assert site.refused(account(1), "leave").name == "ConsortiumLastMember"


def test_only_validators_are_counted_when_one_is_to_be_retired(found: Found) -> None:
    site = found(5)
    for n in (3, 4):
        site.send(account(n), "setNode", NODES[n + 20], proof_of(SECRETS[n + 20], n))
    site.now += DORMANT_S
    for n in (0, 1):
        site.send(n, "activate")
    site.now += 1
    site.send(0, "retire", 2)  # two of three are awake, whoever else sleeps
    assert site.book.validators() == NODES[:2]


def test_twenty_one_validators_stand_in_the_order_of_members(found: Found) -> None:
    site = found(21)
    site.propose(min_peers=1)
    site.consent(*range(21))
    for n in range(21):
        site.send(n, "submit", *site.at, UPDATE, 10, bytes(32), NO_DIGEST, META, b"")
    leader = site.merge()
    for n in [n for n in range(21) if n != leader][:10]:
        site.send(n, "attest", *site.at, MERGED, 3, META)
    assert site.plan.model == MODEL
    assert site.book.validators() == NODES[:21]


def is_member(site: Site, key: Address) -> bool:
    if isinstance(site.book, LedgerContract):
        return site.book.ledger.membership.is_member(key)
    assert isinstance(site.book, EvmContract)
    return bool(site.book.ask("isMember", key))


def test_a_members_two_keys_are_its_own_and_no_other_is_a_members(found: Found) -> None:
    site = found(3)
    site.send(account(0), "setStandby", SECOND)
    site.send(account(2), "leave")
    keys = (account(0), NODES[0], account(1), account(2), NODES[2], SECOND, NO_ADDRESS)
    assert [is_member(site, key) for key in keys] == [True, True, True, False, False, False, False]


def test_whose_attestation_is_carried_lives_and_who_carries_it_does_not(found: Found) -> None:
    site, leader = closed(found)
    one, two = [n for n in range(5) if n != leader][:2]
    site.now += 5
    carry(site, two, MERGED, signed(site, one, MERGED))
    assert (seen_at(site, one), site.plan.consents[MemberId(one)].seen_at) == (site.now, site.now)
    assert seen_at(site, two) == START


def test_an_early_void_after_the_close_counts_as_the_time_it_took(found: Found) -> None:
    site = found(3)
    site.begin(3, slot_s=10)
    site.submit(0, 1, 2)
    site.now += 3
    site.send(0, "withdraw", PLAN)
    site.send(1, "withdraw", PLAN)
    site.send(2, "void", *site.at)
    assert site.plan.merge_s == 2


def test_nobody_is_admitted_without_keys(found: Found) -> None:
    site = found(2)
    for keys in ((NO_ADDRESS, SECOND), (SECOND, NO_ADDRESS)):
        bad = site.refused(account(0), "propose", Kind.ADMIT, *keys, "new", 0, 0)
        assert bad.name == "ConsortiumZeroAddress"


def test_there_are_256_numbers_and_no_more(found: Found) -> None:
    site = found(255)
    admission = (Kind.ADMIT, SECOND, SECOND, "the last", 0, 0)
    number = site.send(account(0), "propose", *admission)
    for n in range(1, 128):
        site.send(account(n), "vote", number, True)
    assert site.book.proposals()[number].admitted == 255
    beyond = (Kind.ADMIT, account(300), account(301), "one more", 0, 0)
    assert site.refused(account(0), "propose", *beyond).name == "ConsortiumFull"


def test_a_no_is_a_no_and_nobodys_aye(found: Found) -> None:
    site = found(5)
    number = site.send(account(1), "propose", Kind.ADMIT, SECOND, SECOND, "new", 0, 0)
    site.send(account(2), "vote", number, False)
    proposal = site.book.proposals()[number]
    assert (proposal.ayes, proposal.noes) == (0b00010, 0b00100)
    assert site.refused(account(2), "vote", number, True).name == "ConsortiumAlreadyVoted"
    site.send(account(0), "vote", number, True)
    assert site.book.proposals()[number].status is ProposalStatus.OPEN
    site.send(account(3), "vote", number, True)
    assert site.book.proposals()[number].admitted == 5


def test_a_vote_that_cannot_be_carried_out_changes_nothing(found: Found) -> None:
    site = found(2)
    for n in (20, 21):
        site.send(account(0), "propose", Kind.ADMIT, account(n), account(n), "new", 0, 0)
    site.send(account(1), "vote", 1, True)
    assert site.refused(account(1), "vote", 2, True).name == "ConsortiumNameInUse"
    proposal = site.book.proposals()[2]
    assert (proposal.status, proposal.ayes) == (ProposalStatus.OPEN, 0b01)


def test_the_specification_has_signed_what_wallets_sign() -> None:
    """By another's code: EIP-712 as `eth_account` has it."""
    named = {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ],
        "Attestation": [{"name": name, "type": kind} for name, kind in FIELDS],
        "NodeKey": [{"name": "member", "type": "uint8"}],
    }
    domain = {
        "name": "swarm consortium",
        "version": "2",
        "chainId": CHAIN_ID,
        "verifyingContract": "0x" + AT.hex(),
    }
    said = Attestation(7, 2, 3, Outcome(MODEL, 0b101, 2, 4), 3, META, 1, RoundStatus.LOCKED)
    signed: list[tuple[str, dict[str, Any], Digest]] = [
        ("Attestation", dict(said.message), attestation_digest(DOMAIN, said)),
        ("NodeKey", {"member": 9}, node_key_digest(DOMAIN, 9)),
    ]
    for kind, message, digest in signed:
        types = {name: fields for name, fields in named.items() if name in (kind, "EIP712Domain")}
        whole = {"types": types, "primaryType": kind, "domain": domain, "message": message}
        text = encode_typed_data(full_message=whole)
        assert keccak(b"\x19" + text.version + text.header + text.body) == digest
        assert signer_of(digest, sign(SECRETS[4], digest)) == NODES[4]


@pytest.mark.parametrize("v", [0, 1, 26, 29, 255])
def test_the_specification_knows_a_signature_by_its_length_and_its_last_byte(v: int) -> None:
    digest = node_key_digest(DOMAIN, 0)
    good = sign(SECRETS[0], digest)
    assert good[64] in (27, 28)
    assert signer_of(digest, good) == NODES[0]
    for bad in (good[:64] + bytes([v]), good[:64], good + b"\0", bytes(64) + bytes([27])):
        assert signer_of(digest, bad) is None


def present(site: Site) -> int:
    return member_set(i for i, member in site.book.members().items() if member.present)


def awaited(site: Site) -> int:
    return waited_for(site.plan, present(site), site.now)


def test_people_are_told_whom_a_plan_waits_for_at_each_step(found: Found) -> None:
    site = found(4)
    site.propose(until=START + 100, rounds=1)
    site.consent(0)
    site.send(3, "decline", PLAN)
    assert awaited(site) == 0b0110
    site.now = START + 99
    assert awaited(site) == 0b0110
    site.now += 1
    assert awaited(site) == 0  # the invitation has ended
    site.consent(1)
    assert (site.round.roster, awaited(site)) == (0b0011, 0b0011)
    site.submit(0)
    assert awaited(site) == 0b0010
    site.submit(1)
    assert awaited(site) == 1 << site.round.leader_at(site.now)
    leader = site.merge()
    site.send(1 - leader, "attest", *site.at, MERGED, 3, META)
    assert (site.plan.status, awaited(site)) == (PlanStatus.COMPLETED, 0)


def test_a_final_round_that_none_can_follow_waits_for_nobody(found: Found) -> None:
    site = found(2)
    site.propose()
    site.consent(0, until=START + 5)
    site.consent(1)
    site.now += 6
    site.submit(0, 1)
    leader = site.merge()
    site.send(1 - leader, "attest", *site.at, MERGED, 3, META)
    assert (site.plan.status, site.round.status) == (PlanStatus.RUNNING, RoundStatus.FINAL)
    assert awaited(site) == 0
    assert not may_void(site.plan, site.round, present(site), site.now)
    assert not may_open(site.plan, present(site), site.now)
    site.send(0, "stop", PLAN)
    assert not may_open(site.plan, present(site), site.now)


def test_a_round_with_enough_updates_is_not_void_when_its_longest_time_is_over(
    found: Found,
) -> None:
    site = found(3)
    site.begin(3, max_round_s=60, liveness_s=600)
    site.submit(0, 1)
    site.now += 60
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"


def test_a_round_is_void_at_once_when_too_few_who_train_are_left(found: Found) -> None:
    site = found(4)
    site.propose(max_round_s=600)
    site.consent(2, 3, duties=Duty.TEST, max_samples=0)
    site.consent(0, 1)
    assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
    site.send(1, "withdraw", PLAN)
    site.send(0, "void", *site.at)
    assert site.round.status is RoundStatus.VOID


def test_a_closed_round_is_void_early_only_if_too_few_are_left_and_nobody_merged(
    found: Found,
) -> None:
    for merged in (False, True):
        site = found(4)
        site.begin(4, min_peers=2)
        site.submit(0, 1, 2, 3)
        assert site.refused(0, "void", *site.at).name == "RoundNotVoidable"
        stays = site.merge() if merged else 3
        gone = [n for n in range(4) if n != stays]
        for n in gone[:2]:
            site.send(n, "withdraw", PLAN)
        assert site.refused(stays, "void", *site.at).name == "RoundNotVoidable"
        site.send(gone[2], "withdraw", PLAN)
        if merged:
            bad = site.refused(stays, "void", *site.at)
            assert bad.name == "RoundNotVoidable"
        else:
            site.send(stays, "void", *site.at)


def test_a_leader_that_voted_for_a_posted_merge_may_still_post_one_of_its_own(
    found: Found,
) -> None:
    site = found(4)
    site.begin(4, rounds=1)
    site.submit(0, 1, 2, 3)
    first = site.merge()
    site.now += site.round.slot_s
    second = site.round.leader_at(site.now)
    assert second != first
    site.send(second, "merge", *site.at, MERGED, b"")
    (posted,) = site.round.candidates
    assert posted.leader == first
    assert posted.attesters == 1 << first | 1 << second

    own = replace(MERGED, model=Digest(keccak(b"another model")))
    site.send(second, "merge", *site.at, own, b"")
    assert [(c.leader, c.outcome) for c in site.round.candidates] == [
        (first, MERGED),
        (second, own),
    ]
    third = replace(MERGED, model=Digest(keccak(b"a third model")))
    for leader, outcome in [(first, third), (first, MERGED), (second, third), (second, own)]:
        bad = site.refused(leader, "merge", *site.at, outcome, b"")
        assert bad.name == "RoundAlreadyMerged"
        assert bad.arguments == {"member": leader}


def test_a_winner_is_the_candidate_that_made_a_final_round_final(found: Found) -> None:
    site = found(2)
    site.begin(2, rounds=1)
    site.submit(0, 1)
    leader = site.merge()
    assert winner(site.round, present(site)) is None
    site.send(1 - leader, "attest", *site.at, MERGED, 3, META)
    final = winner(site.round, present(site))
    assert final is not None
    assert final.outcome == MERGED


def test_a_seed_is_the_hash_of_the_one_before_a_domain_and_all_that_was_revealed(
    found: Found,
) -> None:
    site = found(2)
    secrets = [b"\x11" * 32, b"\x22" * 32]
    site.propose()
    for n, secret in enumerate(secrets):
        site.consent(n, commitment=Digest(keccak(secret)))
    for n, secret in enumerate(secrets):
        site.send(n, "submit", *site.at, UPDATE, 10, secret, NO_DIGEST, META, b"")
    terms = [int.from_bytes(keccak(account(n) + s), "big") for n, s in enumerate(secrets)]
    folded = (terms[0] ^ terms[1]).to_bytes(32, "big")
    assert site.round.seed == keccak(bytes(32) + keccak(b"swarm/round-seed/1") + folded)


def test_the_specification_derives_a_secret_from_the_key_and_the_place() -> None:
    key, place = b"\x07" * 32, bytes(7) + b"\x01" + bytes(7) + b"\x02" + bytes(7) + b"\x03"
    expected = hmac.new(key, b"swarm/commitment/1" + place, hashlib.sha256).digest()
    assert secret_for(key, 1, 2, 3) == expected


@pytest.mark.parametrize("make", [LedgerContract, EvmContract], ids=["specification", "contract"])
def test_no_two_founders_share_a_key_or_a_name(make: Callable[..., Book]) -> None:
    first = Founder(account(0), NODES[0], "site 0")
    for second, error in (
        (Founder(account(0), NODES[1], "site 1"), "ConsortiumKeyInUse"),
        (Founder(account(1), NODES[0], "site 1"), "ConsortiumKeyInUse"),
        (Founder(account(1), NODES[1], "site 0"), "ConsortiumNameInUse"),
        (Founder(account(1), NODES[1], ""), "ConsortiumBadName"),
    ):
        with pytest.raises(ContractError, match=error):
            make([first, second], START)


def test_who_has_left_is_no_validator_and_no_nodes_owner(found: Found) -> None:
    site = found(3)
    site.send(account(1), "leave")
    members = site.book.members()
    assert [m.validator for m in members.values()] == [True, False, True]
    assert member_with_node(members, NODES[1]) is None
    owner = member_with_node(members, NODES[2])
    assert owner is not None
    assert owner.id == 2


def test_leaders_take_turns_by_the_second_and_people_are_told_which(found: Found) -> None:
    site = found(2)
    site.begin(2, slot_s=1)
    site.submit(0, 1)
    leaders = [site.round.leader_at(site.now + s) for s in (0, 1)]
    assert sorted(leaders) == [0, 1]
    assert site.round.first_slot_of(leaders[0]) == 0
    for leader in leaders:
        assert awaited(site) == 1 << leader
        site.now += 1


def test_the_specification_knows_when_each_slot_begins_after_all_doublings() -> None:
    for eligible in (1, 3):
        for slot in range(25 * eligible):
            start = slot_start(slot, 2, eligible)
            assert slots_elapsed(start, 2, eligible) == slot
            assert slot == 0 or slots_elapsed(start - 1, 2, eligible) == slot - 1


def test_what_changes_of_members_is_told_and_nothing_else() -> None:
    site = Site(EvmContract, 4)
    assert isinstance(site.book, EvmContract)

    def told(who: int | Address, function: str, *arguments: Any) -> list[tuple[str, Any]]:
        """Of a call: names of events, each with what it says but for names and keys."""
        site.send(who, function, *arguments)
        left_out = ("account", "node", "name", "from", "to", "standby", "contact", "target")
        return [
            (name, {k: v for k, v in fields.items() if k not in left_out})
            for name, fields in site.book.events  # type: ignore[attr-defined]
        ]

    site.now += DORMANT_S + 1
    for n in range(3):
        assert told(n, "activate") == []
    assert told(0, "retire", 3) == [("ValidatorRetired", {"member": 3})]
    assert told(3, "activate") == [("ValidatorActivated", {"member": 3})]
    assert told(3, "activate") == []
    assert told(3, "setContact", b"\x01") == [("ContactChanged", {"member": 3})]
    assert told(account(3), "setStandby", SECOND) == [("StandbyChanged", {"member": 3})]
    proof = proof_of(SECOND_SECRET, 3)
    assert told(account(3), "setNode", SECOND, proof) == [
        ("StandbyChanged", {"member": 3}),
        ("NodeChanged", {"member": 3}),
    ]
    new = (Kind.ADMIT, account(9), account(10), "new", 0, 0)
    assert told(account(0), "propose", *new) == [
        ("Proposed", {"proposal": 1, "kind": Kind.ADMIT, "proposer": 0, "height": 0}),
        ("Voted", {"proposal": 1, "member": 0, "support": True}),
    ]
    assert told(account(1), "vote", 1, True) == [
        ("Voted", {"proposal": 1, "member": 1, "support": True})
    ]
    assert told(account(2), "vote", 1, True) == [
        ("Voted", {"proposal": 1, "member": 2, "support": True}),
        ("Passed", {"proposal": 1}),
        ("MemberAdmitted", {"member": 4}),
        ("ValidatorEndorsed", {"member": 4}),
    ]
    assert told(account(10), "activate") == [("ValidatorActivated", {"member": 4})]
    upgrade = (Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "", 2, 9)
    assert [name for name, _ in told(account(0), "propose", *upgrade)] == ["Proposed", "Voted"]
    assert told(account(0), "cancel", 2) == [("ProposalCancelled", {"proposal": 2})]
    told(account(0), "propose", *upgrade)
    told(account(1), "vote", 3, True)
    assert told(account(2), "vote", 3, False) == [
        ("Voted", {"proposal": 3, "member": 2, "support": False})
    ]
    told(account(3), "vote", 3, True)
    assert told(account(9), "vote", 3, True)[1:] == [
        ("Passed", {"proposal": 3}),
        ("VersionScheduled", {"version": 2, "height": 9}),
    ]
    assert told(account(9), "leave") == [("MemberRemoved", {"member": 4})]


def test_slots_double_sixteen_times_in_the_contract_as_in_the_specification() -> None:
    site = Site(EvmContract, 2)
    site.begin(2, rounds=1)
    site.submit(0, 1)
    assert isinstance(site.book, EvmContract)
    closed, slot_s = site.round.closed_at, site.round.slot_s
    for cycle in range(19):
        begins_s = slot_start(2 * cycle, slot_s, 2)
        # A cycle after the seventeenth is as long as that.
        assert begins_s == 2 * slot_s * ((1 << min(cycle, 16)) - 1 + max(cycle - 16, 0) * 2**16)
        for after_s in (-1, 0, slot_s << min(cycle, 16)):
            time = closed + max(0, begins_s + after_s)
            assert site.book.ask("leaderAt", *site.at, time) == site.round.leader_at(time)
