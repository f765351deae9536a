"""Zero words in an update, and its bounds: whether a sum of masked updates was spoiled.

One wrong mask makes a sum into noise, and nobody can look at single updates to see whose it was. So
the first and the last word of each chunk are zero before masking, and must be zero in the sum once
all masks are off: noise passes with a chance of 2⁻⁶⁴ a chunk. And each number of a sum of honest
updates stays within what their clip bounds allow, which also limits how far one site can push a
model.

Both are computed in whole numbers, so that all members agree on the answer to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from swarm.privacy.fixed_point import Grid, Words

CHUNK_WORDS = 1 << 18
"""With its two zero words."""
_INSIDE = CHUNK_WORDS - 2


def chunks(words: int) -> Iterator[tuple[int, int]]:
    """Where the words of each chunk begin and end among so many, zeros not counted. With them,
    chunk k begins at k * CHUNK_WORDS."""
    for start in range(0, max(words, 1), _INSIDE):
        yield start, min(start + _INSIDE, words)


def framed_size(words: int) -> int:
    """How many words so many are in chunks, with their zeros."""
    return words + 2 * max(1, math.ceil(words / _INSIDE))


def unframe(chunk: Words) -> Words | None:
    """The words inside a chunk; None if a zero word is not zero."""
    return None if chunk[0] or chunk[-1] else chunk[1:-1]


def is_within_clip(grid: Grid, total: Words, weight: float, contributors: int) -> bool:
    """Whether each number of a sum is one that honest contributors of this joint weight can have
    made together, each within the clip bound; rounding adds less than one step for each."""
    signed = total.view(f"<i{grid.bits // 8}")
    most = math.floor(grid.clip * weight / grid.step) + contributors
    return not len(signed) or (int(signed.max()) <= most and int(signed.min()) >= -most)
