"""Verifiable shares of a secret (Feldman 1987), over secp256k1.

A dealer draws a polynomial whose value at 0 is the secret, publishes its coefficients times the
generator (the commitments), and gives member m its value at m + 1. Any `threshold` values give the
secret, fewer say nothing but the commitment; and each recipient can check its own share against the
commitments, so that a wrong one is found when it arrives, and a wrong reveal when it is made.

Secrets are random 32-byte numbers below the curve's order: the commitment hides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from coincurve import PrivateKey, PublicKey

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SHARE_BYTES = 32
POINT_BYTES = 33
Entropy = Callable[[int], bytes]


@dataclass(frozen=True)
class Dealing:
    """A secret shared out. `shares` by member number."""

    secret: bytes
    commitments: tuple[bytes, ...]
    shares: Mapping[int, bytes]


def threshold(members: int, colluders: int) -> int:
    """⌊(n + c)/2⌋ + 1: any two sets of so many members have more than c in common, so that even
    over a fork no two sets of contributors can both be opened."""
    return (members + colluders) // 2 + 1


def deal(members: Iterable[int], needed: int, entropy: Entropy) -> Dealing:
    """A new secret, and its shares for these members; any `needed` of them give it back."""
    coefficients = [_draw(entropy) for _ in range(needed)]
    commitments = tuple(PrivateKey(_raw(a)).public_key.format() for a in coefficients)
    shares = {m: _raw(_value(coefficients, m + 1)) for m in members}
    return Dealing(_raw(coefficients[0]), commitments, shares)


def is_good(share: bytes, member: int, commitments: Sequence[bytes]) -> bool:
    """Whether this is the member's share, by the commitments: whatever bytes they are."""
    try:
        points = [PublicKey(raw) for raw in commitments]
        expected, at = points[-1], _raw(member + 1)
        for point in reversed(points[:-1]):
            expected = PublicKey.combine_keys([expected.multiply(at), point])
        return len(share) == SHARE_BYTES and PrivateKey(share).public_key == expected
    except ValueError:
        return False  # no points, a sum that is none, or no number below the order


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret, from as many good shares as it takes."""
    total = 0
    for member, share in shares.items():
        above = below = 1
        for other in shares:
            if other != member:
                above = above * (other + 1) % ORDER
                below = below * (other - member) % ORDER
        total += int.from_bytes(share, "big") * above * pow(below, -1, ORDER)
    return _raw(total % ORDER)


def commitment_of(secret: bytes) -> bytes:
    """The first commitment of a dealing of this secret."""
    return PrivateKey(secret).public_key.format()


def _draw(entropy: Entropy) -> int:
    """Uniform between 1 and the order, both excluded but for 1."""
    while not 0 < (drawn := int.from_bytes(entropy(SHARE_BYTES), "big")) < ORDER:
        pass
    return drawn


def _value(coefficients: Sequence[int], at: int) -> int:
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * at + coefficient) % ORDER
    return total


def _raw(number: int) -> bytes:
    return number.to_bytes(SHARE_BYTES, "big")
