"""Blocks, transactions and the rules of the chain, as everyone but the EVM sees them.

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


@dataclass(frozen=True)
class ChainRules:
    """What makes a block valid beyond the EVM's own rules.

    The limits bound what one member can cost all the others: py-evm needs about a second for four
    million gas. Every node must use the same values, so a change is a new genesis version.
    """

    block_gas: int = 5_000_000
    transaction_gas: int = 1_000_000
    calldata_bytes: int = 32 * 1024
    transaction_bytes: int = 40 * 1024
    block_bytes: int = 1024 * 1024
    block_transactions: int = 256
    sender_transactions: int = 16
    """of one sender in one block"""
    member_day_bytes: int = 128 * 1024 * 1024
    """of one member's transactions on one day of chain time, counted from 1970. A round needs about
    1 KiB of each member, so a round every second, all day long, is 90 MiB."""
    view_gas: int = 5_000_000
    """for a call that reads, such as `memberOf` and `getValidators`"""
    max_validators: int = 256
