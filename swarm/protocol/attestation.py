"""What a node key signs outside of transactions: attestations that somebody else carries
(`attestMany`), and that it is to be a member's node (`setNode`).

EIP-712, so that a signature counts on one chain, in one contract, for one attempt and one outcome
or for one member only. The contract computes the same digests; this is for those who sign, and for
the executable specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import coincurve
from eth_hash.auto import keccak

from swarm.protocol.state import Outcome, RoundStatus
from swarm.types import NO_DIGEST, Address, Digest

NAME, VERSION = "swarm consortium", "2"
FIELDS = (
    ("plan", "uint256"),
    ("round", "uint32"),
    ("attempt", "uint32"),
    ("epoch", "uint8"),
    ("status", "uint8"),
    ("model", "bytes32"),
    ("omitted", "uint256"),
    ("slot", "uint8"),
    ("next", "uint8"),
    ("level", "uint8"),
    ("meta", "bytes32"),
)
DOMAIN_TYPE = keccak(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
ATTESTATION_TYPE = keccak(
    f"Attestation({','.join(f'{kind} {name}' for name, kind in FIELDS)})".encode()
)
NODE_KEY_TYPE = keccak(b"NodeKey(uint8 member)")
SIGNATURE_BYTES = 65


@dataclass(frozen=True)
class Attestation:
    """One member's statement about one attempt: that it holds `outcome`, checked to `level`."""

    plan: int
    round: int
    attempt: int
    outcome: Outcome
    level: int
    meta: Digest
    epoch: int = 0
    status: RoundStatus = RoundStatus.CLOSED

    @property
    def message(self) -> dict[str, int | bytes]:
        """The fields by their EIP-712 names."""
        outcome = self.outcome
        values: tuple[int | bytes, ...] = (
            self.plan,
            self.round,
            self.attempt,
            self.epoch,
            int(self.status),
            outcome.model,
            outcome.omitted,
            outcome.slot,
            outcome.next,
            self.level,
            self.meta,
        )
        return {name: value for (name, _), value in zip(FIELDS, values, strict=True)}


def domain_of(chain_id: int, contract: Address) -> Digest:
    """The EIP-712 domain separator of a contract."""
    name, version = keccak(NAME.encode()), keccak(VERSION.encode())
    return Digest(keccak(DOMAIN_TYPE + name + version + _word(chain_id) + _word(contract)))


def attestation_digest(domain: Digest, attestation: Attestation) -> Digest:
    """What is signed, and what the contract recovers the signer from."""
    content = b"".join(map(_word, attestation.message.values()))
    return Digest(keccak(b"\x19\x01" + domain + keccak(ATTESTATION_TYPE + content)))


def node_key_digest(domain: Digest, member: int) -> Digest:
    """What a key signs to become the member's node, and nobody else's."""
    return Digest(keccak(b"\x19\x01" + domain + keccak(NODE_KEY_TYPE + _word(member))))


def signer_of(digest: Digest, signature: bytes) -> Address | None:
    """The address behind a signature (r, s, v with v 27 or 28), as the EVM recovers it; None for
    bytes that are no signature."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        return None
    try:
        compact = signature[:64] + bytes([signature[64] - 27])
        key = coincurve.PublicKey.from_signature_and_message(compact, digest, hasher=None)
    except ValueError:
        return None
    return Address(keccak(key.format(compressed=False)[1:])[12:])


@dataclass
class Signatures:
    """How the executable specification checks signatures."""

    domain: Digest = NO_DIGEST
    """The EIP-712 domain that they are over."""
    recover: Callable[[Digest, bytes], Address | None] = signer_of


def sign(secret: bytes, digest: Digest) -> bytes:
    """A signature (r, s, v) of such a digest by the 32-byte node key."""
    signed = coincurve.PrivateKey(secret).sign_recoverable(digest, hasher=None)
    return signed[:64] + bytes([signed[64] + 27])


def _word(value: int | bytes) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")
