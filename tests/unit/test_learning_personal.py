"""Each site's own model: what it is, what is told of it, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness.clumsy_models import odd_plan, write_plan
from harness.plans import write_tiny_plan

from swarm import run_federated
from swarm.errors import PlanError
from swarm.learning.folds.reduce import SUM
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.personal import personalise
from swarm.rounds.figures import read_figures, write_figures
from swarm.tensors import create_file, open_file

STAGES = (
    "    rounds = 3\n",
    "    stages = [swarm.statistics(), swarm.train(2), swarm.personalise(epochs=4)]\n",
)


def test_a_stage_of_fine_tuning_gives_each_site_a_model_of_its_own(tmp_path: Path) -> None:
    run = run_federated(write_tiny_plan(tmp_path, STAGES))
    assert len(run.models) == 3
    assert set(run.personal) == {"site0", "site1"}
    ours, theirs = (run.personal[name].model for name in ("site0", "site1"))
    assert not torch.equal(ours["0.weight"], theirs["0.weight"])
    assert not torch.equal(ours["0.weight"], run.models[-1]["0.weight"])
    steps = {own.update.steps for own in run.personal.values()}
    assert steps == {4 * 4}  # epochs of the stage, and batches of 30 rows by 8


def test_fine_tuning_is_the_training_of_a_round_with_epochs_of_its_own(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "a", odd_plan("epochs = 3"))
    site = LocalTraining(load_plan(folder), Site("north"), folder, device="cpu")
    longer = site.train(1, site.initial)
    own = personalise(site, 1, site.initial, None)
    two = personalise(site, 1, site.initial, None, epochs=2)
    for name, tensor in longer.state.items():
        assert torch.equal(own.model[name], tensor)
    assert (own.update.steps, two.update.steps, own.rows) == (9, 6, 5)
    assert own.before == site.evaluate(site.initial, None, ("validation",))["validation"]
    assert own.after == site.evaluate(own.model, None, ("validation",))["validation"]


def sums(folder: Path, *files: Path) -> Path:
    """What merging these figures gives."""
    opened = [open_file(file) for file in files]
    out = folder / "sums"
    with create_file(out, opened[0].layout) as merged:
        for spec in opened[0].layout.specs:
            flat = [np.array(file[spec.name]).reshape(-1) for file in opened]
            SUM.merge("F64", flat, [1] * len(flat), merged[spec.name].reshape(-1))
    return out


def test_figures_of_sites_add_up_to_averages_over_the_rows_of_those_that_tell(
    tmp_path: Path,
) -> None:
    files = [tmp_path / name for name in "abc"]
    write_figures(files[0], {"before": {"auc": 0.5}, "after": {"auc": 0.6}}, 10)
    write_figures(files[1], {"before": {"auc": 0.7}, "after": {"auc": 0.9}}, 30)
    write_figures(files[2], {"before": {"auc": 0.1}, "after": {"auc": 0.1}}, 0)  # tells nothing
    told = read_figures(sums(tmp_path, *files))
    assert told["sites"] == 2
    assert told["before"]["auc"] == pytest.approx(0.65)
    assert told["after"]["auc"] == pytest.approx(0.825)


def test_who_tells_nothing_sends_zeros_alone(tmp_path: Path) -> None:
    file = tmp_path / "silent"
    write_figures(file, {"after": {"auc": 0.75, "loss": 0.2}}, 0)
    found = open_file(file)
    assert [float(np.abs(found[s.name]).sum()) for s in found.layout.specs] == [0, 0, 0]
    assert read_figures(file) == {"sites": 0, "after": {"auc": None, "loss": None}}


def test_a_score_that_is_none_is_no_part_of_the_average(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    write_figures(files[0], {"after": {"auc": float("nan")}}, 10)
    write_figures(files[1], {"after": {"auc": 0.9}}, 10)
    assert read_figures(sums(tmp_path, *files))["after"] == {"auc": 0.9}


def test_names_that_cannot_travel_are_the_plans_fault(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="names of the plan's metrics cannot travel"):
        write_figures(tmp_path / "a", {"after": {"\0": 1.0}}, 1)
