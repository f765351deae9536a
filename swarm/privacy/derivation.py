"""Keys for masks, each bound to the one occasion on which it is used.

A pair of members shares a secret by X25519; the key of its mask is HKDF of that secret with an info
that names the chain, the plan, the round, the attempt, the epoch, the set of contributors, the two
members and their two public keys. So no two masks share a key, and a public key that somebody
copied gives it nothing: the ids in the info are others. All fields have a fixed size.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from eth_hash.auto import keccak

from swarm.types import Digest

PAIR, SELF, CODE, SEAL = b"pair mask", b"self mask", b"pair code", b"sealed shares"
KEY_BYTES = 32
CODE_BYTES = 8
NOBODY = 0xFFFF
_DOMAIN = b"swarm/masked-rounds/1"


@dataclass(frozen=True)
class Occasion:
    """What a key is for, as far as all keys of an attempt have it in common."""

    genesis: Digest
    plan: int
    round: int
    attempt: int
    epoch: int = 0
    contributors: int = 0
    """The set S_e: bit i for member i."""

    def at(self, epoch: int, contributors: int) -> Occasion:
        """The same attempt in this epoch, among these contributors."""
        return replace(self, epoch=epoch, contributors=contributors)

    def info(self, purpose: bytes, lower: int, higher: int, *keys: bytes) -> bytes:
        """What a key is bound to; one way to write it."""
        named = keccak(self.contributors.to_bytes(32, "big"))
        parts = (
            keccak(_DOMAIN),
            keccak(purpose),
            self.genesis,
            self.plan.to_bytes(32, "big"),
            self.round.to_bytes(4, "big"),
            self.attempt.to_bytes(4, "big"),
            self.epoch.to_bytes(1, "big"),
            named,
            lower.to_bytes(2, "big"),
            higher.to_bytes(2, "big"),
            *map(keccak, keys),
        )
        return b"".join(parts)


def public_key(secret: bytes) -> bytes:
    """The X25519 public key, 32 bytes, of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, public: bytes) -> bytes:
    """The X25519 secret with the owner of a public key.

    A public key of low order gives 32 zero bytes instead of an error: its owner knows every mask
    that it shares anyway, and all others must go on, and do the same.
    """
    try:
        other = X25519PublicKey.from_public_bytes(public)
        return X25519PrivateKey.from_private_bytes(secret).exchange(other)
    except ValueError:
        return bytes(KEY_BYTES)


@dataclass(frozen=True)
class Party:
    """A member and its public key of this attempt."""

    member: int
    public: bytes


def pair_key(
    occasion: Occasion, me: Party, secret: bytes, other: Party, purpose: bytes = PAIR
) -> bytes:
    """The 32-byte key that `me` shares with `other` for this purpose; `secret` is of `me`."""
    low, high = sorted((me, other), key=lambda party: party.member)
    info = occasion.info(purpose, low.member, high.member, low.public, high.public)
    return derive(agree(secret, other.public), info)


def self_key(occasion: Occasion, member: int, public: bytes, seed: bytes) -> bytes:
    """The 32-byte key of a member's self mask, from the secret of this epoch that it shared out."""
    return derive(seed, occasion.info(SELF, member, NOBODY, public))


def pair_code(key: bytes, poster: int, epoch: int, masked: Digest) -> bytes:
    """A short code over a masked update, by which the other of a pair sees that both have the same
    key for it; `key` is the pair's for CODE."""
    said = poster.to_bytes(2, "big") + epoch.to_bytes(1, "big") + masked
    return hmac.digest(key, said, "sha256")[:CODE_BYTES]


def derive(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of 32 bytes."""
    return HKDF(hashes.SHA256(), KEY_BYTES, None, info).derive(secret)
