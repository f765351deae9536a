"""Number formats: what each widens to, how float64 is rounded back, its order, what is refused.

All arithmetic on floats is done in float64, to which every type widens exactly, bfloat16 included
(numpy has none: its raw bits come as uint16). Results are rounded once, to nearest with ties to
even.

The order of a type is that of integers made from its bits: negative zero comes before zero, and
what is not finite lies beyond everything that is. Sorting integers has one result on any machine;
sorting floats has not, where zeros differ in sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from swarm.errors import BlobError
from swarm.tensors import NUMPY_DTYPES, DType

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float64]]

FLOAT_FIELDS: Mapping[str, tuple[int, int]] = {
    "F64": (52, 11),
    "F32": (23, 8),
    "F16": (10, 5),
    "BF16": (7, 8),
}
"""Bits of mantissa and exponent."""
FLOATS = frozenset(FLOAT_FIELDS)
LARGEST: Mapping[str, float] = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": float(np.finfo(np.float16).max),
    "BF16": 255 * 2.0**120,
}


def find_unfit(dtype: DType, values: Array) -> int | None:
    """The index of the first value that may not be merged: not finite, or a boolean above 1."""
    if dtype == "BOOL":
        bad = values.view(np.uint8) > 1
    elif dtype == "BF16":
        bad = (values & np.uint16(0x7F80)) == 0x7F80
    elif dtype in FLOATS:
        bad = ~np.isfinite(values)
    else:
        return None
    return int(bad.argmax()) if bad.any() else None


def refuse(dtype: DType, inputs: Sequence[Array]) -> None:
    """Raise BlobError for the first contributor with an unfit value, or else for the result."""
    refuse_unfit(dtype, inputs)
    raise BlobError(f"the merged values do not fit {dtype}, though all contributions are finite")


def refuse_unfit(dtype: DType, inputs: Sequence[Array]) -> None:
    """Raise BlobError for the first contributor with a value that may not be merged, if any."""
    for contributor, values in enumerate(inputs):
        index = find_unfit(dtype, values)
        if index is not None:
            value = values.view(np.uint8)[index] if dtype == "BOOL" else values[index]
            told = f"0x{value:04x}" if dtype == "BF16" else str(value)
            raise BlobError(f"contributor {contributor} has a value that is not finite: {told}")


def widen(dtype: DType, values: Array, out: Floats) -> None:
    """out = f64(values), exactly."""
    np.copyto(out, _widen_bfloat16(values) if dtype == "BF16" else values)


def _widen_bfloat16(bits: Array) -> Array:
    wide = bits.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def narrow(dtype: DType, acc: Floats, out: Array) -> None:
    """Round float64 once, to nearest with ties to even. What is too large becomes infinite."""
    if dtype == "BF16":
        _narrow_to_bfloat16(acc, out)
    else:
        out[:] = acc


def narrow_within(dtype: DType, acc: Floats, out: Array) -> None:
    """As `narrow`, but what is too large becomes the largest number of its type."""
    narrow(dtype, np.clip(acc, -LARGEST[dtype], LARGEST[dtype]), out)


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


def to_ordered(dtype: DType, values: Array) -> Array:
    """New integers in the order of these values."""
    if dtype == "BOOL":
        return values.view(np.uint8).copy()
    if dtype not in FLOATS:
        return values.copy()
    return _turn_negatives(values.view(_signed(dtype)))


def from_ordered(dtype: DType, keys: Array) -> Array:
    """The values that `to_ordered` gave these integers for."""
    if dtype in FLOATS:
        keys = _turn_negatives(keys)
    return keys.view(NUMPY_DTYPES[dtype])


def _turn_negatives(bits: Array) -> Array:
    """All bits of negative numbers but the sign, turned over: their order as integers is that of
    their magnitude. Twice gives the original."""
    turned: Array = bits >> bits.dtype.type(8 * bits.dtype.itemsize - 1)  # all ones if negative
    turned &= np.iinfo(bits.dtype).max
    turned ^= bits
    return turned


def _signed(dtype: DType) -> np.dtype[Any]:
    return np.dtype(f"<i{NUMPY_DTYPES[dtype].itemsize}")
