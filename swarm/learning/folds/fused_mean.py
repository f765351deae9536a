"""The inner loops of merging float32, compiled: one pass over the updates instead of a dozen.

numpy has a loop of its own for widening, multiplying, adding, dividing and rounding, each through
memory or at best the cache; here a value goes through all of them in a register, and a merge is as
fast as the memory. The numbers are those of `merge`, bit for bit:

- Nothing is reordered (no "fastmath"): each value's operations are those of `merge`, in its order.
- A compiler may fuse a multiplication with an addition, which rounds once instead of twice. A
  float32 (24 bits) times a whole number below 2²⁹ fits the 53 bits of a float64, so here the
  multiplication never rounds, and fusing changes nothing. Larger counts are left to numpy.
- Negative zero added to anything leaves it as it is, its sign included. So sums begin with it, and
  it stands in for updates that are not there.

Compiling takes less than a second, when this module is imported. It is not kept on the disk:
numba's cache is a pickle, which would run whatever somebody puts there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numba.core.types import Array as ArrayType
from numba.core.types import boolean, float32, float64, void

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

MAX_FACTOR = 2**29 - 1
AT_ONCE = 4

_INPUT = ArrayType(float32, 1, "C", readonly=True)
_NEGATIVE_ZERO = -0.0
_LARGEST = np.finfo(np.float32).max


def _compiled(signature: Any) -> Callable[[F], F]:
    """Now, for these types; the interpreter's lock is free while it runs."""
    return cast(Callable[[F], F], njit(signature, nogil=True))


@_compiled(void(float64[::1], *[_INPUT] * AT_ONCE, *[float64] * AT_ONCE))
def _add(
    acc: Array, a: Array, b: Array, c: Array, d: Array, fa: float, fb: float, fc: float, fd: float
) -> None:
    for i in range(acc.size):
        acc[i] = (((acc[i] + a[i] * fa) + b[i] * fb) + c[i] * fc) + d[i] * fd


@_compiled(boolean(float64[::1], float64, float32[::1]))
def _finish(acc: Array, divisor: float, out: Array) -> bool:
    """Whether all of `out` is finite."""
    fit = True
    for i in range(acc.size):
        out[i] = acc[i] / divisor
        fit &= abs(out[i]) <= _LARGEST
    return fit


def takes(inputs: Sequence[Array], factors: Sequence[float], out: Array) -> bool:
    """Whether these can be merged here with the same result."""
    arrays = [*inputs, out]
    is_plain = all(a.flags.c_contiguous and a.flags.aligned for a in arrays)
    return is_plain and max(factors) <= MAX_FACTOR


def merge(
    inputs: Sequence[Array], factors: Sequence[float], divisor: float, out: Array, acc: Array
) -> bool:
    """out = Σ inputsᵢ · factorsᵢ / divisor, for float32 arrays of one length that `takes` takes.

    `acc` is a float64 buffer of that length. Returns whether all of `out` is finite.
    """
    acc.fill(_NEGATIVE_ZERO)
    missing = -len(inputs) % AT_ONCE
    values = [*inputs, *[_nothing(len(out))] * missing]
    weights = [*factors, *[1.0] * missing]
    for k in range(0, len(values), AT_ONCE):
        a, b, c, d = values[k : k + AT_ONCE]
        _add(acc, a, b, c, d, *weights[k : k + AT_ONCE])
    return bool(_finish(acc, divisor, out))


@lru_cache(maxsize=2)
def _nothing(elements: int) -> Array:
    return np.full(elements, _NEGATIVE_ZERO, np.float32)
