"""What holds for the rows of every example: who may see them, and when."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.simulation.dealing import deal

EXAMPLES = Path(__file__).parents[2] / "examples"
every_example = pytest.mark.parametrize("example", ["heart", "stroke", "tuberculosis"])


@pytest.fixture(scope="module")
def tune() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tune_examples", EXAMPLES / "tune.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(plan: Plan, source: Path, seed: int = 0) -> Data:
    return plan.data(Site("here", source, seed=seed))


def rows(*parts: Any) -> Counter[bytes]:
    """What the parts hold, row by row."""
    return Counter(
        b"".join(np.ascontiguousarray(column[i]).tobytes() for column in part)
        for part in parts
        for i in range(len(part[-1]))
    )


@every_example
def test_the_seed_decides_which_rows_are_test_rows(example: str) -> None:
    plan = load_plan(EXAMPLES / example)
    source = deal(EXAMPLES / example)[0].sources[0]
    assert rows(read(plan, source, 1).test) == rows(read(plan, source, 1).test)
    assert rows(read(plan, source, 1).test) != rows(read(plan, source, 2).test)


@pytest.mark.parametrize("example", ["stroke", "tuberculosis"])
def test_a_patient_is_a_test_row_however_hospitals_share_sites(
    example: str, tmp_path: Path
) -> None:
    plan = load_plan(EXAMPLES / example)
    together: Counter[bytes] = Counter()
    apart: Counter[bytes] = Counter()
    for number, site in enumerate(deal(EXAMPLES / example, 2)):
        together += rows(_outcome(read(plan, site.copy_to(tmp_path / str(number)))))
        for source in site.sources:
            files = sorted(source.iterdir()) if source.is_dir() else [source]
            for file in files:
                apart += rows(_outcome(read(plan, file)))
    assert together == apart


@pytest.mark.parametrize("seed", range(5))
@every_example
def test_tuning_sees_no_test_row_of_its_seed_and_holds_each_training_row_back_once(
    tune: ModuleType, example: str, seed: int
) -> None:
    source = deal(EXAMPLES / example)[-1].sources[0]
    shipped = read(load_plan(EXAMPLES / example), source, seed)
    known = rows(shipped.train, shipped.validation)
    scored: Counter[bytes] = Counter()
    for fold in range(tune.SEARCHES[example].folds):
        data = read(tune.fold_plan(example, {}, fold), source, seed)
        assert not rows(data.train) & rows(data.test)
        assert rows(data.train, data.test) == known
        scored += rows(data.test)
    assert scored == known
    assert not known & rows(shipped.test)


def test_the_first_setting_within_a_standard_error_of_the_best_is_chosen(tune: ModuleType) -> None:
    best = [0.88, 0.92]  # 0.9 ± 0.02
    below, within = [0.87, 0.88], [0.88, 0.89]
    assert tune.choose([below, within, best]) == 1
    assert tune.choose([below, best, within]) == 1
    assert tune.choose([within, best]) == 0


@every_example
def test_the_shipped_settings_are_among_those_tried(tune: ModuleType, example: str) -> None:
    plan = load_plan(EXAMPLES / example)
    for name, values in tune.SEARCHES[example].grid.items():
        assert getattr(plan, name) in values


def _outcome(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and label of the test rows; between them stands how the site counts its hospitals."""
    return data.test[0], data.test[-1]
