"""Masked rounds by their counter-examples: what must not happen on the chain, and what does.

Each test runs on the executable specification and on the Solidity contract (docs/decisions/0019).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from eth_hash.auto import keccak
from harness.evm import Book, EvmContract, LedgerContract

from swarm.errors import ContractError
from swarm.protocol.election import commitment_to
from swarm.protocol.ledger import Founder, Kind
from swarm.protocol.masking import EPOCHS, KEYS_BYTES, Keys, Masking, read_keys
from swarm.protocol.state import (
    PLAIN,
    Duty,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Terms,
    mask_deadline,
    member_set,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, PlanId

START = 1_700_000_000
CODE, BASE, PROGRAM, META = (Digest(bytes([n]) * 32) for n in (1, 2, 5, 4))
SUM, MODEL, OTHER = Digest(b"\xaa" * 32), Digest(b"\xbb" * 32), Digest(b"\xcc" * 32)
NOTHING = bytes(32)


def node(number: int) -> Address:
    return Address(b"\xb2" + number.to_bytes(19, "big"))


def account(number: int) -> Address:
    return Address(b"\xa1" + number.to_bytes(19, "big"))


def terms(duties: Duty = Duty.TRAIN, key: bytes = b"first") -> Terms:
    samples = 100 if duties & Duty.TRAIN else 0
    commitment = commitment_to(bytes(31) + b"\1")
    return Terms(duties, samples, commitment=commitment, receiving_key=key_of(key))


def key_of(name: bytes) -> Digest:
    return Digest(name.ljust(32, b"\0"))


def keys(member: int, fresh: int = 0) -> Keys:
    name = bytes([member, fresh])
    first = tuple((name + bytes([e])).ljust(33, b"\x02") for e in range(EPOCHS))
    return Keys(name.ljust(32, b"p"), first, Digest(name.ljust(32, b"e")), name.ljust(32, b"n"))


class Site:
    """A consortium with one masked plan, or more."""

    def __init__(
        self, make: Callable[..., Book], members: int, testers: int = 0, **rules: Any
    ) -> None:
        everybody = members + testers
        self.book = make(
            [Founder(account(n), node(n), f"site {n}") for n in range(everybody)], START
        )
        self.now, self.id = START, PlanId(0)
        self.members = members
        self.propose(**rules)
        for n in range(everybody):
            duties = Duty.TRAIN if n < members else Duty.TEST
            self.send(n, "consent", self.id, CODE, terms(duties))

    def propose(self, **rules: Any) -> None:
        settings = {"rounds": 5, "min_peers": 3, "slot_s": 10, "colluders": 1, "liveness_s": 20}
        self.id = PlanId(self.id + 1)
        what = ("plan", CODE, PROGRAM, BASE, Rules(**settings | rules), 0, 0)
        self.send(0, "proposePlan", *what)

    def send(self, who: int, function: str, *arguments: Any) -> Any:
        return self.book.send(node(who), self.now, function, *arguments)

    def refused(self, who: int, function: str, *arguments: Any) -> str:
        with pytest.raises(ContractError) as caught:
            self.send(who, function, *arguments)
        return caught.value.name

    @property
    def plan(self) -> Plan:
        return self.book.plan(self.id)

    @property
    def round(self) -> Round:
        assert self.plan.round is not None
        return self.plan.round

    @property
    def masking(self) -> Masking:
        assert self.round.masking is not None
        return self.round.masking

    @property
    def at(self) -> tuple[PlanId, int, int]:
        return self.id, self.round.number, self.round.attempt

    def submit(self, *who: int, fresh: int = 0, raw: bytes | None = None) -> None:
        at = self.at  # reading the plan costs more than all of these
        for n in who:
            packed = keys(n, fresh).encode() if raw is None else raw
            self.send(n, "submit", *at, NO_DIGEST, 10, NOTHING, NO_DIGEST, META, packed)

    def submission(self, who: int, raw: bytes) -> tuple[object, ...]:
        return (*self.at, NO_DIGEST, 10, NOTHING, NO_DIGEST, META, raw)

    def close(self, *who: int, fresh: int = 0) -> None:
        self.submit(*(who or range(self.members)), fresh=fresh)
        if self.round.status is RoundStatus.OPEN:
            self.now += self.plan.rules.max_round_s
            self.send((who or (0,))[0], "close", *self.at)
        assert self.round.status is RoundStatus.MASKING

    def judge(self, *who: int) -> None:
        at, submitters = self.at, self.masking.submitters
        for n in who or range(self.round.roster.bit_length()):
            self.send(n, "good", *at, submitters, 0)

    def mask(self, *who: int) -> None:
        contributors = self.masking.contributors
        chosen = who or [n for n in range(self.members) if contributors >> n & 1]
        codes = bytes(8 * (contributors.bit_count() - 1))
        at, epoch = self.at, self.masking.epoch
        for n in chosen:
            self.send(n, "masked", *at, epoch, Digest(bytes([n + 1]) * 32), codes)

    def next_epoch(self, who: int = 0) -> None:
        self.now = mask_deadline(self.plan, self.round)
        self.send(who, "nextEpoch", *self.at)

    def vote(self, model: Digest, *who: int) -> None:
        """The leader merges, these attest."""
        outcome = Outcome(model, 0)
        leader = self.round.leader_at(self.now)
        self.send(leader, "merge", *self.at, outcome, b"")
        for n in who:
            if n != leader and self.round.candidate(outcome) is not None:
                self.send(n, "attest", *self.at, outcome, 3, META)

    def lock(self) -> None:
        self.judge()
        self.mask()
        self.vote(SUM, *range(self.members))
        assert self.round.status is RoundStatus.LOCKED

    def unmask(self, *who: int) -> None:
        at, owners = self.at, self.masking.contributors
        for n in who:
            self.send(n, "unmask", *at, owners, bytes(32 * owners.bit_count()))


Found = Callable[..., Site]


@pytest.fixture(params=[LedgerContract, EvmContract], ids=["specification", "contract"])
def found(request: pytest.FixtureRequest) -> Found:
    return partial(Site, request.param)


def locked(found: Found, members: int = 4, **rules: Any) -> Site:
    site = found(members, **rules)
    site.close()
    site.lock()
    return site


# The way of a round.


def test_a_masked_round_goes_from_its_close_over_a_lock_to_its_model(found: Found) -> None:
    site = locked(found)
    assert (site.masking.sum, site.masking.contributors) == (SUM, 0b1111)
    site.unmask(0, 1, 2)
    site.vote(MODEL, *range(4))
    assert (site.plan.model, site.round.number) == (MODEL, 2)


@pytest.mark.parametrize(("members", "votes"), [(4, 3), (5, 3), (7, 4)])
def test_more_than_half_of_the_contributors_lock(found: Found, members: int, votes: int) -> None:
    site = found(members)
    site.close()
    site.judge()
    site.mask()
    others = [n for n in range(members) if n != site.round.leader_at(site.now)]
    site.vote(SUM, *others[: votes - 2])
    assert site.round.status is RoundStatus.MASKING
    site.send(others[votes - 2], "attest", *site.at, Outcome(SUM, 0), 3, META)
    assert site.round.status is RoundStatus.LOCKED


def test_more_than_the_colluders_lock_where_half_are_fewer(found: Found) -> None:
    """Five contributors withstand three colluders only if four agree on the sum."""
    site = found(5, colluders=3, min_peers=5)
    site.close()
    site.judge()
    site.mask()
    others = [n for n in range(5) if n != site.round.leader_at(site.now)]
    site.vote(SUM, *others[:2])
    assert site.round.status is RoundStatus.MASKING
    site.send(others[2], "attest", *site.at, Outcome(SUM, 0), 3, META)
    assert site.round.status is RoundStatus.LOCKED


# Rule 1: the set is nobody's choice, and after the lock nothing voids.


def test_nobody_posts_for_another_and_nobody_twice(found: Found) -> None:
    site = found(4)
    site.close(0, 1, 2)
    codes = bytes(16)
    assert site.refused(3, "masked", *site.at, 0, SUM, codes) == "RoundNotSubmitter"
    site.mask(0)
    assert site.refused(0, "masked", *site.at, 0, SUM, codes) == "RoundAlreadyMasked"


@pytest.mark.parametrize(
    ("epoch", "digest", "codes", "error"),
    [
        (1, SUM, 24, "RoundWrongEpoch"),
        (0, NO_DIGEST, 24, "RoundBadDigest"),
        (0, SUM, 23, "RoundBadKeys"),
        (0, SUM, 32, "RoundBadKeys"),
    ],
)
def test_a_masked_update_is_for_this_epoch_and_has_a_code_for_each_pair(
    found: Found, epoch: int, digest: Digest, codes: int, error: str
) -> None:
    site = found(4)
    site.close()
    assert site.refused(0, "masked", *site.at, epoch, digest, bytes(codes)) == error


@pytest.mark.parametrize(("omitted", "reasons"), [(1, b"\1"), (1, b""), (0, b"\1")])
def test_no_leader_leaves_a_contributor_out(found: Found, omitted: int, reasons: bytes) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask()
    leader = site.round.leader_at(site.now)
    outcome = Outcome(SUM, omitted)
    assert site.refused(leader, "merge", *site.at, outcome, reasons) == "RoundBadOmission"


def test_time_voids_before_the_lock_and_never_after_it(found: Found) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask()
    site.now = site.round.voidable_at - 1
    assert site.refused(0, "void", *site.at) == "RoundNotVoidable"
    site.now += 1
    site.send(0, "void", *site.at)
    assert (site.round.number, site.round.attempt) == (1, 2)
    site = locked(found)
    site.now += 10**7
    assert site.refused(0, "void", *site.at) == "RoundWrongStatus"
    assert site.refused(0, "nextEpoch", *site.at) == "RoundWrongStatus"


def test_withdrawals_and_removals_do_not_void_a_lock(found: Found) -> None:
    site = locked(found, 5)
    for n in (3, 4):
        site.send(n, "withdraw", site.id)
    proposal = site.book.send(
        account(0), site.now, "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 1, 0
    )
    for n in (2, 3, 4):
        if site.book.proposals()[proposal or 1].status == 1:
            site.book.send(account(n), site.now, "vote", proposal or 1, True)
    assert site.round.status is RoundStatus.LOCKED
    assert site.round.roster == 0b11111


def test_who_has_withdrawn_since_the_lock_still_finishes_it(found: Found) -> None:
    site = locked(found)
    site.send(3, "withdraw", site.id)
    site.unmask(3, 1, 2)
    outcome = Outcome(MODEL, 0)
    leader = site.round.leader_at(site.now)
    site.send(leader, "merge", *site.at, outcome, b"")
    for n in {1, 2, 3} - {leader}:
        if site.round.status is RoundStatus.LOCKED:
            site.send(n, "attest", *site.at, outcome, 3, META)
    assert site.plan.model == MODEL


def test_the_proposer_alone_stops_a_plan_before_the_lock_only(found: Found) -> None:
    site = found(4)
    site.close()
    site.send(0, "stop", site.id)
    assert site.plan.status is PlanStatus.STOPPED
    site = locked(found)
    site.send(0, "stop", site.id)
    assert site.plan.status is PlanStatus.RUNNING


def test_more_than_half_of_the_opening_roster_abandon_a_lock(found: Found) -> None:
    site = locked(found)
    assert site.refused(0, "abandon", site.id, 1, 2) == "RoundNotCurrent"
    for n in (0, 1, 1):
        site.send(n, "abandon", *site.at)
    assert site.plan.status is PlanStatus.RUNNING
    site.send(3, "abandon", *site.at)
    assert (site.plan.status, site.round.status) == (PlanStatus.STOPPED, RoundStatus.VOID)


def second_plan(site: Site, *who: int, **rules: Any) -> None:
    site.propose(**rules)
    for n in range(site.members):
        if n in who:
            site.send(n, "consent", site.id, CODE, terms(key=b"second plan"))
        else:
            site.send(n, "decline", site.id)
    site.close(*who, fresh=1)
    site.judge(*who)
    site.mask()
    site.vote(SUM, *who)


def test_a_second_plan_locks_no_other_set_over_the_same_base(found: Found) -> None:
    site = locked(found, 5)
    second_plan(site, 0, 1, 2, 3)
    assert site.round.status is RoundStatus.OPEN
    assert site.round.attempt == 2


def test_the_chain_says_which_set_is_locked_over_a_base(found: Found) -> None:
    site = locked(found)
    if isinstance(site.book, EvmContract):
        set_digest = keccak((0b1111).to_bytes(32, "big"))
        assert site.book.ask("lockOf", BASE, bytes(32)) == set_digest
        assert site.book.ask("lockOf", BASE, bytes(31) + b"\1") == bytes(32)
    else:
        assert site.book.ledger.masked_rounds.locks == {(BASE, 0, None): 0b1111}


def test_a_second_plan_locks_the_same_set_again(found: Found) -> None:
    site = locked(found, 4)
    second_plan(site, 0, 1, 2, 3)
    assert site.round.status is RoundStatus.LOCKED


def test_a_plan_that_reopens_locks_one_set_of_its_own(found: Found) -> None:
    site = locked(found, 5)
    second_plan(site, 0, 1, 2, 3, reopens=True)
    assert site.round.status is RoundStatus.LOCKED


def test_a_plan_that_reopens_first_binds_those_that_do_not(found: Found) -> None:
    site = locked(found, 5, reopens=True)
    second_plan(site, 0, 1, 2, 3)
    assert (site.round.status, site.round.attempt) == (RoundStatus.OPEN, 2)


def test_a_spoiled_round_comes_again_with_the_same_set_or_not_at_all(found: Found) -> None:
    site = found(5)
    site.close(0, 1, 2, 3)
    site.judge()
    site.mask()
    site.vote(SUM, *range(4))
    site.unmask(0, 1, 2, 3)
    site.vote(NO_DIGEST, *range(5))
    assert (site.round.number, site.round.attempt) == (1, 2)
    assert site.plan.model == BASE
    assert site.round.trainers == 0b01111
    assert site.refused(4, "submit", *site.submission(4, keys(4).encode())) == "RoundNotTrainer"


def test_a_spoiled_plan_opens_no_round_without_one_of_its_set(found: Found) -> None:
    site = locked(found)
    site.unmask(0, 1, 2)
    site.send(3, "withdraw", site.id)
    leader = site.round.leader_at(site.now)
    site.send(leader, "merge", *site.at, Outcome(NO_DIGEST, 0), b"")
    for n in {0, 1, 2, 3} - {leader}:
        if site.round.status is RoundStatus.LOCKED:
            site.send(n, "attest", *site.at, Outcome(NO_DIGEST, 0), 3, META)
    assert site.round.status is RoundStatus.VOID
    assert site.refused(0, "open", site.id) == "RoundNotOpenable"


# Rule 2: at least c + 2.


def test_a_plan_needs_two_more_than_its_colluders(found: Found) -> None:
    site = found(4)
    bad = Rules(5, 3, colluders=2)
    assert site.refused(0, "proposePlan", "p", CODE, PROGRAM, BASE, bad, 0, 0) == "PlanBadRules"
    site.propose(colluders=2, min_peers=4)


def test_too_few_contributors_void_instead_of_masking_again(found: Found) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask(0, 1)
    site.next_epoch()
    assert (site.round.number, site.round.attempt) == (1, 2)


# Rule 3 and 4: epochs.


def test_who_has_not_posted_in_time_is_left_behind(found: Found) -> None:
    site = found(5)
    site.close()
    site.judge()
    site.mask(0, 1, 2, 3)
    assert site.refused(0, "nextEpoch", *site.at) == "RoundNotRemaskable"
    site.now = mask_deadline(site.plan, site.round) - 1
    assert site.refused(0, "nextEpoch", *site.at) == "RoundNotRemaskable"
    site.next_epoch()
    assert (site.masking.epoch, site.masking.contributors) == (1, 0b1111)
    assert site.masking.posted == {}
    assert site.refused(4, "masked", *site.at, 1, SUM, bytes(24)) == "RoundNotSubmitter"


def test_nobody_masks_afresh_while_all_have_posted(found: Found) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask()
    site.now = mask_deadline(site.plan, site.round) + 10**6
    assert site.refused(0, "nextEpoch", *site.at) == "RoundNotRemaskable"


def test_votes_on_a_sum_end_with_its_epoch(found: Found) -> None:
    site = found(5)
    site.close()
    site.judge()
    site.mask()
    site.vote(SUM)
    site.send(4, "withdraw", site.id)
    site.next_epoch()
    assert site.round.candidates == []
    assert site.masking.contributors == 0b1111


def test_after_three_epochs_the_attempt_is_void_and_the_late_come_last(found: Found) -> None:
    site = found(6)
    site.close()
    site.judge()
    for left in (5, 4):
        site.mask(*range(left))
        site.next_epoch()
    site.mask(0, 1, 2)
    site.next_epoch()
    assert (site.round.number, site.round.attempt) == (1, 2)
    assert site.round.trainers == 0b000111


def test_those_left_behind_train_again_where_others_are_too_few(found: Found) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask(0, 1)
    site.next_epoch()
    assert site.round.trainers == 0b1111


def test_nothing_is_voted_on_before_the_masks_or_by_who_is_not_in_the_roster(found: Found) -> None:
    site = found(4)
    outcome = Outcome(SUM, 0)
    merge = ("merge", *site.at, outcome, b"")
    assert site.refused(0, *merge) == "RoundWrongStatus"
    site.book.send(account(0), site.now, "propose", Kind.ADMIT, account(9), node(9), "new", 0, 0)
    for voter in (1, 2):
        site.book.send(account(voter), site.now, "vote", 1, True)
    site.close()
    assert site.refused(9, *merge) == "PlanNotParticipant"
    site.lock()  # from here on, not even those who withdraw lose their vote
    assert site.refused(9, *merge) == "RoundNotInRoster"


def test_those_left_behind_neither_lead_nor_count(found: Found) -> None:
    site = found(6, min_peers=4)
    site.close()
    site.judge()
    site.mask(0, 1, 2, 3, 4)
    site.next_epoch()
    assert site.masking.contributors == 0b011111
    site.mask()
    assert set(site.round.eligible) == {0, 1, 2, 3, 4}
    site.now = site.round.slot_begins_at(5)
    outcome = Outcome(SUM, 0)
    assert site.refused(5, "merge", *site.at, outcome, b"") == "RoundNotLeader"
    site.send(site.round.leader_at(site.now), "merge", *site.at, outcome, b"")
    assert site.refused(5, "attest", *site.at, outcome, 3, META) == "RoundNotSubmitter"


# Rule 5: keys.


def test_a_submission_has_keys_and_no_digest_of_the_update(found: Found) -> None:
    site = found(4)
    packed = keys(0).encode()
    place = (10, NOTHING, NO_DIGEST, META)
    assert site.refused(0, "submit", *site.at, SUM, *place, packed) == "RoundBadDigest"
    for raw in (b"", packed[:-1], packed + b"\0"):
        assert site.refused(0, "submit", *site.at, NO_DIGEST, *place, raw) == "RoundBadKeys"
    twice = keys(0)._replace(first=(keys(0).first[0],) * EPOCHS).encode()
    assert site.refused(0, "submit", *site.at, NO_DIGEST, *place, twice) == "RoundBadKeys"


def test_keys_that_another_posted_before_are_taken(found: Found) -> None:
    """Whoever builds the block could otherwise shut their author out."""
    site = found(4)
    site.submit(1, raw=keys(0).encode())
    site.submit(0)


def test_nobody_posts_a_key_of_its_own_twice(found: Found) -> None:
    site = found(4)
    site.close()
    site.judge()
    site.mask(0, 1)
    site.next_epoch()
    assert site.round.attempt == 2
    old, new = keys(0), keys(0, 1)
    for again in (
        old,
        new._replace(public=old.public),
        new._replace(first=(new.first[0], old.first[2], new.first[1])),
    ):
        assert site.refused(0, "submit", *site.submission(0, again.encode())) == "RoundBadKeys"
    site.submit(0, fresh=1)


def test_an_envelope_may_be_another_attempts_since_it_is_no_key(found: Found) -> None:
    site = found(4)
    void_masked(site, 0, 1, 2, 3)
    old, new = keys(0), keys(0, 1)
    # The key after it begins with the same byte, too.
    assert old.next_receiving[0] == new.next_receiving[0]
    site.submit(0, raw=new._replace(envelope=old.envelope).encode())
    assert site.round.submitted == 1


def test_keys_are_written_and_read_in_one_way() -> None:
    packed = keys(3).encode()
    assert len(packed) == KEYS_BYTES == 195
    assert read_keys(packed) == keys(3)


def test_receiving_keys_change_with_the_next_attempt(found: Found) -> None:
    site = found(4)
    assert site.plan.consents[0].receiving_key == key_of(b"first")
    site.submit(0)
    assert site.plan.consents[0].receiving_key == key_of(b"first")
    site.close(1, 2, 3)
    site.judge()
    site.mask(0, 1)
    site.next_epoch()
    assert site.plan.consents[0].receiving_key == keys(0).next_receiving


def test_a_consent_names_a_receiving_key(found: Found) -> None:
    site = found(4)
    site.propose()
    for key in (b"", b"first"):
        assert site.refused(0, "consent", site.id, CODE, terms(key=key)) == "RoundBadKeys"
    site.send(0, "consent", site.id, CODE, terms(key=b"second"))
    assert site.plan.consents[0].next_receiving_key == key_of(b"second")


def counting(site: Site) -> dict[int, Digest]:
    """Whose receiving keys count in this attempt."""
    keys = {i: consent.receiving_key for i, consent in site.plan.consents.items()}
    return {int(i): key for i, key in keys.items() if key != NO_DIGEST}


def void_masked(site: Site, *submitters: int, fresh: int = 0) -> None:
    """An attempt of these that is given up while it is masked."""
    site.close(*submitters, fresh=fresh)
    site.judge(*(n for n in range(len(site.plan.consents)) if n in counting(site)))
    site.mask(submitters[0])
    site.next_epoch()


def test_who_submits_nothing_brings_a_receiving_key_of_its_own(found: Found) -> None:
    site = found(4, testers=1)
    site.close(0, 1, 2)
    for who in (3, 4):
        site.send(who, "renewKey", *site.at, key_of(b"second"))
        assert site.plan.consents[who].receiving_key == key_of(b"first")
        assert site.plan.consents[who].next_receiving_key == key_of(b"second")
    site.judge()
    site.mask(0)
    site.next_epoch()
    submitted = {n: keys(n).next_receiving for n in range(3)}
    assert counting(site) == submitted | dict.fromkeys((3, 4), key_of(b"second"))


def test_a_key_that_shares_of_a_masked_attempt_were_sealed_to_counts_never_again(
    found: Found,
) -> None:
    site = found(4, testers=1)
    void_masked(site, 0, 1, 2)
    assert set(counting(site)) == {0, 1, 2}
    for who in (3, 4):
        assert site.plan.consents[who].next_receiving_key == NO_DIGEST
    assert site.refused(4, "renewKey", *site.at, key_of(b"first")) == "RoundBadKeys"


def test_a_key_that_comes_too_late_counts_from_the_attempt_after(found: Found) -> None:
    site = found(4, testers=1)
    void_masked(site, 0, 1, 2)
    site.send(4, "renewKey", *site.at, key_of(b"late"))
    assert set(counting(site)) == {0, 1, 2}
    void_masked(site, 0, 1, 2, 3, fresh=1)
    assert set(counting(site)) == {0, 1, 2, 3, 4}
    assert counting(site)[4] == key_of(b"late")


def test_who_has_no_key_that_counts_judges_nobody(found: Found) -> None:
    site = found(4, testers=1)
    void_masked(site, 0, 1, 2)
    site.close(fresh=1)
    for dealers, complaints in ((0b1111, 0), (0, 0b0001), (0, 0)):
        assert site.refused(4, "good", *site.at, dealers, complaints) == "RoundNoKey"
        assert site.refused(3, "good", *site.at, dealers, complaints) == "RoundNoKey"
    site.judge(0, 1, 2)
    site.mask()
    assert not site.masking.may_lock()  # four of five are needed


def test_keys_of_an_attempt_that_was_never_masked_still_count(found: Found) -> None:
    site = found(4, testers=1)
    site.submit(0)
    site.now += site.plan.rules.max_round_s
    site.send(0, "void", *site.at)
    assert site.round.attempt == 2
    first = dict.fromkeys((1, 2, 3, 4), key_of(b"first"))
    assert counting(site) == first | {0: keys(0).next_receiving}


def test_who_trains_brings_its_key_with_the_submission_while_it_can(found: Found) -> None:
    site = found(4, testers=1)
    site.send(4, "renewKey", *site.at, key_of(b"second"))
    assert site.refused(0, "renewKey", *site.at, key_of(b"second")) == "RoundKeyNotDue"
    site.submit(0)
    assert site.refused(0, "renewKey", *site.at, key_of(b"second")) == "RoundKeyNotDue"
    site.close(1, 2)
    assert site.refused(0, "renewKey", *site.at, key_of(b"second")) == "RoundKeyNotDue"
    site.send(3, "renewKey", *site.at, key_of(b"second"))


def test_a_key_is_brought_once_an_attempt_and_is_a_new_one(found: Found) -> None:
    site = found(4, testers=1)
    for key in (b"", b"first"):
        assert site.refused(4, "renewKey", *site.at, key_of(key)) == "RoundBadKeys"
    assert site.refused(4, "renewKey", site.id, 1, 2, key_of(b"second")) == "RoundNotCurrent"
    site.send(4, "renewKey", *site.at, key_of(b"second"))
    assert site.refused(4, "renewKey", *site.at, key_of(b"third")) == "RoundKeyNotDue"
    site.submit(0, raw=keys(0)._replace(next_receiving=key_of(b"second")).encode())  # another's


def test_no_receiving_key_comes_twice_or_is_nothing(found: Found) -> None:
    site = found(4)
    for key in (key_of(b""), key_of(b"first"), keys(0).public):
        raw = keys(0)._replace(next_receiving=key).encode()
        assert site.refused(0, "submit", *site.submission(0, raw)) == "RoundBadKeys"


def test_who_has_left_brings_no_key(found: Found) -> None:
    site = found(4, testers=1)
    site.send(4, "withdraw", site.id)
    assert site.refused(4, "renewKey", *site.at, key_of(b"second")) == "PlanNotParticipant"
    site.send(4, "consent", site.id, CODE, terms(Duty.TEST, b"second"))
    assert site.refused(4, "renewKey", *site.at, key_of(b"third")) == "RoundNotInRoster"


def test_a_consent_in_the_middle_of_an_attempt_sets_the_key_of_the_next(found: Found) -> None:
    site = found(4, testers=1)
    site.close()
    site.send(4, "withdraw", site.id)
    site.send(4, "consent", site.id, CODE, terms(Duty.TEST, b"second"))
    assert counting(site)[4] == key_of(b"first")
    assert site.plan.consents[4].next_receiving_key == key_of(b"second")
    site.judge(0, 1, 2, 3)
    site.mask()
    site.vote(SUM, *range(4))
    site.unmask(0, 1, 2, 4)  # whoever has left since opens with what it was dealt
    site.vote(MODEL, *range(4))
    assert counting(site)[4] == key_of(b"second")


def test_a_locked_round_still_takes_keys_for_the_next(found: Found) -> None:
    site = found(4, testers=1)
    site.close()
    site.lock()
    site.send(4, "renewKey", *site.at, key_of(b"second"))
    site.unmask(0, 1, 2, 3)
    site.vote(MODEL, *range(4))
    assert set(counting(site)) == {0, 1, 2, 3, 4}


def test_a_late_member_has_a_key_from_the_next_attempt_on(found: Found) -> None:
    site = found(4)
    site.send(3, "withdraw", site.id)
    site.close(0, 1, 2)
    site.send(3, "consent", site.id, CODE, terms(key=b"back"))
    site.judge(0, 1, 2)
    site.mask(0)
    site.next_epoch()
    assert site.round.roster == 0b1111
    assert counting(site)[3] == key_of(b"back")


def test_plain_plans_have_no_receiving_keys(found: Found) -> None:
    site = found(4, colluders=PLAIN)
    assert counting(site) == {}
    assert site.refused(0, "renewKey", *site.at, key_of(b"second")) == "RoundKeyNotDue"


# Rule 6: shares.


def test_a_sum_locks_only_if_enough_call_every_dealer_good(found: Found) -> None:
    site = found(4)
    site.close()
    site.mask()
    leader = site.round.leader_at(site.now)
    place = (*site.at, Outcome(SUM, 0), b"")
    assert site.refused(leader, "merge", *place) == "RoundNotLockable"
    site.judge(0, 1)
    assert site.refused(leader, "merge", *place) == "RoundNotLockable"
    site.judge(2)
    site.send(leader, "merge", *place)


def test_members_that_do_not_train_judge_shares_too(found: Found) -> None:
    site = found(3, testers=1)
    site.close()
    site.mask()
    site.judge(0, 1, 3)
    assert site.masking.may_lock()


def test_a_dealer_that_too_few_call_good_is_left_behind(found: Found) -> None:
    site = found(5)
    site.close()
    for n in range(5):
        site.send(n, "good", *site.at, 0b11111 if n < 2 else 0b01111, 0)
    site.mask()
    site.next_epoch()
    assert site.masking.contributors == 0b01111


def test_complaints_alone_evict_nobody(found: Found) -> None:
    site = found(4)
    site.close()
    site.send(3, "good", *site.at, 0b1000, 0b0111)
    site.judge(0, 1, 2)
    site.mask()
    assert site.masking.may_lock()


@pytest.mark.parametrize(
    ("dealers", "complaints"), [(0b10000, 0), (0, 0b10000), (0b11, 0b01), (2**256 - 1, 0)]
)
def test_judgements_are_about_those_who_submitted(
    found: Found, dealers: int, complaints: int
) -> None:
    site = found(5)
    site.close(0, 1, 2, 3)
    assert site.refused(4, "good", *site.at, dealers, complaints) == "RoundBadDealers"


def test_an_answer_is_to_a_complaint_and_comes_once_an_epoch(found: Found) -> None:
    site = found(4)
    site.close()
    share = bytes(32)
    assert site.refused(0, "answer", *site.at, 0, 1, share) == "RoundNoComplaint"
    site.send(1, "good", *site.at, 0, 0b1)
    assert site.refused(2, "answer", *site.at, 0, 1, share) == "RoundNoComplaint"
    assert site.refused(0, "answer", *site.at, 1, 1, share) == "RoundNoComplaint"
    assert site.refused(0, "answer", *site.at, 0, 1, share[1:]) == "RoundBadKeys"
    site.send(0, "answer", *site.at, 0, 1, share)
    assert site.refused(0, "answer", *site.at, 0, 1, share) == "RoundNoComplaint"
    assert site.masking.answers == {(0, 0, 1): share}


# The reveal.


def test_nobody_reveals_before_the_lock(found: Found) -> None:
    site = found(4)
    site.close()
    place = (*site.at, 0b1111, bytes(128))
    assert site.refused(0, "unmask", *place) == "RoundWrongStatus"


def test_a_reveal_is_of_the_locked_set_and_comes_once(found: Found) -> None:
    site = locked(found)
    for owners, size in ((0b0111, 96), (0b1111, 96), (0b1111, 160), (0b11111, 160)):
        assert site.refused(0, "unmask", *site.at, owners, bytes(size)) == "RoundBadKeys"
    site.unmask(0)
    again = (*site.at, 0b1111, bytes(128))
    assert site.refused(0, "unmask", *again) == "RoundAlreadyUnmasked"


def test_no_model_is_voted_on_before_enough_have_revealed(found: Found) -> None:
    site = locked(found)
    site.unmask(0, 1)
    leader = site.round.leader_at(site.now)
    place = (*site.at, Outcome(MODEL, 0), b"")
    assert site.refused(leader, "merge", *place) == "RoundNotOpen"
    site.unmask(2)
    site.send(leader, "merge", *place)


def test_more_than_half_of_the_opening_roster_make_a_model_final(found: Found) -> None:
    """Not of those who are left: the lock froze who counts."""
    site = locked(found, 5)
    site.unmask(0, 1, 2, 3)
    for n in (3, 4):
        site.send(n, "withdraw", site.id)
    outcome = Outcome(MODEL, 0)
    leader = site.round.leader_at(site.now)
    site.send(leader, "merge", *site.at, outcome, b"")
    others = sorted({0, 1, 2, 3, 4} - {leader})
    site.send(others[0], "attest", *site.at, outcome, 3, META)
    assert site.round.status is RoundStatus.LOCKED
    site.send(others[1], "attest", *site.at, outcome, 3, META)
    assert site.plan.model == MODEL


# Plain plans.


def test_plain_plans_have_no_part_in_it(found: Found) -> None:
    site = found(4)
    site.propose(colluders=PLAIN)
    for n in range(4):
        site.send(n, "consent", site.id, CODE, terms())
    assert site.refused(0, "submit", *site.submission(0, b"")) == "RoundBadDigest"
    assert site.refused(0, "masked", *site.at, 0, SUM, b"") == "RoundWrongStatus"
    assert site.refused(0, "unmask", *site.at, 0, b"") == "RoundWrongStatus"
    assert member_set(range(4)) == site.round.roster
