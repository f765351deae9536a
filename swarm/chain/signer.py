"""The node key as consensus uses it: recoverable secp256k1 signatures by coincurve."""

from __future__ import annotations

import coincurve
from eth_hash.auto import keccak

from swarm.types import NO_ADDRESS, Address


class Recovery:
    """Tells signers apart, without a key of its own."""

    @property
    def address(self) -> Address:
        return NO_ADDRESS

    def sign(self, digest: bytes) -> bytes:
        raise NotImplementedError("there is no key here")

    def recover(self, digest: bytes, signature: bytes) -> Address | None:
        """The address that signed this digest, or None if the bytes are no signature."""
        try:
            key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
        except (ValueError, TypeError):
            return None
        return _address(key)


class NodeKeys(Recovery):
    """Signs with one node key and recovers the address behind any signature.

    secret: 32 bytes. Raises ValueError if they are no secp256k1 key. Signing is deterministic
    (RFC 6979); recovering takes about 50 µs.
    """

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self._own = _address(self._key.public_key)

    @property
    def address(self) -> Address:
        return self._own

    def sign(self, digest: bytes) -> bytes:
        """A 65-byte recoverable signature of a 32-byte digest."""
        return self._key.sign_recoverable(digest, hasher=None)

    def __repr__(self) -> str:
        return f"NodeKeys(0x{self.address.hex()})"


def _address(key: coincurve.PublicKey) -> Address:
    return Address(keccak(key.format(compressed=False)[1:])[12:])
