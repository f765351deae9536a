"""The best model: chosen by what all sites count, the same everywhere, and the last if training
stops when it is no longer beaten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness.plans import plan_with

import swarm
from swarm import run_federated
from swarm.errors import BlobError, PlanError
from swarm.learning.metrics.choice import Pair, Rule, choose, encode_pair, read_pair
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import pack
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.stages import Planned, train_and_select


def accuracy(right: int, wrong: int) -> Counts:
    y = np.zeros(right + wrong)
    return swarm.metrics.confusion(y, np.eye(2)[[0] * right + [1] * wrong], 2)


def test_the_best_model_is_the_one_that_counts_most_on_all_sites_validation_rows(
    tmp_path: Path,
) -> None:
    run = run_federated(plan_with(tmp_path, "*swarm.train_and_select('auc', rounds=6, every=1)"))
    scores = [float(run.result(index, "validation")["auc"]) for index in range(1, 7)]
    assert run.best is not None
    assert run.best == 1 + int(np.argmax(np.round(scores, 9)))
    assert len(set(scores)) > 1


def test_training_that_stops_ends_with_the_first_model_that_is_no_better(tmp_path: Path) -> None:
    run = run_federated(
        plan_with(tmp_path, "*swarm.train_and_select('auc', rounds=30, every=1, stop=True)")
    )
    scores = [float(run.result(n, "validation")["auc"]) for n in range(1, len(run.models))]
    assert len(run.models) < 30
    assert run.best == len(run.models) - 2
    assert scores[:-1] == sorted(set(scores[:-1]))
    assert scores[-1] <= scores[-2]


def test_a_training_in_parts_is_the_same_training(tmp_path: Path) -> None:
    whole = run_federated(plan_with(tmp_path / "a", "swarm.train(5)"))
    parts = run_federated(
        plan_with(tmp_path / "b", "*swarm.train_and_select('auc', rounds=5, every=2)")
    )
    for name, value in whole.models[-1].items():
        assert torch.equal(value, parts.models[-1][name])


def test_each_part_is_followed_by_a_choice_and_the_rounds_are_numbered_on(tmp_path: Path) -> None:
    program = program_of(
        load_plan(
            plan_with(tmp_path, "*swarm.train_and_select('auc', rounds=5, every=2, stop=True)")
        )
    )
    titles = [program.title_of(n) for n in range(1, program.rounds + 1)]
    assert titles == [
        "statistics", "round 1", "round 2", "select after 2",
        "round 3", "round 4", "select after 4", "round 5", "select after 5",
    ]  # fmt: skip
    within = [place.within for n in (2, 3, 5, 6, 8) if (place := program.place(n)) is not None]
    assert within == [1, 2, 3, 4, 5]
    assert (program.training_rounds, program.last_model_round, program.last_choice) == (5, 8, 9)
    assert [program.next_after(4, is_better) for is_better in (True, False)] == [4, 0]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("swarm.select('auc'), swarm.train(2)", "nothing is trained before swarm.select"),
        ("swarm.train(2), swarm.select('a b')", "give the name of one that `metrics` returns"),
        ("*swarm.train_and_select('auc', rounds=3, every=4)", "let every be from 1 to rounds"),
        (
            "*swarm.train_and_select('auc', rounds=2, every=1, stop=True), swarm.personalise()",
            "'personal' comes after a training that may end the plan early",
        ),
    ],
)
def test_stages_in_which_no_best_model_can_be_chosen_are_refused(
    tmp_path: Path, stages: str, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        program_of(load_plan(plan_with(tmp_path, stages)))


def test_parts_that_stay_at_a_site_fit_the_newest_model_alone(tmp_path: Path) -> None:
    local = ("    epochs = 3\n", "    epochs = 3\n    tensors = {'3.*': swarm.local()}\n")
    folder = plan_with(tmp_path, "swarm.train(2), swarm.select('auc')", local)
    with pytest.raises(PlanError, match="stays at a site belongs to the newest model"):
        program_of(load_plan(folder))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("f1", "`metrics` returns auc, plain: choose by one of these"),
        ("plain", "returns as a number that does not add up over sites"),
    ],
)
def test_a_metric_that_does_not_add_up_chooses_nothing(
    tmp_path: Path, metric: str, message: str
) -> None:
    both = ('return {"auc": ', 'return {"plain": 0.5, "auc": ')
    with pytest.raises(PlanError, match=message):
        run_federated(plan_with(tmp_path, f"swarm.train(1), swarm.select('{metric}')", both))


def test_the_counts_of_all_sites_decide_and_not_their_number() -> None:
    large, small = (accuracy(90, 10), accuracy(60, 40)), (accuracy(1, 9), accuracy(9, 1))
    found = choose(Rule("accuracy"), [large, small, (None, None)])
    assert (found.newest, found.best) == (91 / 110, 69 / 110)
    assert found.is_newest
    assert not choose(Rule("accuracy", lowest=True), [large, small]).is_newest


def test_a_model_that_is_as_good_takes_no_place_and_one_that_nobody_counts_does() -> None:
    rule = Rule("accuracy")
    assert not choose(rule, [(accuracy(5, 5), accuracy(5, 5))]).is_newest
    assert choose(rule, [(None, None)]).is_newest
    assert choose(rule, []).is_newest


def test_counts_of_two_models_come_back_as_they_were_sent() -> None:
    newest, best = accuracy(3, 1), accuracy(2, 2)
    assert read_pair(encode_pair(Pair(pack(newest), pack(best)))) == (newest, best)
    assert read_pair(encode_pair(Pair())) == (None, None)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "no counts of two models"),
        (b'{"oldest":null}', "no counts of two models"),
        (b" " * 300_000, "are more than"),
    ],
)
def test_what_is_no_counts_of_two_models_is_refused(raw: bytes, message: str) -> None:
    with pytest.raises(BlobError, match=message):
        read_pair(raw)


def test_a_rule_is_read_as_it_was_written_and_an_unknown_one_is_refused_at_consent() -> None:
    assert Rule.read(Rule("mae", lowest=True).written) == Rule("mae", lowest=True)
    with pytest.raises(PlanError, match="update swarm before you consent"):
        Rule.read("median auc")


def test_the_stages_of_a_selecting_training_are_plain_stages() -> None:
    stages = train_and_select("auc", rounds=4, every=3)
    assert all(isinstance(stage, Planned) for stage in stages)
    assert [stage.rounds for stage in stages] == [3, 1, 1, 1]
