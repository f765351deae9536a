"""Rounds and consensus failing together; and planted faults, each of which must be found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from harness import simulate
from harness.joint import RULES
from harness.mischief import joint_world
from harness.planted import FAULTS, Fault, find
from harness.simulate import Job, liars_for, live, main
from harness.trouble import Trouble
from harness.whole import is_whole

from swarm.protocol.machine import RoundMachine

SHORT = Trouble(until_s=10, liars=1)
SIGNING = replace(SHORT, carried=0)
"""Simulated nodes have no keys, with which to sign what others carry."""


@pytest.mark.parametrize(("nodes", "liars", "seeds"), [(3, 0, 5), (4, 0, 5), (4, 1, 5), (7, 2, 3)])
def test_rounds_and_consensus_fail_together_and_no_promise_is_broken(nodes, liars, seeds):
    counted = Counter[str]()
    for seed in range(seeds):
        outcome = live(Job(seed, nodes, liars))
        assert outcome.fault is None, "\n".join([*outcome.story[-60:], str(outcome.fault)])
        counted += outcome.counted
    assert counted["view changes"] > 0
    assert counted["restarts"] > 0 or seeds == 1
    early = counted["plans that a choice ended"]
    assert 6 * (seeds - early) + 4 * early <= counted["rounds final"] <= 6 * seeds


def test_liars_cannot_have_honest_validators_retired_until_they_are_a_third():
    outcome = live(Job(635, 7, 2))  # on this day a founder acts late, and the liars early
    assert outcome.fault is None
    assert not outcome.counted["dormant validators retired"]


def test_the_contract_on_an_evm_takes_the_place_of_its_specification():
    worlds = [
        joint_world(4, 5, SIGNING, rules=replace(RULES, rounds=2), evm=evm) for evm in (False, True)
    ]
    for world in worlds:
        world.run_through()
    assert worlds[0].trace == worlds[1].trace
    assert worlds[0].counted["rounds final"] == 2


def test_the_same_seed_gives_the_same_story():
    stories = []
    for seed in (5, 5, 6):
        world = joint_world(4, seed, SHORT)
        world.run_through()
        stories.append(world.trace)
    assert stories[0] == stories[1] != stories[2]


def test_another_process_with_another_hash_seed_tells_the_same_story():
    command = [sys.executable, "-m", "harness.simulate", "--seed", "9", "--story"]
    stories = [
        subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert stories[0] == stories[1]
    assert "is two-faced" in stories[0]
    assert "all went well" in stories[0]


def test_the_command_prints_what_was_covered(capsys):
    assert main(["--seeds", "3", "--nodes", "4"]) == 0
    printed = capsys.readouterr().out
    assert "rounds final" in printed
    assert "every seed at least" in printed
    assert "simulated hours/s" in printed


def test_every_kind_of_trouble_comes_up_in_a_few_days():
    counted = Counter[str]()
    for seed in (*range(40, 64), 15, 32, 36, 65, 88, 108, 131, 141, 298):  # the rarest
        counted += live(Job(seed, 4, liars_for(seed, 4))).counted
    for what in (
        "deaths",
        "leader deaths",
        "proposer deaths",
        "long absences",
        "crashes that lost unsynced writes",
        "restarts",
        "processes stopped for a while",
        "sleeps of all machines",
        "partitions",
        "one-sided partitions",
        "messages lost",
        "messages duplicated",
        "messages reordered",
        "messages refused",
        "deleted vote stores",
        "vote stores rolled back",
        "node keys changed",
        "members admitted",
        "members removed",
        "late joiners that contributed",
        "validators activated",
        "dormant validators retired",
        "syncs from far behind",
        "withdrawals",
        "voids",
        "view changes",
        "two-faced proposals",
        "made-up messages",
        "unreadable messages of liars",
        "silence of liars",
        "withheld votes",
        "drips",
        "false heights",
        "blocks that leave members out",
        "blocks that left somebody out",
        "blocks beyond a budget",
        "budgets that are nearly filled",
        "forged blocks",
        "false sample counts",
        "reveals withheld",
        "merges for another output or stage",
        "declines",
        "late answers",
        "consents that end",
        "members that do not train",
        "transactions past their time",
        "transactions with a time",
        "attestations carried",
        "standbys named",
        "cancellations asked for",
        "contacts stated",
        "copied updates",
        "made-up calls",
        "plans of liars",
        "looks at plans of liars",
        "plans that a choice ended",
        "cross-evaluations",
    ):
        assert counted[what] > 0, f"no {what}"


def test_a_broken_promise_ends_the_command_with_the_end_of_the_story(capsys, monkeypatch):
    monkeypatch.setattr(
        simulate, "world_of", lambda job: joint_world(3, job.seed, CALM, machine_class=NeverOpens)
    )
    assert main(["--seeds", "5", "--nodes", "3", "--first", "3"]) == 1
    printed = capsys.readouterr().out
    assert "consent" in printed
    assert "seed 3: Violation: the plan has not ended 20 s after the heal" in printed
    assert "--nodes 3 --liars 0 --seed 3 --story" in printed


def test_a_day_on_which_too_little_happened_is_an_error(monkeypatch):
    two_rounds, patient = replace(RULES, rounds=2), replace(CALM, patience_s=200)
    monkeypatch.setattr(
        simulate, "world_of", lambda job: joint_world(3, job.seed, patient, rules=two_rounds)
    )
    assert "only 2 rounds" in str(live(Job(0, 3, 0)).fault)


CALM = Trouble(
    until_s=2, patience_s=20, crashes=0, absences=0, sleeps=0, stops=0, removals=0, lost_votes=0
)


class NeverOpens(RoundMachine):
    def _take_part(self, plan, round, now):
        pass


WITHIN = 150
"""Seeds; most faults are found in the first ten."""
RARE = {"AnySamples", "AnyOmission", "AnyNextStage"}
"""Each takes a minute to be found: left to the campaigns `whole` and `planted-faults`."""


def test_every_rare_fault_is_one_of_those_planted() -> None:
    assert {fault.name for fault in FAULTS} > RARE


@pytest.mark.parametrize(
    "fault",
    [fault for fault in FAULTS if is_whole() or fault.name not in RARE],
    ids=lambda fault: fault.name,
)
def test_a_planted_fault_is_found(fault: Fault):
    found = find(fault, within=WITHIN)
    assert found is not None, f"{fault.name} went unnoticed for {WITHIN} seeds"
    assert fault.names(found[1])


def test_the_command_plants_faults_and_tells_what_finds_them(capsys):
    assert main(["--planted", "SelfQuorum", "LateSubmit"]) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 planted faults found" in printed
    assert "without more than half" in printed
