"""Scores that clinical papers report, exact and small, on arrays or tensors of any kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from swarm.learning.metrics.rows import Floats, as_labels, as_pair


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half.

    `labels` [rows] are 0 or 1 (or false and true), `scores` [rows] are any numbers that grow with
    the chance of a 1. Computed from mid-ranks (Hanley and McNeil, Radiology 143:29-36, 1982).
    NaN if only one class occurs. Raises ValueError if the lengths differ, a score is NaN, or the
    labels are others: coded as 1 and 2, all rows would count as positive.
    """
    y, s = _pair(labels, scores)
    positive = as_labels(y, 2) == 1
    positives = int(positive.sum())
    negatives = len(y) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, inverse, counts = np.unique(s, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mid_ranks[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """The part of `predictions` [rows] that equal `labels` [rows]."""
    y, p = _pair(labels, predictions)
    return float((y == p).mean())


def r2(targets: ArrayLike, predictions: ArrayLike) -> float:
    """The explained part of the variance of `targets` [rows]; NaN if they do not vary."""
    y, p = _pair(targets, predictions)
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - p) ** 2).sum()) / spread if spread > 0 else float("nan")


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    x, y = as_pair(a, b)
    if len(x) == 0:
        raise ValueError("0 labels and 0 predictions cannot be compared")
    return x, y
