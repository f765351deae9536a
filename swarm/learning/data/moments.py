"""Standardisation without pooled rows: counts, sums and squares, summed over the sites.

`moments` goes into `Plan.statistics`, `standardise` into `Plan.prepare`, `unstandardise` where a
number in the data's own unit is wanted back. They skip NaN, so a missing value (even a column that
one site lacks altogether) distorts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swarm.learning.data.unfamiliar_values import note_standardised


def moments(values: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Count, sum and sum of squares of each column of `values` [rows, columns], NaN left out.

    They add up over sites: the moments of all rows are the sums of the sites' moments.
    """
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    x = np.where(known, x, 0.0)
    return {
        "count": known.sum(axis=0).astype(np.float64),
        "sum": x.sum(axis=0),
        "squares": (x * x).sum(axis=0),
    }


def mean_and_deviation(
    statistics: Mapping[str, NDArray[Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column from summed moments.

    A column that has no values, or only one, teaches nothing: its deviation is infinite, so that
    standardising makes it 0 whatever other sites measured there.
    """
    count = np.maximum(statistics["count"], 1.0)
    mean = statistics["sum"] / count
    variance = np.maximum(statistics["squares"] / count - mean * mean, 0.0)
    deviation = np.sqrt(variance)
    flat = deviation <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
    return mean, np.where(flat, np.inf, deviation)


def standardise(values: ArrayLike, statistics: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Columns of `values` [rows, columns] with the sites' common mean 0 and deviation 1.

    NaN becomes 0, the mean; so does a column that does not vary.
    """
    mean, deviation = mean_and_deviation(statistics)
    given = np.asarray(values, dtype=np.float64)
    note_standardised(given, mean, deviation)
    z = (given - mean) / deviation
    return np.where(np.isnan(z), 0.0, z).astype(np.float32)


def unstandardise(z: ArrayLike, statistics: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The values [rows, columns] that `standardise` makes `z` of: a prediction in its own unit.

    A column that does not vary becomes its mean, which is all that was known of it.
    """
    mean, deviation = mean_and_deviation(statistics)
    x = np.asarray(z, dtype=np.float64) * np.where(np.isinf(deviation), 0.0, deviation) + mean
    return x.astype(np.float32)
