"""The ten-line plans: each is a whole plan, and runs."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from swarm import Site, run_federated
from swarm.errors import PlanError
from swarm.learning.parameters.placement import Local
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.whole_run import FederatedRun
from swarm.learning.training.loop import LocalTraining

METHODS = Path(__file__).parents[2] / "examples" / "methods"


def read(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, METHODS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # choose.py imports score.py, as a script beside it does
    spec.loader.exec_module(module)
    return module


SCORE, CHOOSE = read("score"), read("choose")
del sys.modules["score"], sys.modules["choose"]  # others have scripts of these names, too
RATE = 0.003


def eight_people(folder: Path) -> None:
    for person in range(8):
        r = np.random.default_rng(person)
        y = np.arange(40) % 6
        x = r.normal(0, 1, (40, 169)) + np.eye(169)[y] * 4 + r.normal(0, 0.5, 169)
        np.savez(folder / f"person{person}.npz", x=x, y=y, is_test=np.arange(40) >= 30)


def run(method: str) -> FederatedRun:
    with SCORE.written(method, "activity", eight_people) as folder:
        (folder / "plan.py").write_text((folder / "plan.py").read_text() + "    rounds = 2\n")
        done: FederatedRun = SCORE.run(folder, 0, RATE)
    return done


def test_rates_are_chosen_on_training_rows_alone_and_no_window_is_in_both_parts() -> None:
    y = np.repeat(np.arange(2), 20)
    rows = {"x": np.arange(40.0)[:, None], "y": y, "is_test": np.arange(40) % 20 >= 10}
    held = CHOOSE.hold_back(rows)
    known = set(rows["x"][~rows["is_test"], 0])
    assert set(held["x"][:, 0]) < known
    assert held["is_test"].tolist() == ([False] * 6 + [True] * 3) * 2
    trained, scored = (held["x"][held["is_test"] == part, 0] for part in (False, True))
    assert np.abs(trained[:, None] - scored).min() > 1  # windows that follow each other overlap


def test_a_method_without_a_chosen_rate_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="no rate of novel on xray: run"):
        SCORE.rate_of("xray", "novel")


def test_a_setting_beside_the_rate_is_tried_with_every_rate_and_kept_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = CHOOSE.grid("ditto")
    assert len(tried) == len(CHOOSE.USUAL_RATES) * len(CHOOSE.OTHERS["ditto"]["nearness"])
    assert CHOOSE.grid("fedavg") == list(CHOOSE.USUAL_RATES)
    for module in (CHOOSE, SCORE):
        monkeypatch.setattr(module, "HERE", tmp_path)
    CHOOSE.keep("xray", "ditto", tried[1])
    CHOOSE.keep("xray", "fedavg", 0.03)
    assert SCORE.rate_of("xray", "ditto") == tried[1]
    assert SCORE.rate_of("xray", "fedavg") == 0.03


def test_nodes_read_settings_in_the_code_and_cross_evaluate_what_sites_fine_tune() -> None:
    with SCORE.written("ditto", "activity", eight_people) as folder:
        SCORE.write_settings(folder, {"learning_rate": 0.02, "nearness": 0.1})
        plan = load_plan(folder)
    assert (plan.learning_rate, plan.nearness) == (0.02, 0.1)
    with SCORE.written("finetuned", "activity", eight_people) as folder:
        SCORE.write_settings(folder, 0.02)
        plan = load_plan(folder)
        assert [stage.task for stage in plan.stages][-2:] == ["personalise", "cross-evaluate"]
        (folder / "plan.py").write_text((folder / "plan.py").read_text() + "FineTuned.rounds = 1\n")
        done = run_federated(folder)
    told = done.table()
    assert told is not None
    report = {"rounds": [{"table": None}, {"table": told}], "joint": {}}
    figure, sites = SCORE.figures_of(report)
    assert figure == float(done.result()["accuracy"])
    assert sites == [float(of["accuracy"]) for of in done.counts().values()]
    joint = {"figures": {"accuracy": {"value": 0.5}}, "sites": {"a": {"value": 0.25}}}
    report = {"rounds": [{"table": None}], "joint": {"accuracy": joint}}
    assert SCORE.figures_of(report) == (0.5, [0.25])


def test_every_plan_of_the_folder_is_in_the_table() -> None:
    others = {"activity", "xray", "score", "choose"} | {"lora"}  # which needs weights of yours
    assert {file.stem for file in METHODS.glob("*.py")} - others == set(SCORE.METHODS)


@pytest.mark.parametrize("method", [m for m in SCORE.METHODS if m not in ("scaffold", "ditto")])
def test_a_method_is_a_plan_of_a_few_lines(method: str) -> None:
    source = (METHODS / f"{method}.py").read_text()
    code = source.split('"""')[2]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 12, f"{method} has {len(lines)} lines"


@pytest.mark.parametrize("method", SCORE.METHODS)
def test_a_method_runs_and_each_site_scores_its_own_model(method: str) -> None:
    done = run(method)
    (merged,) = done.result().values()
    assert merged.rows == 80
    assert math.isfinite(float(merged))
    kept = [place for _, place in done.sites[0].placement.rows if isinstance(place, Local)]
    own = done.kept[-1] if kept else [personal.model for personal in done.personal.values()]
    assert bool(own) == (method in ("scaffold", "fedbn", "fedper", "ditto", "finetuned"))
    for first, second in itertools.pairwise(own):
        assert first is not None
        assert second is not None
        assert any(not torch.equal(first[name], second[name]) for name in first)


def test_scaffold_sends_the_mean_gradient_and_starts_from_that_of_all() -> None:
    done = run("scaffold")
    all_of = [v for name, v in done.models[-1].items() if name.startswith("all.")]
    own = [[v for name, v in kept.items() if "own" in name] for kept in done.kept[-1] if kept]
    rows = [site.samples().train for site in done.sites]
    for number, of_all in enumerate(all_of):
        mean = sum(n * each[number].double() for n, each in zip(rows, own, strict=True)) / sum(rows)
        torch.testing.assert_close(of_all.double(), mean, rtol=1e-5, atol=1e-7)


def test_lora_trains_and_sends_a_change_of_low_rank_beside_weights_that_all_have() -> None:
    with SCORE.written("lora", "activity", eight_people) as folder:
        trunk, plan = folder / "trunk.safetensors", folder / "plan.py"
        weights = torch.randn(64, 169, generator=torch.Generator().manual_seed(0)) / 13
        save_file({"body.layer.weight": weights, "body.layer.bias": torch.zeros(64)}, trunk)
        digest = hashlib.sha256(trunk.read_bytes()).hexdigest()
        plan.write_text(plan.read_text().replace('"0" * 64', f'"{digest}"'))
        sites = [
            LocalTraining(load_plan(folder), Site(file.stem, file, {"trunk": str(trunk)}), folder)
            for file in sorted((folder / "data").iterdir())
        ]
        done = run_federated(folder, sites=sites, rounds=2)
    shapes = {spec.name: spec.shape for spec in done.file.layout.specs}
    assert not [name for name in shapes if name.startswith("body.layer")]
    assert shapes["body.down.weight"] == (4, 169)
    assert shapes["body.up.weight"] == (64, 4)
    assert done.models[-1]["body.up.weight"].abs().max() > 0
    for site in sites:
        assert torch.equal(dict(site.model.named_parameters())["body.layer.weight"].cpu(), weights)
    (merged,) = done.result().values()
    assert merged.rows == 80


def test_after_fine_tuning_each_site_scores_its_copy_and_before_it_the_shared_model() -> None:
    done = run("finetuned")
    first = done.sites[0]
    own = done.personal[first.site.name]
    said = done.counts()[first.site.name]["accuracy"]
    assert said == first.count(own.model, done.statistics, "test", own.update.kept)["accuracy"]
    earlier = done.counts(1)[first.site.name]["accuracy"]
    assert earlier == first.count(done.models[1], done.statistics, "test")["accuracy"]


def test_the_liar_sends_ten_times_the_opposite() -> None:
    with SCORE.written("fedavg", "activity", eight_people) as folder:
        (folder / "plan.py").write_text((folder / "plan.py").read_text() + "    rounds = 1\n")
        honest, lied = SCORE.run(folder, 0, RATE), SCORE.run(folder, 0, RATE, liar=True)
    before, name = honest.models[0], "head.weight"
    truth, lie = (run.models[-1][name] - before[name] for run in (honest, lied))
    update = honest.sites[0].train(1, before, honest.statistics).state[name] - before[name]
    rows = [site.samples().train for site in honest.sites]
    moved = (lie - truth) * sum(rows) / rows[0]
    torch.testing.assert_close(moved, -11 * update, rtol=1e-3, atol=1e-4)


def eight_who_are_told_apart(folder: Path) -> None:
    for person in range(8):
        r = np.random.default_rng(person)
        y = np.arange(60) % 6
        x = r.normal(0, 0.5, (60, 169)) + np.eye(169)[y] * 8 + r.normal(0, 0.2, 169)
        np.savez(folder / f"person{person}.npz", x=x, y=y, is_test=np.arange(60) >= 36)


def honest_accuracy(method: str, liar: bool) -> float:
    """Of the seven who never lie, after eight rounds."""
    with SCORE.written(method, "activity", eight_who_are_told_apart) as folder:
        (folder / "plan.py").write_text((folder / "plan.py").read_text() + "    rounds = 8\n")
        told = list(SCORE.run(folder, 0, 0.03, liar).counts().values())
    return float(SCORE.sum_of([counts for site in told[1:] for counts in site.values()]))


def test_one_liar_of_eight_leaves_a_mean_without_numbers() -> None:
    assert honest_accuracy("fedavg", liar=False) > 0.9
    with pytest.raises(PlanError, match="while computing metrics"):
        honest_accuracy("fedavg", liar=True)


@pytest.mark.parametrize("method", [m for m in SCORE.ROBUST if m != "fedavg"])
def test_one_liar_of_eight_who_spoils_a_mean_leaves_a_robust_rule_a_model_that_serves(
    method: str,
) -> None:
    """That, and no more: these rows are made up, training is cut short, and that sites are left out
    shows. How little a liar costs is the figure of score.py --liar, on real rows."""
    honest, lied = (honest_accuracy(method, liar) for liar in (False, True))
    assert honest > 0.6
    assert lied > honest - 0.15


def test_a_table_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    file, made = tmp_path / "table.json", []

    def find(seed: int) -> dict[str, float]:
        made.append(seed)
        if len(made) == 2:
            raise KeyboardInterrupt
        return {"score": 0.5 + seed}

    with pytest.raises(KeyboardInterrupt):
        SCORE.Table(file).seeds("activity", "krum", 0.01, 3, find)
    found = SCORE.Table(file).seeds("activity", "krum", 0.01, 3, find)
    assert [f["score"] for f in found] == [0.5, 1.5, 2.5]
    assert made == [0, 1, 1, 2]
    SCORE.Table(file).seeds("activity", "krum", 0.03, 1, find)
    assert made == [0, 1, 1, 2, 0], "a finding of another rate counted"


def test_the_error_of_a_mean_falls_with_the_root_of_the_seeds() -> None:
    mean, error = SCORE.mean_and_error([1.0, 2.0, 3.0])
    assert mean == 2
    assert error == pytest.approx(1 / math.sqrt(3))
    assert math.isnan(SCORE.mean_and_error([1.0])[1])


def test_data_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"har_features\.npz is not there: see .*README\.md"):
        SCORE.people(tmp_path, tmp_path)
