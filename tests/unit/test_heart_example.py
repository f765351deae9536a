"""The heart example: an honest split, and the accuracy that its README states."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from harness.whole import is_whole

import swarm
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.references import train_alone
from swarm.learning.simulation.whole_run import run_federated

HEART = Path(__file__).parents[2] / "examples" / "heart"
SEEDS = range(5) if is_whole() else range(2)
PATIENTS = {"cleveland": 303, "budapest": 294, "zurich_basel": 123, "long_beach": 200}
SICK = {"cleveland": 139, "budapest": 106, "zurich_basel": 115, "long_beach": 149}


def test_the_four_hospitals_ship_with_all_their_patients() -> None:
    for site in deal(HEART):
        table = swarm.read_csv(site.sources[0])
        assert len(table) == PATIENTS[site.name]
        assert int(table.numbers("disease").sum()) == SICK[site.name]
    assert [site.name for site in deal(HEART)] == list(PATIENTS)


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_in_training_and_in_test(seed: int) -> None:
    plan = load_plan(HEART)
    for site in deal(HEART):
        data = plan.data(swarm.Site(site.name, site.sources[0], seed=seed))
        parts = [
            {np.concatenate(row, axis=None).tobytes() for row in zip(*part, strict=True)}
            for part in (data.train, data.validation, data.test)
        ]
        for one, two in itertools.combinations(parts, 2):
            assert not one & two
        rows = [len(part[-1]) for part in (data.train, data.validation, data.test)]
        assert PATIENTS[site.name] - sum(rows) in (0, 1)  # a row that stands twice
        assert rows[2] / sum(rows) == pytest.approx(1 / 3, abs=0.02)
        shares = [part[-1].mean() for part in (data.train, data.test)]
        assert shares[0] == pytest.approx(shares[1], abs=0.03)


def test_the_outcome_is_no_input() -> None:
    """`num` is the outcome in finer steps: a model that saw it would be perfect."""
    plan = load_plan(HEART)
    site = deal(HEART)[0]
    data = plan.data(swarm.Site(site.name, site.sources[0]))
    measured, coded, sick = data.train
    columns = np.hstack([measured, coded])
    for column in columns.T:
        known = ~np.isnan(column)
        assert abs(np.corrcoef(column[known], sick[known])[0, 1]) < 0.6


def test_the_swarm_reaches_what_the_readme_states_of_five_seeds() -> None:
    swarms, alone = [], []
    for seed in SEEDS:
        run = run_federated(HEART, seed=seed)
        swarms.append(run.score()["auc"] or 0)
        local = [train_alone(site, run.sites, 20, run.statistics)["auc"] or 0 for site in run.sites]
        alone.append(np.mean(local))
    assert np.mean(swarms) >= 0.870
    assert 0.81 <= np.mean(alone) <= 0.85
    assert all(s > a for s, a in zip(swarms, alone, strict=True))
