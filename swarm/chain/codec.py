"""Blocks and transactions as bytes: decoding what peers send, and the rules that need no state.

Everything a peer may send is bounded before it is decoded, and must be encoded in the one canonical
way: the same block or transaction never has two names.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import rlp
from eth.db.trie import make_trie_root_and_nodes
from eth.exceptions import PyEVMError
from eth.vm.forks.london import LondonVM
from eth.vm.forks.london.blocks import LondonBlockHeader
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError
from rlp.codec import consume_length_prefix
from rlp.exceptions import RLPException

from swarm.chain.block import Block, InvalidTransaction, Transaction
from swarm.chain.contract import look_through
from swarm.chain.rules import ChainRules
from swarm.errors import ProtocolViolation
from swarm.types import Address, Digest, to_hex

UNREADABLE = (
    RLPException,
    PyEVMError,
    ValidationError,
    BadSignature,
    ValueError,
    TypeError,
    IndexError,
    OverflowError,
    RecursionError,
)
"""All that decoding hostile bytes with rlp, eth-keys and py-evm was seen or read to raise."""

MAX_HEADER_BYTES = 1024
_BUILDER = LondonVM.get_transaction_builder()
_RECEIPTS = LondonVM.get_receipt_builder()
_NO_UNCLES = b"\xc0"
_NUMBERS = (
    *("chain_id", "nonce", "gas", "value", "v", "r", "s", "y_parity"),
    *("gas_price", "max_fee_per_gas", "max_priority_fee_per_gas"),
)
_GAS_TRANSACTION, _GAS_ZERO_BYTE, _GAS_BYTE = 21_000, 4, 16
_GAS_LISTED_ADDRESS, _GAS_LISTED_SLOT = 2400, 1900


# Transactions


@lru_cache(maxsize=128)  # each is decoded for the pool, for the block and for the JSON-RPC
def decode_transaction(raw: bytes) -> Any:
    """Decode one signed transaction. Raises InvalidTransaction unless it is canonical."""
    try:
        transaction = _BUILDER.decode(raw)
        canonical = transaction.encode() == raw
        largest = max(getattr(transaction, name, None) or 0 for name in _NUMBERS)
    except UNREADABLE as error:
        raise InvalidTransaction(f"not a signed transaction: {error}") from None
    if largest >= 2**256:
        # RLP's numbers have no bound; the EVM's do, and Python refuses to print the largest.
        raise InvalidTransaction("not a signed transaction: a number in it has more than 256 bits")
    if not canonical:
        raise InvalidTransaction("not a signed transaction: its encoding is not canonical")
    return transaction


def read_transaction(
    raw: bytes, chain_id: int, contract: Address, rules: ChainRules
) -> Transaction:
    """Decode `raw` and check every rule that needs no state.

    Raises InvalidTransaction, which names the value and what it must be.
    """
    if len(raw) > rules.transaction_bytes:
        raise InvalidTransaction(
            f"the transaction has {len(raw)} bytes, more than {rules.transaction_bytes}"
        )
    decoded = decode_transaction(raw)
    if decoded.chain_id != chain_id:
        raise InvalidTransaction(
            f"the transaction is signed for chain id {decoded.chain_id}, not for {chain_id}: "
            "sign it for this chain"
        )
    if decoded.to != contract:
        target = to_hex(decoded.to) if decoded.to else "a new contract"
        raise InvalidTransaction(
            f"the transaction goes to {target}, but only {to_hex(contract)} takes any here"
        )
    if decoded.value != 0:
        raise InvalidTransaction(f"the transaction sends {decoded.value} wei; nobody has any here")
    if len(decoded.data) > rules.calldata_bytes:
        raise InvalidTransaction(
            f"the transaction carries {len(decoded.data)} bytes, more than {rules.calldata_bytes}"
        )
    if not decoded.intrinsic_gas <= decoded.gas <= rules.transaction_gas:
        raise InvalidTransaction(
            f"the transaction's gas limit is {decoded.gas}; it must lie between "
            f"{decoded.intrinsic_gas} and {rules.transaction_gas}"
        )
    try:
        decoded.validate()
        sender = decoded.sender
    except UNREADABLE as error:
        raise InvalidTransaction(f"the transaction's signature is not valid: {error}") from None
    until, _ = look_through(decoded.data)
    name = Digest(decoded.hash)
    return Transaction(name, Address(sender), decoded.nonce, decoded.gas, raw, until)


def intrinsic_gas(data: bytes, access_list: Collection[tuple[bytes, int]] = ()) -> int:
    """Gas that a transaction with this calldata, and with these slots (contract, slot) on its
    access list (EIP-2930), costs before the first instruction."""
    zeros = data.count(0)
    contracts = {address for address, _ in access_list}
    listed = _GAS_LISTED_ADDRESS * len(contracts) + _GAS_LISTED_SLOT * len(access_list)
    return _GAS_TRANSACTION + _GAS_ZERO_BYTE * zeros + _GAS_BYTE * (len(data) - zeros) + listed


# Blocks


@dataclass(frozen=True)
class Body:
    """A decoded block: py-evm's header, and the transactions as they were sent."""

    header: Any
    transactions: tuple[bytes, ...]


def decode_block(payload: bytes, rules: ChainRules) -> tuple[Block, Body]:
    """Read a block from a peer's bytes: bounded before anything is decoded.

    The header's hash covers the body afterwards, because the transaction root is recomputed here.
    Raises ProtocolViolation.
    """
    if len(payload) > rules.block_bytes:
        raise ProtocolViolation(f"a block of {len(payload)} bytes, more than {rules.block_bytes}")
    try:
        header_rlp, transactions_rlp, uncles = _split(payload, limit=3)
        if len(header_rlp) > MAX_HEADER_BYTES or uncles != _NO_UNCLES:
            raise ProtocolViolation("a block whose header is too long or that has uncles")
        header = rlp.decode(header_rlp, LondonBlockHeader)
        if rlp.encode(header) != header_rlp:
            raise ProtocolViolation("a block whose header is not canonical")
        items = _split(transactions_rlp, limit=rules.block_transactions)
        raws = tuple(_transaction_bytes(item) for item in items)
        root, _ = make_trie_root_and_nodes([Encoded(raw) for raw in raws])
    except UNREADABLE as error:
        raise ProtocolViolation(f"a block that cannot be decoded: {error}") from None
    if root != header.transaction_root:
        raise ProtocolViolation("a block whose transactions are not those of its header")
    return to_block(header, payload), Body(header, raws)


def stored_body(payload: bytes) -> Body:
    """The body of a block that was checked when it was committed."""
    header_rlp, transactions_rlp, _ = _split(payload, limit=3)
    items = _split(transactions_rlp, limit=len(transactions_rlp))
    header = rlp.decode(header_rlp, LondonBlockHeader)
    return Body(header, tuple(_transaction_bytes(item) for item in items))


def stored_block(payload: bytes) -> Block:
    """A block that was checked when it was committed."""
    return to_block(stored_body(payload).header, payload)


def _split(encoded: bytes, limit: int) -> list[bytes]:
    """The encoded items of an RLP list, without looking into them; at most `limit`."""
    _, kind, length, start = consume_length_prefix(encoded, 0)
    if kind is not list or start + length != len(encoded):
        raise ValueError("an RLP list is missing or followed by more bytes")
    items: list[bytes] = []
    while start < len(encoded):
        _, _, length, begin = consume_length_prefix(encoded, start)
        if begin + length > len(encoded):
            raise ValueError("an RLP item is longer than its list")
        if len(items) == limit:
            raise ValueError(f"an RLP list of more than {limit} items")
        items.append(encoded[start : begin + length])
        start = begin + length
    return items


def _transaction_bytes(item: bytes) -> bytes:
    """Typed transactions travel as a string in the block, legacy ones as a list (EIP-2718)."""
    _, kind, _, begin = consume_length_prefix(item, 0)
    return item if kind is list else item[begin:]


@dataclass(frozen=True)
class Encoded:
    """Bytes that need no encoding, for py-evm's trie builder."""

    raw: bytes

    def encode(self) -> bytes:
        return self.raw


def to_block(header: Any, payload: bytes) -> Block:
    """The block with this header, as everyone but the EVM sees it."""
    return Block(
        height=header.block_number,
        hash=Digest(header.hash),
        parent=Digest(header.parent_hash),
        timestamp=header.timestamp,
        proposer=Address(header.coinbase),
        payload=payload,
    )


def decode_receipts(encoded: bytes) -> tuple[Any, ...]:
    """The receipts of a stored block; `gas_used` in each is cumulative."""
    return tuple(_RECEIPTS.decode(item) for item in rlp.decode(encoded))
