"""How far updates lie from each other, exactly: the pre-pass of rules that choose among updates.

All distances between updates follow from the inner products of their differences to the base, the
Gram matrix. A sum of millions of floats depends on its order, and so on the machine; here it is of
integers. The difference of each element of a float tensor becomes an int32,

    qᵢ = round((f64(xᵢ) − f64(base)) · 2ˢ), ties to even,

and the products are added exactly: each difference times the upper and the lower 16 bits of the
other, each in an int64 over one piece, and the pieces' sums as Python's integers. Integer and
boolean tensors have no part in it.

The scale s is one for all tensors. It brings the *reach* (the largest difference) of the middle
contributor to between 2²¹ and 2²²: as long as fewer than half of them lie, an honest one reaches at
least as far and another at most as far, so a liar with huge numbers cannot make all others look
alike. A contributor that reaches over 256 times as far would not fit, so it has a coarser scale of
its own, and its products are shifted to the common one afterwards.

Two passes over the updates: `reaches` finds the scale, `products` the matrix. Both work piece by
piece, and the pieces' results are combined by maximum and by sum, in any order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from swarm.learning.folds.formats import FLOATS, LARGEST, Array, Floats, refuse_unfit, widen
from swarm.learning.folds.vectors import golden_inputs
from swarm.tensors import DType

log = logging.getLogger("swarm.node")

Gram = list[list[int]]

PIECE_ELEMENTS = 32 << 10
"""Fewer than 2¹⁶, so that the sums of products of 31 and 16 bits fit an int64."""
COMPILED_FROM_ELEMENTS = 16 << 10
"""Pieces of models above 8 MB. The compiled loop takes 50 MB of memory."""
_REACH_BITS = 22
_MOST_BITS = 30
_MOST_SHIFT = 1000


class Elements(NamedTuple):
    """Some elements of one type: of the base, and of each contributor in member order."""

    dtype: DType
    base: Array
    inputs: Sequence[Array]


def find_gram(read: Callable[[], Iterable[Elements]]) -> Gram:
    """The Gram matrix of whole updates; `read` goes through all their elements, twice.

    Raises BlobError naming the first contributor with a value that is not finite.
    """
    reach: list[float] = []
    for elements in read():
        found = reaches(elements)
        reach = [max(pair) for pair in zip(reach or found, found, strict=True)]
    shifts = choose_shifts(reach)
    total: Gram = [[0] * len(reach) for _ in reach]
    for elements in read():
        add_gram(total, products(elements, shifts))
    return total


def reaches(elements: Elements) -> list[float]:
    """The largest difference to the base in these elements, by contributor.

    Raises BlobError naming the first contributor with a value that is not finite.
    """
    if elements.dtype not in FLOATS:
        refuse_unfit(elements.dtype, elements.inputs)
    found = [0.0] * len(elements.inputs)
    for piece in _pieces(elements):
        for contributor, difference in enumerate(_differences(elements, piece)):
            reach = max(-float(difference.min()), float(difference.max()))
            if not math.isfinite(reach):
                refuse_unfit(elements.dtype, elements.inputs)
                reach = LARGEST["F64"]  # two float64 of opposite sign
            found[contributor] = max(found[contributor], reach)
    return found


def choose_shifts(reach: Sequence[float]) -> list[int]:
    """The scale, s, of each contributor, for those that reach this far over all tensors."""
    ordered = sorted(reach)
    middle = ordered[(len(ordered) - 1) // 2 :]
    size = next((r for r in middle if r > 0), 1.0)
    common = min(_REACH_BITS - math.frexp(size)[1], _MOST_SHIFT)
    return [min(common, _MOST_BITS - math.frexp(r)[1]) if r > 0 else common for r in reach]


def products(elements: Elements, shifts: Sequence[int]) -> Gram:
    """The Gram matrix of these elements, in units of 4⁻ˢ for the common scale s."""
    count = len(elements.inputs)
    total: Gram = [[0] * count for _ in range(count)]
    for piece in _pieces(elements):
        rows = np.empty((count, piece.stop - piece.start), np.int32)
        for difference, shift, row in zip(_differences(elements, piece), shifts, rows, strict=True):
            if elements.dtype == "F64":  # no other type's differences are too large for a float64
                np.clip(difference, -LARGEST["F64"], LARGEST["F64"], out=difference)
            with np.errstate(under="ignore"):
                np.multiply(difference, math.ldexp(1.0, shift), out=difference)
            np.rint(difference, out=difference)
            row[:] = difference
        add_gram(total, _multiply(rows))
    coarser = [max(shifts) - shift for shift in shifts]
    return [
        [value << (up + across) for value, across in zip(line, coarser, strict=True)]
        for line, up in zip(total, coarser, strict=True)
    ]


def add_gram(total: Gram, more: Gram) -> None:
    """Add one matrix to another in place."""
    for line, added in zip(total, more, strict=True):
        line[:] = [a + b for a, b in zip(line, added, strict=True)]


def _pieces(elements: Elements) -> Iterator[slice]:
    if elements.dtype in FLOATS:
        for start in range(0, len(elements.base), PIECE_ELEMENTS):
            yield slice(start, min(start + PIECE_ELEMENTS, len(elements.base)))


def _differences(elements: Elements, piece: slice) -> Iterator[Floats]:
    """f64(x) − f64(base) of each contributor, in a buffer that the next one takes over."""
    base, difference = np.empty((2, piece.stop - piece.start), np.float64)
    widen(elements.dtype, elements.base[piece], base)
    for values in elements.inputs:
        widen(elements.dtype, values[piece], difference)
        with np.errstate(over="ignore", invalid="ignore"):
            np.subtract(difference, base, out=difference)
        yield difference


def _multiply(rows: Array) -> Gram:
    if rows.shape[1] >= COMPILED_FROM_ELEMENTS and _load_compiled():
        from swarm.learning.folds import fused_gram

        upper, lower = fused_gram.multiply(rows)
    else:
        upper, lower = _multiply_plainly(rows)
    return [
        [
            (upper[max(i, j)][min(i, j)] << 16) + lower[max(i, j)][min(i, j)]
            for j in range(len(rows))
        ]
        for i in range(len(rows))
    ]


def _multiply_plainly(rows: Array) -> tuple[Gram, Gram]:
    """Of each pair i ≥ j: the sums of row i times the upper and the lower half of row j."""
    wide = rows.astype(np.int64)
    upper, lower = wide >> 16, wide & 0xFFFF
    above, below = (
        [[int(wide[i] @ half[j]) for j in range(i + 1)] for i in range(len(rows))]
        for half in (upper, lower)
    )
    return above, below


@cache
def _load_compiled() -> bool:
    """Load the compiled loop; whether it gives numpy's products for the golden vectors."""
    from swarm.learning.folds import fused_gram

    rows = np.array([values.view(np.int32) for values in golden_inputs("F32")])
    if fused_gram.multiply(rows) == _multiply_plainly(rows):
        return True
    log.warning("the compiled loop multiplies otherwise than numpy: working without it")
    return False
