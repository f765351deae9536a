"""How far predicted numbers are from true ones, from seven exact sums.

R2 is of all rows together, so it also credits a model with telling one site's level from another's.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from swarm.learning.metrics import intervals
from swarm.learning.metrics.counts import Counts, Figure, Integers
from swarm.learning.metrics.rows import as_pair
from swarm.learning.metrics.sums import PLACES, check_sums, products, read_sum, sum_of

_SUMS = ("targets", "predictions", "squares of targets", "squares of predictions", "products",
         "absolute errors", "fourth powers of errors")  # fmt: skip


class Errors(msgspec.Struct, frozen=True, tag="errors", forbid_unknown_fields=True):
    """The number of rows, and seven sums of six digits."""

    @property
    def places(self) -> int:
        return 1 + len(_SUMS) * PLACES

    def rows_in(self, values: Integers) -> int:
        return int(values[0])

    def check(self, values: Integers) -> None:
        check_sums(values)

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        return values

    def figures(self, values: Integers) -> dict[str, Figure]:
        n = self.rows_in(values)
        names = ("r2", "rmse", "mae", "pearson", "bias")
        if n < 1:
            return {name: Figure(None) for name in names}
        y, p, yy, pp, yp, absolute, fourth = (
            read_sum(digits) / n for digits in values[1:].reshape(-1, PLACES)
        )
        # Fractions: nothing is lost where large numbers nearly cancel.
        square = max(float(yy - 2 * yp + pp), 0.0)
        spread_y, spread_p, common = yy - y * y, pp - p * p, yp - y * p
        explained = None if spread_y <= 0 else 1 - square / float(spread_y)
        related = None
        if spread_y > 0 and spread_p > 0:
            root = math.sqrt(float(spread_y)) * math.sqrt(float(spread_p))
            related = min(max(float(common) / root, -1.0), 1.0)
        of_square = max(float(fourth) - square * square, 0.0) / max(n - 1, 1)
        low, high = intervals.of_log(square, of_square)
        mean_absolute, mean_error = float(absolute), float(p - y)
        return {
            "r2": Figure(explained, rows=n),
            "rmse": Figure(math.sqrt(square), _root(low), _root(high), n),
            "mae": Figure(
                mean_absolute,
                *intervals.of_log(mean_absolute, (square - mean_absolute**2) / max(n - 1, 1)),
                rows=n,
            ),
            "pearson": Figure(
                related,
                *(intervals.NONE if related is None else intervals.of_correlation(related, n)),
                rows=n,
            ),
            "bias": Figure(
                mean_error,
                *intervals.of_mean(mean_error, (square - mean_error**2) / max(n - 1, 1)),
                rows=n,
            ),
        }


def errors(targets: Any, predictions: Any) -> Counts:
    """Counts for R2, RMSE, MAE, Pearson's correlation and the mean error, of numbers [rows].

    Raises ValueError if the lengths differ, a number is not finite, or fourth powers of errors add
    up to more than 1e36: then take a larger unit.
    """
    y, p = as_pair(targets, predictions)
    if not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise ValueError("a target or a prediction is infinite")
    with np.errstate(over="ignore", invalid="ignore"):
        columns = (
            *(y, p, products(y, y), products(p, p), products(y, p)),
            *(np.abs(y - p), (y - p) ** 4),
        )
    if not all(np.isfinite(c).all() for c in columns):
        raise ValueError("targets or predictions are too large to be squared: take a larger unit")
    sums = [sum_of(c.tolist(), what) for c, what in zip(columns, _SUMS, strict=True)]
    values = np.array([len(y), *(digit for digits in sums for digit in digits)], dtype=np.int64)
    return Counts(Errors(), values)


def _root(value: float | None) -> float | None:
    return None if value is None else math.sqrt(value)
