"""Intervals hold the truth as often as they say: 95% of the time, over many draws."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest

from swarm import metrics
from swarm.learning.metrics import intervals
from swarm.learning.metrics.counts import Counts

DRAWS = 1000
TOLERANCE = 0.022
"""Three standard deviations of the part of 1,000 draws that hit, if 95% do."""

Generator = np.random.Generator


def binormal(positives: int, negatives: int, apart: float, spread: float = 1.0) -> Case:
    def draw(r: Generator) -> Counts:
        scores = np.r_[r.normal(apart, spread, positives), r.normal(0, 1, negatives)]
        return metrics.roc(np.r_[np.ones(positives), np.zeros(negatives)], scores)

    return "auc", draw, NormalDist().cdf(apart / sqrt(1 + spread**2))


def true_probabilities(figure: str, truth: float) -> Case:
    def draw(r: Generator) -> Counts:
        z = r.normal(-1, 1.5, 300)
        return metrics.calibration(r.random(300) < 1 / (1 + np.exp(-z)), z)

    return figure, draw, truth


TABLE = np.array([[0.3, 0.06, 0.04], [0.05, 0.2, 0.05], [0.02, 0.08, 0.2]])


def three_classes(figure: str, truth: float) -> Case:
    def draw(r: Generator) -> Counts:
        cell = r.choice(9, 150, p=TABLE.ravel())
        return metrics.confusion(cell // 3, cell % 3, 3, weights="linear")

    return figure, draw, truth


def noisy(figure: str, truth: float) -> Case:
    def draw(r: Generator) -> Counts:
        y = r.normal(5, 2, 100)
        return metrics.errors(y, y + r.normal(0.3, 1, 100))

    return figure, draw, truth


def hazards() -> Case:
    def draw(r: Generator) -> Counts:
        risk = r.normal(0, 1, 80)
        time, seen = r.exponential(np.exp(-risk)), r.exponential(2, 80)
        return metrics.concordance(np.minimum(time, seen), time < seen, risk, until=4.0)

    return "c-index", draw, 0.7420  # of two million rows, ± .0002


Case = tuple[str, Callable[[Generator], Counts], float]
CASES = {
    "auc .69 of 50 rows": binormal(20, 30, 0.7),
    "auc .86 of 130 rows": binormal(30, 100, 1.5),
    "auc .67 of unequal spread": binormal(150, 150, 1.0, 2.0),
    "auc .96 of 55 rows": binormal(15, 40, 2.5),
    "brier": true_probabilities("brier", 0.1593),
    "slope": true_probabilities("slope", 1.0),
    "intercept": true_probabilities("intercept", 0.0),
    "accuracy": three_classes("accuracy", 0.7),
    "balanced accuracy": three_classes(
        "balanced accuracy", float(np.mean(np.diag(TABLE) / TABLE.sum(axis=1)))
    ),
    "kappa": three_classes("kappa", 0.5955),
    "rmse": noisy("rmse", sqrt(1.09)),
    "pearson": noisy("pearson", 2 / sqrt(5)),
    "bias": noisy("bias", 0.3),
    "c-index": hazards(),
}


@pytest.mark.parametrize("case", CASES)
def test_an_interval_holds_the_truth_in_95_percent_of_1000_draws(case: str) -> None:
    figure, draw, truth = CASES[case]
    r = np.random.default_rng(20)
    hits = 0
    for _ in range(DRAWS):
        found = draw(r).figures()[figure]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    print(f"{case}: {hits / DRAWS:.1%}")
    assert hits / DRAWS == pytest.approx(0.95, abs=TOLERANCE)


def test_counts_of_many_sites_have_the_interval_of_all_their_rows() -> None:
    r = np.random.default_rng(1)
    y, z = r.integers(0, 2, 300), r.normal(0, 1, 300)
    sites = [metrics.roc(y[i::3], z[i::3]) for i in range(3)]
    assert metrics.merge(sites).figure == metrics.roc(y, z).figure


def test_an_auc_of_1_has_an_interval_too_and_a_wider_one_of_fewer_rows() -> None:
    few = metrics.roc([0, 0, 0, 1, 1, 1], [0, 1, 2, 3, 4, 5]).figure
    many = metrics.roc(np.repeat([0, 1], 50), np.arange(100)).figure
    assert (few.value, few.high, many.high) == (1.0, 1.0, 1.0)
    assert few.low is not None
    assert many.low is not None
    assert 0.3 < few.low < 0.7 < many.low < 0.99


def test_one_row_of_a_class_has_the_interval_that_numbers_of_rows_give() -> None:
    one = metrics.roc([1, 0, 0, 0], [0.5, 0.1, 0.2, 0.9]).figure
    assert (one.low, one.high) == intervals.of_rank(2 / 3, 1, 3)


def test_a_part_of_all_or_of_nothing_ends_at_1_or_0() -> None:
    assert intervals.of_part(0, 10)[0] == 0
    assert intervals.of_part(10, 10)[1] == 1
    assert intervals.of_part(0, 0) == (None, None)
