"""The mean of a number per row, such as the loss: what fits no other measure."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from swarm.learning.metrics import intervals
from swarm.learning.metrics.counts import Counts, Figure, Integers
from swarm.learning.metrics.rows import as_column
from swarm.learning.metrics.sums import PLACES, check_sums, products, read_sum, sum_of


class Average(msgspec.Struct, frozen=True, tag="average", forbid_unknown_fields=True):
    """The number of rows, and the sums of the values and of their squares, of six digits each."""

    @property
    def places(self) -> int:
        return 1 + 2 * PLACES

    def rows_in(self, values: Integers) -> int:
        return int(values[0])

    def check(self, values: Integers) -> None:
        check_sums(values)

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        return values

    def figures(self, values: Integers) -> dict[str, Figure]:
        rows = self.rows_in(values)
        if rows < 1:
            return {"mean": Figure(None)}
        mean, square = (read_sum(digits) / rows for digits in values[1:].reshape(-1, PLACES))
        variance = max(float(square - mean * mean), 0.0) / max(rows - 1, 1)
        return {"mean": Figure(float(mean), *intervals.of_mean(float(mean), variance), rows=rows)}


def average(values: Any) -> Counts:
    """Counts for the mean of `values` [rows] over the rows of all sites.

    Raises ValueError if one is NaN or infinite.
    """
    x = as_column(values)
    if not np.isfinite(x).all():
        raise ValueError("a value is NaN or infinite")
    with np.errstate(over="ignore", invalid="ignore"):
        squares = products(x, x)
    if not np.isfinite(squares).all():
        raise ValueError("the values are too large to be squared: take a larger unit")
    sums = [sum_of(x.tolist(), "the values"), sum_of(squares.tolist(), "the values' squares")]
    return Counts(Average(), np.array([len(x), *sums[0], *sums[1]], dtype=np.int64))
