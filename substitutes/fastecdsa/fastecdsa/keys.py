"""Making P-256 keys and writing them down."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fastecdsa.curve import Curve
from fastecdsa.point import Point


class PEMEncoder:
    """The format in which libp2p writes private keys."""

    @staticmethod
    def encode_private_key(d: int) -> str:
        """The SEC1 private key, in PEM, with its public key."""
        return _private_key(d).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        ).decode()  # fmt: skip


def gen_private_key(curve: Curve) -> int:
    """A random private key, between 1 and the curve's order."""
    return ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value


def get_public_key(d: int, curve: Curve) -> Point:
    numbers = _private_key(d).public_key().public_numbers()
    return Point(numbers.x, numbers.y, curve)


def export_key(key: int, curve: Curve, encoder: type[PEMEncoder] = PEMEncoder) -> str:
    return encoder.encode_private_key(key)


def _private_key(d: int) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(d, ec.SECP256R1())
