"""What a plan gives to a measure, as plain arrays: tensors of any device and type, or lists."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def as_floats(values: Any) -> Floats:
    """`values` as float64, in their own shape."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # numpy has no bfloat16.
        values = (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values, dtype=np.float64)


def as_column(values: Any) -> Floats:
    """`values` as float64 [rows]."""
    return as_floats(values).reshape(-1)


def as_pair(a: Any, b: Any) -> tuple[Floats, Floats]:
    """Two columns of one length. Raises ValueError if the lengths differ or a value is NaN."""
    x, y = as_column(a), as_column(b)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} labels and {len(y)} predictions cannot be compared")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("a label or a prediction is NaN")
    return x, y


def as_labels(values: Any, classes: int) -> NDArray[np.int64]:
    """Labels [rows] as whole numbers from 0. Raises ValueError naming one that is none of the
    `classes`: with labels of 1 and 2, all rows would count as positive."""
    given = as_column(values)
    others = given[~np.isin(given, np.arange(classes))]
    if len(others):
        told = "0 or 1" if classes == 2 else f"from 0 to {classes - 1}"
        raise ValueError(f"the labels must be {told}, and {others[0]:g} is among them")
    return given.astype(np.int64)


def odds_of_classes(logits: Any, rows: int) -> Floats:
    """Of logits [rows] of a 1, or [rows, classes] as softmax takes them, the log odds of each class
    [rows, classes]; of the former, those of a 1 alone [rows, 1]. Raises ValueError if they are of
    another form or NaN."""
    z = as_floats(logits)
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim not in (1, 2) or len(z) != rows:
        raise ValueError(f"{rows} labels and logits of shape {list(z.shape)} cannot be compared")
    if np.isnan(z).any():
        raise ValueError("a logit is NaN")
    if z.ndim == 1:
        return z[:, None]
    columns = [np.delete(z, k, axis=1) for k in range(z.shape[1])]
    return np.stack([z[:, k] - _log_sum(rest) for k, rest in enumerate(columns)], axis=1)


def _log_sum(z: Floats) -> Floats:
    """The logarithm of the sum of exponentials in each row, without overflow."""
    top = z.max(axis=1, initial=-np.inf)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found: Floats = np.log(np.exp(z - safe[:, None]).sum(axis=1)) + safe
    return found
