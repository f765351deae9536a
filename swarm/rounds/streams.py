"""Streams of one plan through this node: from its trainer to the holder of the plan's role, and
from the others' to the process that holds it here.

Who may speak to whom is looked up on the chain, as the round machine sees it: a trainer of the
round's roster, with the round's holder, in the attempt that is open. The bytes go through worker
threads of the network (`network.stream_relay`); here is only who, how much, and what of it is told.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Protocol, TypeVar

import msgspec
import outcome
import trio

from swarm.box import frames
from swarm.errors import UNREADABLE, LocalError, NoAnswer, PlanError, ProtocolViolation, RemoteError
from swarm.learning.plans.stages import TRAIN
from swarm.protocol import machine as m
from swarm.protocol.state import RoundStatus
from swarm.protocol.streams import Conversation
from swarm.rounds.address_book import AddressBook
from swarm.rounds.outgoing import Leaving, OnLeaving, Purpose
from swarm.rounds.records import Records, StreamRecord
from swarm.rounds.site_limits import SiteLimits
from swarm.types import NO_DIGEST, Address, MemberId, PlanId

log = logging.getLogger("swarm.plan")

OPEN_WITHIN_S = 120.0
"""How long a holder may take to be ready: its process imports torch."""
OPEN_AGAIN_S = 0.3
ASK_S = 10.0
Done = TypeVar("Done")


@dataclass(frozen=True)
class StreamName:
    """Which stream a member wants: its own, in this attempt."""

    plan: Annotated[int, msgspec.Meta(ge=0)]
    round: Annotated[int, msgspec.Meta(ge=0)]
    attempt: Annotated[int, msgspec.Meta(ge=0)]


_names = msgspec.msgpack.Decoder(StreamName)


def read_name(name: bytes) -> StreamName:
    """Read a stream's name. Raises ProtocolViolation for what is none."""
    try:
        return _names.decode(name)
    except UNREADABLE as error:
        raise ProtocolViolation(f"no name of a stream: {error}") from None


@dataclass(frozen=True)
class StreamEnd:
    """What the network is given of a stream (`network.stream_relay.StreamEnd`)."""

    near: socket.socket
    book: Conversation
    asks: bool
    leaving: Callable[[int], None]


class StreamCarrier(Protocol):
    """What is needed of the network here."""

    async def carry_stream(
        self, peer: Address, name: bytes, end: StreamEnd, *, deadline_s: float
    ) -> None: ...


@dataclass
class Streams:
    """One plan's. `admit` and `join` answer the others; `asking` is for this node's training."""

    plan: PlanId
    me: MemberId
    machine: m.RoundMachine
    book: AddressBook
    carrier: StreamCarrier
    records: Records
    limits: SiteLimits
    on_leaving: OnLeaving
    _door: socket.socket | None = None
    """Leads to the process that holds the role here."""
    _held: tuple[int, int] | None = None
    _opened: trio.Event = field(default_factory=trio.Event)
    _spent: dict[int, int] = field(default_factory=dict)
    """Bytes sent, by round."""
    _counting: threading.Lock = field(default_factory=threading.Lock)

    # This node holds the role.

    def open_door(self, number: int, attempt: int) -> socket.socket:
        """From now on streams of this attempt are let in; the end for the process that holds."""
        self.close_door()
        self._door, theirs = socket.socketpair()
        self._door.setblocking(False)
        self._held = (number, attempt)
        self._opened.set()
        self._opened = trio.Event()
        self._spent = {n: spent for n, spent in self._spent.items() if n >= number}
        return theirs

    def close_door(self) -> None:
        """The attempt is over: no more streams, and those that there are end."""
        if self._door is not None:
            self._door.close()
        self._door = self._held = None

    def admit(self, sender: Address, name: StreamName) -> None:
        """Raise RemoteError unless this member may have the stream, now."""
        self._asker(sender, name)

    def join(self, sender: Address, name: StreamName) -> StreamEnd:
        """The end here of a member's stream. Raises RemoteError as `admit`."""
        asker, book = self._asker(sender, name), Conversation()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._hand_in(theirs)
            except RemoteError:
                ours.close()
                raise
        answers = Purpose("stream", self.plan, name.round)
        record = self._record(name.round, asker)
        leaving = self._counted(name.round, record, book, answers, sender)
        return StreamEnd(ours, book, False, leaving)

    def _asker(self, sender: Address, name: StreamName) -> MemberId:
        plan, member = self.machine.plan, self.book.owner(sender)
        round = None if plan is None else plan.round
        if round is None or round.status is not RoundStatus.OPEN or self._door is None:
            raise RemoteError("the role is not held here now")
        if self._held != (name.round, name.attempt) or round.holder != self.me:
            raise RemoteError("the role is not held here in that attempt")
        if member is None or not round.trainers >> member.id & 1:
            raise RemoteError("you train nothing in this round")
        return member.id

    def _hand_in(self, stream: socket.socket) -> None:
        """Give a stream to the process that holds the role. Raises RemoteError."""
        if self._door is None:
            raise RemoteError("the role is not held here any more")
        try:
            frames.send(self._door, b"stream", [stream.fileno()])
        except OSError as error:
            raise RemoteError("the process that holds the role takes no stream") from error

    # This node's trainer asks.

    async def asking(self, command: m.Train, work: Callable[[int | None], Awaitable[Done]]) -> Done:
        """Do `work`, given the descriptor of its trainer's socket to the role's holder, or None
        where there is none. Raises PlanError if it sent more than this site allows, and as it."""
        if command.holder is None or command.task != TRAIN:
            return await work(None)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, command, command.holder, ours)
                # Kept out of the nursery, which would raise it in a group.
                done = await outcome.acapture(work, theirs.fileno())
                nursery.cancel_scope.cancel()
        if isinstance(done, outcome.Error) and isinstance(done.error, NoAnswer):
            self.note_fault(command.number, command.holder, str(done.error))
        if isinstance(done, outcome.Error) and self._spent.get(command.number, 0) > self._most:
            raise PlanError(
                f"the plan sends more than {self._most} bytes in one round, which this site's "
                "`policy.max_round_mb` allows: raise it in node.toml and restart the node, or "
                "withdraw"
            )
        result: Done = done.unwrap()
        return result

    async def _carry(self, command: m.Train, holder: MemberId, ours: socket.socket) -> None:
        """Carry the trainer's stream from its first byte on; a fault is noted, and ends it."""
        book = Conversation()
        is_own = holder == self.me
        record = StreamRecord() if is_own else self._record(command.number, holder)
        with ours:
            await trio.lowlevel.wait_readable(ours.fileno())
            try:
                with trio.fail_after(OPEN_WITHIN_S) as patience:
                    await self._carry_to(command, holder, ours, book, record, patience)
            except trio.TooSlowError:
                self.note_fault(command.number, holder, "was not ready to be asked")
            except LocalError as error:
                self.note_fault(command.number, self.me, str(error))
            except RemoteError as error:
                self.note_fault(command.number, holder, str(error))
            finally:
                record.note(book, True)

    async def _carry_to(
        self,
        command: m.Train,
        holder: MemberId,
        ours: socket.socket,
        book: Conversation,
        record: StreamRecord,
        patience: trio.CancelScope,
    ) -> None:
        """Try until the holder is ready: it sees the block that opened the round a moment before or
        after this node. `patience` is for that alone."""
        attempt = (command.number, command.attempt)
        if holder == self.me:
            while self._held != attempt:
                await self._opened.wait()
            self._hand_in(ours)
            return
        name = msgspec.msgpack.encode(StreamName(self.plan, *attempt))
        found = self.book.addresses([holder])
        if not found:
            raise RemoteError("it is no member any more")
        to = found[0]
        of_me = Purpose("stream", self.plan, command.number, self.me)
        leaving = self._counted(command.number, record, book, of_me, to)
        end = StreamEnd(ours, book, True, self._begun(leaving, patience))
        while True:
            try:
                await self.carrier.carry_stream(to, name, end, deadline_s=ASK_S)
                return
            except RemoteError:
                if ours.fileno() < 0 or book.asked:
                    raise
            await trio.sleep(OPEN_AGAIN_S)

    @staticmethod
    def _begun(leaving: Callable[[int], None], patience: trio.CancelScope) -> Callable[[int], None]:
        token = trio.lowlevel.current_trio_token()

        def noted(size_bytes: int) -> None:
            if patience.deadline != math.inf:
                token.run_sync_soon(setattr, patience, "deadline", math.inf)
            leaving(size_bytes)

        return noted

    # What is told of it.

    def note_fault(self, number: int, member: MemberId, why: str) -> None:
        """A member has broken a stream, or a rule of it."""
        log.warning("the stream with %s broke: %s", self.book.name(member), why)
        record = self._record(number, member)
        record.fault = record.fault or why

    def _record(self, number: int, member: MemberId) -> StreamRecord:
        return self.records.at(number).talks.setdefault(int(member), StreamRecord())

    def _counted(
        self, number: int, record: StreamRecord, book: Conversation, what: Purpose, to: Address
    ) -> Callable[[int], None]:
        """Counts pieces before they are sent, in worker threads. Raises LocalError for one too
        many."""

        def leaving(size_bytes: int) -> None:
            with self._counting:
                self._spent[number] = self._spent.get(number, 0) + size_bytes
                if self._spent[number] > self._most:
                    raise LocalError(f"more than {self._most} bytes in one round")
            self.on_leaving(Leaving(to, NO_DIGEST, None, size_bytes, what))
            record.sent_bytes += size_bytes
            record.note(book, what.of is not None)

        return leaving

    @property
    def _most(self) -> float:
        return math.inf if self.limits.round_bytes is None else self.limits.round_bytes
