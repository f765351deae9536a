"""Floating point in rational numbers: slow and obviously right, for checking what is fast."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from swarm.learning.folds.formats import Array

FIELDS = {"F64": (52, 11), "F32": (23, 8), "F16": (10, 5), "BF16": (7, 8)}
UNSIGNED = {"F64": np.uint64, "F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}


def exact(bits: int, dtype: str) -> Fraction:
    """The number that these bits stand for, which must be finite."""
    mantissa_bits, exponent_bits = FIELDS[dtype]
    mantissa = bits & ((1 << mantissa_bits) - 1)
    exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1)
    if exponent:
        mantissa |= 1 << mantissa_bits
    shift = max(exponent, 1) - ((1 << (exponent_bits - 1)) - 1) - mantissa_bits
    sign = -1 if bits >> (mantissa_bits + exponent_bits) else 1
    return sign * mantissa * Fraction(2) ** shift


def rounded(value: Fraction, dtype: str) -> Fraction | None:
    """To nearest, ties to even; None where that overflows."""
    mantissa_bits, exponent_bits = FIELDS[dtype]
    bias = (1 << (exponent_bits - 1)) - 1
    if value == 0:
        return value
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, 1 - bias) - mantissa_bits)
    nearest = round(value / unit) * unit  # Python rounds fractions half to even
    return None if abs(nearest) >= Fraction(2) ** (bias + 1) else nearest


def finite_bits(dtype: str) -> st.SearchStrategy[int]:
    mantissa_bits, exponent_bits = FIELDS[dtype]
    top = (1 << exponent_bits) - 1
    bias = top >> 1
    # Everywhere, around one, around the smallest, around the largest.
    exponents = st.one_of(
        st.integers(0, top - 1),
        st.integers(bias - 2, bias + 2),
        st.integers(0, 2),
        st.integers(top - 3, top - 1),
    )
    return st.builds(
        lambda sign, exponent, mantissa: (
            sign << (mantissa_bits + exponent_bits) | exponent << mantissa_bits | mantissa
        ),
        st.integers(0, 1),
        exponents,
        st.integers(0, (1 << mantissa_bits) - 1),
    )


def as_array(bits: list[int], dtype: str) -> Array:
    raw = np.array(bits, UNSIGNED[dtype])
    return raw if dtype == "BF16" else raw.view(f"f{raw.itemsize}")
