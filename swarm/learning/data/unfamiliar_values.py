"""What a plan reads and standardises while it predicts, to tell values unlike any it learned from.

A plan names the columns that it reads, and later standardises arrays without names by the members'
sums. Both are noted here, and brought together by their values: so a cholesterol in another unit is
told by its column and its row, and no plan has to say anything twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAR_CELL = 6.0
"""Deviations from the members' mean from which one value is told."""
FAR_COLUMN = 3.0
"""Deviations of a whole column's mean from which it must be in another unit."""
MOST_CELLS = 5
"""Single values that are told of one column."""


@dataclass(frozen=True)
class Standardised:
    """Values [rows, columns], and the members' mean and deviation of each column."""

    values: NDArray[Any]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


@dataclass
class Watch:
    """What was noted."""

    numbers: list[tuple[str, NDArray[Any]]] = field(default_factory=list)
    """Columns that were read as numbers, by name."""
    standardised: list[Standardised] = field(default_factory=list)


@dataclass(frozen=True)
class Unusual:
    """What is unlike the members' rows: single cells, and whole columns in other units."""

    cells: tuple[str, ...]
    columns: tuple[str, ...]


_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watch() -> Iterator[Watch]:
    """Note what is read and standardised within the block."""
    noted = Watch()
    token = _watch.set(noted)
    try:
        yield noted
    finally:
        _watch.reset(token)


def note_numbers(column: str, values: NDArray[Any]) -> None:
    noted = _watch.get(None)
    if noted is not None:
        # A copy, as plans mend what they read: a zero that means a gap.
        noted.numbers.append((column, values.copy()))


def note_standardised(
    values: NDArray[Any], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> None:
    noted = _watch.get(None)
    if noted is not None:
        noted.standardised.append(Standardised(values, mean, deviation))


def find_unusual(noted: Watch, places: list[str]) -> Unusual:
    """What of the noted lies far from the members' rows; `places` says where each row stands."""
    cells: list[str] = []
    columns: list[str] = []
    for each in noted.standardised:
        if each.values.ndim != 2 or len(each.values) != len(places):
            continue
        for index in range(each.values.shape[1]):
            values = np.asarray(each.values[:, index], np.float64)
            mean, deviation = float(each.mean[index]), float(each.deviation[index])
            if not np.isfinite(deviation) or np.isnan(values).all():
                continue
            name = _name_of(values, noted.numbers) or f"column {index} of what is standardised"
            usual = f"{mean:.4g} ± {deviation:.3g} (mean ± deviation)"
            middle = float(np.nanmean(values))
            first = int(np.flatnonzero(~np.isnan(values))[0])
            if abs(middle - mean) > FAR_COLUMN * deviation:
                columns.append(
                    f"{name} is {middle:.4g} on average here, and {usual} in the rows from which "
                    f"the model has learned: is it in another unit? The first is {places[first]}, "
                    f"with {values[first]:.4g}"
                )
                continue
            far = np.flatnonzero(np.abs(values - mean) > FAR_CELL * deviation)
            cells += [
                f"{places[row]}: {name} is {values[row]:.4g}, far from the {usual} from which the "
                "model has learned"
                for row in far[:MOST_CELLS]
            ]
            if len(far) > MOST_CELLS:
                cells.append(f"{name} is so far off in {len(far) - MOST_CELLS} rows more")
    return Unusual(tuple(cells), tuple(columns))


def _name_of(values: NDArray[np.float64], columns: list[tuple[str, NDArray[Any]]]) -> str | None:
    """The column that has these values, where they are not gaps; None if there is none."""
    known = ~np.isnan(values)
    for name, column in columns:
        if len(column) == len(values) and np.array_equal(column[known], values[known]):
            return name
    return None
