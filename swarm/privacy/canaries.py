"""Zero words in an update, and its norm: whether a sum of masked updates was spoiled.

One wrong mask makes a sum into noise, and nobody can look at single updates to see whose it was. So
the first and the last word of each chunk are zero before masking, and must be zero in the sum once
all masks are off: noise passes with a chance of 2⁻⁶⁴ a chunk. And the mean of honest updates stays
within the plan's norm bound, which also limits how far one site can push a model.

Both are computed in whole numbers, so that all members agree on the answer to the bit.
"""

from __future__ import annotations

import math

import numpy as np

from swarm.privacy.fixed_point import Grid, Words

CHUNK_WORDS = 1 << 18
"""With its two zero words."""
_INSIDE = CHUNK_WORDS - 2


def framed_size(words: int) -> int:
    """How many words `frame` makes of so many."""
    chunks = max(1, math.ceil(words / _INSIDE))
    return words + 2 * chunks


def frame(words: Words) -> Words:
    """These words in chunks, each between two zeros."""
    framed = np.zeros(framed_size(len(words)), words.dtype)
    for index, start in enumerate(range(0, len(words), _INSIDE)):
        chunk = words[start : start + _INSIDE]
        at = index * CHUNK_WORDS + 1
        framed[at : at + len(chunk)] = chunk
    return framed


def unframe(framed: Words) -> Words | None:
    """The words inside; None if a zero word is not zero, or chunks of this size do not exist."""
    if len(framed) < 2 or (len(framed) > CHUNK_WORDS and len(framed) % CHUNK_WORDS in (1, 2)):
        return None
    parts = []
    for start in range(0, len(framed), CHUNK_WORDS):
        chunk = framed[start : start + CHUNK_WORDS]
        if chunk[0] or chunk[-1]:
            return None
        parts.append(chunk[1:-1])
    return np.concatenate(parts)


def is_within(grid: Grid, total: Words, weight: float, bound: float) -> bool:
    """Whether the mean that `total` stands for has at most this Euclidean norm."""
    limit = bound * weight / grid.step
    return square_sum(total) <= math.floor(limit * limit)


def is_within_clip(grid: Grid, total: Words, weight: float, contributors: int) -> bool:
    """Whether each number of a sum is one that honest contributors of this joint weight can have
    made together, each within the clip bound; rounding adds less than one step for each."""
    signed = total.view(f"<i{grid.bits // 8}")
    most = math.floor(grid.clip * weight / grid.step) + contributors
    return not len(signed) or (int(signed.max()) <= most and int(signed.min()) >= -most)


def square_sum(total: Words) -> int:
    """The sum of the squares of signed 32-bit words, exactly."""
    signed = total.view("<i4").astype(np.int64)
    squares = (signed * signed).astype(np.uint64)  # at most 2⁶²
    high = int((squares >> np.uint64(32)).sum(dtype=np.uint64))
    low = int((squares & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
    return (high << 32) + low
