"""No number of a site's statistics leaves behind which stand too few rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swarm.errors import PlanError
from swarm.learning.data.moments import moments
from swarm.rounds.small_counts import small, withhold
from swarm.tensors import Layout, TensorSpec, create_file, open_file


def write(path: Path, **arrays: object) -> Path:
    values = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
    layout = Layout.from_specs([TensorSpec(n, "F64", v.shape) for n, v in values.items()])
    with create_file(path, layout) as file:
        for name, value in values.items():
            file[name][...] = value
    return path


def read(path: Path) -> dict[str, list[float]]:
    return {name: np.array(value).tolist() for name, value in open_file(path).items()}


def test_a_column_that_few_patients_have_does_not_leave(tmp_path: Path) -> None:
    rows = np.array([[70.5, np.nan]] * 20 + [[60.0, 1.5]] * 3)
    file = write(tmp_path / "s", **moments(rows))
    assert withhold(file, 10) == {"count": 1, "squares": 1, "sum": 1}
    left = read(file)
    assert left["count"] == [23.0, 0.0]
    assert left["sum"] == [20 * 70.5 + 180, 0.0]
    assert left["squares"][1] == 0.0


def test_nothing_changes_where_all_counts_are_large_enough(tmp_path: Path) -> None:
    file = write(tmp_path / "s", **moments(np.full((30, 2), 7.5)))
    before = file.read_bytes()
    assert withhold(file, 10) == {}
    assert file.read_bytes() == before


def test_the_smallest_count_that_leaves_is_the_minimum_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "s", hist=[0, 1, 9, 10, 11, 500])
    withhold(file, 10)
    assert read(file) == {"hist": [0.0, 0.0, 0.0, 10.0, 11.0, 500.0]}


@pytest.mark.parametrize(
    "tried",
    [
        {"n": [3.0, 40.0]},
        {"disguised": [-3.0, 40.0]},
        {"table": [[1.0, 2.0], [50.0, 60.0]]},
        {"scalar": 4.0},
        {"age.count": [3.0], "age.sum": [210.5], "age.rows": [[1.5, 2.5]]},
        {"age_count": 3.0, "age_sum": [210.5, 7.25]},
        {"count": [40.0], "positives": [2.0]},
    ],
)
def test_plans_that_try_to_send_small_counts_send_zeros(
    tmp_path: Path, tried: dict[str, object]
) -> None:
    file = write(tmp_path / "s", **tried)
    assert withhold(file, 10)
    for values in read(file).values():
        cells = np.ravel(values)
        assert ((cells == 0) | (cells >= 10)).all()


def test_sums_that_name_no_count_are_refused_with_the_array_and_the_remedy() -> None:
    arrays = {"age_count": np.array([30.0]), "sum": np.array([2.5, 3.0])}
    with pytest.raises(PlanError, match=r"'sum' do not say of how many rows.*swarm\.moments"):
        small(arrays, 10)
    other_shape = {"count": np.array([30.0]), "sum": np.array([2.5, 3.0])}
    with pytest.raises(PlanError, match="'sum'"):
        small(other_shape, 10)
