"""How blocks, transactions, receipts and logs look in JSON.

Quantities are the shortest hexadecimal (`0x0`, `0x41`), data has two digits for each byte, as
EIP-1474 wants. `rpc_parameters` reads the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from swarm.chain import codec
from swarm.chain.state_proof import AccountProof
from swarm.chain.store import StoredBlock

JsonObject = dict[str, object]


def quantity(number: int) -> str:
    return hex(number)


def data_hex(content: bytes) -> str:
    return "0x" + content.hex()


def block_object(stored: StoredBlock, *, full: bool) -> JsonObject:
    """A block; with `full`, its transactions as objects instead of hashes."""
    body = _body(stored.payload)
    header = body.header
    transactions: list[object] = [
        transaction_object(stored, i) if full else data_hex(codec.decode_transaction(raw).hash)
        for i, raw in enumerate(body.transactions)
    ]
    return {
        "number": quantity(stored.height),
        "hash": data_hex(stored.hash),
        "parentHash": data_hex(header.parent_hash),
        "nonce": data_hex(header.nonce),
        "mixHash": data_hex(header.mix_hash),
        "sha3Uncles": data_hex(header.uncles_hash),
        "logsBloom": data_hex(stored.bloom),
        "transactionsRoot": data_hex(header.transaction_root),
        "stateRoot": data_hex(header.state_root),
        "receiptsRoot": data_hex(header.receipt_root),
        "miner": data_hex(header.coinbase),
        "difficulty": quantity(0),
        "totalDifficulty": quantity(0),
        "extraData": data_hex(header.extra_data),
        "size": quantity(len(stored.payload)),
        "gasLimit": quantity(header.gas_limit),
        "gasUsed": quantity(header.gas_used),
        "baseFeePerGas": quantity(0),
        "timestamp": quantity(stored.timestamp),
        "uncles": [],
        "transactions": transactions,
    }


def transaction_object(stored: StoredBlock, position: int) -> JsonObject:
    """A transaction in a block. Its prices are those that it offers; it paid none."""
    raw = _body(stored.payload).transactions[position]
    place: JsonObject = {
        "blockHash": data_hex(stored.hash),
        "blockNumber": quantity(stored.height),
        "transactionIndex": quantity(position),
    }
    return _transaction(raw) | place


def pending_transaction_object(raw: bytes) -> JsonObject:
    """A transaction that waits for a block."""
    return _transaction(raw) | {"blockHash": None, "blockNumber": None, "transactionIndex": None}


def _transaction(raw: bytes) -> JsonObject:
    transaction = codec.decode_transaction(raw)
    kind = transaction.type_id or 0
    shown: JsonObject = {
        "type": quantity(kind),
        "hash": data_hex(transaction.hash),
        "from": data_hex(transaction.sender),
        "to": data_hex(transaction.to),
        "nonce": quantity(transaction.nonce),
        "gas": quantity(transaction.gas),
        "gasPrice": quantity(0),
        "value": quantity(transaction.value),
        "input": data_hex(transaction.data),
        "chainId": quantity(transaction.chain_id),
        "r": quantity(transaction.r),
        "s": quantity(transaction.s),
    }
    if kind == 0:
        return shown | {"v": quantity(transaction.v), "gasPrice": quantity(transaction.gas_price)}
    parity = quantity(transaction.y_parity)
    shown |= {
        "v": parity,
        "yParity": parity,
        "accessList": access_list_object(transaction.access_list),
    }
    if kind == 1:
        shown["gasPrice"] = quantity(transaction.gas_price)
    if kind == 2:
        shown |= {
            "maxFeePerGas": quantity(transaction.max_fee_per_gas),
            "maxPriorityFeePerGas": quantity(transaction.max_priority_fee_per_gas),
        }
    return shown


def receipt_object(stored: StoredBlock, position: int) -> JsonObject:
    """The receipt of a transaction in a block."""
    return _receipt_object(stored, position, log_objects(stored))


def receipt_objects(stored: StoredBlock) -> list[JsonObject]:
    """The receipts of all transactions in a block, in order."""
    logs = log_objects(stored)  # once: it hashes every transaction
    return [_receipt_object(stored, n, logs) for n in range(len(_receipts(stored.receipts)))]


def _receipt_object(stored: StoredBlock, position: int, logs: list[JsonObject]) -> JsonObject:
    """`logs` are all those of the block."""
    transaction = codec.decode_transaction(_body(stored.payload).transactions[position])
    receipts = _receipts(stored.receipts)
    receipt = receipts[position]
    before = receipts[position - 1].gas_used if position else 0
    name = data_hex(transaction.hash)
    return {
        "type": quantity(transaction.type_id or 0),
        "status": quantity(1 if receipt.state_root == b"\x01" else 0),
        "transactionHash": name,
        "transactionIndex": quantity(position),
        "blockHash": data_hex(stored.hash),
        "blockNumber": quantity(stored.height),
        "from": data_hex(transaction.sender),
        "to": data_hex(transaction.to),
        "contractAddress": None,
        "cumulativeGasUsed": quantity(receipt.gas_used),
        "gasUsed": quantity(receipt.gas_used - before),
        "effectiveGasPrice": quantity(0),
        "logs": [log for log in logs if log["transactionHash"] == name],
        "logsBloom": data_hex(receipt.bloom.to_bytes(256, "big")),
    }


def log_objects(stored: StoredBlock) -> list[JsonObject]:
    """All logs of a block, in order."""
    logs: list[JsonObject] = []
    raws = _body(stored.payload).transactions
    for position, receipt in enumerate(_receipts(stored.receipts)):
        name = data_hex(codec.decode_transaction(raws[position]).hash)
        for log in receipt.logs:
            logs.append(
                {
                    "address": data_hex(log.address),
                    "topics": [_word(topic) for topic in log.topics],
                    "data": data_hex(log.data),
                    "blockNumber": quantity(stored.height),
                    "blockHash": data_hex(stored.hash),
                    "blockTimestamp": quantity(stored.timestamp),
                    "transactionHash": name,
                    "transactionIndex": quantity(position),
                    "logIndex": quantity(len(logs)),
                    "removed": False,
                }
            )
    return logs


def access_list_object(entries: Iterable[tuple[bytes, Iterable[int]]]) -> list[JsonObject]:
    """The entries (contract, slots) of an access list."""
    return [
        {"address": data_hex(address), "storageKeys": [_word(slot) for slot in slots]}
        for address, slots in entries
    ]


def proof_object(address: bytes, proof: AccountProof) -> JsonObject:
    """An account with its slots, and the proofs of both, as in EIP-1186."""
    return {
        "address": data_hex(address),
        "nonce": quantity(proof.nonce),
        "balance": quantity(proof.balance),
        "codeHash": data_hex(proof.code_hash),
        "storageHash": data_hex(proof.storage_root),
        "accountProof": [data_hex(node) for node in proof.nodes],
        "storageProof": [
            {
                "key": quantity(slot.slot),
                "value": quantity(slot.value),
                "proof": [data_hex(node) for node in slot.nodes],
            }
            for slot in proof.slots
        ],
    }


def _word(number: int) -> str:
    return f"0x{number:064x}"


@lru_cache(maxsize=32)  # a client asks for a block, its transactions and its receipts in turn
def _body(payload: bytes) -> codec.Body:
    return codec.stored_body(payload)


@lru_cache(maxsize=32)
def _receipts(encoded: bytes) -> tuple[Any, ...]:
    return codec.decode_receipts(encoded)
