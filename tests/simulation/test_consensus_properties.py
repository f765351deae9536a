"""QBFT through many seeded days; and faults planted on purpose, each of which must be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from harness.consensus import ConsensusWorld, Day
from harness.planted import MixedSeals, NoLock, NoStartupCheck, SmallerQuorum, UngatedTimer
from harness.simnet import Violation
from harness.validators import SimValidator

from swarm.chain.messages import Prepare
from swarm.chain.qbft import QBFT
from swarm.errors import ProtocolViolation


def live(seed: int, day: Day, kind: type[SimValidator] = SimValidator) -> ConsensusWorld:
    """One day; a violated property prints as the story of the day's end."""
    world = ConsensusWorld(seed, day, kind)
    try:
        settled = world.run()
    except Violation as violation:
        raise Violation(f"seed {seed}: {violation}\n" + "\n".join(world.net.trace[-40:])) from None
    if not settled:
        raise Violation(f"seed {seed}: no agreement\n" + "\n".join(world.net.trace[-40:]))
    return world


def live_all(seeds: Iterable[int], day: Day) -> Counter[str]:
    counted: Counter[str] = Counter()
    for seed in seeds:
        world = live(seed, day)
        counted += world.counted
        counted["heights"] += max(world.decided)
        counted["round changes"] += sum(n for r, n in world.rounds.items() if r > 0)
    return counted


@pytest.mark.parametrize(("validators", "seeds"), [(1, 10), (2, 10), (3, 30), (4, 30), (7, 10)])
def test_crashes_and_bad_links_cost_neither_safety_nor_progress(validators, seeds):
    counted = live_all(range(seeds), Day(validators=validators))
    assert counted["heights"] >= 8 * seeds
    assert counted["crashes"] >= seeds
    if validators > 1:
        assert counted["round changes"] > 0


@pytest.mark.parametrize(("validators", "liars", "seeds"), [(4, 1, 25), (7, 2, 5)])
def test_lying_validators_below_a_third_do_no_harm(validators, liars, seeds):
    counted = live_all(range(seeds), Day(validators=validators, liars=liars))
    assert counted["two-faced proposals"] > 0
    assert counted["forgetful round-changes"] > 0


@pytest.mark.parametrize(("validators", "seeds"), [(4, 20), (7, 5)])
def test_a_validator_whose_votes_were_lost_never_contradicts_itself(validators, seeds):
    counted = live_all(range(seeds), Day(validators=validators, crashes=2, lost_votes=3))
    assert counted["lost votes"] >= seeds


def test_the_same_seed_gives_the_same_trace():
    day = Day(liars=1)
    assert live(5, day).net.trace == live(5, day).net.trace
    assert live(5, day).net.trace != live(6, day).net.trace


def test_only_a_vote_that_too_few_have_heard_may_be_contradicted_after_a_roll_back():
    world = ConsensusWorld(3, Day())
    forgetful = SimpleNamespace(port=SimpleNamespace(name=world.addresses[3]))
    first, second = (Prepare(1, 0, block * 32, bytes(65)) for block in (b"x", b"y"))
    world.note_vote(forgetful, first)
    with pytest.raises(Violation, match="two Prepare votes at height 1"):
        world.note_vote(forgetful, second)
    world.rolled_back.add(world.addresses[3])
    world.note_vote(forgetful, second)
    assert world.counted["votes contradicted that too few had heard"] == 1
    assert world.run()
    with pytest.raises(Violation, match="two Prepare votes at height 1"):
        world.note_vote(forgetful, second)


# Planted faults in the consensus alone; in rounds and consensus together: `test_rounds_joint`.


class SendsBeforeStoring(SimValidator):
    stores_before_sending = False


def driven_by(machine: type[QBFT]) -> type[SimValidator]:
    return type(machine.__name__, (SimValidator,), {"machine_class": machine})


@pytest.mark.parametrize(
    ("kind", "day", "within"),
    [
        (driven_by(SmallerQuorum), Day(), 200),
        (driven_by(NoLock), Day(), 200),
        (driven_by(MixedSeals), Day(), 200),
        (driven_by(UngatedTimer), Day(), 200),
        (driven_by(NoStartupCheck), Day(lost_votes=3), 200),
        (SendsBeforeStoring, Day(crashes=8), 200),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_found(kind, day, within):
    for seed in range(within):
        try:
            live(seed, day, kind)
        except (Violation, ProtocolViolation):
            return
    pytest.fail(f"{kind.__name__} was not found within {within} seeds")
