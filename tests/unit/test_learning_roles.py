"""Small sites and sites that only test; the simulation weighs and separates them as the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness.plans import write_tiny_plan

import swarm
from swarm.errors import PlanError
from swarm.learning.parameters.named_tensors import unpack_state
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.references import Job, JobSite, merged_statistics, run
from swarm.learning.simulation.whole_run import merge_states, open_sites, run_federated, weight
from swarm.learning.training.loop import LocalTraining

TEST_ONLY = (
    "return swarm.Data(train=(x[train], y[train]), test=(x[test], y[test]))",
    "if site.name == 'site2':\n            return swarm.Data(test=(x, y))\n"
    "        return swarm.Data(train=(x[train], y[train]), test=(x[test], y[test]))",
)
EACH_PART = (
    "return swarm.Data(train=ready",
    "return data.map(ready)\n        _ = dict(train=ready",
)


def job(plan: Path, **settings: object) -> Job:
    sites = [JobSite(name=f.stem, data=str(f)) for f in sorted((plan / "data").iterdir())]
    return Job(plan=str(plan), sites=sites, device="cpu", **settings)  # type: ignore[arg-type]


def test_a_site_without_training_rows_scores_the_models_and_adds_nothing_to_them(
    tmp_path: Path,
) -> None:
    three = write_tiny_plan(tmp_path / "three", TEST_ONLY, EACH_PART, sites=3)
    two = write_tiny_plan(tmp_path / "two", EACH_PART, sites=2)
    with_tester, without = run_federated(three), run_federated(two)
    for name, value in without.models[-1].items():
        assert torch.equal(with_tester.models[-1][name], value)
    tester = with_tester.sites[2]
    assert (tester.samples().train, tester.samples().test) == (0, 40)
    scores = tester.evaluate(with_tester.models[-1], with_tester.statistics)
    assert (scores["train"], scores["validation"]) == ({}, {})
    assert 0 <= scores["test"]["auc"] <= 1
    with pytest.raises(PlanError, match=r"plan\.py:\d+ in prepare: .*'site2' has no training rows"):
        tester.train(1, with_tester.models[0], with_tester.statistics)

    result = run(job(three, rounds=1))
    assert set(result.local) == {"site0", "site1"}
    assert result.samples["site2"].train == 0
    assert (result.pooled is not None, result.notes) == (True, [])


def test_a_site_with_too_few_training_rows_is_told_so(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path, ("rounds = 3", "rounds = 3\n    min_rows = 31"))
    message = (
        r"plan\.py:\d+ in data: the site 'site0' has 30 training rows, and the plan's min_rows"
    )
    with pytest.raises(PlanError, match=message):
        run_federated(plan)


def test_fewer_training_sites_than_min_peers_are_no_consortium(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path, ("rounds = 3", "rounds = 3\n    min_peers = 3"))
    with pytest.raises(PlanError, match="min_peers is 3, and 2 sites hold training rows"):
        run_federated(plan)


def test_rows_that_prepare_adds_do_not_make_a_site_weigh_more(tmp_path: Path) -> None:
    doubled = (
        "return swarm.Data(train=ready(*data.train)",
        "if self.own == 'site0':\n"
        "            more = tuple(np.repeat(column, 3, 0) for column in data.train)\n"
        "            data = swarm.Data(more, None, data.test)\n"
        "        return swarm.Data(train=ready(*data.train)",
    )
    named = ("table = ", "self.own = site.name\n        table = ")
    numpy = ("import torch\n", "import numpy as np\nimport torch\n")
    plan = write_tiny_plan(tmp_path, doubled, named, numpy)
    done = run_federated(plan, rounds=1)
    updates = [site.train(1, done.models[0], done.statistics) for site in done.sites]
    assert [update.samples for update in updates] == [90, 30]
    assert [weight(u, s) for u, s in zip(updates, done.sites, strict=True)] == [30, 30]
    merged = unpack_state(merge_states([update.state for update in updates], [30, 30]))
    for name, value in merged.items():
        assert torch.equal(done.models[1][name], value)


def test_what_one_site_keeps_in_its_plan_no_other_site_sees(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path, ("table = ", "self.who = site.name\n        table = "))
    sites = open_sites(load_plan(plan), plan, seed=0)
    assert [site.plan.who for site in sites] == ["site0", "site1"]  # type: ignore[attr-defined]


def test_differing_statistics_are_named_with_shapes_and_sites(tmp_path: Path) -> None:
    plan = write_tiny_plan(
        tmp_path,
        (
            "return swarm.moments(data.train[0])",
            "return {'n': [1.0] * len(set(data.train[0][:, 0]))}",
        ),
    )
    rows = (plan / "data" / "site1.csv").read_text().splitlines()
    (plan / "data" / "site1.csv").write_text("\n".join(rows[:21]))
    message = r"differ: 'n' is \[30\] at site0, \[15\] at site1; the same names and shapes"
    with pytest.raises(PlanError, match=message):
        run_federated(plan)
    sites = open_sites(load_plan(plan), plan, seed=0)
    assert merged_statistics(sites[:1]) is not None


def test_a_site_with_one_class_or_no_validation_rows_trains_and_has_no_score(
    tmp_path: Path,
) -> None:
    plan = write_tiny_plan(tmp_path)
    lines = (plan / "data" / "site0.csv").read_text().splitlines()
    sick = [lines[0], *(line[:-1] + "1" for line in lines[1:])]
    (plan / "data" / "site0.csv").write_text("\n".join(sick))
    done = run_federated(plan)
    scores = done.sites[0].evaluate(done.models[-1], done.statistics)
    assert np.isnan(scores["test"]["auc"])
    assert scores["validation"] == {}
    assert (done.score()["auc"] or 0) > 0


def test_the_parts_of_data_that_are_there_are_changed() -> None:
    data = swarm.Data((1, 2), None, {"x": 3})
    changed = swarm.Data((1, 2), None, (3, 4)).map(lambda a, b: (a + 1, b))
    assert (changed.train, changed.validation, changed.test) == ((2, 2), None, (4, 4))
    assert swarm.Data(train={"x": 3}).map(lambda part: len(part)).train == 1
    assert data.test == {"x": 3}


def test_a_plan_object_given_to_the_simulation_is_not_used_up(tmp_path: Path) -> None:
    folder = write_tiny_plan(tmp_path, ("table = ", "self.read = True\n        table = "))
    plan = load_plan(folder)
    run_federated(folder, plan=plan, rounds=1)
    assert not hasattr(plan, "read")
    location = folder / "data" / "site0.csv"
    assert (
        LocalTraining(plan, swarm.Site("a", location), folder, device="cpu").samples().train == 30
    )
