"""The embedded chain as a running service: drives the QBFT machine with real time, disk and peers.

    async with open_chain(engine, votes, pool, keys, transport) as chain:
        network.on_message("chain", chain.receive)
        network.on_connect(chain.peer_connected)
        name = await chain.submit(raw_transaction)
        head = await chain.wait_for_head(above=head.height, deadline_s=30)

One task owns the machine and feeds it events in order: peers' messages (bounded for each peer, who
take turns), timers, and the results of four lanes of blocking work, each a worker thread at a time:
the engine (build, execute, commit, import), the vote store, the pool, and serving blocks to others.
No peer has more than one job waiting in a lane. Nothing polls: an idle chain wakes up every few
seconds only to ask one peer where it is.

A member that is no validator runs the same code: it gets certified blocks pushed by the proposer,
and asks for what it missed.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import trio
from eth_hash.auto import keccak

from swarm.chain import consensus_steps as steps
from swarm.chain import qbft
from swarm.chain.block import Block, InvalidBlock, Transaction
from swarm.chain.censorship import Overlooked, has_room
from swarm.chain.engine import Engine
from swarm.chain.inbox import Inbox
from swarm.chain.messages import (
    MAX_GOSSIP_TRANSACTIONS,
    AnyMessage,
    Blocks,
    GetBlocks,
    GetStatus,
    Keys,
    Transactions,
    decode,
    encode,
)
from swarm.chain.pool import Pool
from swarm.chain.startup import VoteRecord, decode_record, encode_record, recovered_record
from swarm.chain.store import VoteStore
from swarm.chain.sync import certified_blocks, import_block, sealed_height
from swarm.chain.sync_sources import Sources
from swarm.errors import ChainError, LocalError, ProtocolViolation
from swarm.types import Address, Digest, to_hex

VOTE_KEY = b"qbft"
MESSAGES_PER_TURN = 16
"""What peers send must not keep this task from its own timers and results."""
MAX_JOBS = 256
ANNOUNCE_EVERY_S = 2.0
ASK_EVERY_S = 5.0
UNASKED_EVERY_S = 1.0
MAX_TOLD_BYTES = 256 * 1024
TOLD_EVERY_S = 60.0
SEEN_TRANSACTIONS = 1024
GATHER_S = 0.03
"""How long a transaction waits for others to share its block: who has waited for the same event
sends at the same time."""
LONGEST_GATHER_S = 0.15
"""The same, while more are known to be on their way; well below a round's first time-out."""

log = logging.getLogger("swarm.chain")

Job = Callable[[], Callable[[], None]]
"""Blocking work; what it returns is called in the service's own task."""


class Transport(Protocol):
    """How consensus reaches the other members; the node wires it to the network."""

    @property
    def connected(self) -> Collection[Address]:
        """The members in reach now."""
        ...

    def send(self, peer: Address, payload: bytes) -> None:
        """Send, in order, without waiting; drop if the peer is out of reach or too slow."""
        ...


@asynccontextmanager
async def open_chain(
    engine: Engine,
    votes: VoteStore,
    pool: Pool,
    keys: Keys,
    transport: Transport,
    *,
    clock_s: Callable[[], float] = time.time,
    refused: Callable[[Address, str], None] | None = None,
) -> AsyncIterator[ChainService]:
    """Run the chain on this engine until the block ends.

    `refused(peer, reason)` is called for what a peer sent against the protocol. Raises LocalError
    if the vote store is damaged.
    """
    record = await trio.to_thread.run_sync(_read_record, votes)
    sealed = await trio.to_thread.run_sync(
        sealed_height, engine, keys, record.height if record else 0
    )
    chain = ChainService(engine, votes, pool, keys, transport, record, sealed, clock_s, refused)
    async with trio.open_nursery() as nursery:
        for lane in (chain._engine_lane, chain._vote_lane, chain._pool_lane, chain._serving_lane):
            nursery.start_soon(chain._run_lane, lane)
        nursery.start_soon(chain._run)
        nursery.start_soon(chain._announce)
        yield chain
        nursery.cancel_scope.cancel()


def recover_votes(votes: VoteStore, head_height: int) -> None:
    """Let a node vote again at once after it lost its votes, on its operator's word.

    If it did vote above `head_height` before, that vote and a new one can contradict each other:
    once a third of the validators do this, two blocks can be decided at one height.
    """
    votes.put(VOTE_KEY, encode_record(recovered_record(head_height)))


def distrust_votes(votes: VoteStore) -> None:
    """Have a node that was restored from a backup vote only once no other machine uses its key,
    and the others have told how far they are."""
    votes.put(VOTE_KEY, encode_record(VoteRecord(restored=True)))


def forget_votes(votes: VoteStore) -> None:
    """Those of a key that is not used any more: the next one has none to miss, and asks the others
    all the same."""
    votes.delete(VOTE_KEY)


def _read_record(votes: VoteStore) -> VoteRecord | None:
    raw = votes.get(VOTE_KEY)
    return None if raw is None else decode_record(raw)


class _Lane:
    """A bounded queue of blocking jobs, done one after another."""

    def __init__(self) -> None:
        self._send, self.jobs = trio.open_memory_channel[Job](MAX_JOBS)

    def add(self, job: Job) -> bool:
        """Queue a job; False, and nothing queued, if too many wait."""
        try:
            self._send.send_nowait(job)
        except trio.WouldBlock:
            return False
        return True


class ChainService:
    """A running chain; made by `open_chain`."""

    def __init__(
        self,
        engine: Engine,
        votes: VoteStore,
        pool: Pool,
        keys: Keys,
        transport: Transport,
        record: VoteRecord | None,
        sealed: int,
        clock_s: Callable[[], float],
        refused: Callable[[Address, str], None] | None,
    ) -> None:
        self._engine = engine
        self._votes = votes
        self._pool = pool
        self._keys = keys
        self._transport = transport
        self._clock_s = clock_s
        self._refused = refused
        self._machine = qbft.QBFT(
            address=keys.address,
            genesis=engine.vote_domain(),
            keys=keys,
            decode=engine.decode,
            record=record,
            sealed_height=sealed,
        )
        self._events: deque[steps.Event] = deque()
        self._results: deque[Callable[[], None]] = deque()
        self._inbox = Inbox()
        self._timers: dict[str, tuple[float, int]] = {}
        self._wake = trio.Event()
        self._head_changed = trio.Event()
        self._engine_lane = _Lane()
        self._vote_lane = _Lane()
        self._pool_lane = _Lane()
        self._serving_lane = _Lane()
        self._to_build: steps.BuildBlock | None = None
        self._gathers_since_s = 0.0
        self._sources = Sources()
        self._overlooked = Overlooked[Digest]()
        self._to_import: OrderedDict[Address, Blocks] = OrderedDict()
        self._importing = False
        self._serving: dict[Address, tuple[int, bool] | None] = {}
        self._admitting: dict[Address, list[bytes]] = {}
        self._served_unasked: dict[Address, float] = {}
        self._told: dict[Address, float] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self.on_admitted: Callable[[Transaction], None] = lambda transaction: None
        """Called with what others sent, once it waits for a block here."""
        self.expects_more: Callable[[Collection[Transaction]], bool | None] = lambda waiting: None
        """Asked, before this node builds a block of these, whether others that belong with them are
        still to come. If so, it waits a little longer; if they are complete, not at all; None: who
        knows."""
        self._raise(self._head_event(engine.head))

    # What the node uses.

    @property
    def head(self) -> Block:
        """The newest committed block."""
        return self._engine.head

    @property
    def resume_height(self) -> int | None:
        """From which height this node votes; None until the others have answered at the start."""
        return self._machine.resume_height

    async def submit(self, raw: bytes) -> Digest:
        """Take a signed transaction into the pool and tell it to all members; return its name.

        It is pending then, not final. Raises ChainError, which says why it is refused.
        """
        name = await trio.to_thread.run_sync(self._pool.add, raw)
        self._tell(Transactions((raw,)), self._transport.connected)
        self._raise(steps.TransactionsPending())
        return name

    def submit_from_thread(self, raw: bytes) -> Digest:
        """`submit`, for a worker thread started by trio, such as JSON-RPC's."""
        return trio.from_thread.run(self.submit, raw)

    async def wait_for_head(self, above: int, deadline_s: float) -> Block:
        """Wait at most `deadline_s` for a head above this height; return the head there is then."""
        with trio.move_on_after(deadline_s):
            while self.head.height <= above:
                await self._head_changed.wait()
        return self.head

    async def heads(self) -> AsyncIterator[Block]:
        """The head now, and again whenever it changed; several blocks may pass in one step."""
        height = -1
        while True:
            while self.head.height <= height:
                await self._head_changed.wait()
            head = self.head
            height = head.height
            yield head

    def status(self) -> dict[str, object]:
        """Where consensus stands, for people and programs."""
        machine = self._machine
        return {
            "height": self.head.height,
            "head": to_hex(self.head.hash),
            "head_timestamp": self.head.timestamp,
            "round": machine.round,
            "role": self._role(),
            "votes_from": machine.resume_height,
            "validators": [to_hex(v) for v in machine.validators],
            "proposer": to_hex(machine.proposer(machine.round)),
            "waiting_for": [to_hex(v) for v in machine.waiting_for()],
            "pending_transactions": len(self._pool),
        }

    def _role(self) -> str:
        machine = self._machine
        if machine.address not in machine.validators:
            return "follower"
        resume = machine.resume_height
        return "observer" if resume is None or machine.height < resume else "validator"

    def missing(self) -> list[Address]:
        """The validators whose vote or answer is missing for the next step."""
        return list(self._machine.waiting_for())

    @property
    def is_held(self) -> bool:
        """Whether this node was restored, and votes only after `trust_votes`."""
        return self._machine.is_held

    def trust_votes(self) -> None:
        """No other machine uses this node's key: it may vote once the others have answered."""
        self._raise(steps.KeyIsUnshared())

    def reconsider(self) -> None:
        """`expects_more` may answer otherwise now."""
        self._wake.set()

    # What the network calls; neither waits.

    def receive(self, sender: Address, payload: bytes) -> None:
        """A message from a member. Dropped when this peer has too much waiting."""
        if self._inbox.put(sender, payload):
            self._wake.set()

    def peer_connected(self, peer: Address) -> None:
        """A connection to this member was made."""
        self._tell_pending([peer])
        self._raise(steps.PeerConnected(peer))

    # The one task that owns the machine.

    async def _run(self) -> None:
        while True:
            self._fire_timers()
            while self._results:
                self._results.popleft()()
            while self._events:
                self._step(self._events.popleft())
            for _ in range(min(len(self._inbox), MESSAGES_PER_TURN)):
                self._read(*self._inbox.take())
            build_s = self._build_when_due()
            fetch_s = self._fetch_when_due()
            if self._inbox or self._events:
                await trio.lowlevel.checkpoint()
                continue
            self._wake = trio.Event()
            next_timer_s = min((at for at, _ in self._timers.values()), default=float("inf"))
            with trio.move_on_at(min(next_timer_s, build_s, fetch_s)):
                await self._wake.wait()

    def _raise(self, event: steps.Event) -> None:
        self._events.append(event)
        self._wake.set()

    def _fire_timers(self) -> None:
        now_s = trio.current_time()
        for name, (at_s, token) in list(self._timers.items()):
            if at_s <= now_s:
                del self._timers[name]
                self._events.append(steps.TimerExpired(name, token))

    def _read(self, sender: Address, payload: bytes) -> None:
        """Decode and dispatch one message; a violation is named, and changes nothing."""
        try:
            self._dispatch(sender, decode(payload))
        except ProtocolViolation as error:
            self._refuse(sender, error)

    def _dispatch(self, sender: Address, message: AnyMessage) -> None:
        match message:
            case Transactions(raw=raws):
                self._learn(sender, raws)
            case GetBlocks(first=first):
                self._serve(sender, first, asked=True)
            case Blocks():
                self._import(sender, message)
            case _:
                self._step(steps.MessageReceived(sender, message))

    def _refuse(self, sender: Address, error: ProtocolViolation) -> None:
        self._tell_person(sender, f"refused a message: {error}")
        if self._refused is not None:
            self._refused(sender, str(error))

    def _tell_person(self, subject: Address, text: str) -> None:
        """Log what somebody did, once a minute each: who sends nonsense must not fill the log."""
        now_s = trio.current_time()
        due = now_s - self._told.get(subject, -TOLD_EVERY_S) >= TOLD_EVERY_S
        if due:
            self._told[subject] = now_s
        log.log(logging.WARNING if due else logging.DEBUG, "%s: %s", to_hex(subject), text)

    def _step(self, event: steps.Event) -> None:
        for command in self._machine.handle(event, self._clock_s()):
            self._do(command)

    def _do(self, command: steps.Command) -> None:
        match command:
            case steps.Broadcast(message):
                others = [v for v in self._machine.validators if v != self._keys.address]
                self._tell(message, others)
            case steps.Send(to, message):
                self._tell(message, [to])
            case steps.StoreVote(token, record):
                self._start(self._vote_lane, partial(self._store, token, record))
            case steps.ExecuteBlock(block):
                self._start(self._engine_lane, partial(self._execute, block))
            case steps.BuildBlock(round=0):
                self._to_build = command
                self._gathers_since_s = trio.current_time()
            case steps.BuildBlock():
                self._to_build = None
                self._start(self._engine_lane, partial(self._build, command))
            case steps.CommitBlock(block, certificate):
                self._start(self._engine_lane, partial(self._commit, block, encode(certificate)))
            case steps.SetTimer(name, token, delay_s):
                self._timers[name] = (trio.current_time() + delay_s, token)
            case steps.CancelTimer(name):
                self._timers.pop(name, None)
            case steps.RequestBlocks(peer, height):
                self._sources.claim(peer, height)
            case steps.SendBlocks(to, first):
                self._serve_unasked(to, first)
            case steps.Report(subject, text) if subject == self._keys.address:
                log.warning("%s: %s", to_hex(subject), text)
            case steps.Report(subject, text):
                self._tell_person(subject, text)

    def _build_when_due(self) -> float:
        """Build the block that was asked for, if it need not wait; return when to look again."""
        if self._to_build is None:
            return float("inf")
        match self.expects_more(self._pool.waiting()):
            case True:
                gather_s = LONGEST_GATHER_S
            case False:
                gather_s = 0.0
            case _:
                gather_s = GATHER_S
        due_s = self._gathers_since_s + gather_s
        if trio.current_time() < due_s:
            return due_s
        command, self._to_build = self._to_build, None
        self._start(self._engine_lane, partial(self._build, command))
        return float("inf")

    def _tell(self, message: AnyMessage, peers: Collection[Address]) -> None:
        payload = encode(message)
        for peer in peers:
            self._transport.send(peer, payload)

    # Lanes of blocking work.

    def _start(self, lane: _Lane, job: Job) -> None:
        """Queue a job of the machine's: it has at most a handful under way."""
        if not lane.add(job):
            raise LocalError(f"{MAX_JOBS} jobs of consensus wait: the disk or the engine hangs")

    async def _run_lane(self, lane: _Lane) -> None:
        async for job in lane.jobs:
            self._results.append(await trio.to_thread.run_sync(job))
            self._wake.set()

    def _store(self, token: int, record: VoteRecord) -> Callable[[], None]:
        self._votes.put(VOTE_KEY, encode_record(record))
        return partial(self._step, steps.VoteStored(token))

    def _execute(self, block: Block) -> Callable[[], None]:
        valid = True
        try:
            self._engine.execute(block)
        except InvalidBlock as error:
            log.warning("block %s of %s: %s", block.height, to_hex(block.proposer), error)
            valid = False
        return partial(self._step, steps.BlockExecuted(block.hash, valid))

    def _build(self, command: steps.BuildBlock) -> Callable[[], None]:
        """Everything that is pending goes in; round 0 needs at least one transaction."""
        height, round_number = command.height, command.round
        pending = self._pool.pending()
        block = None
        if self._engine.head.height + 1 == height and (pending or round_number > 0):
            built = self._engine.build(pending, command.timestamp, self._keys.address)
            if round_number > 0 or self._engine.transactions(built):
                block = built
        return partial(self._built, steps.BlockBuilt(height, round_number, block), pending)

    def _built(self, event: steps.BlockBuilt, tried: tuple[bytes, ...]) -> None:
        self._step(event)
        if event.block is None and set(self._pool.pending()) - set(tried):
            self._step(steps.TransactionsPending())

    def _commit(self, block: Block, certificate: bytes) -> Callable[[], None]:
        if block.height == self._engine.head.height + 1:
            self._engine.commit(block, certificate)
            self._pool.prune()
            event = replace(self._head_event(block), unfair=self._unfair(block))
            if block.proposer == self._keys.address:
                return partial(self._push_and_advance, event)
            return partial(self._advance, event)
        return partial(self._advance, self._head_event(block))

    def _unfair(self, block: Block) -> frozenset[Address]:
        """Who has left out for too long what waits here, now that this block is decided."""
        first = self._pool.first_of_each()
        room = dict.fromkeys((t.hash for t in first), False)
        known = [t for t in first if self._overlooked.knows(t.hash)]
        if known:
            held, gas_used = self._engine.content(block)
            rules = self._engine.rules
            room |= {t.hash: has_room(held, gas_used, t, rules) for t in known}
        validators = len(self._engine.validators(block.height))
        return self._overlooked.note_block(block.proposer, room, validators)

    def _head_event(self, block: Block, *, sealed: bool = False) -> steps.HeadAdvanced:
        validators = self._engine.validators(block.height + 1)
        domain = self._engine.vote_domain(block.height + 1)
        return steps.HeadAdvanced(block, validators, bool(self._pool.pending()), sealed, domain)

    def _advance(self, event: steps.HeadAdvanced) -> None:
        self._step(event)
        self._head_changed.set()
        self._head_changed = trio.Event()

    def _push_and_advance(self, event: steps.HeadAdvanced) -> None:
        """Hand our block to the members that follow without voting."""
        followers = set(self._transport.connected) - set(self._machine.validators)
        self._advance(event)
        for peer in sorted(followers):
            self._serve(peer, event.head.height, asked=False)

    # Blocks for others, and from others: one answer and one import of each peer waits at most.

    def _serve(self, peer: Address, first: int, *, asked: bool) -> None:
        """Hand over blocks; who asked for them is told, too, that there are none."""
        if peer in self._serving:
            self._serving[peer] = first, asked
        elif self._serving_lane.add(partial(self._read_blocks, peer, first, asked)):
            self._serving[peer] = None
        else:
            log.info("too many peers ask for blocks: %s has to ask again", to_hex(peer))

    def _read_blocks(self, peer: Address, first: int, asked: bool) -> Callable[[], None]:
        return partial(self._served, peer, certified_blocks(self._engine, first), asked)

    def _served(self, peer: Address, blocks: Blocks, asked: bool) -> None:
        if blocks.blocks or asked:
            self._tell(blocks, [peer])
        wanted = self._serving.pop(peer)
        if wanted is not None:
            self._serve(peer, wanted[0], asked=wanted[1])

    def _serve_unasked(self, peer: Address, first: int) -> None:
        now_s = trio.current_time()
        if now_s - self._served_unasked.get(peer, -UNASKED_EVERY_S) >= UNASKED_EVERY_S:
            self._served_unasked[peer] = now_s
            self._serve(peer, first, asked=False)

    def _fetch_when_due(self) -> float:
        """Ask for blocks that we lack, if it is somebody's turn; return when to look again."""
        head, connected = self.head.height, self._transport.connected
        peer = self._sources.next(head, connected, trio.current_time())
        if peer is not None:
            self._tell(GetBlocks(head + 1), [peer])
        return self._sources.due_s(head, connected)

    def _import(self, sender: Address, message: Blocks) -> None:
        self._to_import[sender] = message
        self._import_next()

    def _import_next(self) -> None:
        if self._to_import and not self._importing:
            self._importing = True
            sender, message = self._to_import.popitem(last=False)
            self._start(self._engine_lane, partial(self._import_blocks, sender, message))

    def _import_blocks(self, sender: Address, message: Blocks) -> Callable[[], None]:
        imported: list[steps.HeadAdvanced] = []
        violation: ProtocolViolation | None = None
        try:
            for item in message.blocks:
                found = import_block(self._engine, self._keys, item)
                if found is not None:
                    block, sealed = found
                    self._pool.prune()
                    imported.append(self._head_event(block, sealed=sealed))
        except ProtocolViolation as error:
            violation = error
        return partial(self._imported, sender, imported, message.head, violation)

    def _imported(
        self,
        sender: Address,
        imported: list[steps.HeadAdvanced],
        their_head: int,
        violation: ProtocolViolation | None,
    ) -> None:
        self._importing = False
        for event in imported:
            self._advance(event)
        self._sources.answered(sender, len(imported), their_head, trio.current_time())
        if violation is not None:
            self._refuse(sender, violation)
        self._import_next()

    # Transactions.

    def _learn(self, sender: Address, raws: tuple[bytes, ...]) -> None:
        """Take a peer's transactions into the pool; those seen before cost a hash.

        A peer has as many waiting as one message holds: the others are told again.
        """
        waiting = self._admitting.get(sender)
        new = []
        for raw in raws[: MAX_GOSSIP_TRANSACTIONS - len(waiting or ())]:
            name = keccak(raw)
            if name not in self._seen:
                self._seen[name] = None
                new.append(raw)
        while len(self._seen) > SEEN_TRANSACTIONS:
            self._seen.popitem(last=False)
        if waiting is not None:
            waiting += new
        elif new:
            self._admit_soon(sender, new)

    def _admit_soon(self, sender: Address, raws: list[bytes]) -> None:
        if self._pool_lane.add(partial(self._admit, sender, raws)):
            self._admitting[sender] = []
        else:
            self._forget(raws)

    def _admit(self, sender: Address, raws: list[bytes]) -> Callable[[], None]:
        names, refused = [], []
        for raw in raws:
            try:
                names.append(self._pool.add(raw))
            except ChainError as error:
                log.debug("a peer's transaction is not taken: %s", error)
                refused.append(raw)
        return partial(self._admitted, sender, names, refused)

    def _admitted(self, sender: Address, names: list[Digest], refused: list[bytes]) -> None:
        self._forget(refused)
        more = self._admitting.pop(sender)
        if more:
            self._admit_soon(sender, more)
        if names:
            self._step(steps.TransactionsPending())
        for name in names:
            transaction = self._pool.find(name)
            if transaction is not None:
                self.on_admitted(transaction)

    def _forget(self, raws: list[bytes]) -> None:
        """What was refused may fit later, when it is told again."""
        for raw in raws:
            self._seen.pop(keccak(raw), None)

    def _tell_pending(self, peers: Collection[Address]) -> None:
        """Tell a part of what waits: first what a block could contain now, of each sender in turn.

        What one member lets wait here must neither crowd out the others' nor cost much to repeat.
        """
        told: list[bytes] = []
        size = 0
        for raw in dict.fromkeys((*self._pool.pending(), *self._pool.all())):
            size += len(raw)
            if len(told) == MAX_GOSSIP_TRANSACTIONS or size > MAX_TOLD_BYTES:
                break
            told.append(raw)
        if told:
            self._tell(Transactions(tuple(told)), peers)

    async def _announce(self) -> None:
        """Tell again what still waits, and ask one peer after another where it is."""
        turns = 0
        while True:
            await trio.sleep(ANNOUNCE_EVERY_S)
            self._tell_pending(self._transport.connected)
            turns += 1
            peers = sorted(self._transport.connected)
            if peers and turns * ANNOUNCE_EVERY_S % ASK_EVERY_S < ANNOUNCE_EVERY_S:
                self._tell(GetStatus(), [peers[turns % len(peers)]])
