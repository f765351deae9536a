"""How well scores rank: ROC and precision-recall, from how many rows of each class fall in a bin.

Within a bin a positive and a negative count as a tie, that is, half. Such pairs are as often one
way round as the other unless the curve bends within the bin, so the AUC loses far less than the
share of pairs that are tied, half of which bounds the loss.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import numpy as np

from swarm.learning.data.bins import bins_of, count_bins
from swarm.learning.metrics import intervals
from swarm.learning.metrics.coarse import group_bins
from swarm.learning.metrics.counts import (
    Counts,
    Figure,
    Integers,
    check_histogram,
    checked,
)
from swarm.learning.metrics.rows import Floats, as_column, as_labels, odds_of_classes

MAX_CLASSES = 64
BITS, BITS_OF_CLASSES = 4, 3


class Roc(msgspec.Struct, frozen=True, tag="roc", forbid_unknown_fields=True):
    """Of each of `curves` classes against the rest, the rows without and with it in each bin of
    `bits`: int64 [curves, 2, bins]."""

    curves: Annotated[int, msgspec.Meta(ge=1, le=MAX_CLASSES)]
    bits: Annotated[int, msgspec.Meta(ge=1, le=6)]
    specificity: Annotated[float, msgspec.Meta(gt=0, lt=1)]

    @property
    def places(self) -> int:
        return self.curves * 2 * count_bins(self.bits)

    def rows_in(self, values: Integers) -> int:
        return int(self._curves(values)[0].sum())

    def check(self, values: Integers) -> None:
        check_histogram(values)
        if len({int(curve.sum()) for curve in self._curves(values)}) > 1:
            raise ValueError("the classes do not count the same rows")

    def coarsened(self, values: Integers, least: int) -> Integers | None:
        curves = [group_bins(curve, least) for curve in self._curves(values)]
        known = [curve for curve in curves if curve is not None]
        return np.concatenate(known).reshape(-1) if len(known) == len(curves) else None

    def figures(self, values: Integers) -> dict[str, Figure]:
        curves = [(negatives, positives) for negatives, positives in self._curves(values)]
        if self.curves == 1:
            return _figures_of_one(*curves[0], self.specificity)
        each = [_area(*curve) for curve in curves]
        found = {"auc": _mean_area(each, curves, self.rows_in(values))}
        return found | {f"auc of class {k}": figure for k, figure in enumerate(each)}

    def _curves(self, values: Integers) -> Integers:
        return values.reshape(self.curves, 2, count_bins(self.bits))


def roc(labels: Any, logits: Any, *, specificity: float = 0.9, bits: int | None = None) -> Counts:
    """Counts for AUC (DeLong's interval), AUPRC, and sensitivity at a specificity.

    `labels` [rows] are 0 or 1; `logits` [rows] any numbers that grow with the chance of a 1. Of
    several classes, `labels` are their numbers, and `logits` [rows, classes] are as softmax takes
    them: then there is an AUC of each class against the rest, and their mean. Probabilities are
    told apart better as log odds: give `torch.logit(p)`, of several classes `torch.log(p)`.
    `bits` of a score are kept (4, of several classes 3): fewer tell less of a row.

    Raises ValueError if the lengths differ, a score is NaN, or a label is none of the classes.
    """
    given = as_column(labels)
    odds = odds_of_classes(logits, len(given))
    classes = max(odds.shape[1], 2)
    if classes > MAX_CLASSES:
        raise ValueError(f"there are {classes} classes, but at most {MAX_CLASSES} are counted")
    y = as_labels(given, classes)
    if classes == 2:
        odds, of_class = odds[:, -1:], [y]
    else:
        of_class = [(y == k).astype(np.int64) for k in range(classes)]
    kept = bits or (BITS if classes == 2 else BITS_OF_CLASSES)
    measure = checked(Roc(len(of_class), kept, specificity))
    bins = count_bins(measure.bits)
    counted = [
        np.bincount(bins_of(odds[:, k], measure.bits) + bins * own, minlength=2 * bins)
        for k, own in enumerate(of_class)
    ]
    return Counts(measure, np.concatenate(counted).astype(np.int64))


def _figures_of_one(
    negatives: Integers, positives: Integers, specificity: float
) -> dict[str, Figure]:
    m, n = int(positives.sum()), int(negatives.sum())
    found = {"auc": _area(negatives, positives)}
    precision: Figure = Figure(None, rows=m + n)
    if m:
        # Of all thresholds between bins, the highest first.
        hits, alarms = np.cumsum(positives[::-1]), np.cumsum(negatives[::-1])
        value = float((positives[::-1] * (hits / np.maximum(hits + alarms, 1))).sum() / m)
        precision = Figure(value, rows=m + n)
    found["auprc"] = precision
    above = np.append(np.cumsum(negatives[::-1])[::-1], 0)
    enough = np.flatnonzero(above <= (1 - specificity) * n + 1e-9)
    threshold = int(enough[0])
    hit = int(positives[threshold:].sum())
    found["sensitivity"] = Figure(hit / m if m else None, *intervals.of_part(hit, m), rows=m)
    spared = n - int(above[threshold])
    found["specificity"] = Figure(spared / n if n else None, *intervals.of_part(spared, n), rows=n)
    pairs = float(positives.astype(float) @ negatives.astype(float))
    found["tied pairs"] = Figure(pairs / (m * n) if m and n else None, rows=m + n)
    return found


def _placements(negatives: Integers, positives: Integers) -> tuple[Floats, Floats]:
    """For each bin, the part of negatives below it, and of positives above it; ties half."""
    q, p = negatives.astype(float), positives.astype(float)
    return (np.cumsum(q) - q / 2) / q.sum(), (p.sum() - np.cumsum(p) + p / 2) / p.sum()


def _area(negatives: Integers, positives: Integers) -> Figure:
    """AUC with the interval of DeLong, DeLong and Clarke-Pearson (Biometrics 44:837-845, 1988) for
    its log odds: their variance is that of how many of the other class a row outranks, which bins
    tell as well as rows. Where nothing varies, Newcombe's interval."""
    m, n = int(positives.sum()), int(negatives.sum())
    if not m or not n:
        return Figure(None, rows=m + n)
    below, _ = _placements(negatives, positives)
    value = min(max(float(positives @ below) / m, 0.0), 1.0)
    variance = _variance(negatives, positives)
    interval = intervals.of_odds(value, variance) if variance else intervals.NONE
    if interval == intervals.NONE:
        interval = intervals.of_rank(value, m, n)
    return Figure(value, *interval, rows=m + n)


def _variance(negatives: Integers, positives: Integers) -> float:
    """Of the AUC; 0 where it cannot be told."""
    m, n = int(positives.sum()), int(negatives.sum())
    if m < 2 or n < 2:
        return 0.0
    below, above = _placements(negatives, positives)
    value = float(positives @ below) / m
    of_positives = float(positives @ (below - value) ** 2) / (m - 1)
    of_negatives = float(negatives @ (above - value) ** 2) / (n - 1)
    return of_positives / m + of_negatives / n


def _mean_area(each: list[Figure], curves: list[tuple[Integers, Integers]], rows: int) -> Figure:
    """The mean of the classes' AUCs, each class counting the same. As they are of the same rows,
    its deviation is taken as the mean of theirs, which is the most that it can be."""
    known = [
        (f.value, _variance(*c)) for f, c in zip(each, curves, strict=True) if f.value is not None
    ]
    if not known:
        return Figure(None, rows=rows)
    value = float(np.mean([value for value, _ in known]))
    deviation = float(np.mean([np.sqrt(variance) for _, variance in known]))
    return Figure(value, *intervals.of_odds(value, deviation**2), rows=rows)
