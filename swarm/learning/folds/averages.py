"""Weighted means and sums of equally long arrays, the same on every machine.

`mean` (federated averaging, McMahan et al. 2017, algorithm 1), element by element, over
contributors in member order with weights n:

    acc = f64(x₁)·f64(n₁);  acc = acc + f64(xᵢ)·f64(nᵢ) for i = 2, 3, …;  result = acc / f64(Σn)

rounded once to the tensor's type. Multiply and add stay two operations: a fused one rounds
differently, and whether there is one depends on the machine. Σn stays below 2⁵³, so it is exact.

`sum` is the same without n and without the division.

Integers have no mean that everyone would want. They are counters or masks, so a mean takes the
elementwise maximum, and a sum adds them exactly and refuses what does not fit their type. Booleans
are or-ed by both. What is not finite is refused going in and coming out.

Elements are independent, so all is done in pieces that stay in the cache; float32 in large models,
by far the most of it, in one compiled pass (`swarm.learning.folds.fused_mean`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from swarm.errors import BlobError
from swarm.learning.folds.formats import (
    FLOATS,
    Array,
    Floats,
    find_unfit,
    narrow,
    refuse,
    widen,
)
from swarm.learning.folds.vectors import GOLDEN_WEIGHTS, golden_input
from swarm.tensors import NUMPY_DTYPES, DType

log = logging.getLogger("swarm.node")

PIECE_ELEMENTS = 32 << 10  # two float64 buffers of 256 KiB: they stay in a core's own cache
FUSED_FROM_ELEMENTS = 16 << 10
"""Chunks of models above 8 MB. The compiled loops take 50 MB of memory."""


def merge_mean(dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array) -> None:
    """The weighted mean of floats, the maximum of integers and booleans, into `out`.

    Raises BlobError naming the first contributor whose values cannot be merged.
    """
    _merge(dtype, inputs, [float(weight) for weight in weights], out)


def merge_sum(dtype: DType, inputs: Sequence[Array], out: Array) -> None:
    """The sum, into `out`. Raises BlobError as `merge_mean`, and for what does not fit the type."""
    _merge(dtype, inputs, None, out)


def is_fused(dtype: DType, elements: int) -> bool:
    """Whether arrays this long are merged by compiled loops. The first time that they are, this
    takes most of a second."""
    return dtype == "F32" and elements >= FUSED_FROM_ELEMENTS and _load_fused()


def _merge(
    dtype: DType, inputs: Sequence[Array], weights: Sequence[float] | None, out: Array
) -> None:
    buffers = np.empty((2, min(len(out), PIECE_ELEMENTS)), np.float64)
    fused = is_fused(dtype, len(out))
    for start in range(0, len(out), PIECE_ELEMENTS):
        piece = slice(start, start + PIECE_ELEMENTS)
        pieces = [array[piece] for array in inputs]
        if fused:
            _merge_fused(pieces, weights, out[piece], buffers)
        elif dtype in FLOATS:
            _merge_floats(dtype, pieces, weights, out[piece], buffers)
        elif dtype == "BOOL":
            _merge_booleans(pieces, out[piece])
        elif weights is not None:
            _combine(np.maximum, pieces, out[piece])
        else:
            _sum_integers(dtype, pieces, out[piece])


def _merge_floats(
    dtype: DType,
    pieces: Sequence[Array],
    weights: Sequence[float] | None,
    out: Array,
    buffers: Floats,
) -> None:
    acc, product = buffers[0, : len(out)], buffers[1, : len(out)]
    factors = [1.0] * len(pieces) if weights is None else weights
    # Overflow is found at the end, by its infinities, so numpy need not warn of it.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        _weigh(dtype, pieces[0], factors[0], acc)
        for piece, factor in zip(pieces[1:], factors[1:], strict=True):
            _weigh(dtype, piece, factor, product)
            np.add(acc, product, out=acc)
        if weights is not None:
            np.divide(acc, sum(weights), out=acc)  # exact: whole numbers below 2**53
        narrow(dtype, acc, out)
    # Neither infinity nor NaN ever becomes finite again: the result tells of every input.
    if find_unfit(dtype, out) is not None:
        refuse(dtype, pieces)


def _weigh(dtype: DType, piece: Array, factor: float, out: Floats) -> None:
    """out = f64(piece) · factor. First widened: numpy would multiply in the input's type, and to
    have it widen in passing takes longer than two passes over what stays in the cache."""
    widen(dtype, piece, out)
    np.multiply(out, factor, out=out)


def _merge_fused(
    pieces: Sequence[Array], weights: Sequence[float] | None, out: Array, buffers: Floats
) -> None:
    """`_merge_floats` of float32, compiled."""
    from swarm.learning.folds import fused_mean

    factors = [1.0] * len(pieces) if weights is None else weights
    divisor = 1.0 if weights is None else sum(weights)
    if not fused_mean.takes(pieces, factors, out):
        _merge_floats("F32", pieces, weights, out, buffers)
    elif not fused_mean.merge(pieces, factors, divisor, out, buffers[0, : len(out)]):
        refuse("F32", pieces)


@cache
def _load_fused() -> bool:
    """Load the compiled loops; whether they merge the golden vectors to the same bits as numpy."""
    from swarm.learning.folds import fused_mean

    inputs = [golden_input("F32", contributor) for contributor in range(3)]
    plain, compiled = np.empty_like(inputs[0]), np.empty_like(inputs[0])
    merge_mean("F32", inputs, GOLDEN_WEIGHTS[:3], plain)
    factors = [float(n) for n in GOLDEN_WEIGHTS[:3]]
    fused_mean.merge(inputs, factors, sum(factors), compiled, np.empty(len(plain)))
    if plain.tobytes() == compiled.tobytes():
        return True
    log.warning("compiled loops merge otherwise than numpy on this machine: merging without them")
    return False


def _combine(operation: Callable[..., Any], pieces: Sequence[Array], out: Array) -> None:
    out[:] = pieces[0]
    for piece in pieces[1:]:
        operation(out, piece, out=out)


def _merge_booleans(pieces: Sequence[Array], out: Array) -> None:
    raw = out.view(np.uint8)
    _combine(np.bitwise_or, [piece.view(np.uint8) for piece in pieces], raw)
    if find_unfit("BOOL", raw) is not None:
        refuse("BOOL", pieces)


def _sum_integers(dtype: DType, pieces: Sequence[Array], out: Array) -> None:
    acc = pieces[0].astype(np.int64)
    for contributor, piece in enumerate(pieces[1:], 1):
        before, added = acc, piece.astype(np.int64)
        acc = before + added
        # Two numbers of one sign whose sum has the other: it went round.
        if (((before ^ acc) & (added ^ acc)) < 0).any():
            raise BlobError(f"adding contributor {contributor}, the sum does not fit 64 bits")
    limits = np.iinfo(NUMPY_DTYPES[dtype])
    if acc.size and (acc.min() < limits.min or acc.max() > limits.max):
        raise BlobError(f"the sum does not fit {dtype}; send it as I64")
    out[:] = acc
