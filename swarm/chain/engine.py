"""The chain as one node holds it: build a block, check one, commit one, ask the state.

Checking a block means building it again from its own timestamp, proposer and transactions and
comparing the bytes: there is one function that makes blocks, so there are no two opinions about
what is valid. The result is kept, so that committing a block that was checked costs only the write.

Everything here blocks; call it in worker threads. One lock serialises building, checking and
committing. Reading (`call`, `nonce`, blocks) needs none: committed state never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from eth_abi.abi import decode as decode_abi
from eth_abi.exceptions import DecodingError
from eth_hash.auto import keccak

from swarm.chain import codec, contract, evm
from swarm.chain.block import Block, InvalidBlock, InvalidTransaction, Transaction
from swarm.chain.budget import DayBudget
from swarm.chain.genesis import CONTRACT_ADDRESS, Genesis, build_genesis_block
from swarm.chain.messages import check_certificate, decode_certificate
from swarm.chain.override import Overrides, SignedOverride
from swarm.chain.rules import ChainRules
from swarm.chain.signer import Recovery
from swarm.chain.state_proof import AccountProof, prove_account
from swarm.chain.store import ChainStore, StoredBlock
from swarm.errors import ChainError, ConfigurationError, ProtocolViolation
from swarm.protocol.state import Member
from swarm.types import NO_ADDRESS, Address, Digest, MemberId, to_hex

CHAIN_FILE = "chain.db"
_GET_VALIDATORS = bytes.fromhex("b7ab4db5")  # getValidators()
_MEMBER_OF = keccak(b"memberOf(address)")[:4]
_ANCESTORS = 256  # as far back as BLOCKHASH sees
_KEPT_OUTCOMES = 8
_KEPT_VIEWS = 1024

At = int | Literal["latest", "pending"]
"""A height; or "latest", the head; or "pending", the block that would come next."""


@dataclass(frozen=True)
class _Head:
    """The newest block, and what was read of the state after it: answers of view functions, by
    calldata, and storage slots.

    Both are carried from head to head until a block writes what they rest on: asking the contract
    for the validators after every block would cost more than most blocks do.
    """

    block: Block
    state_root: bytes
    validators: tuple[Address, ...]
    spent: Mapping[int, int]
    """Bytes of transactions, by member, on the block's day."""
    views: dict[bytes, evm.CallResult] = field(default_factory=dict)
    slots: dict[evm.Slot, int] = field(default_factory=dict)


class Engine:
    """One replica of the chain. Open it with `Engine.open`, close it with `close`."""

    @classmethod
    def open(
        cls,
        path: Path,
        genesis: Genesis,
        rules: ChainRules | None = None,
        *,
        overrides: Sequence[SignedOverride] = (),
    ) -> Engine:
        """Create the chain in the directory `path`, or go on with the one that is there.

        Raises ConfigurationError if the directory cannot be used, is in use, or holds another
        chain, or if an override does not belong on it.
        """
        rules = rules or ChainRules()
        store = ChainStore(path / CHAIN_FILE)
        try:
            return cls(store, genesis, rules, path, overrides)
        except BaseException:
            store.close()
            raise

    def __init__(
        self,
        store: ChainStore,
        genesis: Genesis,
        rules: ChainRules,
        path: Path,
        overrides: Sequence[SignedOverride],
    ) -> None:
        self.chain_id = genesis.chain_id
        self.contract = CONTRACT_ADDRESS
        self.rules = rules
        self._store = store
        self._lock = threading.Lock()
        self._outcomes: dict[Digest, evm.Outcome] = {}
        outcome = build_genesis_block(genesis, rules)
        self.genesis_hash = outcome.block.hash
        first, newest = store.block(0), store.head()
        if first is None or newest is None:
            newest = self._found(outcome, genesis)
        elif first.hash != self.genesis_hash:
            raise ConfigurationError(
                f"{path} holds the chain that begins with {to_hex(first.hash)}, but the network "
                f"file describes {to_hex(self.genesis_hash)}: use the network file that this node "
                "began with, or another directory"
            )
        self._overrides = Overrides(overrides, self.genesis_hash, Recovery())
        self._head = self._as_head(newest)
        for height in self._overrides.heights():
            self._adopt_override(height)
        self._head = self._as_head(newest)

    def close(self) -> None:
        self._store.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Reading

    @property
    def head(self) -> Block:
        """The newest committed block."""
        return self._head.block

    @property
    def timestamp(self) -> int:
        """The newest committed block's."""
        return self._head.block.timestamp

    def block(self, height: int) -> Block:
        """A committed block. Raises ChainError if there is none at this height."""
        return _to_block(self._stored(height))

    def certificate(self, height: int) -> bytes:
        """The certificate that a block was committed with; empty for block 0."""
        return self._stored(height).certificate

    def validators(self, height: int | None = None) -> tuple[Address, ...]:
        """Who decides the block at `height`, in the contract's order; by default the next one.

        They are `getValidators()` after the parent block; if that call fails or answers with
        nonsense, those of the parent go on.
        """
        if height is None or height == self.head.height + 1:
            return self._head.validators
        return self._overrides.validators(height, self._stored(height - 1).validators)

    def vote_domain(self, height: int | None = None) -> Digest:
        """What votes at `height` (by default the next) are signed over: the genesis hash, or the
        digest of the last override at or before it."""
        return self._overrides.vote_domain(self.head.height + 1 if height is None else height)

    def members(self, at: At = "latest") -> dict[MemberId, Member]:
        """The members that the consortium contract knew after a block. Raises ChainError."""

        def read(first: int, count: int) -> Any:
            data = contract.call_data("getMembers", first, count)
            return contract.result("getMembers", self.call(self.contract, data, block=at))

        return contract.all_members(read)

    def is_member(self, address: Address) -> bool:
        """Whether the contract knows this account or node as a member's, at the head."""
        return self._member_of(self._head, address) != 0

    def room_today(self, address: Address) -> int:
        """How many bytes of transactions the member with this key may still send on the day of the
        newest block."""
        return self._budget(self._head).room(self._member_of(self._head, address))

    def nonce(self, address: Address, at: At = "latest") -> int:
        """How many transactions this account has had committed."""
        return int(self._state(at).get_nonce(address))

    def code(self, address: Address, at: At = "latest") -> bytes:
        return bytes(self._state(at).get_code(address))

    def storage(self, address: Address, slot: int, at: At = "latest") -> int:
        return int(self._state(at).get_storage(address, slot))

    def call(
        self,
        to: Address,
        data: bytes,
        sender: Address | None = None,
        block: At = "latest",
        *,
        timestamp: int | None = None,
    ) -> bytes:
        """The output of a call that changes nothing.

        It sees the block it is asked at; "pending" is the next one, at `timestamp` (seconds since
        1970, by default the head's). Raises CallFailed, with the revert data if there is any.
        """
        result = self.simulate(to, data, sender, block, timestamp=timestamp)
        if result.failure is not None:
            raise CallFailed(result.failure, result.revert_data)
        return result.output

    def simulate(
        self,
        to: Address,
        data: bytes,
        sender: Address | None = None,
        block: At = "latest",
        *,
        timestamp: int | None = None,
        gas: int | None = None,
        access_list: Iterable[evm.Slot] = (),
    ) -> evm.CallResult:
        """Like `call`, but gives gas and failure as values; `access_list` as in `evm.call`."""
        state = self._state(block, timestamp)
        limit = self.rules.view_gas if gas is None else min(gas, self.rules.view_gas)
        return evm.call(state, sender or NO_ADDRESS, to, data, limit, access_list)

    def prove(self, address: Address, slots: Sequence[int], height: int) -> AccountProof:
        """What lies in an account and in some of its slots after a block, with the proofs against
        the block's state root. Raises ChainError if there is no such block."""
        root = codec.stored_body(self._stored(height).payload).header.state_root
        return prove_account(evm.Overlay(self._store.read_state), root, address, slots)

    # Transactions

    def inspect(self, raw: bytes) -> Transaction:
        """Read a transaction that could be in the next block or a later one.

        Raises InvalidTransaction, which says what would have to be different.
        """
        transaction = codec.read_transaction(raw, self.chain_id, self.contract, self.rules)
        member = self._require_member(self._head, transaction.sender)
        _require_budget(member, self._budget(self._head), transaction)
        if transaction.has_expired(self.timestamp):
            raise InvalidTransaction(
                f"the transaction was to be carried out until {transaction.until}, and it is "
                f"{self.timestamp} already"
            )
        expected = self.nonce(transaction.sender)
        if transaction.nonce < expected:
            raise InvalidTransaction(
                f"nonce {transaction.nonce} of {to_hex(transaction.sender)} is used already; "
                f"the next is {expected}"
            )
        return transaction

    # Blocks

    def build(self, transactions: Sequence[bytes], timestamp: int, proposer: Address) -> Block:
        """A block on the head with those of the transactions that can be in it, in this order.

        The others are left out; they may fit later. `timestamp` is in whole seconds and is raised
        to the parent's if it is smaller. Raises InvalidBlock if `proposer` may not propose.
        """
        with self._lock:
            head = self._head
            _check_proposer(head, proposer)
            timestamp = max(timestamp, head.block.timestamp)
            outcome = self._assemble(head, transactions, timestamp, proposer, strict=False)
            self._keep(outcome)
            return outcome.block

    def decode(self, payload: bytes) -> Block:
        """Read a block from a peer, without judging it. Raises ProtocolViolation."""
        return codec.decode_block(payload, self.rules)[0]

    def execute(self, block: Block) -> None:
        """Check that `block` is valid on the head. Raises InvalidBlock, which says why not."""
        with self._lock:
            self._execute(block)

    def commit(self, block: Block, certificate: bytes) -> None:
        """Make `block` the head, and store it with its certificate in one step.

        Committing again what is committed changes nothing. Raises InvalidBlock; and ChainError for
        another block at a height that is decided, which must never happen.
        """
        with self._lock:
            if block.height <= self.head.height:
                decided = self._stored(block.height).hash
                if decided != block.hash:
                    raise ChainError(
                        f"block {to_hex(block.hash)} cannot be committed: height {block.height} "
                        f"was decided as {to_hex(decided)}"
                    )
                return
            outcome = self._execute(block)
            carried = _views_after(self._head, outcome), _slots_after(self._head, outcome)
            validators = self._read_validators(outcome, *carried)
            stored = self._store.append(outcome, validators, certificate)
            self._head = self._as_head(stored, *carried)
            self._outcomes.clear()
            if block.height + 1 in self._overrides.heights():
                self._adopt_override(block.height + 1)
                self._head = self._as_head(stored, *carried)

    def transactions(self, block: Block) -> tuple[Digest, ...]:
        """The names of a block's transactions, in order."""
        raws = codec.stored_body(block.payload).transactions
        return tuple(Digest(codec.decode_transaction(raw).hash) for raw in raws)

    def content(self, block: Block) -> tuple[tuple[Transaction, ...], int]:
        """A decided block's transactions, in order, and the gas that they used."""
        body = codec.stored_body(block.payload)
        read = (
            codec.read_transaction(raw, self.chain_id, self.contract, self.rules)
            for raw in body.transactions
        )
        return tuple(read), int(body.header.gas_used)

    # For the JSON-RPC, which shows what is stored

    def stored_block(self, height: int) -> StoredBlock | None:
        return self._store.block(height)

    def stored_block_named(self, name: bytes) -> StoredBlock | None:
        return self._store.block_named(name)

    def find_transaction(self, name: bytes) -> tuple[int, int] | None:
        """(height, position) of a committed transaction."""
        return self._store.find_transaction(name)

    def blooms(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """(height, bloom) of the blocks from `first` to `last` that have logs."""
        return self._store.blooms(first, last)

    def copy_to(self, path: Path) -> None:
        """Write the chain as of now to a new file, which an engine or a store can open."""
        self._store.copy_to(path)

    # Inside

    def _execute(self, block: Block) -> evm.Outcome:
        known = self._outcomes.get(block.hash)
        if known is not None and known.block == block:
            return known
        head = self._head
        if block.height != head.block.height + 1 or block.parent != head.block.hash:
            raise InvalidBlock(
                f"block {block.height} on {to_hex(block.parent)} does not follow the head, "
                f"{head.block.height} {to_hex(head.block.hash)}"
            )
        try:
            decoded, body = codec.decode_block(block.payload, self.rules)
        except ProtocolViolation as error:
            raise InvalidBlock(str(error)) from None
        if decoded != block:
            raise InvalidBlock(f"block {to_hex(block.hash)} is not what its payload says")
        if block.timestamp < head.block.timestamp:
            raise InvalidBlock(
                f"block {block.height} has the time {block.timestamp}, before its parent's "
                f"{head.block.timestamp}"
            )
        _check_proposer(head, block.proposer)
        try:
            outcome = self._assemble(
                head, body.transactions, block.timestamp, block.proposer, strict=True
            )
        except InvalidTransaction as error:
            raise InvalidBlock(f"block {block.height}: {error}") from None
        if outcome.block != block:
            raise InvalidBlock(
                f"block {to_hex(block.hash)} does not follow from its transactions; executing "
                f"them gives {to_hex(outcome.block.hash)}"
            )
        self._keep(outcome)
        return outcome

    def _assemble(
        self,
        head: _Head,
        transactions: Sequence[bytes],
        timestamp: int,
        proposer: Address,
        *,
        strict: bool,
    ) -> evm.Outcome:
        """Execute the transactions on the head. `strict`: refuse the block for one bad one."""
        context = self._context(head.block.height + 1, timestamp, proposer)
        overlay = evm.Overlay(self._store.read_state)
        builder = evm.BlockBuilder(context, head.block.hash, head.state_root, overlay, head.slots)
        sent: dict[Address, int] = {}
        budget = self._budget(head).at(timestamp)
        for raw in transactions:
            try:
                transaction = codec.read_transaction(raw, self.chain_id, self.contract, self.rules)
                self._admit(head, builder, transaction, sent)
                member = self._require_member(head, transaction.sender)
                _require_budget(member, budget, transaction)
                builder.apply(transaction)
            except InvalidTransaction:
                if strict:
                    raise
                continue
            sent[transaction.sender] = sent.get(transaction.sender, 0) + 1
            budget.take(member, len(raw))
        return replace(builder.close(), spent=budget.spent)

    def _admit(
        self,
        head: _Head,
        builder: evm.BlockBuilder,
        transaction: Transaction,
        sent: dict[Address, int],
    ) -> None:
        rules, sender = self.rules, transaction.sender
        count = sent.get(sender, 0)
        if count >= rules.sender_transactions:
            raise InvalidTransaction(
                f"{to_hex(sender)} has {count} transactions in this block already"
            )
        if sum(sent.values()) >= rules.block_transactions:
            raise InvalidTransaction(f"the block is full: {rules.block_transactions} transactions")
        if builder.gas_used + transaction.gas > rules.block_gas:
            raise InvalidTransaction(
                f"the block is full: {builder.gas_used} of {rules.block_gas} gas are used and the "
                f"transaction asks for {transaction.gas}"
            )
        if builder.size_bytes + len(transaction.raw) > rules.block_bytes:
            raise InvalidTransaction(f"the block is full: {builder.size_bytes} bytes")
        expected = builder.nonce(sender)
        if transaction.nonce != expected:
            raise InvalidTransaction(
                f"nonce {transaction.nonce} of {to_hex(sender)}, where {expected} is next"
            )

    def _require_member(self, head: _Head, sender: Address) -> int:
        """The member's number, counted from 1."""
        member = self._member_of(head, sender)
        if not member:
            raise InvalidTransaction(
                f"{to_hex(sender)} is not a member; only members send transactions here: let a "
                "member propose the card"
            )
        return member

    def _budget(self, head: _Head) -> DayBudget:
        return DayBudget(self.rules.member_day_bytes, head.block.timestamp, head.spent)

    def _member_of(self, head: _Head, address: Address) -> int:
        """The number of the member with this account or node, counted from 1; 0: nobody's."""
        data = _MEMBER_OF + address.rjust(32, b"\0")
        result = self._view(head.views, head.slots, data, head.block, head.state_root)
        is_word = result.failure is None and len(result.output) == 32
        return int.from_bytes(result.output, "big") if is_word else 0

    def _read_validators(
        self,
        outcome: evm.Outcome,
        views: dict[bytes, evm.CallResult],
        slots: dict[evm.Slot, int],
    ) -> tuple[Address, ...]:
        """`getValidators()` after this block, or the last set if the call does not give one."""
        block, root = outcome.block, outcome.state_root
        result = self._view(views, slots, _GET_VALIDATORS, block, root, outcome)
        answer = _decode_addresses(result.output) if result.failure is None else ()
        distinct = len(set(answer)) == len(answer) <= self.rules.max_validators
        if answer and distinct and NO_ADDRESS not in answer:
            return answer
        # What the contract said last, not what an override made of it.
        return self._stored(outcome.block.height - 1).validators if outcome.block.height > 0 else ()

    def _view(
        self,
        views: dict[bytes, evm.CallResult],
        slots: dict[evm.Slot, int],
        data: bytes,
        block: Block,
        state_root: bytes,
        outcome: evm.Outcome | None = None,
    ) -> evm.CallResult:
        """The contract's answer after `block`, whose state lies in `outcome` or in the store."""
        known = views.get(data)
        if known is None:
            fresh = outcome.state if outcome else {}
            overlay = evm.Overlay(lambda key: fresh.get(key) or self._store.read_state(key))
            context = self._context(block.height, block.timestamp, block.proposer)
            state = context.state(overlay, state_root, slots)
            known = evm.call(state, NO_ADDRESS, self.contract, data, self.rules.view_gas)
            if len(views) < _KEPT_VIEWS:
                views[data] = known
        return known

    def _found(self, outcome: evm.Outcome, genesis: Genesis) -> StoredBlock:
        """Store block 0, once the contract has shown that it knows the founders."""
        validators = self._read_validators(outcome, {}, {})
        if not validators or not set(validators) <= {f.node for f in genesis.founders}:
            raise ConfigurationError(
                "the contract in the network file does not name the founders' nodes as validators: "
                "it is not a consortium contract of this version of swarm"
            )
        return self._store.append(outcome, validators, certificate=b"")

    def _keep(self, outcome: evm.Outcome) -> None:
        while len(self._outcomes) >= _KEPT_OUTCOMES:
            del self._outcomes[next(iter(self._outcomes))]
        self._outcomes[outcome.block.hash] = outcome

    def _as_head(
        self,
        stored: StoredBlock,
        views: dict[bytes, evm.CallResult] | None = None,
        slots: dict[evm.Slot, int] | None = None,
    ) -> _Head:
        root = codec.stored_body(stored.payload).header.state_root
        validators = self._overrides.validators(stored.height + 1, stored.validators)
        spent = self._store.spent(stored.timestamp)
        return _Head(_to_block(stored), root, validators, spent, views or {}, slots or {})

    def _adopt_override(self, height: int) -> None:
        """Check the override at `height` once the block before it is here."""
        if height <= self.head.height + 1:
            parent = self._stored(height - 1)
            validators = self._overrides.validators(height, parent.validators)
            self._overrides.adopt(height, parent.hash, validators, self.members(height - 1))
        if height <= self.head.height:
            self._require_decided_under(height)

    def _require_decided_under(self, height: int) -> None:
        """The block at an override's height must have been decided by those whom it names."""
        stored = self._stored(height)
        domain, validators = self.vote_domain(height), self.validators(height)
        try:
            certificate = decode_certificate(stored.certificate)
            check_certificate(certificate, domain, validators, Recovery())
        except ProtocolViolation as error:
            raise ConfigurationError(
                f"block {height} was decided here without the override at that height ({error}): "
                "take the override away, or delete the chain's directory and follow the others"
            ) from None

    def _stored(self, height: int) -> StoredBlock:
        stored = self._store.block(height)
        if stored is None:
            raise ChainError(f"there is no block {height} here; the head is {self.head.height}")
        return stored

    def _state(self, at: At, timestamp: int | None = None) -> evm.State:
        """The state after a block, as code running in that block (or the pending one) sees it."""
        head = self._head
        if at == "pending":
            time = max(head.block.timestamp, timestamp or 0)
            context = self._context(head.block.height + 1, time, head.block.proposer)
            return context.state(evm.Overlay(self._store.read_state), head.state_root, head.slots)
        if at != "latest" and at != head.block.height:
            head = self._as_head(self._stored(int(at)))
        block = head.block
        context = self._context(block.height, block.timestamp, block.proposer)
        return context.state(evm.Overlay(self._store.read_state), head.state_root, head.slots)

    def _context(self, height: int, timestamp: int, proposer: Address) -> evm.Context:
        gas = self.rules.block_gas
        ancestors = self._ancestors(height)
        return evm.Context(height, timestamp, proposer, self.chain_id, gas, ancestors)

    def _ancestors(self, height: int) -> Iterator[bytes]:
        """The hashes before `height`, newest first, for BLOCKHASH; read when they are needed."""
        for number in range(height - 1, max(height - 1 - _ANCESTORS, -1), -1):
            name = self._store.block_hash(number)
            if name is None:
                return
            yield name


class CallFailed(ChainError):
    """A call did not return: `revert_data` is what the contract reverted with, None if it did not
    revert but ran out of gas or worse."""

    def __init__(self, reason: str, revert_data: bytes | None) -> None:
        self.reason = reason
        self.revert_data = revert_data
        shown = f" with {to_hex(revert_data)}" if revert_data else ""
        super().__init__(f"the call failed: {reason}{shown}")


def _views_after(head: _Head, outcome: evm.Outcome) -> dict[bytes, evm.CallResult]:
    """The answers that this block on `head` cannot have changed."""
    if outcome.erased:
        return {}
    return {
        data: result
        for data, result in head.views.copy().items()
        if result.depends_on is not None and result.depends_on.isdisjoint(outcome.written)
    }


def _slots_after(head: _Head, outcome: evm.Outcome) -> dict[evm.Slot, int]:
    """What is known of the storage after this block on `head`."""
    if outcome.erased:
        return {}
    is_full = len(head.slots) >= evm.MAX_KNOWN_SLOTS
    kept = {} if is_full else head.slots.copy()  # readers add to it
    kept.update(outcome.written)
    return kept


def _check_proposer(head: _Head, proposer: Address) -> None:
    if proposer not in head.validators:
        raise InvalidBlock(f"the proposer {to_hex(proposer)} is not a validator")


def _to_block(stored: StoredBlock) -> Block:
    return codec.stored_block(stored.payload)


def _decode_addresses(output: bytes) -> tuple[Address, ...]:
    try:
        (answer,) = decode_abi(["address[]"], output)
    except (DecodingError, OverflowError, ValueError):
        return ()
    return tuple(Address(bytes.fromhex(item[2:])) for item in answer)


def _require_budget(member: int, budget: DayBudget, transaction: Transaction) -> None:
    room = budget.room(member)
    if len(transaction.raw) > room:
        raise InvalidTransaction(
            f"the member with the key {to_hex(transaction.sender)} has sent "
            f"{budget.most_bytes - room} bytes of transactions on this day of chain time, of "
            f"{budget.most_bytes} that it may: this one, of {len(transaction.raw)} bytes, may come "
            "on the next (UTC)"
        )
