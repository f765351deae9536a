"""Merging: the arithmetic by which many updates become one model, the same on every machine.

Anyone must be able to recompute a merge and get the same digest, so every operation is fixed, and
IEEE 754 fixes the rest. `mean` (federated averaging, McMahan et al. 2017, algorithm 1), element by
element, over contributors in member order with n samples each:

    acc = f64(x₁)·f64(n₁);  acc = acc + f64(xᵢ)·f64(nᵢ) for i = 2, 3, …;  result = acc / f64(Σn)

rounded once to the tensor's type, to nearest, ties to even. Multiply and add stay two operations: a
fused one rounds differently, and whether there is one depends on the machine. Widening to float64
is exact for every type, bfloat16 included. Σn stays below 2⁵³, so it is exact too.

`sum` (statistics rounds) is the same without n and without the division.

Integers have no mean that everyone would want. They are counters or masks, so `mean` takes the
elementwise maximum, and `sum` adds them exactly and refuses what does not fit their type. Booleans
are or-ed by both. What is not finite is refused going in and coming out.

Elements are independent, so both methods work chunk by chunk, in pieces that stay in the cache;
float32 in large models, by far the most of it, in one compiled pass (`fused`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, cast

import numpy as np
from blake3 import blake3

from swarm.errors import BlobError, LocalError
from swarm.tensors import NUMPY_DTYPES, DType

log = logging.getLogger("swarm.node")

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]

PIECE_ELEMENTS = 32 << 10  # two float64 buffers of 256 KiB: they stay in a core's own cache
FUSED_FROM_ELEMENTS = 16 << 10
"""Chunks of models above 8 MB. The compiled loops take 50 MB of memory."""
MAX_SAMPLES = 2**53 - 1

GOLDEN = "133870ba365c57f8a786f4295dcf7e44eb7f8e004cd2fc584a7b70b5f2e57790"
_GOLDEN_ELEMENTS = 512
_GOLDEN_SAMPLES = (7, 303, 116_202)

_FLOAT_FIELDS = {"F64": (52, 11), "F32": (23, 8), "F16": (10, 5), "BF16": (7, 8)}
_FLOATS = frozenset(_FLOAT_FIELDS)


@dataclass(frozen=True)
class MergeMethod:
    """One way to merge. `merge_id` is its number in a plan's rules on the chain.

    chunkwise   chunk k of the result needs chunk k of each update and nothing else
    ring        where it adds: in float64, or in integers modulo a power of two (masked sums)
    weighted    whether sample counts matter
    """

    name: str
    merge_id: int
    chunkwise: bool
    ring: Literal["float64", "integer"]
    weighted: bool

    def merge(
        self, dtype: DType, inputs: Sequence[Array], samples: Sequence[int], out: Array
    ) -> None:
        """Merge equally long one-dimensional arrays of one type into `out`.

        `inputs` and `samples` are in member order; BF16 is given and returned as raw uint16.
        Raises BlobError naming the first contributor (counted from 0) whose values cannot be
        merged, ValueError if the sample counts cannot be weights.
        """
        if self.weighted:
            check_samples(samples, len(inputs))
        weights = [float(count) for count in samples] if self.weighted else None
        buffers = np.empty((2, min(len(out), PIECE_ELEMENTS)), np.float64)
        fused = is_fused(dtype, len(out))
        for start in range(0, len(out), PIECE_ELEMENTS):
            piece = slice(start, start + PIECE_ELEMENTS)
            pieces = [array[piece] for array in inputs]
            if fused:
                _merge_fused(pieces, weights, out[piece], buffers)
            elif dtype in _FLOATS:
                _merge_floats(dtype, pieces, weights, out[piece], buffers)
            elif dtype == "BOOL":
                _merge_booleans(pieces, out[piece])
            elif self.name == "mean":
                _fold(np.maximum, pieces, out[piece])
            else:
                _sum_integers(dtype, pieces, out[piece])


MEAN = MergeMethod("mean", 1, chunkwise=True, ring="float64", weighted=True)
SUM = MergeMethod("sum", 2, chunkwise=True, ring="float64", weighted=False)

METHODS: Mapping[str, MergeMethod] = {method.name: method for method in (MEAN, SUM)}
METHODS_BY_ID: Mapping[int, MergeMethod] = {method.merge_id: method for method in METHODS.values()}


def check_samples(samples: Sequence[int], contributors: int) -> None:
    """Raises ValueError unless there is one positive count per contributor and all fit exactly."""
    if len(samples) != contributors or contributors == 0:
        raise ValueError(f"{len(samples)} sample counts for {contributors} contributors")
    if min(samples) < 1 or sum(samples) > MAX_SAMPLES:
        raise ValueError(f"sample counts must be positive and add up below 2**53: {list(samples)}")


def is_fused(dtype: DType, elements: int) -> bool:
    """Whether arrays this long are merged by compiled loops. The first time that they are, this
    takes most of a second."""
    return dtype == "F32" and elements >= FUSED_FROM_ELEMENTS and _load_fused()


def find_unfit(dtype: DType, values: Array) -> int | None:
    """The index of the first value that may not be merged: not finite, or a boolean above 1."""
    if dtype == "BOOL":
        bad = values.view(np.uint8) > 1
    elif dtype == "BF16":
        bad = (values & np.uint16(0x7F80)) == 0x7F80
    elif dtype in _FLOATS:
        bad = ~np.isfinite(values)
    else:
        return None
    return int(bad.argmax()) if bad.any() else None


def self_check() -> None:
    """Compare this thread's arithmetic with golden vectors, subnormals among them (under 1 ms).

    Rounding mode and flush-to-zero belong to a thread and are inherited by those it starts; some
    libraries change them when loaded. Raises LocalError if a merge here would differ from others'.
    """
    subnormals = np.array([5e-324, -5e-324]), np.array([1e-45, -1e-45], np.float32)
    if not all((values * values.dtype.type(1)).all() for values in subnormals):
        raise LocalError(
            "this machine's arithmetic flushes subnormal numbers to zero, so its merges would "
            "differ from the others'; a library loaded into this process has set flush-to-zero"
        )
    found = golden_digest()
    if found != GOLDEN:
        raise LocalError(
            f"this machine's arithmetic differs: the golden merge gave {found}, not {GOLDEN}; its "
            "merges would differ from the others' (an unusual numpy build or floating-point mode?)"
        )


def golden_digest() -> str:
    """The digest of merges of fixed inputs of every type by every method."""
    hasher = blake3()
    for dtype, numpy_dtype in NUMPY_DTYPES.items():
        inputs = [_golden_input(cast(DType, dtype), contributor) for contributor in range(3)]
        for method in METHODS.values():
            out = np.empty(_GOLDEN_ELEMENTS, numpy_dtype)
            method.merge(cast(DType, dtype), inputs, _GOLDEN_SAMPLES, out)
            hasher.update(out.tobytes())
    return hasher.hexdigest()


def _golden_input(dtype: DType, contributor: int) -> Array:
    """Bits from a hash; exponents kept around the smallest (first half) or around 1 (the rest)."""
    numpy_dtype = NUMPY_DTYPES[dtype]
    seed = f"swarm golden merge {dtype} {contributor}".encode()
    raw = np.frombuffer(blake3(seed).digest(_GOLDEN_ELEMENTS * numpy_dtype.itemsize), np.uint8)
    if dtype == "BOOL":
        return np.bitwise_and(raw, 1).view(numpy_dtype)
    if dtype not in _FLOATS:
        small: Array = np.right_shift(raw.view(numpy_dtype), 2)  # so that three of them fit
        return small
    mantissa_bits, exponent_bits = _FLOAT_FIELDS[dtype]
    unsigned = np.dtype(f"<u{numpy_dtype.itemsize}").type
    bits = raw.view(unsigned) & ~unsigned(((1 << exponent_bits) - 8) << mantissa_bits)
    bits[_GOLDEN_ELEMENTS // 2 :] |= unsigned(((1 << (exponent_bits - 1)) - 8) << mantissa_bits)
    return np.asarray(bits.view(numpy_dtype))


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
        _narrow(dtype, acc, out)
    # Neither infinity nor NaN ever becomes finite again: the result tells of every input.
    if find_unfit(dtype, out) is not None:
        _refuse(dtype, pieces)


def _merge_fused(
    pieces: Sequence[Array], weights: Sequence[float] | None, out: Array, buffers: Floats
) -> None:
    """`_merge_floats` of float32, compiled."""
    from swarm.learning import fused

    factors = [1.0] * len(pieces) if weights is None else weights
    divisor = 1.0 if weights is None else sum(weights)
    if not fused.takes(pieces, factors, out):
        _merge_floats("F32", pieces, weights, out, buffers)
    elif not fused.merge(pieces, factors, divisor, out, buffers[0, : len(out)]):
        _refuse("F32", pieces)


@cache
def _load_fused() -> bool:
    """Load the compiled loops; whether they merge the golden vectors to the same bits as numpy."""
    from swarm.learning import fused

    inputs = [_golden_input("F32", contributor) for contributor in range(3)]
    plain, compiled = (np.empty(_GOLDEN_ELEMENTS, np.float32) for _ in range(2))
    MEAN.merge("F32", inputs, _GOLDEN_SAMPLES, plain)
    acc, factors = np.empty(_GOLDEN_ELEMENTS), [float(n) for n in _GOLDEN_SAMPLES]
    fused.merge(inputs, factors, sum(factors), compiled, acc)
    if plain.tobytes() == compiled.tobytes():
        return True
    log.warning("compiled loops merge otherwise than numpy on this machine: merging without them")
    return False


def _weigh(dtype: DType, piece: Array, factor: float, out: Floats) -> None:
    """out = f64(piece) · factor. First widened: numpy would multiply in the input's type, and to
    have it widen in passing takes longer than two passes over what stays in the cache."""
    np.copyto(out, _widen_bfloat16(piece) if dtype == "BF16" else piece)
    np.multiply(out, factor, out=out)


def _widen_bfloat16(bits: Array) -> Array:
    wide = bits.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def _narrow(dtype: DType, acc: Floats, out: Array) -> None:
    """Round float64 once, to nearest with ties to even."""
    if dtype == "BF16":
        _narrow_to_bfloat16(acc, out)
    else:
        out[:] = acc


def _narrow_to_bfloat16(acc: Floats, out: Array) -> None:
    """Round to the 8 bits of a bfloat16 in place, in the bits of float64: add just under half of
    the last place, and one more where that place is odd, then cut off. Infinity stays, and so does
    a NaN, whose lower bits are zero here; what is too large becomes infinite.

    Of numbers below the normal range fewer bits are kept, so a piece with such goes the long way.
    """
    bits = acc.view(np.uint64)
    carry = bits >> np.uint64(45)
    carry &= np.uint64(1)
    carry += np.uint64((1 << 44) - 1)
    carry += bits
    carry &= np.uint64(~((1 << 45) - 1) & (1 << 64) - 1)
    single = carry.view(np.float64).astype(np.float32).view(np.uint32)
    tiny = (single & np.uint32(0x7F800000)) == 0
    if tiny.any() and acc[tiny].any():
        single = _round_to_odd(acc)
        single += np.uint32(0x7FFF) + ((single >> np.uint32(16)) & np.uint32(1))
        single[np.isnan(acc)] = 0x7FC00000
    np.right_shift(single, 16, out=single)
    out[:] = single


def _round_to_odd(acc: Floats) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The bits of float32 numbers that can be rounded to bfloat16 as if from float64.

    Rounding twice to nearest can differ from rounding once. Rounding first to odd (cut off; if
    anything was cut, set the last bit) cannot: Boldo and Melquiond 2008, "Emulation of FMA and
    correctly rounded sums: proved algorithms using rounding to odd".
    """
    nearest = acc.astype(np.float32)
    back = nearest.astype(np.float64)
    bits = nearest.view(np.uint32)
    bits -= np.abs(back) > np.abs(acc)  # it was rounded away from zero: one step back
    bits |= (back != acc) & ~np.isnan(acc)
    return bits


def _fold(operation: Callable[..., Any], pieces: Sequence[Array], out: Array) -> None:
    out[:] = pieces[0]
    for piece in pieces[1:]:
        operation(out, piece, out=out)


def _merge_booleans(pieces: Sequence[Array], out: Array) -> None:
    raw = out.view(np.uint8)
    _fold(np.bitwise_or, [piece.view(np.uint8) for piece in pieces], raw)
    if find_unfit("BOOL", raw) is not None:
        _refuse("BOOL", pieces)


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


def _refuse(dtype: DType, pieces: Sequence[Array]) -> None:
    for contributor, piece in enumerate(pieces):
        index = find_unfit(dtype, piece)
        if index is not None:
            value = piece.view(np.uint8)[index] if dtype == "BOOL" else piece[index]
            told = f"0x{value:04x}" if dtype == "BF16" else str(value)
            raise BlobError(f"contributor {contributor} has a value that is not finite: {told}")
    raise BlobError(f"the merged values do not fit {dtype}, though all contributions are finite")
