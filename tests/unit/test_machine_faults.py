"""What a tired operator and a hostile member do to the round machine: counter-examples by name."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from harness.rounds import PLAN, Consortium, Vice

from swarm.protocol import machine as m
from swarm.protocol.blob_access import may_read
from swarm.protocol.state import Candidate, Outcome, PlanStatus, RoundStatus, Rules, VerifyLevel
from swarm.types import Digest

RULES = Rules(rounds=4, min_peers=2, liveness_s=10)
MODEL = Digest(bytes(31) + b"\x07")
HELD = replace(RULES, verify_level=VerifyLevel.HELD)


def started(nodes: int, rules: Rules = RULES, **options: object) -> Consortium:
    world = Consortium(nodes, rules, **options)  # type: ignore[arg-type]
    world.consent()
    return world


def closed(world: Consortium) -> bool:
    round = world.plan.round
    return round is not None and round.status is RoundStatus.CLOSED


def machine_of(world: Consortium, i: int) -> m.RoundMachine:
    """A machine that has just been started on the disk of node `i`."""
    node = world.nodes[i]
    return m.RoundMachine(PLAN, node.id, node.secret, node.disk.__contains__, world.program)


def of_kind(commands: list[m.Command], kind: type[m.Command]) -> list[m.Command]:
    return [command for command in commands if isinstance(command, kind)]


def test_a_node_whose_transactions_do_not_get_through_sleeps_instead_of_spinning():
    world = started(3)
    world.nodes[2].train_s = 10_000
    world.run(30, lambda: world.plan.round.submitted == 0b011)
    machine = machine_of(world, 0)
    overdue = world.now + world.plan.rules.max_round_s + 100
    commands = machine.handle(m.ChainObserved(*world.snapshot()), overdue)
    assert [c.function for c in of_kind(commands, m.Transact)] == ["close"]
    assert machine.wake_at > overdue
    assert machine.handle(m.TimePassed(), overdue + 1) == []


def test_a_new_training_waits_until_the_stopped_one_has_ended():
    world = started(3)
    world.run(1, lambda: world.plan.round is not None)
    machine = machine_of(world, 0)
    plan, members = world.snapshot()
    (train,) = of_kind(machine.handle(m.ChainObserved(plan, members), world.now), m.Train)
    without_me = copy.deepcopy(plan)
    without_me.round.left |= 1
    stopped = machine.handle(m.ChainObserved(without_me, members), world.now)
    assert of_kind(stopped, m.StopTraining)
    again = copy.deepcopy(plan)
    again.round.attempt = 2
    observed = machine.handle(m.ChainObserved(again, members), world.now)
    assert not of_kind(observed, m.Train)
    assert not of_kind(observed, m.StopTraining)
    ended = m.TrainingFailed(train.number, train.base, "it was stopped", False)
    then = machine.handle(ended, world.now)
    assert of_kind(then, m.Train)
    assert not of_kind(then, m.Report)


def test_what_fails_for_a_round_that_is_over_is_not_reported_but_a_wrong_merge_is():
    world = started(3)
    world.run(60, lambda: closed(world))
    machine = machine_of(world, 0)
    machine.handle(m.ChainObserved(*world.snapshot()), world.now)
    here = (world.plan.round.number, world.plan.round.attempt)

    def reports(event: m.Event) -> int:
        return len(of_kind(machine.handle(event, world.now), m.Report))

    failed = m.MergeFailed(*here, "too few updates")
    unchecked = m.CandidateRefused(*here, Digest(b"m" * 32), 0, "updates did not come", False)
    assert [reports(failed), reports(unchecked)] == [1, 1]
    world.run(60, lambda: world.plan.round.number > here[0])
    machine.handle(m.ChainObserved(*world.snapshot()), world.now)
    wrong = replace(unchecked, final=True)
    assert [reports(failed), reports(unchecked), reports(wrong)] == [0, 0, 1]


def test_a_training_that_was_told_to_stop_and_finished_all_the_same_is_used():
    world = started(3)
    world.run(1, lambda: world.plan.round is not None)
    machine = machine_of(world, 0)
    plan, members = world.snapshot()
    (train,) = of_kind(machine.handle(m.ChainObserved(plan, members), world.now), m.Train)
    past = copy.deepcopy(plan)
    past.round.status = RoundStatus.VOID
    machine.handle(m.ChainObserved(past, 0), world.now)
    done = m.TrainingFinished(train.number, train.base, bytes(32), 7, bytes(32))
    machine.handle(done, world.now)
    again = copy.deepcopy(plan)
    again.round.attempt = 2
    commands = machine.handle(m.ChainObserved(again, members), world.now)
    assert [c.function for c in of_kind(commands, m.Transact)] == ["submit"]


def round_times(world: Consortium, last: int) -> list[int]:
    assert world.run_rounds(last, 2000)
    at = world.referee.finals_at
    return [at[n] - at[n - 1] for n in range(2, last + 1)]


def test_a_site_whose_training_always_fails_costs_the_first_rounds_only():
    world = started(4, replace(RULES, rounds=8))
    world.nodes[3].train_s = 5
    world.nodes[3].training_fails = True
    times = round_times(world, 8)
    assert max(times[2:]) < 8, times


def test_a_slow_site_that_can_train_again_is_waited_for_again():
    world = started(4, replace(RULES, rounds=60))
    world.nodes[3].train_s = 10
    world.nodes[3].training_fails = True
    assert world.run_rounds(10, 2000)
    began = world.final_round()
    world.nodes[3].training_fails = False
    assert world.run(600, lambda: bool(world.plan.round.submitted & 0b1000))
    assert world.final_round() - began < 20


@pytest.mark.parametrize("rules", [RULES, HELD], ids=["full", "held"])
def test_merges_that_take_longer_than_two_leader_cycles_become_final_in_the_end(rules):
    world = started(3, rules, merge_s=40.0)
    assert world.run_rounds(1, 600)


def test_a_model_that_its_leader_took_with_it_does_not_cost_the_others_a_cycle():
    world = started(8, HELD)
    assert world.run(60, lambda: closed(world) and bool(world.plan.round.candidates))
    leader = world.plan.round.candidates[0].leader
    # It posts and dies: nobody has pulled its model yet.
    world.kill(leader)
    began = world.now
    assert world.run_rounds(1, 120)
    assert world.now - began < 2 * 3 + 6


def test_a_refused_merge_is_looked_at_again_when_the_one_it_left_out_withdraws():
    world = started(4)
    world.nodes[0].vices = frozenset({Vice.OMITS})
    world.run(60, lambda: world.final_round() == 1)
    found = world.run(
        200,
        lambda: (
            closed(world) and any(c.leader == 0 and c.omitted for c in world.plan.round.candidates)
        ),
    )
    assert found
    round = world.plan.round
    candidate = next(c for c in round.candidates if c.omitted)
    other = next(i for i in (1, 2, 3) if not candidate.omitted >> i & 1)
    machine = machine_of(world, other)
    plan, members = world.snapshot()
    machine.handle(m.ChainObserved(plan, members), world.now)
    here = (round.number, round.attempt)
    machine.handle(m.Merged(*here, bytes(31) + b"\x01", 0, b""), world.now)
    refused = m.CandidateRefused(*here, candidate.model, candidate.omitted, "it omits", True)
    machine.handle(refused, world.now)
    assert not of_kind(machine.handle(m.TimePassed(), world.now + 9), m.Verify)
    after = copy.deepcopy(plan)
    after.round.left |= candidate.omitted
    commands = machine.handle(m.ChainObserved(after, members), world.now + 10)
    assert of_kind(commands, m.Verify)


def test_whoever_is_no_submitter_closes_only_after_the_submitters_had_their_turn():
    world = started(4)
    world.run(1, lambda: world.plan.round is not None)
    first, last = machine_of(world, 0), machine_of(world, 3)
    submitters = 0b1110
    assert first._turn(submitters) > last._turn(submitters)


def test_a_request_that_failed_through_an_outage_is_tried_again_soon_after_it():
    world = started(2)
    world.run_rounds(1, 60)
    assert world.run(60, lambda: closed(world))
    world.kill(1)
    world.run(600)
    world.restart(1)
    began = world.now
    assert world.run_rounds(2, 60)
    assert world.now - began < 12


@pytest.mark.parametrize("skew_s", [2.0])
def test_clocks_that_are_two_seconds_wrong_delay_but_do_not_stop(skew_s):
    for seed in range(3):
        world = started(4, seed=seed, skew_s=skew_s)
        assert world.run_rounds(4, 200)


def test_updates_are_served_to_submitters_of_a_closed_round_and_to_nobody_else():
    world = started(4)
    world.kill(3)
    world.run(30, lambda: world.plan.round.submitted == 0b0111)
    plan, members = world.snapshot()
    update = plan.round.submissions[0].update
    assert not any(may_read(plan, members, i, update, int(world.now)) for i in range(1, 4))
    assert world.run(60, lambda: closed(world))
    plan, members = world.snapshot()
    readers = [i for i in range(4) if may_read(plan, members, i, update, int(world.now))]
    assert readers == [0, 1, 2]
    assert not may_read(plan, members & 0b0101, 1, update, int(world.now))


def place_of(announced: m.MergeAnnounced) -> tuple[int, int, Digest, int]:
    outcome = announced.outcome
    return announced.number, announced.attempt, outcome.model, outcome.omitted


def announced_to(world: Consortium) -> tuple[m.RoundMachine, m.MergeAnnounced]:
    """A machine of a submitter that needs to attest, and a merge that is in no block yet."""
    assert world.run(60, lambda: closed(world))
    plan, members = world.snapshot()
    round = plan.round
    leader = round.leader_at(int(world.now))
    me = next(
        i
        for i in ((leader + 1) % len(world.nodes), (leader + 2) % len(world.nodes))
        if i in round.eligible
    )
    machine = machine_of(world, me)
    machine.handle(m.ChainObserved(plan, members), world.now)
    model = MODEL
    return machine, m.MergeAnnounced(
        round.number, round.attempt, leader, Outcome(model, 0, next=world.program.next_after(1))
    )


def test_a_merge_on_its_way_is_checked_and_attested_before_it_is_in_a_block():
    world = started(4, HELD)
    machine, announced = announced_to(world)
    (verify,) = of_kind(machine.handle(announced, world.now), m.Verify)
    assert (verify.candidate.leader, verify.candidate.model) == (
        announced.leader,
        announced.outcome.model,
    )
    place = place_of(announced)
    (attest,) = of_kind(machine.handle(m.CandidateVerified(*place), world.now), m.Transact)
    assert (attest.function, attest.arguments[:2]) == (
        "attest",
        (announced.outcome, VerifyLevel.HELD),
    )


def test_an_attestation_that_came_too_early_follows_at_once_when_the_merge_is_there():
    world = started(4, HELD)
    machine, announced = announced_to(world)
    machine.handle(announced, world.now)
    place = place_of(announced)
    machine.handle(m.CandidateVerified(*place), world.now)
    refused = m.TransactionSettled("attest", *place[:2], "RoundUnknownCandidate")
    assert not of_kind(machine.handle(refused, world.now), m.Transact)
    assert not of_kind(machine.handle(announced, world.now), m.Transact)
    plan, members = world.snapshot()
    posted = copy.deepcopy(plan)
    bit = 1 << announced.leader
    posted.round.candidates = [Candidate(announced.leader, announced.outcome, bit, int(world.now))]
    (attest,) = of_kind(machine.handle(m.ChainObserved(posted, members), world.now), m.Transact)
    assert attest.function == "attest"


def test_a_merge_that_is_announced_and_never_comes_makes_the_next_leader_no_later():
    world = started(4, HELD)
    machine, announced = announced_to(world)
    round = world.plan.round
    second = round.slot_begins_at(round.first_slot_of(machine.me))
    machine.handle(announced, world.now)
    place = place_of(announced)
    machine.handle(m.CandidateVerified(*place), world.now)
    assert of_kind(machine.handle(m.TimePassed(), second + 1), m.Merge)


@pytest.mark.parametrize(
    "change",
    [{"attempt": 9}, {"number": 9}, {"leader": 77}, {"outcome": Outcome(MODEL, 1 << 300)}],
)
def test_an_announcement_of_something_else_is_not_looked_at(change):
    world = started(4, HELD)
    machine, announced = announced_to(world)
    assert machine.handle(replace(announced, **change), world.now) == []


def test_a_merge_is_not_looked_at_before_its_leaders_slot_has_come():
    world = started(4, HELD)
    machine, announced = announced_to(world)
    round = world.plan.round
    last = max(round.eligible, key=round.first_slot_of)
    early = replace(announced, leader=last)
    assert machine.handle(early, world.now) == []
    begins = round.slot_begins_at(round.first_slot_of(last))
    assert of_kind(machine.handle(early, begins), m.Verify)


def test_a_plan_that_is_stopped_in_the_middle_of_a_round_keeps_its_models_and_no_update():
    world = started(3)
    assert world.run(60, lambda: closed(world))
    plan, _ = world.snapshot()
    updates = {s.update for s in plan.round.submissions.values()}
    assert updates
    assert updates < m.blobs_to_keep(plan, [])
    stopped = copy.deepcopy(plan)
    stopped.status, stopped.round.status = PlanStatus.STOPPED, RoundStatus.VOID
    assert m.blobs_to_keep(stopped, []) == {plan.base, plan.model}
