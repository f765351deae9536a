"""Golden inputs: fixed values of every type on which a machine's arithmetic shows itself.

Bits come from a hash, with exponents kept around the smallest (first half: subnormals) or around 1
(the rest). The fifth contributor is made of the others' values, their negatives, zeros of both
signs, the smallest and the largest numbers: ties in an order, sums that cancel, ties in rounding.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from blake3 import blake3

from swarm.learning.folds.formats import FLOAT_FIELDS, FLOATS, LARGEST, Array, narrow
from swarm.tensors import NUMPY_DTYPES, DType

GOLDEN_ELEMENTS = 512
GOLDEN_WEIGHTS = (7, 303, 116_202, 1, 64)


@cache
def golden_input(dtype: DType, contributor: int) -> Array:
    """What one of many contributors sends; read-only."""
    numpy_dtype = NUMPY_DTYPES[dtype]
    seed = f"swarm golden merge {dtype} {contributor}".encode()
    raw = np.frombuffer(blake3(seed).digest(GOLDEN_ELEMENTS * numpy_dtype.itemsize), np.uint8)
    if dtype == "BOOL":
        found: Array = np.bitwise_and(raw, 1).view(numpy_dtype)
    elif dtype not in FLOATS:
        found = np.right_shift(raw.view(numpy_dtype), 2)  # so that three of them fit
    else:
        mantissa_bits, exponent_bits = FLOAT_FIELDS[dtype]
        unsigned = np.dtype(f"<u{numpy_dtype.itemsize}").type
        bits = raw.view(unsigned) & ~unsigned(((1 << exponent_bits) - 8) << mantissa_bits)
        bits[GOLDEN_ELEMENTS // 2 :] |= unsigned(((1 << (exponent_bits - 1)) - 8) << mantissa_bits)
        found = np.asarray(bits.view(numpy_dtype))
    found.setflags(write=False)
    return found


@cache
def golden_inputs(dtype: DType) -> tuple[Array, ...]:
    """What five contributors send, the last of them mixed from the others; read-only."""
    rows = [golden_input(dtype, contributor) for contributor in range(4)]
    mixed = rows[0].copy()
    if dtype in FLOATS:
        unsigned = np.dtype(f"<u{mixed.itemsize}")
        sign = unsigned.type(1 << (8 * mixed.itemsize - 1))
        mixed[1::4] = (rows[1][1::4].view(unsigned) ^ sign).view(mixed.dtype)
        mixed[2::4] = rows[2][2::4]
        mixed[3::4] = np.resize(_special(dtype), len(mixed[3::4]))
    mixed.setflags(write=False)
    return (*rows, mixed)


def _special(dtype: DType) -> Array:
    """Zeros, the smallest, the largest, and one: of both signs."""
    mantissa_bits, _ = FLOAT_FIELDS[dtype]
    smallest = 2.0 ** (-1074 if dtype == "F64" else {"F16": -24}.get(dtype, -126 - mantissa_bits))
    wide = np.array([0.0, smallest, 1.0, LARGEST[dtype]])
    special = np.empty(8, NUMPY_DTYPES[dtype])
    narrow(dtype, np.concatenate([wide, -wide]), special)
    return special
