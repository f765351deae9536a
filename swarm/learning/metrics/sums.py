"""Sums of real numbers that add up exactly, as six whole numbers.

A site's sum is rounded once, to a multiple of 2**-64, and written in six digits of 32 bits, the
highest with the sign. Digits of many sites add up as they are; what they carry is settled when the
sum is read. It is exact, so the variance of numbers far from 0 loses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from swarm.learning.metrics.counts import MAX_ROWS, Integers
from swarm.learning.metrics.rows import Floats

PLACES = 6
_DIGIT_BITS = 32
_UNIT = 2**64
_LIMIT = 2**120
_FINEST = 2.0**-80


def sum_of(values: Sequence[float], what: str) -> list[int]:
    """The sum of finite numbers as digits. Raises ValueError naming `what` is too large."""
    left, total = list(values), Fraction(0)
    part = math.fsum(left)
    if not abs(part) < _LIMIT:
        raise ValueError(f"{what} add up to {part:g}, which is too much: take a larger unit")
    while abs(part) > _FINEST:  # what one float of the sum cannot hold, the next one does
        total += Fraction(part)
        left.append(-part)
        part = math.fsum(left)
    rest = round(total * _UNIT)
    digits = []
    for _ in range(PLACES - 1):
        digits.append(rest % 2**_DIGIT_BITS)
        rest >>= _DIGIT_BITS
    return [*digits, rest]


def products(a: Floats, b: Floats) -> Floats:
    """Numbers [2 × rows] whose sum is exactly that of the products of `a` and `b` [rows]: each
    product as rounded, and what rounding took (Dekker, Numer Math 18:224-242, 1971)."""
    rounded = a * b
    (high_a, low_a), (high_b, low_b) = _halves(a), _halves(b)
    lost = ((high_a * high_b - rounded) + high_a * low_b + low_a * high_b) + low_a * low_b
    return np.concatenate([rounded, lost])


def _halves(x: Floats) -> tuple[Floats, Floats]:
    """Two floats of half the bits that add up to each."""
    wide = x * (2.0**27 + 1)
    high = wide - (wide - x)
    return high, x - high


def read_sum(digits: Integers) -> Fraction:
    """What the digits [6] of one site, or of many, add up to."""
    return Fraction(sum(int(digit) << (_DIGIT_BITS * i) for i, digit in enumerate(digits)), _UNIT)


def check_sum(digits: Integers) -> None:
    """Raise ValueError unless the digits [6] are as one site writes them."""
    if int(np.min(digits[:-1])) < 0 or int(np.max(digits[:-1])) >= 2**_DIGIT_BITS:
        raise ValueError("the digits of a sum are not of 32 bits")
    if abs(read_sum(digits)) > _LIMIT:
        raise ValueError("a sum is larger than any site may send")


def check_sums(values: Integers) -> None:
    """Raise ValueError unless `values` are a number of rows, and sums over them of PLACES digits
    each, as one site writes them."""
    if not 0 <= int(values[0]) <= MAX_ROWS:
        raise ValueError(f"the number of rows is {int(values[0])}")
    for digits in values[1:].reshape(-1, PLACES):
        check_sum(digits)
        if not values[0] and digits.any():
            raise ValueError("there is a sum of no rows")
