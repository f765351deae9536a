"""An update that two members submit counts once, for the one who was first on the chain."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness.evm import EvmContract, LedgerContract
from harness.rounds import Consortium, Vice

from swarm.protocol import machine as m
from swarm.protocol.follow import follow
from swarm.protocol.state import (
    Candidate,
    Omission,
    Outcome,
    Round,
    RoundStatus,
    Rules,
    Submission,
    VerifyLevel,
    copied_from,
    copiers,
)
from swarm.types import NO_DIGEST, Digest, MemberId

RULES = Rules(rounds=3, min_peers=2, liveness_s=10)
A, B = Digest(b"a" * 32), Digest(b"b" * 32)


def round_of(*sent: tuple[int, Digest], submitted: int = 0b1111) -> Round:
    """A closed round with these submissions, in this order."""
    submissions = {
        MemberId(i): Submission(MemberId(i), update, 5, NO_DIGEST, True, place)
        for place, (i, update) in enumerate(sent)
    }
    members = dict(sorted(submissions.items()))  # as the contract's view has them
    return Round(1, 1, RoundStatus.CLOSED, submitted=submitted, submissions=members)


def test_of_equal_updates_all_but_the_first_on_the_chain_are_copies() -> None:
    round = round_of((3, A), (1, A), (2, B), (0, A))
    assert copied_from(round) == {1: 3, 0: 3}
    assert copiers(round) == 0b0011


def test_who_was_first_and_withdrew_before_the_close_takes_nothing_from_the_second() -> None:
    assert copied_from(round_of((3, A), (1, A), (0, B), submitted=0b0011)) == {}


@pytest.mark.parametrize("evm", [False, True])
def test_the_contract_tells_who_was_first_whatever_the_members_numbers(evm: bool) -> None:
    world = Consortium(3, replace(RULES, rounds=1), evm=evm)
    for i in range(3):
        assert world.send(i, "consent", *world.consent_of(i)) is None
    for i in (2, 0, 1):
        sent = (1, 1, 1, A, 5, bytes(32), NO_DIGEST, NO_DIGEST, b"")
        assert world.send(i, "submit", *sent) is None
    assert isinstance(world.book, EvmContract if evm else LedgerContract)
    places = {i: s.place for i, s in world.plan.round.submissions.items()}
    assert places == {2: 0, 0: 1, 1: 2}
    assert copied_from(world.plan.round) == {0: 2, 1: 2}


def test_events_tell_the_same_order_as_the_contract_does() -> None:
    world = Consortium(3, replace(RULES, rounds=1), evm=True)
    for i in range(3):
        world.send(i, "consent", *world.consent_of(i))
    plan, members = world.plan, world.book.members()
    for i in (2, 0):
        world.send(i, "submit", 1, 1, 1, A, 5, bytes(32), NO_DIGEST, NO_DIGEST, b"")
        ((name, told),) = world.book.events
        plan = follow(plan, name, told, int(world.now), members)
    assert {i: s.place for i, s in plan.round.submissions.items()} == {2: 0, 0: 1}


@pytest.mark.parametrize("level", list(VerifyLevel))
def test_a_copier_is_left_out_with_a_sentence_and_the_plan_completes(level: VerifyLevel) -> None:
    world = Consortium(4, replace(RULES, verify_level=level))
    world.nodes[0].vices = frozenset({Vice.COPIES})
    world.consent()
    assert world.run_rounds(3, 400)
    assert world.counted["copied updates"] == 3
    for _, _, _, function, arguments, error in world.executed:
        if function == "merge" and error is None:
            _, _, _, outcome, reasons = arguments
            assert outcome.omitted & 1
            assert reasons[0] == Omission.WRONG_DIGEST
    said = [r for r in world.nodes[1].reports if "member 0 submitted the very update" in r]
    assert len(said) == 3


def test_a_merge_that_contains_an_update_twice_is_refused_and_not_even_checked() -> None:
    world = Consortium(3, RULES)
    world.consent()
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    plan, members = world.snapshot()
    round = plan.round
    copied = round.submissions[MemberId(0)].update
    round.submissions[MemberId(2)] = replace(round.submissions[MemberId(2)], update=copied)
    machine = m.RoundMachine(plan.id, MemberId(1), bytes(32), lambda digest: True, world.program)
    round.candidates = [Candidate(MemberId(0), Outcome(B, 0), 1, round.closed_at)]
    commands = machine.handle(m.ChainObserved(plan, members), world.now)
    assert not [c for c in commands if isinstance(c, m.Verify)]
    said = [c.text for c in commands if isinstance(c, m.Report)]
    assert "a merge of round 1 is refused: it counts one update twice" in said
    (merge,) = [c for c in commands if isinstance(c, m.Merge)]
    assert merge.copies == (0b100 if round.submissions[0].place < round.submissions[2].place else 1)
