"""Plans with a role: what they may say, and what becomes of them in a run without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness.plans import write_tiny_plan
from harness.split_plan import CUT

import swarm
from swarm.errors import NoAnswer, PlanError
from swarm.learning.parameters.placement import At, placement_of, read_placement
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.settings import role_in
from swarm.learning.simulation.turns import Turns
from swarm.learning.simulation.whole_run import run_federated
from swarm.learning.training.answering import refuse_unlike

OWN_LOOP = (
    "    def model(self):\n",
    "    def train(self, model, data, context):\n"
    "        optimizer = self.optimizer(model, context)\n"
    "        for epoch in range(self.epochs):\n"
    "            for batch in context.batches(data.train, epoch):\n"
    "                optimizer.zero_grad()\n"
    "                self.loss(model, batch).backward()\n"
    "                optimizer.step()\n\n"
    "    def model(self):\n",
)


def test_a_cut_plan_trains_both_halves_and_the_same_way_each_time(tmp_path: Path) -> None:
    folder = write_tiny_plan(tmp_path, CUT, sites=3)
    runs = [run_federated(folder) for _ in range(2)]
    first, last = runs[0].models[0], runs[0].models[-1]
    assert not torch.equal(first["0.weight"], last["0.weight"])
    assert not torch.equal(first["3.weight"], last["3.weight"])
    assert all(torch.equal(last[name], runs[1].models[-1][name]) for name in last)
    auc = runs[0].score()["auc"]
    assert auc is not None
    assert auc > 0.8
    rows, epochs, state = 3 * 30, 3 * 3, 4 * 4 + 4
    assert runs[0].asked_bytes == epochs * rows * (4 * 4 + 4)
    assert runs[0].answered_bytes == epochs * rows * 4 * 4 + 3 * 3 * state


def test_the_holder_alone_moves_what_lives_at_the_role(tmp_path: Path) -> None:
    vain = ("        context.optimizer.step()\n        return cut.grad", "        return cut.grad")
    run = run_federated(write_tiny_plan(tmp_path, CUT, vain))
    assert torch.equal(run.models[0]["3.weight"], run.models[-1]["3.weight"])
    assert not torch.equal(run.models[0]["0.weight"], run.models[-1]["0.weight"])


def test_batches_of_the_context_are_those_of_the_default_loop(tmp_path: Path) -> None:
    default = run_federated(write_tiny_plan(tmp_path / "default")).models[-1]
    own = run_federated(write_tiny_plan(tmp_path / "own", OWN_LOOP)).models[-1]
    assert all(torch.equal(default[name], own[name]) for name in default)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('swarm.at("head")', 'swarm.at("haed")'), "at 'haed', which is no role of the plan"),
        (("    def answer(", "    def _answer("), "no method answer that answers for it"),
        (('{"head": swarm', '{"tail": swarm.elected(), "head": swarm'), "may have one role"),
        (('{"head": swarm', '{"The head": swarm'), "no name"),
        (("swarm.elected(answer_s=20.0)", "3"), "write {.head.: swarm.elected"),
    ],
)
def test_a_role_that_cannot_be_is_refused_with_its_line(
    change: tuple[str, str], words: str, tmp_path: Path
) -> None:
    plan = load_plan(write_tiny_plan(tmp_path, CUT, change))
    with pytest.raises(PlanError, match=rf"plan\.py:\d+: Tiny: .*{words}"):
        role_in(plan)


@pytest.mark.parametrize("seconds", [0, -1, 3601, "1"])
def test_an_answer_must_have_a_time(seconds: object) -> None:
    with pytest.raises(PlanError, match="give up to 3600 seconds"):
        swarm.elected(answer_s=seconds)  # type: ignore[arg-type]


def test_a_plan_is_not_asked_to_personalise_without_its_head(tmp_path: Path) -> None:
    stages = (
        "    rounds = 3\n",
        "    rounds = 3\n    stages = [swarm.statistics(), swarm.train(), swarm.personalise()]\n",
    )
    with pytest.raises(PlanError, match=r"personal.*nobody holds 'head'"):
        run_federated(write_tiny_plan(tmp_path, CUT, stages))


def test_the_place_at_a_role_is_written_and_read() -> None:
    placement = placement_of({"top.*": swarm.at("head")})
    assert read_placement(placement.encode()) == placement
    assert placement.place_of("top.weight") == At("head")
    assert placement.roles == {"head"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (torch.zeros(3, 2), r"answered float32 \[3, 2\], not float32 \[4, 2\]"),
        (torch.zeros(4, 2, dtype=torch.float64), "answered float64"),
        (torch.full((4, 2), float("nan")), "tensor 1 .* is not finite"),
    ],
)
def test_an_answer_unlike_what_was_asked_for_is_refused(answer: torch.Tensor, words: str) -> None:
    with pytest.raises(NoAnswer, match=words):
        refuse_unlike((answer,), (torch.zeros(4, 2),))


def test_turns_go_round_and_a_failure_is_raised_when_all_have_ended() -> None:
    turns, told = Turns(3), []

    def work(number: int) -> int:
        for _ in range(number + 1):
            told.append(number)
            turns.hand_on(number)
        return number

    assert turns.run([lambda n=n: work(n) for n in range(3)]) == [0, 1, 2]  # type: ignore[misc]
    assert told == [0, 1, 2, 1, 2, 2]

    def fail() -> int:
        raise NoAnswer("gone")

    turns = Turns(2)
    with pytest.raises(NoAnswer, match="gone"):
        turns.run([fail, lambda: 1])
