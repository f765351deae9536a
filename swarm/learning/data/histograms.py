"""Quantiles and ranges without pooled rows: how many values fall into each bin, summed over sites.

`histogram` goes into `Plan.statistics`, and what is read from its sum into `Plan.prepare`. The
smallest value of all sites would be one patient's; the edge of its bin is nobody's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swarm.learning.data.bins import MAX_BITS, bins_of, bits_of, count_bins, edges_of

BITS = 6


def histogram(values: ArrayLike, bits: int = BITS) -> NDArray[np.float64]:
    """How many of each column of `values` [rows, columns] lie in each bin [columns, bins].

    NaN is left out. With 6 `bits` a bin is at most a 64th of its value wide (and 2**-15 around 0):
    each further bit halves that, and doubles what travels, 32 kB a column. Raises ValueError if
    there are not 1 to 10 bits.
    """
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"histogram() keeps 1 to {MAX_BITS} bits of a value, not {bits}")
    x = np.asarray(values, dtype=np.float64)
    columns = (x[:, None] if x.ndim == 1 else x).T
    counted = [
        np.bincount(bins_of(column[~np.isnan(column)], bits), minlength=count_bins(bits))
        for column in columns
    ]
    return np.array(counted, dtype=np.float64).reshape(len(columns), count_bins(bits))


def quantiles(summed: NDArray[Any], at: ArrayLike) -> NDArray[np.float64]:
    """Quantiles of each column [quantiles, columns], from summed histograms, to a bin's width.

    `at` [quantiles] are parts of the values: 0.5 is the median. Values are taken as spread evenly
    over their bin. NaN of a column without values. Raises ValueError for a part beyond 0 and 1.
    """
    parts = np.atleast_1d(np.asarray(at, dtype=np.float64))
    if not ((parts >= 0) & (parts <= 1)).all():
        raise ValueError(f"quantiles are parts from 0 to 1, and {parts.tolist()} was given")
    edges = edges_of(bits_of(summed.shape[1]))
    found = np.full((len(parts), len(summed)), np.nan)
    for k, counts in enumerate(summed):
        occupied = np.flatnonzero(counts > 0)
        if len(occupied):
            below = np.concatenate([[0.0], np.cumsum(counts[occupied])])
            target = parts * below[-1]
            place = np.clip(np.searchsorted(below, target, side="left") - 1, 0, len(occupied) - 1)
            low, high = edges[occupied[place]], edges[occupied[place] + 1]
            within = (target - below[place]) / counts[occupied[place]]
            found[:, k] = low + (high - low) * within
    return found


def value_range(summed: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each column, two numbers [columns] between which all values lie: the outer edges of the
    first and the last bin that hold any. NaN of a column without values."""
    ends = quantiles(summed, [0.0, 1.0])
    return ends[0], ends[1]
