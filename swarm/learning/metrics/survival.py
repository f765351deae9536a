"""Whether those of higher risk have the event earlier: the C-index, across sites as within them.

Rows are counted by when they were last seen, in 128 bins up to a horizon, shorter ones at first; by
their risk; and by whether the event came then. Rows of one time bin are not compared, rows of one
risk bin are tied.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from swarm.learning.data.bins import bins_of, count_bins
from swarm.learning.metrics import intervals
from swarm.learning.metrics.coarse import withhold_few
from swarm.learning.metrics.counts import Counts, Figure, Integers, check_histogram, checked
from swarm.learning.metrics.rows import as_column, as_labels, as_pair

TIMES = 128
BITS = 2


class Concordance(msgspec.Struct, frozen=True, tag="concordance", forbid_unknown_fields=True):
    """Rows without and with the event, by time (the last bin: seen at the horizon, without) and
    risk: int64 [2, times + 1, bins]."""

    until: Annotated[float, msgspec.Meta(gt=0, le=1e12)]
    bits: Annotated[int, msgspec.Meta(ge=1, le=3)] = BITS

    @property
    def places(self) -> int:
        return 2 * (TIMES + 1) * count_bins(self.bits)

    def rows_in(self, values: Integers) -> int:
        return int(values.sum())

    def check(self, values: Integers) -> None:
        check_histogram(values)
        if self._table(values)[1, TIMES].any():
            raise ValueError("there are events after the horizon")

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        return withhold_few(values, least)

    def figures(self, values: Integers) -> dict[str, Figure]:
        """Harrell's C with the interval of Pencina and D'Agostino (Stat Med 23:2109-2123, 2004) for
        its log odds: the errors of how often a row agrees with the others."""
        without, events = self._table(values).astype(float)
        seen = without + events
        later = seen[::-1].cumsum(axis=0)[::-1] - seen
        earlier = events.cumsum(axis=0) - events
        below = later.cumsum(axis=1) - later / 2  # of lower risk among the later; ties half
        above = earlier[:, ::-1].cumsum(axis=1)[:, ::-1] - earlier / 2
        pairs = float((events * later.sum(axis=1, keepdims=True)).sum())
        agree = float((events * below).sum())
        rows, happened = self.rows_in(values), int(events.sum())
        counted = {"events": Figure(float(happened), rows=rows)}
        if pairs <= 0:
            return {"c-index": Figure(None, rows=rows)} | counted
        value = agree / pairs
        as_earlier = below - value * later.sum(axis=1, keepdims=True)
        as_later = above - value * earlier.sum(axis=1, keepdims=True)
        off = events * (as_earlier + as_later) ** 2 + without * as_later**2
        variance = float(off.sum()) / pairs**2
        return {"c-index": Figure(value, *intervals.of_odds(value, variance), rows=rows)} | counted

    def _table(self, values: Integers) -> Integers:
        return values.reshape(2, TIMES + 1, count_bins(self.bits))


def concordance(times: Any, events: Any, risks: Any, *, until: float, bits: int = BITS) -> Counts:
    """Counts for the C-index up to the time `until`, in the unit of `times`.

    `times` [rows] are those of the event where `events` [rows] is 1, and of last being seen where
    it is 0; `risks` [rows] grow with the risk. Up to a quarter of `until` there are as many bins
    of time as after it. `bits` of a risk are kept. Raises ValueError if lengths differ, a time is
    below 0, or a number is NaN.
    """
    t, risk = as_pair(times, risks)
    happened = as_labels(as_column(events), 2)
    if len(happened) != len(t):
        raise ValueError(f"{len(t)} times and {len(happened)} events cannot be compared")
    if len(t) and t.min() < 0:
        raise ValueError(f"a time is {t.min():g}, before the beginning")
    measure = checked(Concordance(float(until), bits))
    # Square roots: most events come early, and IEEE 754 rounds them alike everywhere.
    bin_of_time = np.minimum(np.sqrt(t / measure.until) * TIMES, TIMES).astype(np.int64)
    happened = np.where(bin_of_time == TIMES, 0, happened)
    bins = count_bins(bits)
    place = (happened * (TIMES + 1) + bin_of_time) * bins + bins_of(risk, bits)
    return Counts(measure, np.bincount(place, minlength=measure.places).astype(np.int64))
