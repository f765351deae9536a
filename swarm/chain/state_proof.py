"""Merkle proofs of an account and its storage, against a block's state root (EIP-1186).

The state is a trie of tries: the state root names the accounts' trie, whose key is keccak(address),
and each account names its storage's trie, whose key is keccak(slot). A proof is the nodes from a
root towards a key. It shows as well that nothing lies there, since then it ends elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rlp
from eth.rlp.accounts import Account
from eth_hash.auto import keccak
from trie import HexaryTrie

from swarm.chain.evm import Overlay
from swarm.types import Address, Digest

_HASHED_BYTES = 32
"""A node that is shorter lies within its parent and is no part of a proof."""


@dataclass(frozen=True)
class SlotProof:
    """What lies in a storage slot (0: nothing), and the nodes that show it."""

    slot: int
    value: int
    nodes: tuple[bytes, ...]


@dataclass(frozen=True)
class AccountProof:
    """What lies at an address, and the nodes that show it. An account that is not there is empty:
    nonce 0, the hashes of no storage and no code."""

    nonce: int
    balance: int
    storage_root: Digest
    code_hash: Digest
    nodes: tuple[bytes, ...]
    slots: tuple[SlotProof, ...]


def prove_account(
    database: Overlay, state_root: bytes, address: Address, slots: Sequence[int]
) -> AccountProof:
    """The account at `address` and some of its slots, in the state with this root."""
    encoded, nodes = _prove(HexaryTrie(database, state_root), address)
    account = rlp.decode(encoded, Account) if encoded else Account()
    storage = HexaryTrie(database, account.storage_root)
    return AccountProof(
        account.nonce,
        account.balance,
        Digest(account.storage_root),
        Digest(account.code_hash),
        nodes,
        tuple(_prove_slot(storage, slot) for slot in slots),
    )


def _prove_slot(storage: HexaryTrie, slot: int) -> SlotProof:
    encoded, nodes = _prove(storage, slot.to_bytes(32, "big"))
    return SlotProof(slot, rlp.decode(encoded, rlp.sedes.big_endian_int) if encoded else 0, nodes)


def _prove(trie: HexaryTrie, place: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """What lies at keccak(place), empty for nothing, and the nodes that lead there."""
    key = keccak(place)
    nodes = [bytes(rlp.encode(node)) for node in trie.get_proof(key)]
    hashed = [node for i, node in enumerate(nodes) if i == 0 or len(node) >= _HASHED_BYTES]
    return bytes(trie.get(key)), tuple(hashed)
