"""examples/stroke: honest data, honest tuning, and a swarm that is worth its while."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from harness.whole import is_whole

from swarm.learning.data.tables import read_csv
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.whole_run import open_sites, run_federated

STROKE = Path(__file__).parents[2] / "examples" / "stroke"
HOSPITALS = sorted((STROKE / "data").glob("*.csv"))
KNOWN_AT_ADMISSION = {
    *("RDELAY", "RCONSC", "SEX", "AGE", "RSLEEP", "RATRIAL", "RCT", "RVISINF", "RHEP24", "RASP3"),
    *("RSBP", "STYPE", *(f"RDEF{deficit}" for deficit in range(1, 9))),
}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return load_plan(STROKE)


def read(plan: Plan, path: Path, seed: int = 0) -> Data:
    return plan.data(Site("here", path, seed=seed))


def keys(part: tuple[np.ndarray, ...]) -> Counter[bytes]:
    """What a part holds, row by row."""
    return Counter(row.tobytes() for row in np.hstack([np.atleast_2d(c.T).T for c in part]))


def test_every_one_of_24_hospitals_brings_at_least_128_patients() -> None:
    assert len(HOSPITALS) == 24
    for file in HOSPITALS:
        table = read_csv(file)
        assert len(table) >= 128, file
        assert set(table.text("HOSPNUM")) == {file.stem.removeprefix("hospital_")}
    assert sum(len(read_csv(file)) for file in HOSPITALS) == 5192
    assert sorted(s.sources[0] for s in deal(STROKE, 24)) == HOSPITALS


def test_eight_peers_hold_three_hospitals_each() -> None:
    dealt = deal(STROKE)
    assert [len(site.sources) for site in dealt] == [3] * 8
    assert sorted(source for site in dealt for source in site.sources) == HOSPITALS


def test_the_model_sees_only_what_was_known_at_admission(plan: Plan, tmp_path: Path) -> None:
    text = HOSPITALS[0].read_text().splitlines()
    header = text[0].split(",")
    assert set(header) == KNOWN_AT_ADMISSION | {"HOSPNUM", "COUNTRY", "poor6m"}
    hidden = [header.index("HOSPNUM"), header.index("COUNTRY")]
    moved = [
        ["999" if i == hidden[0] else "XX" if i == hidden[1] else c for i, c in enumerate(cells)]
        for cells in (line.split(",") for line in text[1:])
    ]
    elsewhere = tmp_path / "moved.csv"
    elsewhere.write_text("\n".join([text[0], *map(",".join, moved)]))
    here, there = read(plan, HOSPITALS[0]), read(plan, elsewhere)
    # The hospital's number decides the split, and is seen by nothing else.
    assert sum(map(keys, (here.train, here.validation, here.test)), Counter()) == sum(
        map(keys, (there.train, there.validation, there.test)), Counter()
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_patient_is_in_training_validation_or_test_and_never_in_two(
    plan: Plan, seed: int
) -> None:
    for file in HOSPITALS:
        table = read_csv(file)
        known = sum(outcome != "-1" for outcome in table.text("poor6m"))
        data = read(plan, file, seed)
        parts = [data.train, data.validation, data.test]
        assert sum(len(poor) for *_, poor in parts) == known
        assert all(set(poor.tolist()) == {0.0, 1.0} for *_, poor in parts)
        # No two patients of a hospital are alike, so equal rows would be one patient twice.
        together = keys(data.train) + keys(data.validation) + keys(data.test)
        assert max(together.values()) == 1, file


def test_the_shared_sums_are_of_training_rows_alone(plan: Plan) -> None:
    data = read(plan, HOSPITALS[0])
    changed = Data(data.train, *(tuple(c * 0 for c in p) for p in (data.validation, data.test)))
    before, after = plan.statistics(data), plan.statistics(changed)
    assert set(before) == {"count", "sum", "squares"}
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert before["count"].tolist() == [len(data.train[-1])] * 3


def test_24_hospitals_reach_what_the_readme_states_of_five_seeds(plan: Plan) -> None:
    found = []
    for seed in range(5) if is_whole() else range(1):
        sites = open_sites(plan, STROKE, seed, 24)
        assert len(sites) == 24
        found.append(run_federated(STROKE, plan=plan, sites=sites).score()["auc"] or 0)
    assert np.mean(found) >= (0.770 if is_whole() else 0.760)
