"""Which chunks of a merge each submitter recomputes, when a plan shares the checking (`SHARED`).

Every chunk falls to CHECKERS of those who did not merge, side by side in a circle of member order,
from a place that is drawn for that chunk. The draw depends on the round's seed and on the merged
model's name, so it cannot be known before the model is settled.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_hash.auto import keccak

from swarm.types import Digest, MemberId

CHECKERS = 2
RECHECK_DOMAIN = keccak(b"swarm/checked-chunks/1")
_DRAWN_BYTES = 4


def rechecks_of(
    me: MemberId, checkers: Sequence[MemberId], seed: Digest, model: Digest, chunks: int
) -> list[int]:
    """The chunks that `me` recomputes, of `chunks`; `checkers` are all who do, in member order.

    With CHECKERS of them or fewer, each recomputes everything.
    """
    if len(checkers) <= CHECKERS:
        return list(range(chunks))
    place = checkers.index(me)
    chosen: list[int] = []
    draw = b""
    for chunk in range(chunks):
        at = chunk * _DRAWN_BYTES % 32
        if at == 0:
            draw = keccak(RECHECK_DOMAIN + seed + model + chunk.to_bytes(8, "big"))
        first = int.from_bytes(draw[at : at + _DRAWN_BYTES], "big") % len(checkers)
        if (place - first) % len(checkers) < CHECKERS:
            chosen.append(chunk)
    return chosen
