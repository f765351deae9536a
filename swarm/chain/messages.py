"""What validators say to each other: votes, certificates and block sync, and how each is signed.

Every vote is one signature over one fixed-width text, `signing_digest`:

    keccak( "swarm/qbft/1"  12 bytes | genesis hash 32 | kind 1 | height 8 | round 8
          | block hash 32 | prepared round + 1, 8 )

The genesis hash keeps votes of one consortium from counting in another; kind, height and round
keep a vote from counting as a different one. The last field is zero but in a round-change. A
commit's signature *is* its seal: it says all that a certificate needs, so nothing is signed twice.

A `Certificate` makes a block final for anybody who knows its validators: the seals of a quorum,
all of one round. (Seals collected over several rounds would prove nothing: each round may have
gathered less than a quorum for a block that was then abandoned.)

After the EEA QBFT specification v1, sections on messages and on commit seals. Decoding is strict
and bounded; whatever does not decode raises ProtocolViolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Protocol

import msgspec
from eth_hash.auto import keccak

from swarm.errors import UNREADABLE, ProtocolViolation
from swarm.protocol.state import two_thirds
from swarm.types import Address, Digest

MAX_VALIDATORS = 256
MAX_BLOCK_BYTES = 1024 * 1024
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
MAX_SYNC_BLOCKS = 64
MAX_GOSSIP_TRANSACTIONS = 64
MAX_TRANSACTION_BYTES = 40 * 1024

DOMAIN = b"swarm/qbft/1"
PROPOSAL, PREPARE, COMMIT, ROUND_CHANGE = 1, 2, 3, 4

Counter = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)]
Payload = Annotated[bytes, msgspec.Meta(max_length=MAX_BLOCK_BYTES)]


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages: an immutable, tagged, strictly decoded array."""


# Votes.


class Prepare(Message, frozen=True):
    """The sender executed this block and found it valid in this round."""

    height: Counter
    round: Counter
    block_hash: Hash
    signature: Signature


class Commit(Message, frozen=True):
    """The sender saw a quorum prepare this block in this round. Its signature is the seal."""

    height: Counter
    round: Counter
    block_hash: Hash
    signature: Signature


Prepares = Annotated[tuple[Prepare, ...], msgspec.Meta(max_length=MAX_VALIDATORS)]


class RoundChange(Message, frozen=True):
    """The sender gave up the rounds below `round`, and names the last block it saw prepared.

    `prepared_plus_1` is the round of that block plus one, 0 if there is none. `block` and
    `prepares` prove it. They are outside of the signature, and left off inside a proposal.
    """

    height: Counter
    round: Counter
    prepared_plus_1: Counter
    prepared_hash: Hash
    signature: Signature
    block: Payload = b""
    prepares: Prepares = ()

    def bare(self) -> RoundChange:
        """The signed part alone."""
        return msgspec.structs.replace(self, block=b"", prepares=())


class Proposal(Message, frozen=True):
    """The round's proposer asks for votes on a block.

    In rounds above 0, `round_changes` (bare, of a quorum) and `prepares` (for the highest prepared
    block among them, if any) prove that this block may be proposed.
    """

    height: Counter
    round: Counter
    block: Payload
    signature: Signature
    round_changes: Annotated[tuple[RoundChange, ...], msgspec.Meta(max_length=MAX_VALIDATORS)] = ()
    prepares: Prepares = ()


Vote = Proposal | Prepare | Commit | RoundChange


# Certificates and block sync.


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Proof that the validators of `height` decided `block_hash`: commit seals of one round."""

    height: Counter
    round: Counter
    block_hash: Hash
    seals: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=MAX_VALIDATORS)]


class CertifiedBlock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block's payload with its encoded certificate."""

    block: Payload
    certificate: Annotated[bytes, msgspec.Meta(max_length=128 + 70 * MAX_VALIDATORS)]


class GetStatus(Message, frozen=True):
    """Where are you, and what have you seen of my votes?"""


class Status(Message, frozen=True):
    """The sender's head, the highest height it voted at, and the asker's latest vote it holds.

    The heights need no proof of their own: who is ahead is asked for blocks when its turn comes,
    and the answer counts once the asker's own chain, certificate by certificate, has reached the
    block below `voted_height`. `your_vote` is proved by the asker's signature.
    """

    head: Counter
    voted_height: Counter
    your_vote: Prepare | Commit | RoundChange | None = None


class GetBlocks(Message, frozen=True):
    """Please send certified blocks from this height on."""

    first: Counter


class Blocks(Message, frozen=True):
    """Consecutive certified blocks, oldest first, and the height of the sender's head."""

    head: Counter
    blocks: Annotated[tuple[CertifiedBlock, ...], msgspec.Meta(max_length=MAX_SYNC_BLOCKS)]


class Transactions(Message, frozen=True):
    """Pending transactions, as signed raw bytes."""

    raw: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=MAX_TRANSACTION_BYTES)], ...],
        msgspec.Meta(max_length=MAX_GOSSIP_TRANSACTIONS),
    ]


AnyMessage = (
    Proposal
    | Prepare
    | Commit
    | RoundChange
    | GetStatus
    | Status
    | GetBlocks
    | Blocks
    | Transactions
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_certificate_decoder = msgspec.msgpack.Decoder(Certificate)


def encode(message: Message | Certificate) -> bytes:
    """The message as msgpack bytes."""
    return _encoder.encode(message)


def decode(payload: bytes) -> AnyMessage:
    """Read one message. Raises ProtocolViolation if it is too large or malformed."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ProtocolViolation(
            f"a consensus message of {len(payload)} bytes exceeds {MAX_MESSAGE_BYTES}"
        )
    try:
        return _decoder.decode(payload)
    except UNREADABLE as error:
        raise ProtocolViolation(f"not a consensus message: {error}") from None


def decode_certificate(payload: bytes) -> Certificate:
    """Read a certificate. Raises ProtocolViolation if it is malformed."""
    try:
        return _certificate_decoder.decode(payload)
    except UNREADABLE as error:
        raise ProtocolViolation(f"not a certificate: {error}") from None


# Signatures.


class Keys(Protocol):
    """How this node signs and how signers are told apart; see `signer.NodeKeys`."""

    @property
    def address(self) -> Address:
        """Our own."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """A 65-byte recoverable signature."""
        ...

    def recover(self, digest: bytes, signature: bytes) -> Address | None:
        """Who signed, or None for bytes that are no signature."""
        ...


@lru_cache(maxsize=1024)
def signing_digest(
    genesis: Digest,
    kind: int,
    height: int,
    round_number: int,
    block_hash: bytes,
    prepared_plus_1: int = 0,
) -> bytes:
    """What a vote signs (see the module's docstring).

    Remembered for a while: all validators that vote for one block in one round sign the same.
    """
    return keccak(
        DOMAIN
        + genesis
        + bytes([kind])
        + height.to_bytes(8, "big")
        + round_number.to_bytes(8, "big")
        + block_hash
        + prepared_plus_1.to_bytes(8, "big")
    )


def vote_digest(genesis: Digest, vote: Prepare | Commit | RoundChange) -> bytes:
    """What the signature of this vote must cover."""
    match vote:
        case Prepare():
            return signing_digest(genesis, PREPARE, vote.height, vote.round, vote.block_hash)
        case Commit():
            return signing_digest(genesis, COMMIT, vote.height, vote.round, vote.block_hash)
        case RoundChange():
            return signing_digest(
                genesis,
                ROUND_CHANGE,
                vote.height,
                vote.round,
                vote.prepared_hash,
                vote.prepared_plus_1,
            )


def check_certificate(
    certificate: Certificate, genesis: Digest, validators: Sequence[Address], keys: Keys
) -> frozenset[Address]:
    """Return which validators sealed this block in this round.

    Raises ProtocolViolation if they are no quorum, or if there are more seals than validators.
    """
    if len(certificate.seals) > len(validators):
        raise ProtocolViolation(
            f"the certificate of block {certificate.height} carries {len(certificate.seals)} seals "
            f"of {len(validators)} validators"
        )
    digest = signing_digest(
        genesis, COMMIT, certificate.height, certificate.round, certificate.block_hash
    )
    signers = {keys.recover(digest, seal) for seal in certificate.seals}
    valid = frozenset(v for v in validators if v in signers)
    needed = two_thirds(len(validators))
    if len(valid) < needed:
        raise ProtocolViolation(
            f"the certificate of block {certificate.height} carries seals of {len(valid)} "
            f"validators in round {certificate.round}, but {needed} of {len(validators)} are needed"
        )
    return valid
