"""A dealer's envelope: for each epoch that may come, the commitments to a secret, and each roster
member's share of it, sealed to that member.

    "swarm/envelope/1", then for each epoch its commitments, then for each member its sealed shares

Recipients are in member order, and all sizes follow from how many members and epochs there are, so
an envelope can be read in one way only. A share is sealed with ChaCha20-Poly1305 under a key that
the dealer's key of this attempt and the recipient's receiving key agree on. Occasion, dealer,
recipient, both keys and the secrets' first commitments are bound to it: an envelope that somebody
copied, or a share that was moved to another place, opens nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from swarm.privacy.derivation import KEY_BYTES, SEAL, Occasion, Party, agree, derive
from swarm.privacy.shares import POINT_BYTES, SHARE_BYTES, Dealing, is_good

EPOCHS = 3
MAGIC = b"swarm/envelope/1"
_TAG_BYTES = 16
_SEALED_BYTES = EPOCHS * SHARE_BYTES + _TAG_BYTES
_NONCE = bytes(12)  # each key seals once
NO_KEY = bytes(KEY_BYTES)
"""Of a recipient to whom nothing can be sealed: zeros stand in the place of its shares."""


@dataclass(frozen=True)
class Dealer:
    """What the chain says of a dealer: its number, its key, its first commitments by epoch."""

    party: Party
    first: tuple[bytes, ...]


@dataclass(frozen=True)
class Shape:
    """How an envelope of this attempt looks: what it is for, who is in the roster (in member
    order, with receiving keys, NO_KEY for who has none), and how many shares give a secret."""

    occasion: Occasion
    roster: tuple[Party, ...]
    needed: int

    @property
    def size(self) -> int:
        """Of an envelope, in bytes."""
        return self._sealed_at + len(self.roster) * _SEALED_BYTES

    @property
    def _sealed_at(self) -> int:
        return len(MAGIC) + EPOCHS * self.needed * POINT_BYTES


def seal(shape: Shape, dealer: Party, secret: bytes, dealings: Sequence[Dealing]) -> bytes:
    """The envelope of a dealer; `secret` is of its key of this attempt."""
    first = tuple(dealing.commitments[0] for dealing in dealings)
    parts = [MAGIC, *(point for dealing in dealings for point in dealing.commitments)]
    for recipient in shape.roster:
        if recipient.public == NO_KEY:
            parts.append(bytes(_SEALED_BYTES))
            continue
        shares = b"".join(dealing.shares[recipient.member] for dealing in dealings)
        key, bound = _sealing_key(shape, Dealer(dealer, first), recipient, secret, recipient.public)
        parts.append(ChaCha20Poly1305(key).encrypt(_NONCE, shares, bound))
    return b"".join(parts)


def read_commitments(
    shape: Shape, dealer: Dealer, envelope: bytes
) -> tuple[tuple[bytes, ...], ...]:
    """By epoch, the commitments in an envelope. Raises ValueError, with a reason, for one that has
    another size, or other first commitments than the chain has."""
    if len(envelope) != shape.size or not envelope.startswith(MAGIC):
        raise ValueError(f"{len(envelope)} bytes are no envelope, which has {shape.size}")
    size = shape.needed * POINT_BYTES
    found = []
    for epoch in range(EPOCHS):
        raw = envelope[len(MAGIC) + epoch * size :][:size]
        points = tuple(raw[at : at + POINT_BYTES] for at in range(0, size, POINT_BYTES))
        if points[0] != dealer.first[epoch]:
            raise ValueError(f"the envelope commits to another secret of epoch {epoch}")
        found.append(points)
    return tuple(found)


def open_shares(
    shape: Shape, dealer: Dealer, me: Party, secret: bytes, envelope: bytes
) -> tuple[bytes, ...]:
    """By epoch, this member's shares of the dealer's secrets, each checked; `secret` is of the
    receiving key. Raises ValueError, with a reason, if any is wrong."""
    commitments = read_commitments(shape, dealer, envelope)
    sealed = envelope[shape._sealed_at + shape.roster.index(me) * _SEALED_BYTES :][:_SEALED_BYTES]
    key, bound = _sealing_key(shape, dealer, me, secret, dealer.party.public)
    try:
        raw = ChaCha20Poly1305(key).decrypt(_NONCE, sealed, bound)
    except InvalidTag:
        raise ValueError("the shares are not sealed to this member's key") from None
    shares = tuple(raw[at : at + SHARE_BYTES] for at in range(0, len(raw), SHARE_BYTES))
    for epoch, share in enumerate(shares):
        if not is_good(share, me.member, commitments[epoch]):
            raise ValueError(f"the share of epoch {epoch} is not what the dealer committed to")
    return shares


def _sealing_key(
    shape: Shape, dealer: Dealer, recipient: Party, secret: bytes, other: bytes
) -> tuple[bytes, bytes]:
    """The key, and what is bound to it."""
    party = dealer.party
    keys = (recipient.public, party.public, *dealer.first)
    bound = shape.occasion.info(SEAL, party.member, recipient.member, *keys)
    return derive(agree(secret, other), bound), bound
