"""Counts: what the rows of one site, or of many, are worth under one measure.

A measure fixes how many whole numbers there are and what each of them counts, so those of two sites
have the same places and add up, place by place. No order of sites, no number of threads and no
machine changes a sum of whole numbers. They are int64, so that they can be added in a ring modulo
2**64 as well, where nobody sees the parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

MAX_PLACES = 2**18
"""Of one measure: 2 MiB where every place travels, far less where only those that are not 0 do."""
MAX_ROWS = 2**44
"""Of one site; so no sum over 256 members overflows."""


class Figure(NamedTuple):
    """One number for people. What cannot be given (an AUC of one class) is None."""

    value: float | None
    low: float | None = None
    high: float | None = None
    """The 95% confidence interval, where the measure has one. Rows are taken as independent."""
    rows: int = 0
    """How many it is about."""

    def __str__(self) -> str:
        if self.value is None:
            return "–"
        if self.low is None or self.high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class Measure(Protocol):
    """What is counted, and how counts are read. Equal measures count alike."""

    @property
    def places(self) -> int:
        """How many numbers its counts have."""
        ...

    def rows_in(self, values: Integers) -> int:
        """How many rows were counted."""
        ...

    def check(self, values: Integers) -> None:
        """Raise ValueError, saying what is wrong, for numbers that no site's rows could give."""
        ...

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        """The same rows, told so that no number is of 1 to `least` − 1 of them; None if it cannot
        be. A sum is of all rows."""
        ...

    def figures(self, values: Integers) -> dict[str, Figure]:
        """By name, what the counts say; the first is the one to show where there is room for one.

        Whatever the numbers: where a figure makes no sense it is None.
        """
        ...


M = TypeVar("M", bound=Measure)


@dataclass(frozen=True, eq=False)
class Counts:
    """What was counted: `values` int64 [places of the measure]. Add those of sites to get the
    counts of all; `float(counts)` is the first figure, NaN if there is none."""

    measure: Measure
    values: Integers

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return self.measure.rows_in(self.values)

    def figures(self) -> dict[str, Figure]:
        """By name, what the counts say, with 95% intervals; the first is the main one."""
        return {name: _known(f) for name, f in self.measure.figures(self.values).items()}

    @property
    def figure(self) -> Figure:
        """The main figure."""
        return next(iter(self.figures().values()))

    def withheld_below(self, min_count: int) -> Self:
        """The same counts, or none at all if they are of fewer than `min_count` rows: counts of
        few rows tell of each."""
        if self.rows >= min_count:
            return self
        return type(self)(self.measure, np.zeros_like(self.values))

    def coarsened(self, least: int) -> Self:
        """The same rows, told so that no number is of 1 to `least` − 1 of them: neighbouring bins
        put together, or none at all."""
        enough = self.withheld_below(least)
        coarse = self.measure.coarsened(enough.values, least) if least > 1 else enough.values
        return type(self)(self.measure, np.zeros_like(self.values) if coarse is None else coarse)

    def __add__(self, other: Counts) -> Counts:
        if self.measure != other.measure:
            raise ValueError(
                f"counts of {self.measure} and of {other.measure} do not add up: give the same "
                "settings at every site"
            )
        return Counts(self.measure, self.values + other.values)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Counts)
            and self.measure == other.measure
            and np.array_equal(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]

    def __float__(self) -> float:
        value = self.figure.value
        return math.nan if value is None else value

    def __repr__(self) -> str:
        name, figure = next(iter(self.figures().items()))
        return f"<{name} {figure} of {self.rows} rows>"


def merge(counts: Sequence[Counts]) -> Counts:
    """The counts of all sites together. Raises ValueError if there are none, or of two measures."""
    if not counts:
        raise ValueError("there are no counts to merge: give at least one site's")
    first, *others = counts
    total = first
    for each in others:
        total = total + each
    return total


def _known(figure: Figure) -> Figure:
    """What is no number is not known: lies add up to anything."""
    value, low, high = (v if v is None or math.isfinite(v) else None for v in figure[:3])
    if value is None or low is None or high is None:
        low = high = None
    return Figure(value, low, high, figure.rows)


def checked(measure: M) -> M:
    """A measure whose settings are within their bounds. Raises ValueError naming one that is not,
    or if there would be too many counts."""
    try:
        msgspec.convert(msgspec.to_builtins(measure), type(measure))
    except msgspec.ValidationError as error:
        raise ValueError(f"{type(measure).__name__}: {error}") from None
    if measure.places > MAX_PLACES:
        raise ValueError(f"{measure} has {measure.places} counts, more than {MAX_PLACES}")
    return measure


def check_histogram(values: Integers) -> None:
    """Raise ValueError unless all are numbers of rows, and so few that sums stay exact."""
    if values.size and int(values.min()) < 0:
        raise ValueError("a number of rows is below 0")
    if values.size and (int(values.max()) > MAX_ROWS or int(values.sum()) > MAX_ROWS):
        raise ValueError(f"there are more than {MAX_ROWS} rows")
