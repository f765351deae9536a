"""examples/tuberculosis: honest data, honest tuning, and a swarm that is worth its while."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from harness.whole import is_whole

from swarm.errors import PlanError
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.whole_run import open_sites, run_federated
from swarm.learning.training.loop import LocalTraining

TUBERCULOSIS = Path(__file__).parents[2] / "examples" / "tuberculosis"
SITES = sorted(p for p in (TUBERCULOSIS / "data").iterdir() if p.is_dir())
COHORTS = sorted((TUBERCULOSIS / "data").glob("*/*.npz"))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(TUBERCULOSIS)


def read(plan: Plan, path: Path, seed: int = 0) -> Data:
    return plan.data(Site("here", path, seed=seed))


def keys(part: tuple[np.ndarray, ...]) -> Counter[bytes]:
    """The samples of a part; no two profiles of 3,000 genes are alike."""
    return Counter(row.tobytes() for row in part[0])


def test_eleven_cohorts_of_distinct_samples_measure_the_same_genes() -> None:
    cohorts = [np.load(file, allow_pickle=False) for file in COHORTS]
    assert len(cohorts) == 11
    assert all(np.array_equal(c["gene"], cohorts[0]["gene"]) for c in cohorts)
    assert all(c["expression"].shape == (len(c["tb"]), 3000) for c in cohorts)
    assert len({str(sample) for c in cohorts for sample in c["sample"]}) == 427
    assert sum(int(c["tb"].sum()) for c in cohorts) == 141
    assert all(np.array_equal(c["tb"] == 1, c["status"] == "PTB") for c in cohorts)


def test_the_cohorts_of_a_country_form_a_site() -> None:
    dealt = {site.name: site.sources for site in deal(TUBERCULOSIS)}
    assert sorted(source for sources in dealt.values() for source in sources) == SITES
    cohorts = {name: len(list(sources[0].glob("*.npz"))) for name, sources in dealt.items()}
    assert len(cohorts) == 8
    assert cohorts["uk"] == 3
    assert cohorts["brazil"] == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_sample_is_in_training_validation_or_test_and_never_in_two(plan: Plan, seed: int) -> None:
    for site in SITES:
        data = read(plan, site, seed)
        together = keys(data.train) + keys(data.validation) + keys(data.test)
        assert max(together.values()) == 1
        assert together.total() == sum(len(np.load(f)["tb"]) for f in site.glob("*.npz"))


def test_every_cohort_has_both_classes_in_every_part(plan: Plan) -> None:
    for file in COHORTS:
        data = read(plan, file)
        for _, _, tb in (data.train, data.validation, data.test):
            assert set(tb.tolist()) == {0.0, 1.0}, file


def test_each_cohort_is_standardised_on_its_own_training_samples(plan: Plan) -> None:
    uk = read(plan, TUBERCULOSIS / "data" / "uk")
    prepared = plan.prepare(uk, {})
    for cohort in range(3):
        z = prepared.train[0][uk.train[1] == cohort]
        assert np.abs(z.mean(axis=0)).max() < 1e-4
        assert z.std(axis=0).max() < 1.0
    shifted = tuple(column + 1 if i == 0 else column for i, column in enumerate(uk.test))
    again = plan.prepare(Data(uk.train, uk.validation, shifted), {})
    assert np.array_equal(again.train[0], prepared.train[0])
    assert np.array_equal(again.validation[0], prepared.validation[0])
    assert (again.test[0] > prepared.test[0]).all()


def test_a_cohort_is_prepared_alike_alone_and_beside_others(plan: Plan) -> None:
    brazil = TUBERCULOSIS / "data" / "brazil"
    data = read(plan, brazil)
    together = plan.prepare(data, {}).train[0][data.train[1] == 0]
    alone = plan.prepare(
        Data(*(tuple(c[p[1] == 0] for c in p) for p in (data.train, data.validation, data.test))),
        {},
    ).train[0]
    assert np.array_equal(together, alone)


def test_a_folder_without_cohorts_is_named(plan: Plan, tmp_path: Path) -> None:
    site = LocalTraining(plan, Site("empty", tmp_path), TUBERCULOSIS, device="cpu")
    with pytest.raises(PlanError, match=f"{tmp_path} holds no .npz file"):
        site.samples()


def test_the_swarm_reaches_what_the_readme_states_of_five_seeds(plan: Plan) -> None:
    found = []
    for seed in range(5) if is_whole() else range(2):
        sites = open_sites(plan, TUBERCULOSIS, seed)
        found.append(run_federated(TUBERCULOSIS, plan=plan, sites=sites).score()["auc"] or 0)
    assert np.mean(found) >= 0.865
