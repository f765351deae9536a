"""Blocks and transactions, as everyone but the EVM sees them.

Consensus, the pool and the network pass these values around; none of them needs to know how a
block is encoded or executed, so nothing here imports py-evm. The bytes in `payload` and `raw` are
what travels; every other field is read from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import ChainError
from swarm.types import Address, Digest


class InvalidBlock(ChainError):
    """A proposed block breaks a rule of the chain; nobody may prepare or commit it."""


class InvalidTransaction(ChainError):
    """A transaction that no valid block could contain now."""


@dataclass(frozen=True)
class Block:
    """A block: what consensus agrees on. `payload` is the RLP of header and transactions.

    `hash` covers the whole payload, and no seals: the certificate lies beside the block.
    """

    height: int
    hash: Digest
    parent: Digest
    timestamp: int
    proposer: Address
    payload: bytes


@dataclass(frozen=True)
class Transaction:
    """A signed transaction: `raw` is its canonical encoding, `gas` its limit, `until` the chain
    time after which it does nothing, if it carries one."""

    hash: Digest
    sender: Address
    nonce: int
    gas: int
    raw: bytes
    until: int | None = None

    def has_expired(self, timestamp: int) -> bool:
        """Whether a block of this time would carry it in vain."""
        return self.until is not None and timestamp > self.until
