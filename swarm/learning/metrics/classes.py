"""Which class was taken for which: accuracy, kappa, and how each class fares."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from swarm.learning.metrics import intervals
from swarm.learning.metrics.coarse import withhold_few
from swarm.learning.metrics.counts import Counts, Figure, Integers, check_histogram, checked
from swarm.learning.metrics.rows import Floats, as_column, as_floats, as_labels

Weights = Literal["none", "linear", "quadratic"]
MAX_CLASSES = 256


class Confusion(msgspec.Struct, frozen=True, tag="confusion", forbid_unknown_fields=True):
    """Rows by class and by what it was taken for: int64 [classes, classes]."""

    classes: Annotated[int, msgspec.Meta(ge=2, le=MAX_CLASSES)]
    weights: Weights = "none"

    @property
    def places(self) -> int:
        return self.classes**2

    def rows_in(self, values: Integers) -> int:
        return int(values.sum())

    def check(self, values: Integers) -> None:
        check_histogram(values)

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        return withhold_few(values, least)

    def figures(self, values: Integers) -> dict[str, Figure]:
        table = self.table(values)
        rows, right = int(table.sum()), int(np.trace(table))
        found = {
            "accuracy": Figure(
                right / rows if rows else None, *intervals.of_part(right, rows), rows=rows
            )
        }
        recalls = [_part(int(table[k, k]), int(table[k].sum())) for k in range(self.classes)]
        known = [(r.value, r.rows) for r in recalls if r.value is not None]
        balanced = Figure(None, rows=rows)
        if known:
            value = sum(value for value, _ in known) / len(known)
            variance = sum(v * (1 - v) / n for v, n in known) / len(known) ** 2
            balanced = Figure(value, *intervals.of_odds(value, variance), rows=rows)
        found["balanced accuracy"] = balanced
        found["kappa"] = _kappa(table, _agreement(self.classes, self.weights))
        for k, recall in enumerate(recalls):
            found[f"sensitivity of class {k}"] = recall
            found[f"precision of class {k}"] = _part(int(table[k, k]), int(table[:, k].sum()))
        return found

    def table(self, values: Integers) -> Integers:
        """Rows by class [classes] and by what it was taken for [classes]."""
        return values.reshape(self.classes, self.classes)


def confusion(labels: Any, predictions: Any, classes: int, *, weights: Weights = "none") -> Counts:
    """Counts for accuracy, balanced accuracy, kappa, and each class's sensitivity and precision.

    `labels` [rows] are whole numbers from 0 to `classes` − 1, `predictions` [rows] likewise, or
    [rows, classes] of which the largest counts. `weights` say how far from right a neighbouring
    class is, for kappa: "none" (all wrong alike), "linear", "quadratic".
    Raises ValueError if lengths differ, or a label or prediction is none of the classes.
    """
    guessed = as_floats(predictions)
    if guessed.ndim == 2 and guessed.shape[1] == classes:
        if np.isnan(guessed).any():
            raise ValueError("a prediction is NaN")
        guessed = guessed.argmax(axis=1).astype(float)
    y, p = as_labels(as_column(labels), classes), as_labels(as_column(guessed), classes)
    if len(y) != len(p):
        raise ValueError(f"{len(y)} labels and {len(p)} predictions cannot be compared")
    measure = checked(Confusion(classes, weights))
    counted = np.bincount(y * classes + p, minlength=measure.places)
    return Counts(measure, counted.astype(np.int64))


def _part(count: int, rows: int) -> Figure:
    return Figure(count / rows if rows else None, *intervals.of_part(count, rows), rows=rows)


def _agreement(classes: int, weights: Weights) -> Floats:
    """How right it is to take one class for another, from 0 to 1 [classes, classes]."""
    apart = np.abs(np.subtract.outer(np.arange(classes), np.arange(classes))) / (classes - 1)
    if weights == "none":
        return np.eye(classes)
    return 1 - (apart if weights == "linear" else apart**2)


def _kappa(table: Integers, agreement: Floats) -> Figure:
    """Weighted kappa (Cohen, Psychol Bull 70:213-220, 1968) with the variance of Fleiss, Cohen and
    Everitt (Psychol Bull 72:323-327, 1969)."""
    rows = int(table.sum())
    if not rows:
        return Figure(None)
    p = table / rows
    true, guessed = p.sum(axis=1), p.sum(axis=0)
    observed = float((agreement * p).sum())
    expected = float(true @ agreement @ guessed)
    if expected > 1 - 1e-12:
        return Figure(None, rows=rows)
    by_row, by_column = agreement @ guessed, true @ agreement
    off = agreement * (1 - expected) - (by_row[:, None] + by_column[None, :]) * (1 - observed)
    moment = float((p * off**2).sum()) - (observed * expected - 2 * expected + observed) ** 2
    variance = max(moment, 0.0) / (rows * (1 - expected) ** 4)
    value = (observed - expected) / (1 - expected)
    low, high = intervals.of_mean(value, variance)
    return Figure(value, low, None if high is None else min(high, 1.0), rows)
