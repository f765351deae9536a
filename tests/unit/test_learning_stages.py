"""The stages that a plan writes, and the program that they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness.plans import write_tiny_plan

from swarm import run_federated
from swarm.errors import PlanError
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.program_of_plan import program_of
from swarm.protocol.program import federated_averaging

HEAD = ("    rounds = 3\n", "    rounds = 3\n    stages = {}\n")


def with_stages(folder: Path, stages: str, *changes: tuple[str, str]) -> Path:
    return write_tiny_plan(folder, (HEAD[0], HEAD[1].format(stages)), *changes)


def test_a_plan_without_stages_has_those_that_it_had_before_there_were_any(tmp_path: Path) -> None:
    plan = load_plan(write_tiny_plan(tmp_path))
    assert program_of(plan) == federated_averaging(3, statistics=True)


def test_stages_that_say_the_same_make_the_same_program_and_the_same_models(
    tmp_path: Path,
) -> None:
    said = "[swarm.statistics(), swarm.train(rounds=2)]"
    written = with_stages(tmp_path / "written", said)
    assert program_of(load_plan(written)) == federated_averaging(2, statistics=True)
    run = run_federated(written)
    default = run_federated(write_tiny_plan(tmp_path / "default"), rounds=2)
    assert len(run.models) == 3
    for name, tensor in run.models[-1].items():
        assert torch.equal(tensor, default.models[-1][name])


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ("[swarm.train()]", r"no stage asks for them: put swarm\.statistics\(\) first"),
        ("[swarm.statistics()]", r"no stage trains a model: add swarm\.train\(\)"),
        ("[swarm.train(), swarm.statistics()]", "training needs the statistics"),
        ("'train'", "give a list such as"),
        ("[swarm.train]", "give a list such as"),
        ("[swarm.statistics(), swarm.train(rounds=0)]", ">= 1.*stages.1..rounds"),
        ("[swarm.statistics(), swarm.train(rounds=2.5)]", "int.*rounds"),
        ("[swarm.statistics()] + 64 * [swarm.train()]", "65 stages, and 64 are the most"),
        ("[swarm.statistics(), swarm.train(2_000_000)]", "<= 1000000"),
    ],
)
def test_stages_that_cannot_be_are_refused_in_words(
    tmp_path: Path, stages: str, words: str
) -> None:
    with pytest.raises(PlanError, match=rf"^plan\.py:9: Tiny.*{words}"):
        program_of(load_plan(with_stages(tmp_path, stages)))
