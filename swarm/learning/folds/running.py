"""The mean and the sum of updates that come one by one, in member order, and none of them kept.

Bit for bit what `averages` makes of all of them at once: the same products and the same additions,
in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import BlobError
from swarm.learning.folds.formats import FLOATS, find_unfit, narrow, widen
from swarm.tensors import NUMPY_DTYPES, Layout

RawBytes = NDArray[np.uint8]


class RunningMean:
    """Of files of one layout: a weighted mean of floats, of integers and booleans the maximum."""

    def __init__(self, layout: Layout, *, is_sum: bool = False) -> None:
        self.layout = layout
        self.count = 0
        self._is_sum = is_sum
        self._weight = 0
        self._sums: list[NDArray[Any]] = []

    def add(self, raw: RawBytes, weight: int = 1) -> None:
        """The next contributor's whole file. Raises BlobError for a value that is not finite."""
        pieces = []
        for run in self.layout.runs:
            values = raw[run.start : run.stop].view(NUMPY_DTYPES[run.dtype])
            if find_unfit(run.dtype, values) is not None:
                raise BlobError(f"contributor {self.count} has a value that is not finite")
            if run.dtype not in FLOATS:
                pieces.append(values.copy())
                continue
            wide = np.empty(len(values), np.float64)
            widen(run.dtype, values, wide)
            np.multiply(wide, 1.0 if self._is_sum else float(weight), out=wide)
            pieces.append(wide)
        for index, piece in enumerate(pieces):
            if not self.count:
                self._sums.append(piece)
            elif self.layout.runs[index].dtype in FLOATS:
                np.add(self._sums[index], piece, out=self._sums[index])
            elif self._is_sum:
                raise BlobError("a running sum is of floating-point numbers only")
            else:
                np.maximum(self._sums[index], piece, out=self._sums[index])
        self.count += 1
        self._weight += weight

    def finish(self) -> RawBytes:
        """The merged file. Raises BlobError if it does not fit its types, or nobody contributed."""
        if not self.count:
            raise BlobError("there is nothing to merge")
        raw = np.zeros(self.layout.file_bytes, np.uint8)
        raw[: self.layout.data_start] = np.frombuffer(self.layout.header, np.uint8)
        for run, total in zip(self.layout.runs, self._sums, strict=True):
            out = raw[run.start : run.stop].view(NUMPY_DTYPES[run.dtype])
            if run.dtype not in FLOATS:
                out[:] = total
                continue
            if not self._is_sum:
                total = total / float(self._weight)
            with np.errstate(over="ignore"):
                narrow(run.dtype, total, out)
            if find_unfit(run.dtype, out) is not None:
                raise BlobError(f"the merged values do not fit {run.dtype}")
        return raw
