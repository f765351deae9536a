"""Catching up, certificate by certificate. Blocking functions for worker threads.

A node that is behind, or new, believes certificates and not peers: a block counts only with the
seals of a quorum of the validators that its own chain, up to the parent, says there are. So blocks
may come from anybody, also from one who lies about everything else.
"""

from __future__ import annotations

from typing import Protocol

from swarm.chain.block import Block
from swarm.chain.messages import (
    MAX_SYNC_BLOCKS,
    Blocks,
    CertifiedBlock,
    Keys,
    check_certificate,
    decode_certificate,
)
from swarm.errors import ProtocolViolation
from swarm.types import Address, Digest

MAX_SYNC_BYTES = 1024 * 1024
SEALS_SEARCHED = 512


class Replica(Protocol):
    """What consensus asks of the engine."""

    @property
    def head(self) -> Block: ...

    @property
    def genesis_hash(self) -> Digest: ...

    def vote_domain(self, height: int | None = None) -> Digest: ...

    def block(self, height: int) -> Block: ...

    def certificate(self, height: int) -> bytes: ...

    def validators(self, height: int | None = None) -> tuple[Address, ...]: ...

    def decode(self, payload: bytes) -> Block: ...

    def commit(self, block: Block, certificate: bytes) -> None: ...


def certified_blocks(replica: Replica, first: int) -> Blocks:
    """The committed blocks from `first` on, as many as one message holds; maybe none."""
    head, size = replica.head.height, 0
    blocks: list[CertifiedBlock] = []
    for height in range(max(first, 1), min(head, first + MAX_SYNC_BLOCKS - 1) + 1):
        item = CertifiedBlock(replica.block(height).payload, replica.certificate(height))
        size += len(item.block) + len(item.certificate)
        if blocks and size > MAX_SYNC_BYTES:
            break
        blocks.append(item)
    return Blocks(head, tuple(blocks))


def import_block(replica: Replica, keys: Keys, item: CertifiedBlock) -> tuple[Block, bool] | None:
    """Commit a certified block that is next on our head; None if it is not.

    Returns the block, and whether its certificate bears our own seal. Raises ProtocolViolation if
    block or certificate are wrong, and InvalidBlock if a quorum decided what this engine refuses:
    then the engines differ, and this node must not go on. The certificate comes first: what nobody
    decided costs a few signatures, and no block is read.
    """
    certificate = decode_certificate(item.certificate)
    if certificate.height != replica.head.height + 1:
        return None
    domain, validators = replica.vote_domain(), replica.validators()
    signers = check_certificate(certificate, domain, validators, keys)
    block = replica.decode(item.block)
    if (certificate.height, certificate.block_hash) != (block.height, block.hash):
        raise ProtocolViolation(
            f"the certificate beside block {block.height} 0x{block.hash.hex()} is of another block"
        )
    replica.commit(block, item.certificate)
    return block, keys.address in signers


def sealed_height(replica: Replica, keys: Keys, above: int) -> int:
    """The highest height above `above` whose stored certificate bears our own seal, or 0.

    It says whether this node voted later than its vote store knows.
    """
    head = replica.head.height
    for height in range(head, max(above, head - SEALS_SEARCHED, 0), -1):
        certificate = decode_certificate(replica.certificate(height))
        signers = check_certificate(
            certificate, replica.vote_domain(height), replica.validators(height), keys
        )
        if keys.address in signers:
            return height
    return 0
