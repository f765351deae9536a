"""Merging as rounds use it today: a mean of updates, a sum of statistics (`folds` has the rest)."""

from __future__ import annotations

from collections.abc import Mapping

from swarm.learning.folds.averages import is_fused
from swarm.learning.folds.formats import find_unfit
from swarm.learning.folds.golden import self_check
from swarm.learning.folds.reduce import MEAN, SUM, Reduce, check_samples

MergeMethod = Reduce
METHODS: Mapping[str, Reduce] = {rule.name: rule for rule in (MEAN, SUM)}

__all__ = [
    "MEAN",
    "METHODS",
    "SUM",
    "MergeMethod",
    "check_samples",
    "find_unfit",
    "is_fused",
    "self_check",
]
