"""Fault plans as files, the storm that a seed draws, and a verdict that can be a refusal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness.faults import verdict
from harness.faults.drive import Kill
from harness.faults.opposite import turn_file, turned
from harness.faults.plan import GROWTH, FaultPlan, faults_of, read_plan
from harness.faults.replica import Replica, Told
from harness.faults.runner import Runner
from harness.faults.watch import Place

from swarm.errors import ConfigurationError
from swarm.learning.parameters.named_tensors import pack_state, unpack_state
from swarm.learning.simulation.dealing import deal
from swarm.tensors import open_file

SHIPPED = sorted((Path(__file__).parents[1] / "faults").glob("*.toml"))
LEAST = 'about = "x"\nplan = "tiny"\nrounds = 3\n'


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_plan_can_be_read_and_has_a_training_plan(path: Path, tmp_path: Path) -> None:
    plan = read_plan(path)
    base = Runner(None, tmp_path).base(path, plan)
    assert len(deal(base, plan.peers)) >= 2
    assert faults_of(plan, 0) or GROWTH & plan.at_most.keys() or plan.firewalled or plan.liars
    assert plan.at_most or plan.at_least or plan.firewalled


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rounds = 0", "rounds"),
        ('[[fault]]\ndo = "kill"', "kill whom"),
        ('[[fault]]\ndo = "cut"\ngroups = [[0], [1]]', "namespaces = true"),
        ('[[fault]]\ndo = "kill"\nwho = ["nobody"]', "nobody"),
        ('[[fault]]\ndo = "kill"\nwho = [1]\ndisk = "votes deleted"', "for_s"),
        ('[[fault]]\ndo = "upgrade"\nwho = [1]', "how long installing takes"),
        ("[at_most]\nbeauty = 1", "nobody measures 'beauty'"),
        ("[at_most]\nauc_gap = 1", "undisturbed_nodes"),
        ("firewalled = [1]", "namespaces = true"),
        ("colour = 1", "colour"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_in_words(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / "plan.toml"
    lines = LEAST if "rounds = " not in text else LEAST.replace("rounds = 3\n", "")
    path.write_text(lines + text + "\n")
    with pytest.raises(ConfigurationError, match=words):
        read_plan(path)


def test_a_liar_sends_as_many_times_the_opposite_and_leaves_counts_alone(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])}
    sent = {"w": torch.tensor([1.5, 2.0]), "n": torch.tensor([7])}
    paths = [tmp_path / "base", tmp_path / "sent"]
    for path, state in zip(paths, (base, sent), strict=True):
        path.write_bytes(pack_state(state).raw.tobytes())
    turn_file(paths[1], paths[0], 10.0)
    found = unpack_state(open_file(paths[1]))
    assert found["w"].tolist() == turned(sent, base, 10.0)["w"].tolist() == [-4.0, 2.0]
    assert found["n"].tolist() == [7]


@pytest.mark.parametrize("seed", range(20))
def test_a_storm_has_its_deaths_whatever_the_seed(seed: int) -> None:
    plan = read_plan(next(path for path in SHIPPED if path.stem == "storm"))
    drawn = faults_of(plan, seed)
    assert drawn == faults_of(plan, seed) != faults_of(plan, seed + 1)
    kinds = Counter(fault.who[0] for fault in drawn)
    assert sum(kinds.values()) >= 20
    assert kinds["leader"] >= 5
    assert kinds["proposer"] >= 5
    assert all(fault.for_s is not None and 0 <= fault.for_s <= 20 for fault in drawn)
    assert {fault.when.round for fault in drawn} <= set(range(1, plan.rounds))


def replica(*told: Told, hashes: str = "abc") -> Replica:
    return Replica(list(hashes), list(told), ["ada", "ben"])


def final(number: int, model: str) -> Told:
    return Told("RoundFinal", number, 1, at=100, model=model)


@pytest.mark.parametrize(
    ("hashes", "ok"),
    [(["abc", "ab"], True), (["abc", "axc"], False), (["abc"], False), ([], False)],
)
def test_two_blocks_at_one_height_are_found(hashes: list[str], ok: bool) -> None:
    replicas = {str(i): replica(hashes=chain) for i, chain in enumerate(hashes)}
    assert verdict._one_block_a_height(replicas, 2).ok is ok


@pytest.mark.parametrize(
    ("said", "told", "ok"),
    [
        ({1: {"m"}, 2: {"n"}}, [final(1, "m"), final(2, "n")], True),
        ({1: {"m"}}, [final(1, "m"), final(2, "n")], True),
        ({1: {"m"}}, [final(1, "m"), final(1, "o"), final(2, "n")], False),
        ({1: {"m", "o"}}, [final(1, "m"), final(2, "n")], False),
        ({1: {"m"}, 3: {"x"}}, [final(1, "m"), final(2, "n")], False),
        ({1: {"m"}}, [final(1, "m")], False),
    ],
)
def test_two_models_of_a_round_and_lost_rounds_are_found(
    said: dict[int, set[str]], told: list[Told], ok: bool
) -> None:
    models = {number: {model: {"ada"} for model in m} for number, m in said.items()}
    drive: Any = SimpleNamespace(watch=SimpleNamespace(models=models))
    plan = FaultPlan(about="", plan="", rounds=2)
    assert verdict._one_model_a_round(plan, drive, {"ada": replica(*told)}).ok is ok


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ([Told("RoundClosed", 1, 1, at=90)], True),
        ([Told("RoundClosed", 1, 1, at=90), Told("Merged", 1, 1, at=99, by=0)], False),
        ([Told("RoundClosed", 1, 1, at=90), Told("Merged", 1, 1, at=120, by=0)], True),
        ([Told("RoundClosed", 1, 1, at=90), Told("Merged", 1, 1, at=99, by=1)], True),
        ([], False),
    ],
)
def test_only_a_leader_that_died_before_its_merge_counts_as_one(
    told: list[Told], counts: bool
) -> None:
    kill = Kill("ada", Place(1, 1, "closed"), leader=True, proposer=False, at=95, back_at=110)
    assert verdict._left_unmerged(kill, {"ben": replica(*told)}) is counts


def test_a_vote_given_twice_and_a_traceback_are_found_in_the_logs(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_text("WARNING swarm.chain: 0xab: sent two Prepare votes\n")
    nodes: Any = SimpleNamespace(names=["ada"], home=lambda name: tmp_path, liars={})
    assert [check.ok for check in verdict._clean_logs(nodes)] == [True, False]
    nodes.liars = {"0xab": ""}
    assert [check.ok for check in verdict._clean_logs(nodes)] == [True, True]
    (tmp_path / "node.log").write_text("Traceback (most recent call last):\n")
    assert [check.ok for check in verdict._clean_logs(nodes)] == [False, True]
