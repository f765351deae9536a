"""Points of P-256 that are public keys."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from fastecdsa.curve import COORDINATE_BYTES, P256, Curve


@dataclass(frozen=True)
class SharedPoint:
    """What two keys have in common: the part of the point that a secret is made of."""

    x: int


class Point:
    """A point on P-256. Raises ValueError if (x, y) does not lie on it."""

    def __init__(self, x: int, y: int, curve: Curve = P256) -> None:
        self._key = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        self.x, self.y, self.curve = x, y, curve

    def __mul__(self, private_key: int) -> SharedPoint:
        """Multiply by another party's private key, as a Diffie-Hellman exchange does."""
        own = ec.derive_private_key(private_key, ec.SECP256R1())
        return SharedPoint(int.from_bytes(own.exchange(ec.ECDH(), self._key), "big"))

    def encode(self, compressed: bool) -> bytes:
        """SEC1: 04 x y, or 02 or 03 and x."""
        x = self.x.to_bytes(COORDINATE_BYTES, "big")
        if compressed:
            return bytes([2 + self.y % 2]) + x
        return b"\x04" + x + self.y.to_bytes(COORDINATE_BYTES, "big")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))
