"""Whether probabilities are true: of those who are told 20%, do a fifth have it?

Counted are the rows of each class in bins of log odds, and the exact sums of the probabilities, of
the squared errors (Brier, Mon Weather Rev 78:1-3, 1950) and of the squares of those.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from swarm.learning.data.bins import bins_of, centres_of, count_bins
from swarm.learning.metrics import intervals
from swarm.learning.metrics.coarse import group_bins
from swarm.learning.metrics.counts import Counts, Figure, Integers, check_histogram, checked
from swarm.learning.metrics.rows import Floats, as_column, as_labels, odds_of_classes
from swarm.learning.metrics.sums import PLACES, check_sum, read_sum, sum_of

BITS = 4
GROUPS = 10
_SUMS = ("probabilities", "squared errors", "their squares")
_STEPS = 50
_CLIP = 30.0


class Calibration(msgspec.Struct, frozen=True, tag="calibration", forbid_unknown_fields=True):
    """The rows without and with the outcome in each bin of `bits`, int64 [2, bins], and three sums
    of six digits."""

    bits: Annotated[int, msgspec.Meta(ge=1, le=6)]

    @property
    def places(self) -> int:
        return 2 * count_bins(self.bits) + len(_SUMS) * PLACES

    def rows_in(self, values: Integers) -> int:
        return int(self._histogram(values).sum())

    def check(self, values: Integers) -> None:
        check_histogram(self._histogram(values).reshape(-1))
        for digits in self._digits(values):
            check_sum(digits)
            if not 0 <= read_sum(digits) <= self.rows_in(values):
                raise ValueError("a sum over rows is not between 0 and the number of rows")

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        grouped = group_bins(self._histogram(values), least)
        sums = self._digits(values).reshape(-1)
        return None if grouped is None else np.concatenate([grouped.reshape(-1), sums])

    def figures(self, values: Integers) -> dict[str, Figure]:
        negatives, positives = self._histogram(values)
        rows, events = int(negatives.sum() + positives.sum()), int(positives.sum())
        nothing = Figure(None, rows=rows)
        expected, squares, fourths = (float(read_sum(d)) for d in self._digits(values))
        brier = nothing
        if rows:
            mean = squares / rows
            variance = max(fourths / rows - mean * mean, 0.0) / max(rows - 1, 1)
            brier = Figure(mean, *intervals.of_log(mean, variance), rows=rows)
        ratio = nothing
        if expected > 0 and rows:
            low, high = intervals.of_part(events, rows)
            scale = rows / expected
            ratio = Figure(
                events / expected,
                None if low is None else low * scale,
                None if high is None else high * scale,
                rows,
            )
        slope, intercept = _recalibration(negatives, positives, centres_of(self.bits))
        found = {
            "brier": brier,
            "slope": slope,
            "intercept": intercept,
            "observed to expected": ratio,
        }
        return found

    def table(self, values: Integers) -> list[tuple[float, Figure]]:
        """At most ten groups of about as many rows each, from the lowest probabilities up: the
        mean of what was said (of the bins' middles), and the part that had the outcome."""
        negatives, positives = self._histogram(values)
        rows = (negatives + positives).astype(float)
        chance = _expit(centres_of(self.bits))
        middle = np.cumsum(rows) - rows / 2
        group = np.minimum((middle * GROUPS / max(rows.sum(), 1)).astype(int), GROUPS - 1)
        found = []
        for g in np.unique(group[rows > 0]):
            own = group == g
            count, hit = int(rows[own].sum()), int(positives[own].sum())
            said = float((chance * rows)[own].sum() / count)
            found.append((said, Figure(hit / count, *intervals.of_part(hit, count), rows=count)))
        return found

    def _histogram(self, values: Integers) -> Integers:
        bins = count_bins(self.bits)
        return values[: 2 * bins].reshape(2, bins)

    def _digits(self, values: Integers) -> Integers:
        return values[2 * count_bins(self.bits) :].reshape(len(_SUMS), PLACES)


def calibration(labels: Any, logits: Any, *, bits: int = BITS) -> Counts:
    """Counts for the Brier score, slope and intercept of calibration, and a calibration table.

    `labels` [rows] are 0 or 1, `logits` [rows] the log odds of a 1; of probabilities give
    `torch.logit(p)`. Raises ValueError if the lengths differ, a logit is NaN or a label another.
    """
    given = as_column(labels)
    odds = odds_of_classes(logits, len(given))
    if odds.shape[1] > 2:
        raise ValueError(f"there are {odds.shape[1]} classes, but calibration is of two")
    y, z = as_labels(given, 2), odds[:, -1]
    measure = checked(Calibration(bits))
    bins = count_bins(bits)
    histogram = np.bincount(bins_of(z, bits) + bins * y, minlength=2 * bins)
    chance = _expit(z)
    squared = (chance - y) ** 2
    sums = [
        sum_of(values.tolist(), what)
        for values, what in zip((chance, squared, squared**2), _SUMS, strict=True)
    ]
    return Counts(measure, np.concatenate([histogram, *map(np.array, sums)]).astype(np.int64))


def _expit(odds: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(odds, -700, 700)))
    return found


def _recalibration(negatives: Integers, positives: Integers, odds: Floats) -> tuple[Figure, Figure]:
    """Slope and intercept of the outcome on the log odds, 1 and 0 where probabilities are true
    (Cox, Biometrika 45:562-565, 1958), by Newton's method on the bins' middles."""
    rows = (negatives + positives).astype(float)
    total = int(rows.sum())
    nothing = Figure(None, rows=total), Figure(None, rows=total)
    used = rows > 0
    z, n, hit = np.clip(odds[used], -_CLIP, _CLIP), rows[used], positives[used].astype(float)
    if len(z) < 2 or not 0 < hit.sum() < n.sum():
        return nothing
    design = np.stack([np.ones_like(z), z], axis=1)
    at = np.array([0.0, 1.0])
    for _ in range(_STEPS):
        chance = _expit(design @ at)
        information = design.T @ (design * (n * chance * (1 - chance))[:, None])
        if not np.linalg.cond(information) < 1e12:
            return nothing
        step = np.linalg.solve(information, design.T @ (hit - n * chance))
        at = at + step
        if not np.isfinite(at).all() or np.abs(at).max() > 1e3:
            return nothing  # a value divides the classes: there is no slope
        if np.abs(step).max() < 1e-9:
            break
    else:
        return nothing
    variances = np.diag(np.linalg.inv(information))
    intercept, slope = (
        Figure(float(v), *intervals.of_mean(float(v), float(s)), rows=total)
        for v, s in zip(at, variances, strict=True)
    )
    return slope, intercept
