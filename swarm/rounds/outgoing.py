"""What leaves this node for another, in words for the list of what left (`node/outgoing`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarm.types import Address, Digest, MemberId, PlanId


@dataclass(frozen=True)
class Purpose:
    """What a blob is. `of` is the member from whose rows it was made, if from one's alone.

    kind    "update", "statistics": of one site; "model", "sums": merged of many, or model 0;
            "own model": what one site has fine-tuned, or keeps; "own models": those of all sites
            "published": of a model that this node offers to all members
            "shares": of the secrets of a masked round, each sealed to one member
            "stream": to or from the holder of the plan's role, of the asking site's rows
            "timings": seconds and steps of a training; "other": no plan knows it any more
    """

    kind: str
    plan: PlanId | None = None
    round: int | None = None
    of: MemberId | None = None
    masked: bool = False


UNKNOWN = Purpose("other")


@dataclass(frozen=True)
class Leaving:
    """Bytes that are about to be sent to `to`. `part` is a chunk's number; None: of the whole."""

    to: Address
    blob: Digest
    part: int | None
    size_bytes: int
    purpose: Purpose


TellPurpose = Callable[[Digest], Purpose | None]
OnLeaving = Callable[[Leaving], None]
"""Called in worker threads, before the bytes are sent. LocalError keeps them here."""


def unknown(blob: Digest) -> Purpose | None:
    """Knows no blob."""
    return None


def ignore(leaving: Leaving) -> None:
    """Keeps no list."""
