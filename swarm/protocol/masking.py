"""What stands on the chain about one attempt at a masked round, and what follows from it.

The table of what is allowed when, and why, is in docs/decisions/0019-secure-rounds.md. Sets of
members are integers, as everywhere (`state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from swarm.types import NO_DIGEST, Digest, MemberId

EPOCHS = 3
"""At most so many sets of contributors in one attempt."""
X25519_BYTES, POINT_BYTES, SHARE_BYTES, CODE_BYTES = 32, 33, 32, 8
KEYS_BYTES = X25519_BYTES + EPOCHS * POINT_BYTES + 32 + X25519_BYTES


class Keys(NamedTuple):
    """What a trainer of a masked plan submits in the place of an update's digest."""

    public: bytes
    """Its X25519 key of this attempt."""
    first: tuple[bytes, ...]
    """By epoch, the commitment to its self mask's secret."""
    envelope: Digest
    next_receiving: bytes
    """To which shares are sealed from the next attempt on."""

    def encode(self) -> bytes:
        """One after the other, all of fixed size."""
        return b"".join((self.public, *self.first, self.envelope, self.next_receiving))

    @property
    def used_up(self) -> tuple[bytes, ...]:
        """What the same member never posts again."""
        return (self.public, *self.first, self.next_receiving)


def read_keys(raw: bytes) -> Keys | None:
    """Keys from what `encode` wrote; None for another size, a secret that counts twice, or no
    receiving key."""
    if len(raw) != KEYS_BYTES:
        return None
    ends = X25519_BYTES + EPOCHS * POINT_BYTES
    first = tuple(raw[at : at + POINT_BYTES] for at in range(X25519_BYTES, ends, POINT_BYTES))
    keys = Keys(raw[:X25519_BYTES], first, Digest(raw[ends : ends + 32]), raw[ends + 32 :])
    if len(set(keys.used_up)) < len(keys.used_up) or keys.next_receiving == NO_DIGEST:
        return None
    return keys


def shares_needed(members: int, colluders: int) -> int:
    """⌊(n + c)/2⌋ + 1: two sets of so many have more than c members in common."""
    return (members + colluders) // 2 + 1


@dataclass
class Masking:
    """One attempt, from its close on."""

    roster: int
    colluders: int
    submitters: int
    """S_0, frozen at the close; the contributors of epoch 0."""
    contributors: int
    """S_e, of the epoch that runs; U once it is locked."""
    began_at: int
    """When this epoch began."""
    epoch: int = 0
    posted: dict[MemberId, Digest] = field(default_factory=dict)
    """The digests of masked updates, of this epoch."""
    codes: dict[MemberId, bytes] = field(default_factory=dict)
    """For each poster, a short code for each other contributor in member order."""
    good: dict[MemberId, int] = field(default_factory=dict)
    """By judge, the dealers whose shares for it are right."""
    complaints: dict[MemberId, int] = field(default_factory=dict)
    """By complainant, the dealers whose shares for it are wrong."""
    answers: dict[tuple[int, MemberId, MemberId], bytes] = field(default_factory=dict)
    """Shares that were published, by epoch, dealer and complainant."""
    sum: Digest = NO_DIGEST
    """Y, once it is locked."""
    opened: dict[MemberId, bytes] = field(default_factory=dict)
    """By revealer, its shares of the self masks of U, in member order."""
    abandoned: int = 0
    """Who votes for giving the locked round up."""

    @property
    def needed(self) -> int:
        """How many shares open a self mask, and how many must call a dealer good."""
        return shares_needed(self.roster.bit_count(), self.colluders)

    @property
    def is_complete(self) -> bool:
        """Whether all contributors of this epoch have posted."""
        return len(self.posted) == self.contributors.bit_count()

    @property
    def well_dealt(self) -> int:
        """The dealers whom enough of the roster call good."""
        return sum(
            1 << dealer
            for dealer in range(self.submitters.bit_length())
            if self.submitters >> dealer & 1
            and sum(said >> dealer & 1 for said in self.good.values()) >= self.needed
        )

    @property
    def votes_needed(self) -> int:
        """How many contributors lock a sum: more than half of them as frozen, and more than c."""
        return max(self.contributors.bit_count() // 2, self.colluders) + 1

    def may_lock(self) -> bool:
        """Whether a sum may be voted on."""
        return self.is_complete and not self.contributors & ~self.well_dealt

    def remaining(self, present: int) -> int:
        """S_{e+1}: who posted, is still there, and has dealt well. `present`: of the roster."""
        posted = sum(1 << member for member in self.posted)
        return self.contributors & posted & present & self.well_dealt


def unanswered(masking: Masking, answers: Mapping[tuple[int, MemberId, MemberId], bytes]) -> int:
    """The dealers about whom somebody complains without an answer among these, in this epoch."""
    return sum(
        1 << dealer
        for dealer in range(masking.submitters.bit_length())
        if any(
            said >> dealer & 1 and (masking.epoch, MemberId(dealer), complainant) not in answers
            for complainant, said in masking.complaints.items()
        )
    )
