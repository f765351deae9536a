"""The inner loop of the Gram matrix, compiled: twenty times as fast as numpy's integer products.

Only integers are multiplied and added, so there is nothing that a compiler could round otherwise.
As with `fused_mean`, compiling happens when this module is imported, and is not kept on the disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core.types import int32, int64, void

Array = np.ndarray[Any, Any]


@njit(void(int32[:, ::1], int64[:, ::1], int64[:, ::1]), nogil=True)  # type: ignore[untyped-decorator]
def _multiply(rows: Array, upper: Array, lower: Array) -> None:
    for i in range(rows.shape[0]):
        for j in range(i + 1):
            above = np.int64(0)
            below = np.int64(0)
            for k in range(rows.shape[1]):
                value = np.int64(rows[i, k])
                above += value * np.int64(rows[j, k] >> 16)
                below += value * np.int64(rows[j, k] & 0xFFFF)
            upper[i, j] = above
            lower[i, j] = below


def multiply(rows: Array) -> tuple[list[list[int]], list[list[int]]]:
    """Of each pair i ≥ j of int32 rows, fewer than 2¹⁶ long: the sums of row i times the upper and
    times the lower 16 bits of row j."""
    upper, lower = np.zeros((2, len(rows), len(rows)), np.int64)
    _multiply(rows, upper, lower)
    triangle = range(len(rows))
    return (
        [upper[i, : i + 1].tolist() for i in triangle],
        [lower[i, : i + 1].tolist() for i in triangle],
    )
