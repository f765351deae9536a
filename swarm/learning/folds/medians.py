"""Order statistics of equally long arrays: the maximum, and the mean of what lies in the middle.

Contributors' values of one element are sorted (`formats` says in which order), `drop` of them are
left out at either end, and the rest is averaged from the smallest to the largest:

    acc = f64(y₁) + f64(y₂) + …;  result = acc / f64(how many)

rounded once to the tensor's type. As the values come sorted, the result does not depend on who sent
which. Where one value is left, it is the result, bit for bit; the median leaves one or two.

Integers and booleans have no mean here either: of what is left the largest is taken.

The sorting is Batcher's network (1968): a fixed list of comparisons, each of whole rows at once,
which takes a tenth of the time that sorting every element's few values takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from swarm.learning.folds.formats import (
    FLOATS,
    Array,
    find_unfit,
    from_ordered,
    narrow,
    refuse,
    refuse_unfit,
    to_ordered,
    widen,
)
from swarm.tensors import DType

CACHED_ELEMENTS = 256 << 10
"""Of all contributors together in one piece, so that it stays in the cache."""


def merge_trimmed(dtype: DType, inputs: Sequence[Array], drop: int, out: Array) -> None:
    """The mean of what is left without the `drop` largest and smallest values, into `out`.

    Raises BlobError naming the first contributor whose values cannot be merged.
    """
    kept = slice(drop, len(inputs) - drop)
    for piece in _pieces(len(inputs), len(out)):
        pieces = [array[piece] for array in inputs]
        rows = sort_rows([to_ordered(dtype, values) for values in pieces])
        _check_ends(dtype, rows, pieces)
        if dtype in FLOATS and len(rows[kept]) > 1:
            _average(dtype, [from_ordered(dtype, row) for row in rows[kept]], out[piece])
            if dtype == "F64" and find_unfit(dtype, out[piece]) is not None:
                refuse(dtype, pieces)
        else:
            out[piece] = from_ordered(dtype, rows[kept][-1])


def merge_maximum(dtype: DType, inputs: Sequence[Array], out: Array) -> None:
    """The largest values, into `out`. Raises BlobError as `merge_trimmed`."""
    for piece in _pieces(len(inputs), len(out)):
        pieces = [array[piece] for array in inputs]
        refuse_unfit(dtype, pieces)
        largest = to_ordered(dtype, pieces[0])
        for values in pieces[1:]:
            np.maximum(largest, to_ordered(dtype, values), out=largest)
        out[piece] = from_ordered(dtype, largest)


def sort_rows(rows: list[Array]) -> list[Array]:
    """Sort every column of these rows of integers, which are overwritten; the smallest first."""
    spare = np.empty_like(rows[0])
    for low, high in _comparisons(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return rows


def _average(dtype: DType, rows: Sequence[Array], out: Array) -> None:
    acc, wide = np.empty((2, len(out)), np.float64)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        widen(dtype, rows[0], acc)
        for row in rows[1:]:
            widen(dtype, row, wide)
            np.add(acc, wide, out=acc)
        np.divide(acc, float(len(rows)), out=acc)
        narrow(dtype, acc, out)


def _check_ends(dtype: DType, rows: Sequence[Array], pieces: Sequence[Array]) -> None:
    """What may not be merged is sorted to the ends, so that only these need a look."""
    for end in (rows[0], rows[-1]):
        if find_unfit(dtype, from_ordered(dtype, end)) is not None:
            refuse(dtype, pieces)


def _pieces(contributors: int, elements: int) -> Iterator[slice]:
    step = max(1 << 10, CACHED_ELEMENTS // contributors)
    for start in range(0, elements, step):
        yield slice(start, start + step)


@lru_cache(maxsize=8)
def _comparisons(count: int) -> tuple[tuple[int, int], ...]:
    """Batcher's merge exchange for any number of rows (Knuth, TAOCP 3, 5.2.2, algorithm M)."""
    found: list[tuple[int, int]] = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    run = top
    while run > 0:
        stride, offset, distance = top, 0, run
        while True:
            found += [(i, i + distance) for i in range(count - distance) if i & run == offset]
            if stride == run:
                break
            distance, stride, offset = stride - run, stride // 2, run
        run //= 2
    return tuple(found)
