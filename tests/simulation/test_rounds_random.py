"""Random days of the round machines over an abstract chain: clocks two seconds apart."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
from harness.folds import drawn_merge
from harness.joint import DISHONEST, drawn_program
from harness.rounds import PLAN, Consortium, Vice

from swarm.learning.folds.reduce import REDUCES
from swarm.learning.folds.step import STEPS
from swarm.learning.parameters.placement import read_placement
from swarm.learning.plans.stages import TASKS
from swarm.protocol.state import BEST_SLOT, MODEL_SLOT, PlanStatus, Rules, VerifyLevel
from swarm.types import NO_DIGEST, MemberId

TROUBLE_S = 40.0


def day(nodes: int, seed: int) -> Consortium:
    """A consortium and all that will happen to it until TROUBLE_S."""
    rng = random.Random(f"{nodes}/{seed}")
    statistics = rng.random() < 0.5
    rules = Rules(
        rounds=6 + statistics,
        min_peers=2,
        verify_level=VerifyLevel.HELD if rng.random() < 0.25 else VerifyLevel.FULL,
        window_s=rng.choice([0, 0, 3]),
        liveness_s=rng.choice([6, 10, 20]),
        max_round_s=60,
        slot_s=rng.choice([1, 3]),
    )
    merge, rules = drawn_merge(seed, nodes, rules)
    world = Consortium(
        nodes,
        rules,
        program=drawn_program(seed, rules.rounds, merge),
        invitation_s=5,
        seed=seed,
        skew_s=2.0,
        merge_s=rng.choice([0.2, 1.0, 6.0]),
    )
    liars = rng.randrange(0, (nodes - 1) // 3 + 1) if rng.random() < 0.5 else 0
    for node in world.nodes:
        node.train_s = rng.uniform(0.5, 20)
    for node in world.nodes[:liars]:
        node.vices = frozenset({rng.choice(DISHONEST), Vice.MEDDLES})
    world.fetch_loss = rng.choice([0.0, 0.3])
    world.consent()
    for _ in range(rng.randrange(nodes)):
        i, at_s = rng.randrange(nodes), rng.uniform(1, TROUBLE_S)
        world.at(at_s, partial(world.kill, i))
        world.at(at_s + rng.uniform(0.5, 20), partial(world.restart, i))
    for _ in range(rng.randrange(3)):
        everyone = rng.sample([n.address for n in world.nodes], nodes)
        size, both = rng.randrange(1, nodes), rng.random() < 0.7
        at_s = rng.uniform(1, TROUBLE_S)
        world.at(at_s, partial(world.net.cut, everyone[:size], everyone[size:], both=both))
        world.at(at_s + rng.uniform(1, 15), world.heal)
    for i in rng.sample(range(nodes), rng.randrange(nodes - 1)):
        if rng.random() < 0.4:
            at_s = rng.uniform(1, TROUBLE_S)
            world.at(at_s, partial(world.send, i, "withdraw", PLAN))
            world.at(at_s + rng.uniform(0.5, 15), lambda i=i: consent_again(world, i))
    world.at(TROUBLE_S, partial(end_trouble, world))
    return world


def consent_again(world: Consortium, i: int) -> None:
    world.send(i, "consent", *world.consent_of(i))


def end_trouble(world: Consortium) -> None:
    world.fetch_loss = 0.0
    for i in range(len(world.nodes)):
        world.restart(i)
        if world.plan.status is not PlanStatus.COMPLETED:
            consent_again(world, MemberId(i))
    world.heal()


def live(nodes: int, seed: int) -> Counter[str]:
    world = day(nodes, seed)
    world.run(TROUBLE_S)
    ended = world.run(600, lambda: world.plan.status is PlanStatus.COMPLETED)
    story = f"{nodes} nodes, seed {seed}\n" + "\n".join(world.trace[-60:])
    assert ended, f"the plan has not ended: {story}"
    world.run(15)
    honest = [node for node in world.nodes if node.honest]
    outputs = {digest for digest in world.plan.outputs if digest != NO_DIGEST}
    assert all(outputs <= node.disk for node in honest), story
    last = world.program.place(max(world.finals))
    assert last is not None, story
    assert last.number == world.program.rounds or last.stage.ends, story
    world.counted["last rounds"] += last.number == world.program.rounds
    world.counted["early ends"] += last.number < world.program.rounds
    world.counted["chosen models"] += world.plan.outputs[BEST_SLOT] != NO_DIGEST
    return world.counted


@pytest.mark.parametrize(("nodes", "seeds"), [(3, 20), (4, 20), (7, 8), (16, 2)])
def test_every_plan_ends_with_one_model_a_round_whatever_happens_before(nodes, seeds):
    counted = Counter[str]()
    for seed in range(seeds):
        counted += live(nodes, seed)
    assert counted["rounds final"] >= 6 * counted["last rounds"]


def test_plans_that_may_end_early_do_or_do_not_as_the_choices_fall():
    ending = [seed for seed in range(60) if any(s.ends for s in day(3, seed).program.stages)]
    counted = Counter[str]()
    for seed in ending:
        counted += live(3, seed)
    assert counted["chosen models"] == len(ending) > 5
    assert counted["early ends"] > 1
    assert counted["last rounds"] > 1


def test_days_are_drawn_with_every_stage_and_every_fold():
    tasks, folds = set(), set()
    for seed in range(100):
        world = day(7, seed)
        rules, level = world.plan.rules, world.plan.rules.verify_level.name.lower()
        tasks |= {stage.task for stage in world.program.stages}
        for stage in world.program.stages:
            if stage.slot == MODEL_SLOT:
                placement = read_placement(stage.merge)
                placement.check(rules.min_peers, level)
                folds |= {placement.folds[0]}
    assert tasks == TASKS
    assert {type(fold.reduce) for fold in folds} == set(REDUCES)
    assert {type(fold.step) for fold in folds} == {type(None), *STEPS}


def test_the_same_day_leaves_the_same_trace():
    first, second = day(5, 3), day(5, 3)
    first.run(60)
    second.run(60)
    assert first.trace == second.trace
    assert len(first.trace) > 50
