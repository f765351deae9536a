"""Validators for the simulator: the real QBFT machine over a chain made of numbers.

`SimValidator` does with the machine's commands what the shipped driver does, with the simulated
network, disk and clock in place of real ones; a block's payload is the numbers of the transactions
in it, and a signature costs one hash. `ValidatorWorld` is what it asks of the world around it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from harness.simnet import Port, Timer, Violation
from swarm.chain import consensus_steps as steps
from swarm.chain.block import Block
from swarm.chain.budget import DayBudget
from swarm.chain.censorship import Overlooked
from swarm.chain.messages import (
    Blocks,
    Certificate,
    CertifiedBlock,
    Commit,
    GetBlocks,
    GetStatus,
    Prepare,
    Transactions,
    check_certificate,
    decode_certificate,
    encode,
)
from swarm.chain.qbft import QBFT
from swarm.chain.startup import decode_record, encode_record
from swarm.chain.sync_sources import Sources
from swarm.errors import ProtocolViolation
from swarm.types import NO_ADDRESS, Address, Digest

GENESIS_HASH = Digest(b"\x67" * 32)
MEMBER_DAY_BYTES = 256 * 1024
"""Of transactions; less than in life, so that a liar fills it within a day of minutes."""
SYNC_BLOCKS = 16
"""Blocks in one answer; less than in life, so that days of a minute need several."""
FAR_BEHIND = 20
"""Who is handed this many blocks in its life has been away for long, or is new."""


BUGS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What no message may raise in a node: it would end."""


class SimKeys:
    """Signatures that take no time: the signer's address and a hash. Only honest code is run."""

    def __init__(self, address: Address) -> None:
        self.address = address

    def sign(self, digest: bytes) -> bytes:
        """65 bytes that name the signer."""
        return self.address + hashlib.blake2s(self.address + digest).digest() + bytes(13)

    def recover(self, digest: bytes, signature: bytes) -> Address | None:
        """The named signer, if the hash fits."""
        address = signature[:20]
        fits = signature[20:52] == hashlib.blake2s(address + digest).digest()
        return Address(address) if fits else None


class _Content(msgspec.Struct, array_like=True):
    height: int
    parent: bytes
    timestamp: int
    proposer: bytes
    transactions: tuple[int, ...]


_content = msgspec.msgpack.Decoder(_Content)


def make_block(
    parent: Block, timestamp: int, proposer: Address, transactions: Iterable[int]
) -> Block:
    """A block holding these transactions."""
    content = _Content(
        parent.height + 1, parent.hash, timestamp, proposer, tuple(sorted(transactions))
    )
    return read_block(msgspec.msgpack.encode(content))


@lru_cache(maxsize=512)
def read_block(payload: bytes) -> Block:
    """Read a payload. Raises ProtocolViolation if it is none."""
    try:
        content = _content.decode(payload)
    except msgspec.MsgspecError as error:
        raise ProtocolViolation(f"not a block: {error}") from None
    return Block(
        content.height,
        Digest(hashlib.blake2s(payload).digest()),
        Digest(content.parent),
        content.timestamp,
        Address(content.proposer),
        payload,
    )


@lru_cache(maxsize=512)
def transactions_of(block: Block) -> tuple[int, ...]:
    """The numbers in this block."""
    return _content.decode(block.payload).transactions if block.payload else ()


@lru_cache(maxsize=512)
def check_seals(certificate: Certificate, validators: tuple[Address, ...]) -> None:
    """Raise ProtocolViolation unless a quorum of these validators sealed."""
    check_certificate(certificate, GENESIS_HASH, validators, SimKeys(NO_ADDRESS))


GENESIS = Block(0, GENESIS_HASH, Digest(bytes(32)), 0, NO_ADDRESS, b"")


def sim_address(number: int) -> Address:
    """The address of the simulated validator of this number."""
    return Address(bytes([number + 1]) * 20)


class ValidatorWorld(Protocol):
    """What a validator asks of the world around it."""

    rivals: dict[tuple[int, int], tuple[Digest, Digest]]
    """The two blocks that a liar proposed at a height in a round."""
    liars: frozenset[Address]

    @property
    def addresses(self) -> Sequence[Address]: ...

    def validators(self, height: int) -> tuple[Address, ...]: ...

    @property
    def senders(self) -> Sequence[object]:
        """Whom a liar may leave out."""

    def sender_of(self, number: int) -> object:
        """Whose transaction this is; None: there is none of this number."""

    def has_honest_sender(self, number: int) -> bool: ...

    def size_of(self, number: int) -> int:
        """How many bytes this transaction has."""

    def invent(self, liar: SimValidator) -> int | None:
        """The number of a transaction that a liar makes up; None: it has no idea."""

    def count(self, what: str) -> None: ...
    def note_vote(self, node: SimValidator, vote: Any) -> None: ...
    def note_commit(self, node: SimValidator, block: Block, certificate: Certificate) -> None: ...


class SimValidator:
    """One life of one validator: drives a QBFT machine through a `Port`."""

    machine_class: type[QBFT] = QBFT
    stores_before_sending = True
    sources_class: type[Sources] = Sources

    def __init__(self, port: Port, world: ValidatorWorld) -> None:
        self.port = port
        self.world = world
        self.keys = SimKeys(port.name)
        self.chain: list[Block] = [GENESIS]
        self._budget = DayBudget(MEMBER_DAY_BYTES, 0, {})
        self.certificates: list[Certificate] = [Certificate(0, 0, GENESIS_HASH, ())]
        self.pool: set[int] = set()
        self.included: set[int] = set()
        self._timers: dict[str, Timer] = {}
        self._busy_until_s = 0.0
        self._sources = self.sources_class()
        self._fetches_at_s = float("inf")
        self._overlooked = Overlooked[int]()
        while stored := port.disk.get(f"block {len(self.chain)}"):
            self._append(*stored)
        self._caught_up = 0
        raw = port.disk.get("vote")
        self.machine = self.machine_class(
            address=port.name,
            genesis=GENESIS_HASH,
            keys=self.keys,
            decode=read_block,
            record=None if raw is None else decode_record(raw),
            sealed_height=self._sealed_height(),
        )
        self._advance()
        self._poll()

    @property
    def head(self) -> Block:
        """The last block this node committed."""
        return self.chain[-1]

    # From the network.

    def receive(self, sender: Address, message: Any) -> None:
        """A message of any kind arrived; a violation is named, and changes nothing."""
        try:
            match message:
                case Prepare() | Commit():
                    self.step(steps.MessageReceived(sender, message))
                case Transactions(raw=raw):
                    self.learn(int.from_bytes(number, "big") for number in raw)
                case GetBlocks(first=first):
                    self.answer(sender, first)
                case Blocks():
                    self._import(sender, message)
                case _:
                    self.step(steps.MessageReceived(sender, message))
        except ProtocolViolation as error:
            self.world.count("messages refused")
            self.port.log(f"refuses a message of {self.port.label(sender)}: {error}")

    def connected(self, peer: Address) -> None:
        """A link came up: the machine says hello, and pending transactions are told again."""
        self._gossip([peer])
        self.step(steps.PeerConnected(peer))

    def submit(self, number: int) -> None:
        """A user of this node sends a transaction."""
        self.learn([number])
        self._gossip(self.world.addresses)

    def learn(self, numbers: Iterable[int]) -> None:
        """Take transactions into the pool."""
        sender_of = self.world.sender_of
        new = {n for n in set(numbers) - self.included - self.pool if sender_of(n) is not None}
        if new:
            self.pool |= new
            self.step(steps.TransactionsPending())

    def _gossip(self, peers: Iterable[Address]) -> None:
        if self.pool:
            # As a node does: first what a block could contain now, or what is beyond a budget
            # would keep the rest from being heard of.
            told = list(dict.fromkeys((*self.affordable(self.head.timestamp), *sorted(self.pool))))
            message = Transactions(tuple(n.to_bytes(4, "big") for n in told[:64]))
            for peer in peers:
                if peer != self.port.name:
                    self.port.send(peer, message)

    def _poll(self) -> None:
        """Now and then: tell pending transactions, ask one peer where it is."""
        self._gossip(self.world.addresses)
        peer = self.port.rng.choice(self.world.addresses)
        if peer != self.port.name:
            self.port.send(peer, GetStatus())
        self.port.call_later(3.0, self._poll)

    # The machine.

    def step(self, event: steps.Event) -> None:
        """Give the machine one event and do what it says."""
        try:
            commands = self.machine.handle(event, self.port.clock_s)
        except BUGS as error:
            raise Violation(f"{self.port.label(self.port.name)} ends: {error!r}") from error
        for command in commands:
            self.do(command)

    def later(self, work_s: float, event: Callable[[], steps.Event]) -> None:
        """The one worker thread: jobs take time and end in order."""
        now_s = self.port.clock_s
        self._busy_until_s = max(self._busy_until_s, now_s) + work_s
        self.port.call_later(self._busy_until_s - now_s, lambda: self.step(event()))

    def do(self, command: steps.Command) -> None:
        """Carry out one command."""
        match command:
            case steps.Broadcast(message):
                self.broadcast(message)
            case steps.Send(to, message):
                self.port.send(to, message)
            case steps.StoreVote(token, record):
                self._store(token, encode_record(record))
            case steps.ExecuteBlock(block):
                self.later(0.003, lambda: steps.BlockExecuted(block.hash, self._is_valid(block)))
            case steps.BuildBlock():
                self.later(0.003, lambda: self._build(command))
            case steps.CommitBlock(block, certificate):
                self.port.call_later(0.002, lambda: self._commit(block, certificate))
            case steps.SetTimer(name, token, delay_s):
                self._cancel(name)
                self._timers[name] = self.port.call_later(
                    delay_s, lambda: self.step(steps.TimerExpired(name, token))
                )
            case steps.CancelTimer(name):
                self._cancel(name)
            case steps.RequestBlocks(peer, height):
                self._sources.claim(peer, height)
                self._fetch()
            case steps.SendBlocks(to, first):
                self.send_blocks(to, first)
            case steps.Report(subject, text):
                self.world.count("reports")
                self.port.log(f"reports {self.port.label(subject)}: {text}")

    def broadcast(self, message: Any) -> None:
        """Send to all other validators."""
        self.world.note_vote(self, message)
        for validator in self.machine.validators:
            if validator != self.port.name:
                self.port.send(validator, message)

    def _store(self, token: int, record: bytes) -> None:
        def written() -> steps.Event:
            self.port.disk.put("vote", record)
            self.port.disk.sync()
            return steps.VoteStored(token)

        if self.stores_before_sending:
            self.later(self.port.rng.uniform(0.0005, 0.005), written)
        else:
            self.step(steps.VoteStored(token))
            self.port.disk.put("vote", record)

    def _build(self, command: steps.BuildBlock) -> steps.BlockBuilt:
        block = None
        chosen = self.choose(command.timestamp)
        if self.head.height + 1 == command.height and (chosen or command.round > 0):
            block = make_block(self.head, command.timestamp, self.port.name, chosen)
        return steps.BlockBuilt(command.height, command.round, block)

    def choose(self, timestamp: int) -> Collection[int]:
        """What goes into this node's block: all that waits and could be in it."""
        return self.affordable(timestamp)

    def affordable(self, timestamp: int) -> list[int]:
        """What waits, as far as its senders' budgets go at this time; the rest waits for a day."""
        budget = self._budget.at(timestamp)
        return [number for number in sorted(self.pool) if self.takes(budget, number)]

    def takes(self, budget: DayBudget, number: int) -> bool:
        """Whether a block has room for this one in its sender's budget; if so, it is counted."""
        sender = self.world.sender_of(number)
        if not isinstance(sender, int) or self.world.size_of(number) > budget.room(sender):
            return False
        budget.take(sender, self.world.size_of(number))
        return True

    def _is_valid(self, block: Block) -> bool:
        """Whether this block may follow the head: nothing unknown in it, nothing twice, and nothing
        beyond its sender's budget."""
        held = transactions_of(block)
        budget = self._budget.at(block.timestamp)
        return (
            block.parent == self.head.hash
            and len(set(held)) == len(held)
            and self.included.isdisjoint(held)
            and all(self.world.sender_of(number) is not None for number in held)
            and all(self.takes(budget, number) for number in held)
        )

    def _cancel(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    # The chain.

    def _commit(self, block: Block, certificate: Certificate, *, imported: bool = False) -> None:
        if block.height != self.head.height + 1:
            return
        self.port.disk.put(f"block {block.height}", (block, certificate))
        self._append(block, certificate)
        self.port.log(f"commits {block.height} {block.hash.hex()[:8]}")
        self.world.note_commit(self, block, certificate)
        unfair = frozenset[Address]()
        if not imported:
            validators = len(self.world.validators(block.height))
            room = dict.fromkeys(self.affordable(block.timestamp), True)
            unfair = self._overlooked.note_block(block.proposer, room, validators)
        self._advance(sealed=self._bears_our_seal(certificate), unfair=unfair)
        if block.proposer == self.port.name:
            self._push()

    def _append(self, block: Block, certificate: Certificate) -> None:
        self.chain.append(block)
        self.certificates.append(certificate)
        self._budget = self._budget.at(block.timestamp)
        for number in transactions_of(block):
            sender = self.world.sender_of(number)
            if isinstance(sender, int):
                self._budget.take(sender, self.world.size_of(number))
        self.included.update(transactions_of(block))
        self.pool -= self.included

    def _advance(self, *, sealed: bool = False, unfair: frozenset[Address] = frozenset()) -> None:
        validators = self.world.validators(self.head.height + 1)
        pending = bool(self.affordable(self.head.timestamp))
        self.step(steps.HeadAdvanced(self.head, validators, pending, sealed, unfair=unfair))

    def _push(self) -> None:
        """Hand our block to the members that follow without voting."""
        for peer in self.world.addresses:
            if peer not in self.machine.validators:
                self.send_blocks(peer, self.head.height)

    def _bears_our_seal(self, certificate: Certificate) -> bool:
        return any(seal[:20] == self.port.name for seal in certificate.seals)

    def _sealed_height(self) -> int:
        heights = range(1, len(self.chain))
        return max((h for h in heights if self._bears_our_seal(self.certificates[h])), default=0)

    def answer(self, peer: Address, first: int) -> None:
        """Somebody asks for blocks: it gets them, or hears that there are none."""
        self.port.send(peer, self._blocks_from(first))

    def send_blocks(self, to: Address, first: int) -> None:
        """Hand over certified blocks, as many as one message holds."""
        message = self._blocks_from(first)
        if message.blocks:
            self.port.send(to, message)

    def _blocks_from(self, first: int) -> Blocks:
        last = min(self.head.height, first + SYNC_BLOCKS - 1)
        blocks = [
            CertifiedBlock(self.chain[h].payload, encode(self.certificates[h]))
            for h in range(max(first, 1), last + 1)
        ]
        return Blocks(self.head.height, tuple(blocks))

    def _fetch(self) -> None:
        """Ask for blocks that we lack, if it is somebody's turn, and look again when it is due."""
        head, everyone, now_s = self.head.height, self.world.addresses, self.port.clock_s
        peer = self._sources.next(head, everyone, now_s)
        if peer is not None:
            self.port.send(peer, GetBlocks(head + 1))
        due_s = self._sources.due_s(head, everyone)
        if due_s < self._fetches_at_s:
            self._fetches_at_s = due_s
            self.port.call_later(due_s - now_s, self._fetch_again)

    def _fetch_again(self) -> None:
        self._fetches_at_s = float("inf")
        self._fetch()

    def _import(self, sender: Address, message: Blocks) -> None:
        before = self.head.height
        try:
            for item in message.blocks:
                block = read_block(item.block)
                if block.height != self.head.height + 1:
                    continue
                certificate = decode_certificate(item.certificate)
                self.check_imported(block, certificate)
                self._commit(block, certificate, imported=True)
        finally:
            imported = self.head.height - before
            self._sources.answered(sender, imported, message.head, self.port.clock_s)
            if imported > 1:
                if self._caught_up < FAR_BEHIND <= self._caught_up + imported:
                    self.world.count("syncs from far behind")
                self._caught_up += imported
            self._fetch()

    def check_imported(self, block: Block, certificate: Certificate) -> None:
        """Raise ProtocolViolation unless the validators of this height decided this block."""
        if (certificate.height, certificate.block_hash) != (block.height, block.hash):
            raise ProtocolViolation(f"the certificate beside block {block.height} is of another")
        check_seals(certificate, self.world.validators(block.height))
