"""Counts of which no number tells of few rows, for sites that hold to a least number of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarm.learning.metrics.counts import Integers


@dataclass
class _Group:
    """Neighbouring bins: the rows of each class in each, by bin."""

    bins: list[int]
    rows: list[tuple[int, int]]

    def tells_of_few(self, least: int) -> bool:
        return any(0 < sum(of_class) < least for of_class in zip(*self.rows, strict=True))

    @property
    def middle(self) -> int:
        """The bin with the middle row."""
        below = np.cumsum([sum(pair) for pair in self.rows])
        return self.bins[int(np.searchsorted(below, below[-1] / 2))]


def group_bins(histogram: Integers, least: int) -> Integers | None:
    """Rows of two classes [2, bins] with neighbouring bins put together into the one in their
    middle, until no class has from 1 to `least` − 1 rows in one. None if a class has so few in all.
    """
    groups: list[_Group] = []
    opened = _Group([], [])
    for place in np.flatnonzero(histogram.any(axis=0)).tolist():
        opened.bins.append(place)
        opened.rows.append((int(histogram[0, place]), int(histogram[1, place])))
        if not opened.tells_of_few(least):
            groups.append(opened)
            opened = _Group([], [])
    while opened.bins and opened.tells_of_few(least):
        if not groups:
            return None
        last = groups.pop()
        opened = _Group(last.bins + opened.bins, last.rows + opened.rows)
    groups += [opened] if opened.bins else []
    found = np.zeros_like(histogram)
    for group in groups:
        found[:, group.middle] = np.sum(group.rows, axis=0)
    return found


def withhold_few(cells: Integers, least: int) -> Integers | None:
    """The same numbers of rows, or None if one of them is from 1 to `least` − 1."""
    return None if ((cells > 0) & (cells < least)).any() else cells
