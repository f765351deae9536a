"""Numbers of an update as integers of a ring, in which masks are added and cancel exactly.

An element d of an update is clipped to ±C, then weighed, then counted in steps, then rounded:

    word = ⌊clip(d, ±C) · w / step + u⌋ mod 2^bits,    u uniform in [0, 1)

Stochastic rounding makes a sum of many small parts right on average: rounding to the nearest would
turn a hundred moves of a third of a step each into none.

For a weighted mean, the weights of all contributors add up to at most 1, and the step is
C / (2³¹ − 1 − n) for n members: the sum of all is at most 2³¹ − 1 − n steps, and rounding adds less
than one for each of n members. So no sum wraps, with everybody at the clip bound. Clipping comes
before weighing: the other way round, a site with a small weight could move the sum by n times C.

For sums (statistics) the ring has 64 bits and the step is a power of two, so that counts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import PlanError

Floats = NDArray[np.float64]
Words = NDArray[Any]
"""Unsigned integers of the ring, of 32 or 64 bits."""
Draw = Callable[[int], NDArray[np.uint32]]
"""So many independent uniform 32-bit numbers, from the system's entropy."""

MOST_MEMBERS = 256
PIECE = 1 << 14
"""Elements that are worked on at a time: they stay in a processor's cache."""
_EXACT_BITS = 52
"""Of a float64: integers below 2⁵² have room for a rounding decision."""


@dataclass(frozen=True)
class Grid:
    """Which integers stand for which numbers: those within ±`clip`, in steps of `step`."""

    clip: float
    step: float
    bits: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the words, little-endian on every machine."""
        return np.dtype("<u4" if self.bits == 32 else "<u8")

    def encode(self, values: NDArray[Any], weight: float, draw: Draw) -> Words:
        """The words of a flat array of floats, weighed by `weight` between 0 and 1.

        Raises PlanError for a number that is not finite.
        """
        words = np.empty(len(values), self.dtype)
        for start in range(0, len(values), PIECE):
            piece = values[start : start + PIECE].astype(np.float64)
            self.encode_into(words[start : start + PIECE], piece, weight, draw)
        return words

    def encode_into(self, words: Words, values: Floats, weight: float, draw: Draw) -> None:
        """As `encode`, into these words; quickest for so few that all stays in a processor's cache.
        The values are changed."""
        if not 0.0 < weight <= 1.0:
            raise ValueError(f"a weight of {weight} is not above 0 and at most 1")
        if not np.isfinite(values).all():
            found = values[~np.isfinite(values)][0]
            raise PlanError(
                f"an element of the update is {found}, which cannot be masked: look for a "
                "diverged training, or lower the learning rate"
            )
        np.clip(values, -self.clip, self.clip, out=values)
        values *= weight / self.step
        down = np.floor(values)
        values -= down
        values *= 2.0**32
        down += draw(len(values)) < values
        words[...] = down.astype(np.int64).astype(self.dtype)  # two's complement: mod 2^bits

    def decode(self, words: Words, weight: float) -> Floats:
        """The numbers that a sum of words stands for, divided by the contributors' joint weight.

        Float64 multiplication and division alone: the same bits on every machine.
        """
        whole = words.view(f"<i{self.bits // 8}").astype(np.float64)
        decoded: Floats = whole * self.step / weight
        return decoded


def mean_grid(clip: float, members: int) -> Grid:
    """For a weighted mean over up to `members` contributors: 32 bits."""
    _check(clip, members)
    return Grid(clip, clip / (2**31 - 1 - members), 32)


def sum_grid(bound: float, members: int) -> Grid:
    """For a sum, over up to `members` contributors, of values within ±`bound`: 64 bits.

    Integers are exact if `bound` is at most 2⁵².
    """
    _check(bound, members)
    exponent = max(math.frexp(bound)[1] - _EXACT_BITS, -1000)
    return Grid(bound, math.ldexp(1.0, exponent), 64)


def add(total: Words, words: Words) -> None:
    """Add in the ring, in place."""
    np.add(total, words, out=total)


def weights(samples: Sequence[int]) -> list[float]:
    """Each contributor's weight: its samples of those of all who were frozen at the close."""
    total = sum(samples)
    return [count / total for count in samples]


def _check(clip: float, members: int) -> None:
    if not (math.isfinite(clip) and clip > 0.0):
        raise ValueError(f"a bound of {clip} is not a positive number")
    if not 1 <= members <= MOST_MEMBERS:
        raise ValueError(f"{members} members are not between 1 and {MOST_MEMBERS}")
