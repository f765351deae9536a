"""Public keys as SEC1 writes them: https://www.secg.org/sec1-v2.pdf, 2.3.3 and 2.3.4."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec

from fastecdsa.curve import Curve
from fastecdsa.point import Point


class InvalidSEC1PublicKey(Exception):
    """The bytes are no public key of the curve."""


class SEC1Encoder:
    @staticmethod
    def encode_public_key(point: Point, compressed: bool = True) -> bytes:
        return point.encode(compressed)

    @staticmethod
    def decode_public_key(key: bytes, curve: Curve) -> Point:
        """Raises InvalidSEC1PublicKey for anything but a point of the curve."""
        try:
            numbers = ec.EllipticCurvePublicKey.from_encoded_point(
                ec.SECP256R1(), key
            ).public_numbers()
        except ValueError as error:
            raise InvalidSEC1PublicKey(str(error)) from None
        return Point(numbers.x, numbers.y, curve)
