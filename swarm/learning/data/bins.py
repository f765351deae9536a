"""Bins for scores of any size: one for each float of a few bits, so that no range must be known.

A score falls into the bin of its sign, its exponent and the first `bits` bits of its fraction, the
way HdrHistogram buckets latencies. A bin is at most 2**-bits of its score wide: with 4 bits, log
odds of 1 to 2 fall into 16 bins. What is smaller than 2**-16 falls into the one bin around 0, what
is larger than 2**16 into the outermost. Bits, not logarithms, choose the bin, so every machine
chooses the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LOWEST, HIGHEST = -16, 16
MAX_BITS = 10
_BIAS, _FRACTION_BITS = 1023, 52


def count_bins(bits: int) -> int:
    """How many bins there are: those below 0, the one around it, those above."""
    return 2 * _outermost(bits) + 1


def bins_of(scores: Floats, bits: int) -> NDArray[np.int64]:
    """The bin of each score [rows], which is not NaN; bins are in the order of scores."""
    raw = np.abs(np.ascontiguousarray(scores)).view(np.int64)
    keys = (raw >> (_FRACTION_BITS - bits)) - ((_BIAS + LOWEST) << bits) + 1
    keys = np.clip(keys, 0, _outermost(bits))
    found: NDArray[np.int64] = np.where(scores < 0, -keys, keys) + _outermost(bits)
    return found


def centres_of(bits: int) -> Floats:
    """The middle of each bin; of the outermost, their inner edge."""
    edges = edges_of(bits)
    middles = (edges[:-1] + edges[1:]) / 2
    middles[0], middles[-1] = edges[1], edges[-2]
    return middles


def edges_of(bits: int) -> Floats:
    """Where the bins begin and end [bins + 1], though the outermost have no end."""
    keys = np.arange(_outermost(bits) + 1, dtype=np.int64)
    above = ((keys + ((_BIAS + LOWEST) << bits)) << (_FRACTION_BITS - bits)).view(np.float64)
    return np.concatenate([-above[::-1], above])


def bits_of(bins: int) -> int:
    """How many bits so many bins keep. Raises ValueError if it is no number of bins."""
    for bits in range(MAX_BITS + 1):
        if count_bins(bits) == bins:
            return bits
    raise ValueError(f"{bins} is no number of bins: give what histogram() returned, summed")


def _outermost(bits: int) -> int:
    return (HIGHEST - LOWEST) << bits
