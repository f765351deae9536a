"""Small counts in a site's statistics, which do not leave it.

Statistics are named arrays of numbers, and what a number tells of few patients may tell who they
are. So a site can ask that no number leaves behind which stand fewer rows than `least`
(`policy.min_count`). The node sees to it, in the file that the trainer has written, before anything
of it is there for others:

- A whole number from 1 to `least` - 1 is taken for a count of so many rows, in whichever array.
- An array called `count` or `counts`, or ending in `.count`, `_count` or `/count`, says of how many
  rows the arrays with the same beginning of their names tell: as `swarm.moments` gives them. Where
  it is small, they are withheld with it.
- An array without such a count, in which not all is a whole number, cannot be judged, and the plan
  is refused.

What is withheld becomes 0, as if the site had no such row: sums over all sites stay sums.

A plan that lies about its counts is not found out by this, nor what one number tells together with
another: code is to be read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.tensors import create_file, open_file

_COUNT = re.compile(r"(?P<beginning>(.*[._/])?)counts?")

Arrays = Mapping[str, NDArray[Any]]


def withhold(path: Path, least: int) -> dict[str, int]:
    """Write the statistics in `path` without what tells of fewer than `least` rows.

    Returns how many numbers of which array are withheld. Raises PlanError for an array that cannot
    be judged, LocalError if the disk fails.
    """
    file = open_file(path)
    arrays = {name: np.array(value) for name, value in file.items()}
    masks = small(arrays, least)
    with create_file(path, file.layout) as written:
        for name, values in arrays.items():
            written[name][...] = np.where(masks[name], 0.0, values)
    return {name: int(mask.sum()) for name, mask in masks.items() if mask.any()}


def small(arrays: Arrays, least: int) -> dict[str, NDArray[np.bool_]]:
    """Which cells of each array tell of fewer than `least` rows, and of any. Raises PlanError."""
    masks = {name: _small_counts(values, least) for name, values in arrays.items()}
    counts = {name: found["beginning"] for name in arrays if (found := _COUNT.fullmatch(name))}
    for name, values in arrays.items():
        if name in counts:
            continue
        beside = [
            mask
            for count, beginning in counts.items()
            for mask in [masks[count]]
            if name.startswith(beginning) and values.shape[: mask.ndim] == mask.shape
        ]
        if not beside and not (values == np.floor(values)).all():
            raise PlanError(
                f"the plan's statistics {name!r} do not say of how many rows they tell, and this "
                f"site's `policy.min_count` is {least}: give an array of counts beside them, of "
                "the same shape and beginning of the name, as swarm.moments does"
            )
        for mask in beside:
            wider = mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))
            masks[name] = masks[name] | wider
    return masks


def _small_counts(values: NDArray[Any], least: int) -> NDArray[np.bool_]:
    size = np.abs(values)
    return np.asarray((size == np.floor(size)) & (size > 0) & (size < least))
