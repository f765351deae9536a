"""The round machine, over the executable specification, in virtual time."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from harness.rounds import PLAN, Consortium, Vice

from swarm.protocol import machine as m
from swarm.protocol.machine import in_reserve
from swarm.protocol.state import (
    DRAWN,
    Duty,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    VerifyLevel,
    members_in,
    undecided,
)
from swarm.types import MemberId

RULES = Rules(rounds=5, min_peers=2)
HELD = Rules(rounds=5, min_peers=2, verify_level=VerifyLevel.HELD)


def started(nodes: int, rules: Rules = RULES, **options: object) -> Consortium:
    world = Consortium(nodes, rules, **options)  # type: ignore[arg-type]
    world.consent()
    return world


def test_four_undisturbed_nodes_finish_their_plan_with_one_model_a_round():
    world = started(4)
    assert world.run_rounds(5, 120)
    assert world.plan.status is PlanStatus.COMPLETED
    assert {n: len(models) for n, models in world.finals.items()} == dict.fromkeys(range(1, 6), 1)
    world.run(10)
    assert all(world.plan.model in node.disk for node in world.nodes)


def test_a_statistics_round_comes_first_and_leaves_the_model_alone():
    world = started(4, Rules(rounds=3, min_peers=2), statistics=True)
    assert world.run(60, lambda: world.plan.statistics != bytes(32))
    assert world.plan.model == world.plan.base
    assert world.run_rounds(3, 60)


def test_the_same_seed_gives_the_same_trace():
    first, second = started(5, seed=3), started(5, seed=3)
    first.run_rounds(5, 200)
    second.run_rounds(5, 200)
    assert first.trace == second.trace


def test_a_lone_leader_cannot_make_its_own_merge_final():
    world = started(3)
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    leader = world.plan.round.leader_at(int(world.now))
    world.partition({leader}, set(range(3)) - {leader})
    world.run(5)
    assert leader not in [c.leader for c in world.plan.round.candidates] or (
        world.plan.round.status is not RoundStatus.FINAL
    )
    assert world.run_rounds(1, 120)
    assert all(len(models) == 1 for models in world.finals.values())


def test_a_leader_killed_after_the_close_is_replaced_within_its_slot():
    world = started(8, Rules(rounds=3, min_peers=2))
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    closed_at = world.now
    world.kill(world.plan.round.leader_at(int(world.now)))
    assert world.run_rounds(1, 60)
    assert world.now - closed_at < 8


def test_two_of_three_dead_after_submitting_halt_the_round_until_one_is_back():
    world = started(3)
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    world.kill(1)
    world.kill(2)
    world.run(120)
    assert world.final_round() == 0
    world.restart(1)
    assert world.run_rounds(1, 240)


def test_a_dead_participant_costs_only_the_round_in_which_it_died():
    world = started(4, Rules(rounds=6, min_peers=2, liveness_s=10))
    world.run_rounds(2, 60)
    world.kill(3)
    world.run_rounds(3, 120)
    began = world.now
    world.run_rounds(5, 120)
    assert world.final_round() == 5
    # Two rounds of two seconds of training and a few of chain, merge and fetch.
    assert world.now - began < 2 * 8


def test_a_slow_participant_that_reports_progress_is_waited_for():
    world = started(4, Rules(rounds=1, min_peers=2, liveness_s=10))
    world.nodes[2].train_s = 90
    world.run_rounds(1, 200)
    assert world.plan.status is PlanStatus.COMPLETED
    assert world.plan.round.submitted == 0b1111


def test_a_slow_participant_is_not_waited_for_beyond_the_longest_round():
    rules = Rules(rounds=1, min_peers=2, liveness_s=10, max_round_s=60)
    world = started(4, rules)
    world.nodes[2].train_s = 900
    world.run_rounds(1, 200)
    assert world.plan.status is PlanStatus.COMPLETED
    assert world.plan.round.submitted == 0b1011


def test_a_4_to_4_split_vote_makes_nothing_final_until_the_halves_can_see_each_others_updates():
    # The first four can pull nothing from the last four, so each half holds another merge right.
    world = started(8, Rules(rounds=1, min_peers=2))
    world.blocked = {(i, j) for i in range(4) for j in range(4, 8)}
    world.run(60)
    votes = sorted(c.attesters for c in world.plan.round.candidates)
    assert votes == [0b00001111, 0b11110000]
    assert world.final_round() == 0
    world.blocked = set()
    assert world.run_rounds(1, 120)
    assert all(len(models) == 1 for models in world.finals.values())
    assert world.plan.round.submitted == 0xFF


def test_one_update_that_half_the_nodes_cannot_pull_from_its_owner_is_pulled_from_the_leader():
    world = started(8, Rules(rounds=1, min_peers=2))
    world.blocked = {(i, 7) for i in range(4)}
    assert world.run_rounds(1, 60)
    final = next(c for c in world.plan.round.candidates if c.model == world.plan.model)
    assert final.omitted == 0


def test_no_more_attest_at_once_than_the_quorum_needs_and_the_rest_step_in_for_the_dead():
    world = started(4, Rules(rounds=2, min_peers=2))
    world.run(60, lambda: bool(world.plan.round.candidates))
    here, leader = world.plan.round, world.plan.round.candidates[0].leader
    voters = [i for i in range(4) if i != leader]
    reserve = [i for i in voters if in_reserve(here.candidates[0], 0b1111, 3, i)]
    assert len(reserve) == 1  # three of four make the majority, and the leader has attested
    world.kill(next(i for i in voters if i not in reserve))
    assert world.run(10, lambda: world.final_round() == 1)  # not without the one in reserve


def test_an_update_that_died_with_its_site_is_omitted_by_all():
    world = started(4, Rules(rounds=1, min_peers=2))
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    world.kill(3)
    assert world.run_rounds(1, 120)
    final = next(c for c in world.plan.round.candidates if c.model == world.plan.model)
    assert final.omitted == 0b1000


def test_a_leader_that_merges_wrongly_is_not_attested_and_the_next_one_is():
    world = started(4, Rules(rounds=3, min_peers=2))
    world.nodes[0].vices = frozenset({Vice.FORGES})
    assert world.run_rounds(3, 300)
    assert all(len(models) == 1 for models in world.finals.values())


def test_held_verification_needs_no_other_updates():
    world = started(4, HELD)
    assert world.run_rounds(5, 120)


def test_a_withdrawal_between_close_and_merge_leaves_the_update_out():
    world = started(4, Rules(rounds=1, min_peers=2))
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    world.send(3, "withdraw", 1)
    assert world.run_rounds(1, 120)
    final = next(c for c in world.plan.round.candidates if c.model == world.plan.model)
    assert final.omitted & 0b1000


def test_a_late_joiner_enters_the_next_round_and_pulls_the_model_first():
    world = Consortium(4, Rules(rounds=4, min_peers=2), invitation_s=5)
    world.consent([0, 1, 2])
    world.run_rounds(1, 120)
    world.consent([3])
    assert world.run_rounds(4, 120)
    assert world.plan.round.submitted == 0b1111


def test_all_nodes_killed_in_the_middle_of_a_merge_go_on_from_the_same_round():
    world = started(4)
    world.run_rounds(1, 60)
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    number = world.plan.round.number
    for i in range(4):
        world.kill(i)
    world.run(30)
    for i in range(4):
        world.restart(i)
    assert world.run_rounds(5, 300)
    assert number in world.finals


def test_a_partition_without_a_quorum_makes_nothing_final_and_both_sides_go_on_when_it_heals():
    world = started(8)
    world.run_rounds(1, 60)
    world.partition({0, 1, 2, 3}, {4, 5, 6, 7})
    before = world.final_round()
    world.run(60)
    assert world.final_round() <= before + 1
    healed = world.now
    world.heal()
    reached = world.final_round()
    assert world.run_rounds(reached + 1, 30)
    assert world.now - healed < 15
    assert all(len(models) == 1 for models in world.finals.values())


def test_a_minority_that_was_cut_off_catches_up():
    world = started(8)
    world.run_rounds(1, 60)
    world.partition({0, 1, 2, 3, 4, 5}, {6, 7})
    assert world.run_rounds(4, 300)
    world.heal()
    assert world.run_rounds(5, 120)
    world.run(10)
    assert all(world.plan.model in node.disk for node in world.nodes)


def test_every_node_scores_every_final_model_once_as_soon_as_it_holds_it():
    world = started(4, HELD)
    assert world.run_rounds(5, 120)
    world.run(10)
    finals = {number: next(iter(models)) for number, models in world.finals.items()}
    assert all(node.evaluated == finals for node in world.nodes)


def test_a_node_that_starts_again_scores_the_newest_model_again_and_no_older_one():
    world = started(4)
    world.run_rounds(3, 120)
    world.kill(2)
    world.nodes[2].evaluated.clear()
    world.restart(2)
    assert world.run_rounds(5, 120)
    world.run(10)
    assert min(world.nodes[2].evaluated) >= 3
    assert world.nodes[2].evaluated[5] == world.plan.model


def just_closed(
    level: VerifyLevel, leads: bool = False
) -> tuple[m.RoundMachine, list[m.Command], Round]:
    """A machine of the leader, or of the one after the next, that has just seen the round closed;
    what it then says; and the round."""
    world = started(4, replace(RULES, verify_level=level))
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    plan, members = world.snapshot()
    leader = plan.round.leader_at(plan.round.closed_at)
    node = world.nodes[leader if leads else (leader + 2) % 4]
    machine = m.RoundMachine(PLAN, node.id, node.secret, node.disk.__contains__, world.program)
    commands = machine.handle(m.ChainObserved(plan, members), plan.round.closed_at)
    return machine, commands, plan.round


def followed(commands: list[m.Command]) -> list[MemberId]:
    return [command.leader for command in commands if isinstance(command, m.Follow)]


@pytest.mark.parametrize("level", [VerifyLevel.HELD, VerifyLevel.SHARED])
def test_a_merge_is_followed_once_and_the_next_leaders_as_soon_as_its_slot_begins(
    level: VerifyLevel,
) -> None:
    machine, commands, round = just_closed(level)
    assert followed(commands) == [round.leader_at(round.closed_at)]
    assert followed(machine.handle(m.TimePassed(), round.closed_at)) == []
    begins = round.slot_begins_at(1)
    assert machine.wake_at <= begins
    assert followed(machine.handle(m.TimePassed(), begins)) == [round.leader_at(begins)]
    own = round.slot_begins_at(2)
    commands = machine.handle(m.TimePassed(), own)
    assert round.leader_at(own) == machine.me
    assert followed(commands) == []
    assert m.ExpectDraft(round.number, round.attempt) in commands
    assert any(isinstance(command, m.Merge) for command in commands)


def test_nobody_follows_where_all_merge_themselves_and_no_leader_follows() -> None:
    assert followed(just_closed(VerifyLevel.FULL)[1]) == []
    machine, commands, round = just_closed(VerifyLevel.HELD, leads=True)
    assert followed(commands) == []
    expected = m.ExpectDraft(round.number, round.attempt)
    assert expected in commands
    assert expected not in machine.handle(m.TimePassed(), round.closed_at)
    assert any(isinstance(command, m.Merge) for command in commands)


def test_a_leader_whose_clock_is_behind_the_chains_makes_those_wait_who_follow_it_already() -> None:
    machine, _, round = just_closed(VerifyLevel.HELD, leads=True)
    slow = m.RoundMachine(PLAN, machine.me, machine.node_secret, machine.holds, machine.program)
    early = m.ChainObserved(machine.plan, machine.members)
    commands = slow.handle(early, round.closed_at - 1.5)
    assert m.ExpectDraft(round.number, round.attempt) in commands
    assert not any(isinstance(command, m.Merge) for command in commands)


def test_a_new_attempt_drops_the_drafts_of_the_last_one_and_may_follow_the_same_leader() -> None:
    machine, commands, round = just_closed(VerifyLevel.HELD)
    assert m.DropDrafts(round.number, 1) in commands
    plan = copy.deepcopy(machine.plan)
    plan.round.attempt = 2
    commands = machine.handle(m.ChainObserved(plan, machine.members), round.closed_at)
    assert m.DropDrafts(round.number, 2) in commands
    assert followed(commands) == [round.leader_at(round.closed_at)]


DAY_S = 86_400


def test_a_hospital_that_consents_on_day_three_is_waited_for_by_name():
    world = Consortium(4, RULES, invitation_s=7 * DAY_S)
    world.consent([0, 1, 2])
    world.run(60)
    assert world.plan.status is PlanStatus.PROPOSED
    assert [world.nodes[i].id for i in members_in(undecided(world.plan, world.members))] == [3]
    world.net.sleep(3 * DAY_S)
    world.run(60)
    assert world.plan.round is None
    world.consent([3])
    assert world.plan.round.roster == 0b1111
    assert world.run_rounds(5, 200)


def test_a_hospital_that_declines_is_not_waited_for():
    world = Consortium(4, RULES, invitation_s=7 * DAY_S)
    world.consent([0, 1, 2])
    world.run(60)
    assert world.send(3, "decline", 1) is None
    assert world.plan.round.roster == 0b0111
    assert world.run_rounds(5, 200)


def test_nobody_waits_beyond_the_invitations_end():
    world = Consortium(4, RULES, invitation_s=7 * DAY_S)
    world.consent([0, 1, 2])
    world.net.sleep(7 * DAY_S - 100)
    world.run(90)
    assert world.plan.round is None
    assert world.run(60, lambda: world.plan.round is not None)
    assert world.plan.round.roster == 0b0111


def test_an_expired_transaction_never_takes_effect():
    world = started(4)
    now = int(world.now)
    assert world.send(3, "until", now - 1, "withdraw", 1) == "Expired"
    assert world.plan.participants == 0b1111
    world.dated = 1.0
    assert world.run_rounds(5, 300)
    assert world.counted["transactions past their time"] > 0


def test_a_site_that_only_tests_trains_nothing_and_has_every_model():
    world = Consortium(4, RULES)
    world.nodes[3].duties = Duty.TEST
    world.nodes[3].train_s = 10_000
    world.consent()
    assert world.run_rounds(5, 120)
    assert world.plan.round.submitted == 0b0111
    world.run(10)
    assert world.plan.model in world.nodes[3].disk
    assert not world.nodes[3].reports


def test_whoever_holds_a_role_shows_life_without_training():
    world = Consortium(4, Rules(rounds=2, min_peers=2, liveness_s=10, holder=DRAWN))
    world.nodes[3].duties = Duty.HOLD
    for node in world.nodes[:3]:
        node.train_s = 60
    world.consent()
    assert world.plan.round.holder == 3
    assert world.run_rounds(2, 400)
    assert world.counted["voids"] == 0


def test_a_silent_holder_costs_its_liveness_interval_and_not_the_longest_round():
    world = Consortium(4, Rules(rounds=1, min_peers=2, liveness_s=10, holder=DRAWN))
    for node in world.nodes:
        node.train_s = 60
    for node in world.nodes[2:]:
        node.duties = Duty.HOLD
    world.consent()
    dead = world.plan.round.holder
    world.kill(dead)
    began = world.now
    assert world.run(60, lambda: world.plan.round.attempt > 1)
    assert world.now - began < 25


def test_a_right_merge_for_another_output_or_stage_is_not_attested():
    world = started(4, Rules(rounds=3, min_peers=2))
    world.run(60, lambda: world.plan.round.status is RoundStatus.CLOSED)
    liar = world.plan.round.leader_at(int(world.now))
    world.nodes[liar].vices = frozenset({Vice.TWISTS})
    assert world.run_rounds(3, 300)
    assert world.counted["merges for another output or stage"] > 0
    assert world.plan.output_rounds == (3, 0, 0, 0)
    honest = world.nodes[liar - 1]
    assert any("not what the plan's program says" in report for report in honest.reports)


def test_attestations_that_others_carry_count():
    world = started(4)
    world.carried = 1.0
    assert world.run_rounds(5, 200)
    assert world.counted["attestations carried"] >= 5


def test_a_round_that_the_program_does_not_have_halts_this_node_and_says_so():
    world = started(3)
    world.run(1)
    plan, members = world.snapshot()
    strange = copy.deepcopy(plan)
    strange.round.stage = 2
    node = world.nodes[0]
    machine = m.RoundMachine(1, node.id, node.secret, node.disk.__contains__, world.program)
    commands = machine.handle(m.ChainObserved(strange, members), world.now)
    assert commands == [m.DropDrafts(1, 1)]
    assert machine.halted == "round 1 is not what the plan's program says"
