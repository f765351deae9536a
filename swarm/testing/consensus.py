"""Validators for the simulator: the real QBFT machine over a chain made of numbers.

`SimValidator` does with the machine's commands what the shipped driver does, with the simulated
network, disk and clock in place of real ones; a block's payload is the numbers of the transactions
in it. `ConsensusWorld` runs N of them through a day drawn from a seed and checks, while it runs,
that no height ever gets two blocks and that no honest validator contradicts itself.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from swarm.chain import steps
from swarm.chain.block import Block
from swarm.chain.messages import (
    MAX_SYNC_BLOCKS,
    PROPOSAL,
    Blocks,
    Certificate,
    CertifiedBlock,
    Commit,
    GetBlocks,
    GetStatus,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    Transactions,
    check_certificate,
    decode_certificate,
    encode,
    quorum,
    signing_digest,
    vote_digest,
)
from swarm.chain.qbft import QBFT
from swarm.chain.startup import decode_record, encode_record
from swarm.errors import ProtocolViolation
from swarm.testing.simnet import Port, SimNet, Timer, Violation, Weather
from swarm.types import NO_ADDRESS, Address, Digest

GENESIS_HASH = Digest(b"\x67" * 32)


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


def transactions_of(block: Block) -> tuple[int, ...]:
    """The numbers in this block."""
    return _content.decode(block.payload).transactions if block.payload else ()


GENESIS = Block(0, GENESIS_HASH, Digest(bytes(32)), 0, NO_ADDRESS, b"")


def sim_address(number: int) -> Address:
    """The address of the simulated validator of this number."""
    return Address(bytes([number + 1]) * 20)


class SimValidator:
    """One life of one validator: drives a QBFT machine through a `Port`."""

    machine_class: type[QBFT] = QBFT
    stores_before_sending = True

    def __init__(self, port: Port, world: ConsensusWorld) -> None:
        self.port = port
        self.world = world
        self.keys = SimKeys(port.name)
        self.chain: list[Block] = [GENESIS]
        self.certificates: list[bytes] = [b""]
        self.pool: set[int] = set()
        self.included: set[int] = set()
        self._timers: dict[str, Timer] = {}
        self._busy_until_s = 0.0
        while stored := port.disk.get(f"block {len(self.chain)}"):
            self._append(*stored)
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
        """A message of any kind arrived."""
        match message:
            case Transactions(raw=raw):
                self.learn(int.from_bytes(number, "big") for number in raw)
            case GetBlocks(first=first):
                self._send_blocks(sender, first)
            case Blocks(blocks=blocks):
                self._import(blocks)
            case _:
                try:
                    self.step(steps.MessageReceived(sender, message))
                except ProtocolViolation as error:
                    self.world.count("refused")
                    self.port.log(f"refuses v{sender[0] - 1}: {error}")

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
        new = set(numbers) - self.included - self.pool
        if new:
            self.pool |= new
            self.step(steps.TransactionsPending())

    def _gossip(self, peers: Iterable[Address]) -> None:
        if self.pool:
            message = Transactions(tuple(n.to_bytes(4, "big") for n in sorted(self.pool)[:64]))
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
        for command in self.machine.handle(event, self.port.clock_s):
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
                self.later(
                    0.003, lambda: steps.BlockExecuted(block.hash, block.parent == self.head.hash)
                )
            case steps.BuildBlock():
                self.later(0.003, lambda: self._build(command))
            case steps.CommitBlock(block, certificate):
                self.port.call_later(0.002, lambda: self._commit(block, encode(certificate)))
            case steps.SetTimer(name, token, delay_s):
                self._cancel(name)
                self._timers[name] = self.port.call_later(
                    delay_s, lambda: self.step(steps.TimerExpired(name, token))
                )
            case steps.CancelTimer(name):
                self._cancel(name)
            case steps.RequestBlocks(peer, first):
                self.port.send(peer, GetBlocks(first))
            case steps.SendBlocks(to, first):
                self._send_blocks(to, first)
            case steps.Report(subject, text):
                self.world.count("reports")
                self.port.log(f"reports v{subject[0] - 1}: {text}")

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
        if self.head.height + 1 == command.height and (self.pool or command.round > 0):
            block = make_block(self.head, command.timestamp, self.port.name, self.pool)
        return steps.BlockBuilt(command.height, command.round, block)

    def _cancel(self, name: str) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

    # The chain.

    def _commit(self, block: Block, certificate: bytes) -> None:
        if block.height != self.head.height + 1:
            return
        self.port.disk.put(f"block {block.height}", (block, certificate))
        self._append(block, certificate)
        self.port.log(f"commits {block.height} {block.hash.hex()[:8]}")
        self.world.note_commit(self, block, decode_certificate(certificate))
        self._advance(sealed=self._bears_our_seal(certificate))

    def _append(self, block: Block, certificate: bytes) -> None:
        self.chain.append(block)
        self.certificates.append(certificate)
        self.included |= set(transactions_of(block))
        self.pool -= self.included

    def _advance(self, *, sealed: bool = False) -> None:
        validators = self.world.validators(self.head.height + 1)
        self.step(steps.HeadAdvanced(self.head, validators, bool(self.pool), sealed))

    def _bears_our_seal(self, certificate: bytes) -> bool:
        return any(seal[:20] == self.port.name for seal in decode_certificate(certificate).seals)

    def _sealed_height(self) -> int:
        heights = range(1, len(self.chain))
        return max((h for h in heights if self._bears_our_seal(self.certificates[h])), default=0)

    def _send_blocks(self, to: Address, first: int) -> None:
        blocks = [
            CertifiedBlock(block.payload, certificate)
            for block, certificate in zip(
                self.chain[first:], self.certificates[first:], strict=True
            )
        ][:MAX_SYNC_BLOCKS]
        if blocks and first > 0:
            self.port.send(to, Blocks(self.head.height, tuple(blocks)))

    def _import(self, blocks: Iterable[CertifiedBlock]) -> None:
        for item in blocks:
            block = read_block(item.block)
            if block.height != self.head.height + 1:
                continue
            certificate = decode_certificate(item.certificate)
            if certificate.block_hash == block.hash and certificate.height == block.height:
                check_certificate(
                    certificate, GENESIS_HASH, self.world.validators(block.height), self.keys
                )
                self._commit(block, item.certificate)


class TwoFacedValidator(SimValidator):
    """A Byzantine validator: proposes two blocks, votes for everything, and never tells why."""

    def broadcast(self, message: Any) -> None:
        """Tell one half of the others one thing and the other half another."""
        rng, peers = self.port.rng, [v for v in self.machine.validators if v != self.port.name]
        if isinstance(message, Proposal) and not message.prepares:
            other = make_block(self.head, int(self.port.clock_s), self.port.name, ())
            digest = signing_digest(
                GENESIS_HASH, PROPOSAL, message.height, message.round, other.hash
            )
            lie = msgspec.structs.replace(
                message, block=other.payload, signature=self.keys.sign(digest)
            )
            self.world.count("two-faced proposals")
            self.world.rivals[message.height, message.round] = (
                read_block(message.block).hash,
                other.hash,
            )
            self._split(peers, message, lie)
        elif isinstance(message, Prepare | Commit):
            rivals = self.world.rivals.get((message.height, message.round), ())
            for block_hash in sorted({message.block_hash, *rivals}):
                vote = msgspec.structs.replace(message, block_hash=block_hash)
                signature = self.keys.sign(vote_digest(GENESIS_HASH, vote))
                vote = msgspec.structs.replace(vote, signature=signature)
                for peer in peers:
                    self.port.send(peer, vote)
        elif isinstance(message, RoundChange) and rng.random() < 0.5:
            forgetful = RoundChange(message.height, message.round, 0, bytes(32), bytes(65))
            signature = self.keys.sign(vote_digest(GENESIS_HASH, forgetful))
            self.world.count("forgetful round-changes")
            self._split(peers, message, msgspec.structs.replace(forgetful, signature=signature))
        else:
            for peer in peers:
                self.port.send(peer, message)

    def _split(self, peers: list[Address], one: Any, other: Any) -> None:
        self.port.rng.shuffle(peers)
        for index, peer in enumerate(peers):
            self.port.send(peer, one if index % 2 else other)

    def do(self, command: steps.Command) -> None:
        """Answer questions about heights with lies."""
        if isinstance(command, steps.Send) and isinstance(command.message, Status):
            lie = msgspec.structs.replace(command.message, head=10**6, voted_height=10**6)
            command = steps.Send(command.to, lie)
        super().do(command)


ROUGH = Weather(loss=0.05, duplication=0.05, reordering=0.1)


@dataclass(frozen=True)
class Day:
    """What a seed makes happen. Times in virtual seconds; all trouble is over at `trouble_s`."""

    validators: int = 4
    trouble_s: float = 30.0
    patience_s: float = 150.0
    transactions: int = 20
    weather: Weather = ROUGH
    crashes: int = 4
    cuts: int = 2
    skew_s: float = 0.8
    lost_votes: int = 0
    """how often the last validator's vote store is deleted, or an old copy of it is restored"""
    two_faced: int = 0


class ConsensusWorld:
    """N validators, one day. `run` raises Violation, or returns whether all agreed in the end.

    At every instant: no height has two blocks; every certificate holds; no honest validator votes
    twice in one round, forgets a block that it voted to commit, or gives up a round before a quorum
    has reached it.
    """

    def __init__(
        self, seed: int, day: Day, validator_class: type[SimValidator] = SimValidator
    ) -> None:
        self.net = SimNet(seed, day.weather, label=lambda name: f"v{name[0] - 1}")
        self.day = day
        self.addresses = [sim_address(i) for i in range(day.validators)]
        self.honest = self.addresses[day.two_faced :]
        self.decided: dict[int, Digest] = {}
        self.rounds: Counter[int] = Counter()
        self.counted: Counter[str] = Counter()
        self.rivals: dict[tuple[int, int], tuple[Digest, Digest]] = {}
        self._votes: dict[tuple[Address, type, int, int], bytes] = {}
        self._reached: dict[int, dict[Address, int]] = {}
        self._sealed: dict[tuple[Address, int], int] = {}
        self._old_record: bytes | None = None
        for address in self.addresses:
            kind = validator_class if address in self.honest else TwoFacedValidator
            skew_s = self.net.rng.uniform(-day.skew_s, day.skew_s)
            self.net.add(address, partial(self._boot, kind), skew_s=skew_s)

    def _boot(self, kind: type[SimValidator], port: Port) -> SimValidator:
        return kind(port, self)

    def validators(self, height: int) -> tuple[Address, ...]:
        """Who validates this height."""
        return tuple(self.addresses)

    def count(self, what: str) -> None:
        """Note for the coverage table that something happened."""
        self.counted[what] += 1

    def note_vote(self, node: SimValidator, vote: Any) -> None:
        """Every message an honest validator sends to all comes by here."""
        if isinstance(vote, GetStatus):
            return
        reached = self._reached.setdefault(vote.height, {})
        if isinstance(vote, RoundChange) and vote.round > 1:
            there = sum(r >= vote.round - 1 for r in reached.values()) + self.day.two_faced
            if there < quorum(len(self.validators(vote.height))):
                raise Violation(f"{self._name(node)} climbs to round {vote.round} without a quorum")
        name = node.port.name
        reached[name] = max(vote.round, reached.get(name, 0))
        if isinstance(vote, RoundChange):
            sealed = self._sealed.get((name, vote.height), -1)
            if vote.prepared_plus_1 <= sealed < vote.round:
                raise Violation(f"{self._name(node)} forgot the block it voted to commit")
            return
        if isinstance(vote, Commit):
            sealed = self._sealed.get((name, vote.height), -1)
            self._sealed[name, vote.height] = max(vote.round, sealed)
        what = read_block(vote.block).hash if isinstance(vote, Proposal) else vote.block_hash
        place = (name, type(vote), vote.height, vote.round)
        if self._votes.setdefault(place, what) != what:
            raise Violation(
                f"{self._name(node)} sent two {type(vote).__name__} votes at height "
                f"{vote.height}, round {vote.round}"
            )

    def _name(self, node: SimValidator) -> str:
        return self.net.label(node.port.name)

    def note_commit(self, node: SimValidator, block: Block, certificate: Certificate) -> None:
        """Every block an honest node takes as final comes by here."""
        if node.port.name not in self.honest:
            return
        if self.decided.setdefault(block.height, block.hash) != block.hash:
            raise Violation(f"two blocks at height {block.height}")
        validators = self.validators(block.height)
        try:
            check_certificate(certificate, GENESIS_HASH, validators, SimKeys(NO_ADDRESS))
        except ProtocolViolation as error:
            raise Violation(f"{self._name(node)} committed without a proof: {error}") from None
        self.rounds[certificate.round] += 1

    def submit(self, number: int) -> None:
        """A transaction enters at a node that runs."""
        running = [a for a in self.net.running if a in self.honest]
        if running:
            self.net.node(self.net.rng.choice(running)).submit(number)

    def schedule(self) -> None:
        """Draw the day's events."""
        net, day, rng = self.net, self.day, self.net.rng
        for number in range(day.transactions):
            net.at(rng.uniform(1, day.trouble_s), partial(self.submit, number))
        for _ in range(day.crashes):
            victim, start_s = rng.choice(self.addresses), rng.uniform(1, day.trouble_s)
            lose = rng.random() < 0.7
            net.at(start_s, partial(self._crash, victim, lose))
            net.at(start_s + rng.expovariate(0.3), partial(net.start, victim))
        for _ in range(day.lost_votes):
            start_s = rng.uniform(1, day.trouble_s)
            net.at(start_s - rng.uniform(0, 5), self._copy_votes)
            net.at(start_s, self._lose_votes)
            net.at(start_s + rng.uniform(0.1, 3), partial(net.start, self.addresses[-1]))
        for _ in range(day.cuts):
            shuffled = rng.sample(self.addresses, len(self.addresses))
            size, both = rng.randrange(1, max(2, len(shuffled))), rng.random() < 0.7
            start_s = rng.uniform(1, day.trouble_s)
            net.at(start_s, partial(net.cut, shuffled[:size], shuffled[size:], both=both))
            net.at(start_s, partial(self.count, "cuts"))
            net.at(start_s + rng.uniform(1, 12), net.heal)
        net.at(day.trouble_s, self._end_trouble)

    def _crash(self, victim: Address, lose: bool) -> None:
        if self.net.node(victim) is not None:
            self.count("crashes")
            self.net.crash(victim, lose_unsynced=lose)

    def _copy_votes(self) -> None:
        self._old_record = self.net.disk(self.addresses[-1]).get("vote")

    def _lose_votes(self) -> None:
        """Kill the last validator, and delete its votes or restore the older copy."""
        self._crash(self.addresses[-1], lose=True)
        disk = self.net.disk(self.addresses[-1])
        old = self._old_record if self.net.rng.random() < 0.5 else None
        if disk.get("vote") is not None and disk.get("vote") != old:
            self.count("lost votes")
            disk.put("vote", old)
            disk.sync()

    def _end_trouble(self) -> None:
        self.net.weather = Weather()
        for address in self.addresses:
            self.net.start(address)
        self.net.heal()
        self.net.at(self.net.now_s + 1, lambda: self.submit(10_000))

    def has_settled(self) -> bool:
        """Whether all honest nodes have the last transaction and one head."""
        nodes = [self.net.node(a) for a in self.honest]
        return all(
            n is not None and 10_000 in n.included and n.head.hash == nodes[0].head.hash
            for n in nodes
        )

    def run(self) -> bool:
        """Live through the day; then wait, at most `patience_s`, for all to agree."""
        self.schedule()
        self.net.run(self.day.trouble_s + 1.5)
        return self.net.run(self.day.trouble_s + self.day.patience_s, self._stop)

    def _stop(self) -> bool:
        return self.has_settled()
