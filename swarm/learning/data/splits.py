"""Dealing a site's rows to training, validation and test, by a seed and nothing else.

Every row lands in exactly one part. Rows that belong together, such as the visits of one patient,
are named as groups, and stay together: a model must not be tested on a patient that it has seen.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swarm.errors import ConfigurationError
from swarm.learning.data.tables import code_of

Rows = NDArray[np.int64]

MANY_ROWS = 6
"""A part that should have so many rows, and has not half of them, is no accident of rounding."""
MAX_FOLDS = 20


def split(
    strata: ArrayLike,
    fractions: Sequence[float],
    seed: int,
    groups: ArrayLike | None = None,
) -> list[Rows]:
    """Deal rows to parts at random, keeping each stratum's share in every part.

    `strata` [rows] is usually the label. Returns sorted row numbers for each of `fractions`, and
    for the rest as the first part: `train, test = split(y, [1 / 3], seed=0)`. A row is in exactly
    one part. The same seed gives the same parts, and a stratum is dealt alike whatever other strata
    stand beside it: a hospital's test rows stay its test rows however hospitals share sites.

    Rows of one value in `groups` [rows], a patient's number, land in one part. The parts' shares,
    and those of the strata in them, are then as near as whole groups allow; needs scikit-learn.

    Raises ConfigurationError for a missing stratum (it has no share to keep), fractions beyond 1,
    and strata too small to be divided.
    """
    shares = [float(fraction) for fraction in fractions]
    if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
        raise ConfigurationError(f"the fractions {list(fractions)} must lie in 0..1 together")
    labels = _one_each("strata", strata)
    kinds = np.unique(labels)
    if groups is not None:
        return _whole_groups(labels, shares, seed, _one_each("groups", groups, len(labels)))
    parts: list[list[int]] = [[] for _ in range(len(shares) + 1)]
    for value in kinds:
        own = hashlib.sha256(repr(code_of(str(value))).encode()).digest()
        generator = np.random.default_rng([seed, *own])
        rows = generator.permutation(np.flatnonzero(labels == value))
        edges = np.rint(np.minimum(np.cumsum([0.0, *shares]), 1.0) * len(rows)).astype(int)
        for part, (start, stop) in enumerate(itertools.pairwise(edges), start=1):
            parts[part].extend(rows[start:stop].tolist())
        parts[0].extend(rows[edges[-1] :].tolist())
    for given, share in zip(parts, [1 - sum(shares), *shares], strict=True):
        if share * len(labels) >= MANY_ROWS and len(given) < share * len(labels) / 2:
            raise ConfigurationError(
                f"a part of {share:.3g} of {len(labels)} rows would have {len(given)}, because "
                f"there are {len(kinds)} different strata, too small to be divided: split by a "
                "label of few values, or by np.zeros(rows) for no strata"
            )
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def _whole_groups(
    labels: NDArray[Any], shares: list[float], seed: int, groups: NDArray[Any]
) -> list[Rows]:
    """One part after another, as some of the folds that scikit-learn makes of what is left."""
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise ConfigurationError(
            f"splitting by groups needs scikit-learn ({error}): pip install scikit-learn"
        ) from None
    left = np.arange(len(labels))
    parts: list[Rows] = []
    wanted = 1.0
    for share in shares:
        _, counts = np.unique(labels[left], return_counts=True)
        most = min(MAX_FOLDS, len(np.unique(groups[left])), max(counts, default=0))
        of_rest = min(share / wanted, 1.0) if wanted > 0 else 0.0
        part = Fraction(of_rest).limit_denominator(max(most, 1))
        wanted -= share
        if part in (0, 1):
            taken = left if part else left[:0]
        else:
            folds = StratifiedGroupKFold(part.denominator, shuffle=True, random_state=seed % 2**32)
            dealt = folds.split(left, labels[left], groups[left])
            held = [rows for _, rows in itertools.islice(dealt, part.numerator)]
            taken = left[np.concatenate(held)]
        parts.append(np.sort(taken).astype(np.int64))
        left = np.setdiff1d(left, taken)
    return [left.astype(np.int64), *parts]


def _one_each(name: str, values: ArrayLike, rows: int | None = None) -> NDArray[Any]:
    """`values` as an array [rows], none of them missing. Raises ConfigurationError otherwise."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise ConfigurationError(f"the {name} are no plain array: give one value a row") from None
    if array.size != array.shape[0] if array.ndim else True:
        raise ConfigurationError(
            f"the {name} have the shape {list(array.shape)}: give one value a row"
        )
    array = array.reshape(-1)
    if rows is not None and len(array) != rows:
        raise ConfigurationError(f"{len(array)} {name} for {rows} rows: give one value a row")
    missing = [i for i, v in enumerate(array.tolist()) if v is None or v != v]
    if missing:
        raise ConfigurationError(
            f"the {name} are missing (NaN) in {len(missing)} of {len(array)} rows, the first is "
            f"row {missing[0]}: leave these rows out first, with table.where(~np.isnan(…))"
        )
    return array
