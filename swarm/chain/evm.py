"""What the engine needs of py-evm: apply transactions, call, create, put a block together.

py-evm's own `Chain` writes each block in several steps to its own layout, wants time to advance
between blocks and lets the base fee move. None of that fits a chain that must store a block with
its certificate in one step and whose members own no coins. So only its state machine (London
rules) is used here; headers are ours and follow from (parent, timestamp, proposer, transactions)
alone, which makes checking a block the same as building it again.

Nothing in this module keeps anything: states read through an `Overlay` that collects the writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import rlp
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.db.atomic import AtomicDBWriteBatch
from eth.db.backends.base import BaseAtomicDB
from eth.db.trie import make_trie_root_and_nodes
from eth.exceptions import Revert, VMError
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.london import LondonVM
from eth.vm.forks.london.blocks import LondonBlock, LondonBlockHeader
from eth.vm.forks.london.computation import LondonComputation
from eth.vm.forks.london.state import LondonState
from eth.vm.message import Message
from eth_bloom.bloom import BloomFilter
from eth_utils.exceptions import ValidationError
from trie import HexaryTrie

from swarm.chain.block import Block, InvalidTransaction, Transaction
from swarm.chain.codec import MAX_HEADER_BYTES, Encoded, decode_transaction, to_block
from swarm.types import NO_ADDRESS, Address, Digest

RECURSION_LIMIT = 12 * 1024
"""Calls within calls within Python, as py-evm needs them for 1024 frames (see `lean_imports`)."""
sys.setrecursionlimit(max(RECURSION_LIMIT, sys.getrecursionlimit()))

Slot = tuple[bytes, int]
"""A storage slot, as (contract, slot)."""
MAX_KNOWN_SLOTS = 2048
"""Whoever asks for slots, over JSON-RPC say, must not fill the memory with them."""


@lru_cache(maxsize=8)
def _positions(code: bytes) -> tuple[set[int], set[int]]:
    """Where in this code an instruction may begin, and where not, as far as it has been asked."""
    return set(), set()


class Computation(LondonComputation):  # type: ignore[misc]
    """py-evm's computation, which does not find out anew in each call where jumps may go."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.code.valid_positions, self.code.invalid_positions = _positions(self.msg.code)


class State(LondonState):  # type: ignore[misc]
    """py-evm's state, which also notes what was read and written.

    `beyond_storage` is set when code looked at anything else than storage (time, balances, other
    code), `erased` when a contract was deleted. Writes that were reverted are among the noted.

    Gas is free: a transaction may offer any price, since many programs offer one unasked, and pays
    none. The EVM runs as if it had offered 0, so that no balance moves, and no code sees a price.

    `known` are slots as they stand at the state's root; what is read is added to it. Finding a slot
    through the trie costs a dozen hashes and decodings, more than all else that an SLOAD does.
    """

    computation_class = Computation

    def __init__(self, *arguments: Any, known: dict[Slot, int] | None = None) -> None:
        self.known = {} if known is None else known
        self.slots_written: set[Slot] = set()
        self.erased = False
        self.forget_reads()
        super().__init__(*arguments)

    def get_gas_price(self, transaction: Any) -> int:
        return 0

    def get_tip(self, transaction: Any) -> int:
        return 0

    def get_transaction_context(self, transaction: Any) -> Any:
        return self.get_transaction_context_class()(gas_price=0, origin=transaction.sender)

    def forget_reads(self) -> None:
        self.slots_read: set[Slot] = set()
        self.beyond_storage = False

    def get_storage(self, address: bytes, slot: int, from_journal: bool = True) -> int:
        place = (address, slot)
        self.slots_read.add(place)
        if self.erased or place in self.slots_written:
            return int(super().get_storage(address, slot, from_journal))
        value = self.known.get(place)
        if value is None:
            value = int(super().get_storage(address, slot, from_journal))
            if len(self.known) < MAX_KNOWN_SLOTS:
                self.known[place] = value
        return value

    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        self.slots_written.add((address, slot))
        super().set_storage(address, slot, value)

    def delete_storage(self, address: bytes) -> None:
        self.erased = True
        super().delete_storage(address)

    def delete_account(self, address: bytes) -> None:
        self.erased = True
        super().delete_account(address)


def _noting(inherited: Any) -> Any:
    """The inherited property or method, which notes that it was used."""
    if isinstance(inherited, property):
        return property(_noting(inherited.fget))

    def noting(self: State, *arguments: Any) -> Any:
        self.beyond_storage = True
        return inherited(self, *arguments)

    return noting


_BEYOND_STORAGE = (
    *("coinbase", "timestamp", "block_number", "difficulty", "mix_hash", "gas_limit", "base_fee"),
    *("get_ancestor_hash", "get_balance", "get_nonce", "get_code", "get_code_hash"),
    *("account_exists", "account_is_empty", "has_code_or_nonce"),
)
for _name in _BEYOND_STORAGE:
    setattr(State, _name, _noting(getattr(LondonState, _name)))


class Overlay(BaseAtomicDB):  # type: ignore[misc]
    """A view of the stored state in which writes stay in memory, in `writes`.

    Keys are the hashes of their values, so what another state still needs is never deleted.
    """

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        self.writes: dict[bytes, bytes] = {}
        self._read = read

    def __getitem__(self, key: bytes) -> bytes:
        value = self.writes.get(key)
        if value is None:
            value = self._read(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.writes[key] = value

    def __delitem__(self, key: bytes) -> None:
        self.writes.pop(key, None)

    def _exists(self, key: bytes) -> bool:
        return key in self.writes or self._read(key) is not None

    @contextmanager
    def atomic_batch(self) -> Iterator[AtomicDBWriteBatch]:
        with AtomicDBWriteBatch._commit_unless_raises(self) as batch:
            yield batch


@dataclass(frozen=True)
class CallResult:
    """What a call gave: its output, or the reason why it failed and the data it reverted with."""

    output: bytes
    gas_used: int
    failure: str | None = None
    revert_data: bytes | None = None
    slots_read: frozenset[Slot] = frozenset()
    reads_only_storage: bool = False
    refund: int = 0
    """gas that a transaction would get back for what it clears, before the limit to a fifth"""

    @property
    def depends_on(self) -> frozenset[Slot] | None:
        """The storage that decides the answer; None if other things do, too."""
        return self.slots_read if self.reads_only_storage else None


@dataclass(frozen=True)
class Outcome:
    """A block with everything that executing it produced, ready to be stored."""

    block: Block
    bloom: bytes
    receipts: bytes
    transactions: tuple[Digest, ...]
    state: Mapping[bytes, bytes]
    state_root: bytes
    written: Mapping[Slot, int]
    """the slots that were written, with what they hold now"""
    erased: bool
    spent: Mapping[int, int] = field(default_factory=dict)
    """bytes of transactions, by member, on the block's day up to and with this block"""


@dataclass(frozen=True)
class Context:
    """The block that code sees around itself while it runs."""

    height: int
    timestamp: int
    proposer: Address
    chain_id: int
    gas: int
    ancestors: Iterable[bytes] = ()

    def state(self, database: Overlay, root: bytes, known: dict[Slot, int] | None = None) -> State:
        """The state with this root, open for execution in this block; `known` as in `State`."""
        execution = ExecutionContext(
            coinbase=self.proposer,
            timestamp=self.timestamp,
            block_number=self.height,
            difficulty=0,
            mix_hash=bytes(32),
            gas_limit=self.gas,
            prev_hashes=self.ancestors,
            chain_id=self.chain_id,
            base_fee_per_gas=0,
        )
        return State(database, execution, root, known=known)


class BlockBuilder:
    """Applies transactions on a parent state, one by one, and closes the block."""

    def __init__(
        self,
        context: Context,
        parent: Digest,
        parent_state_root: bytes,
        database: Overlay,
        known: dict[Slot, int] | None = None,
    ) -> None:
        self.gas_used = 0
        self.size_bytes = MAX_HEADER_BYTES
        self._context = context
        self._parent = parent
        self._database = database
        self._state = context.state(database, parent_state_root, known)
        self._transactions: list[Transaction] = []
        self._receipts: list[Any] = []

    def nonce(self, sender: Address) -> int:
        """The nonce that the sender's next transaction must have."""
        return int(self._state.get_nonce(sender))

    def apply(self, transaction: Transaction) -> None:
        """Execute one transaction; one that reverts is part of the block nevertheless.

        Raises InvalidTransaction, and then nothing has changed.
        """
        decoded = decode_transaction(transaction.raw)
        self._state.lock_changes()
        before = self._state.snapshot()
        try:
            computation = self._state.apply_transaction(decoded)
        except (ValidationError, VMError) as error:
            self._state.revert(before)
            raise InvalidTransaction(f"the transaction cannot be executed: {error}") from None
        self.gas_used += LondonVM.finalize_gas_used(decoded, computation)
        self.size_bytes += len(transaction.raw) + 9
        status = b"" if computation.is_error else b"\x01"
        logs = computation.get_log_entries()
        self._receipts.append(decoded.make_receipt(status, self.gas_used, logs))
        self._transactions.append(transaction)

    def close(self) -> Outcome:
        """The finished block. Its header depends on nothing but what was put in."""
        written = {place: self._state.get_storage(*place) for place in self._state.slots_written}
        self._state.persist()
        raws = [transaction.raw for transaction in self._transactions]
        bloom = BloomFilter(0)
        for receipt in self._receipts:
            bloom |= receipt.bloom_filter
        header = LondonBlockHeader(
            difficulty=0,
            block_number=self._context.height,
            gas_limit=self._context.gas,
            timestamp=self._context.timestamp,
            coinbase=self._context.proposer,
            parent_hash=self._parent,
            state_root=self._state.state_root,
            transaction_root=make_trie_root_and_nodes([Encoded(raw) for raw in raws])[0],
            receipt_root=make_trie_root_and_nodes(self._receipts)[0],
            bloom=int(bloom),
            gas_used=self.gas_used,
            nonce=bytes(8),
            base_fee_per_gas=0,
        )
        payload = rlp.encode(LondonBlock(header, [decode_transaction(raw) for raw in raws], []))
        _forget_tries()
        return Outcome(
            block=to_block(header, payload),
            bloom=int(bloom).to_bytes(256, "big"),
            receipts=rlp.encode([receipt.encode() for receipt in self._receipts]),
            transactions=tuple(transaction.hash for transaction in self._transactions),
            state=self._database.writes,
            state_root=header.state_root,
            written=written,
            erased=self._state.erased,
        )


def _forget_tries() -> None:
    """Empty the cache in which py-trie keeps 4096 encoded nodes for the whole process, each with
    its trie, and thereby all that was written to that: many blocks, long stored."""
    HexaryTrie._cached_create_node_to_db_mapping.cache_clear()


def call(
    state: State,
    sender: Address,
    to: Address,
    data: bytes,
    gas: int,
    access_list: Iterable[Slot] = (),
) -> CallResult:
    """Run a message call on `state`, whose changes the caller throws away.

    The slots of `access_list` cost as little as on a transaction's (EIP-2930)."""
    state.mark_address_warm(sender)
    state.mark_address_warm(to)
    for address, slot in access_list:
        state.mark_address_warm(address)
        state.mark_storage_warm(address, slot)
    message = Message(gas=gas, to=to, sender=sender, value=0, data=data, code=state.get_code(to))
    return _run(state, message, state.computation_class.apply_message)


def create(state: State, address: Address, creation_code: bytes, gas: int) -> CallResult:
    """Run a constructor so that the contract comes to lie at `address`."""
    message = Message(
        gas=gas,
        to=CREATE_CONTRACT_ADDRESS,
        sender=NO_ADDRESS,
        value=0,
        data=b"",
        code=creation_code,
        create_address=address,
    )
    return _run(state, message, state.computation_class.apply_create_message)


def _run(state: State, message: Message, apply: Callable[..., Any]) -> CallResult:
    surroundings = state.get_transaction_context_class()(gas_price=0, origin=message.sender)
    state.forget_reads()
    computation = apply(state, message, surroundings)
    read = frozenset(state.slots_read), not state.beyond_storage
    used = int(computation.get_gas_used())
    if not computation.is_error:
        refund = int(computation.get_gas_refund())
        return CallResult(bytes(computation.output), used, None, None, *read, refund)
    error = computation.error
    if isinstance(error, Revert):
        return CallResult(b"", used, "execution reverted", bytes(computation.output), *read)
    return CallResult(b"", used, str(error) or type(error).__name__, None, *read)


def genesis_outcome(
    context: Context, extra_data: bytes, database: Overlay, state: State
) -> Outcome:
    """Block 0 over a state in which the contract has been created."""
    written = {place: state.get_storage(*place) for place in state.slots_written}
    state.persist()
    header = LondonBlockHeader(
        difficulty=0,
        block_number=0,
        gas_limit=context.gas,
        timestamp=context.timestamp,
        state_root=state.state_root,
        extra_data=extra_data,
        nonce=bytes(8),
        base_fee_per_gas=0,
    )
    payload = rlp.encode(LondonBlock(header, [], []))
    return Outcome(
        block=to_block(header, payload),
        bloom=bytes(256),
        receipts=rlp.encode([]),
        transactions=(),
        state=database.writes,
        state_root=state.state_root,
        written=written,
        erased=state.erased,
    )
