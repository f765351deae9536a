"""One live connection to a member: messages, requests and answers over one control stream.

The dialler opens the control stream, both sides write to it. Tasks write a frame whole, if there is
room for it; otherwise they queue it, and one task writes, messages (consensus, mostly) before
requests and answers. So a caller that gives up leaves nothing half-written, and an answer that
comes late is dropped by its id. Further streams carry blobs.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from swarm.errors import (
    UNREADABLE,
    LocalError,
    PeerUnreachable,
    ProtocolViolation,
    RemoteError,
    SwarmError,
)
from swarm.network.limits import NetworkLimits
from swarm.network.multistream import NegotiationError, answer, propose
from swarm.network.muxer import Muxer, Stream
from swarm.network.peer_services import PEER_SERVICES
from swarm.network.peer_standing import Standing
from swarm.network.signals import Signal
from swarm.network.wire import (
    CONTROL,
    Message,
    Request,
    Response,
    control_decoder,
    encode_frame,
    read_frame,
    short,
)
from swarm.types import Address, to_hex

log = logging.getLogger("swarm.network")

RequestHandler = Callable[[Address, bytes], Awaitable[bytes]]
MessageHandler = Callable[[Address, bytes], Awaitable[None] | None]
StreamHandler = Callable[[Standing, Stream], Awaitable[None]]


@dataclass
class Handlers:
    """What this node answers to; shared by all connections, filled before peers connect."""

    requests: dict[str, RequestHandler] = field(default_factory=dict)
    messages: dict[str, MessageHandler] = field(default_factory=dict)
    streams: dict[str, StreamHandler] = field(default_factory=dict)
    for_observers: set[str] = field(default_factory=set)
    """The topics and methods that are for members' standbys, too."""
    faulty: set[str] = field(default_factory=set)
    """Those of them that failed by a fault of this node's, which is logged once for each.

    What a peer sends may bring a fault to light that nobody thought of. It ends that request,
    message or stream, and neither the connection nor the node.
    """


@dataclass
class _Answer:
    """A request that waits: `response` is None once the connection has ended."""

    arrived: trio.Event = field(default_factory=trio.Event)
    response: Response | None = None


class Connection:
    """An authenticated connection to `peer`; `dialler` is the address of the side that dialled."""

    def __init__(
        self,
        muxer: Muxer,
        peer: Standing,
        dialler: Address,
        remote: str,
        handlers: Handlers,
        limits: NetworkLimits,
    ) -> None:
        self.peer = peer
        self.dialler = dialler
        self.remote = remote
        self.opened_at = trio.current_time()
        self._muxer = muxer
        self._handlers = handlers
        self._limits = limits
        self._scope = trio.CancelScope()
        self._closed = False
        self._ids = itertools.count()
        self._answers: dict[int, _Answer] = {}
        self._messages: deque[bytes] = deque()
        self._message_bytes = 0
        self._frames: deque[tuple[bytes, trio.Event]] = deque()
        self._queued = Signal()
        self._control: Stream | None = None
        self._writing = False
        self._inbound: deque[Message] = deque()
        self._inbound_bytes = 0
        self._received = Signal()
        self._handling = 0
        self._refusals: deque[trio.Event] = deque()
        self._streams = 0
        self.fetching = trio.CapacityLimiter(limits.max_fetches)

    # Using it

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """End the connection, now; `run` returns soon after."""
        self._closed = True
        self._scope.cancel()

    def send(self, topic: str, payload: bytes) -> None:
        """Queue a message; the oldest gives way if the peer does not keep up."""
        frame = encode_frame(Message(topic, payload))
        if self._write_at_once(frame):
            self.peer.count(sent=len(frame))
            return
        self._messages.append(frame)
        self._message_bytes += len(frame)
        while (
            len(self._messages) > self._limits.max_queued_messages
            or self._message_bytes > self._limits.max_queued_message_bytes
        ):
            self._message_bytes -= len(self._messages.popleft())
            self.peer.dropped_messages += 1
        self._queued.notify()

    async def request(self, method: str, payload: bytes) -> bytes:
        """Ask and wait; the caller sets the deadline.

        Raises RemoteError with the peer's refusal, PeerUnreachable if the connection ends first.
        """
        if len(self._answers) >= self._limits.max_outbound_requests:
            raise LocalError(
                f"{len(self._answers)} requests to one peer wait for an answer; no more at once"
            )
        request_id, waiting = next(self._ids), _Answer()
        self._answers[request_id] = waiting
        try:
            if not self._closed:
                self._queue_frame(encode_frame(Request(request_id, method, payload)))
                self.peer.count(sent=len(payload))
                await waiting.arrived.wait()
        finally:
            del self._answers[request_id]
        if waiting.response is None:
            raise PeerUnreachable(f"the connection ended before {method!r} was answered")
        if waiting.response.payload is None:
            raise RemoteError(f"refused {method!r}: {short(waiting.response.refusal)}")
        return waiting.response.payload

    async def open_stream(self, protocol: str) -> Stream:
        """A stream of its own. Raises PeerUnreachable if the peer does not take it up in time."""
        stream = await self._muxer.open()
        try:
            with trio.fail_after(self._limits.handshake_s):
                await propose(stream, protocol)
        except (NegotiationError, trio.TooSlowError) as error:
            await stream.reset()
            raise PeerUnreachable(f"the peer does not answer to {protocol}: {error}") from error
        except (PeerUnreachable, trio.Cancelled):
            await stream.reset()
            raise
        return stream

    # Running it

    async def run(self, opened: Callable[[Connection], bool]) -> None:
        """Serve the connection until it ends; `opened` is called once it is of use, and may refuse.

        The peer's faults end the connection and are scored; they are never raised.
        """
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_muxer)
                    control = await self._open_control(nursery)
                    if control is None or not opened(self):
                        nursery.cancel_scope.cancel()
                        return
                    self._control = control
                    nursery.start_soon(self._read_control, control, nursery)
                    nursery.start_soon(self._write_control, control)
                    nursery.start_soon(self._deliver_messages)
                    nursery.start_soon(self._accept_streams, nursery)
            finally:
                self._closed = True
                for waiting in self._answers.values():
                    waiting.arrived.set()

    async def _run_muxer(self) -> None:
        await self._muxer.run(self._limits.write_stall_s)
        self.close()

    async def _open_control(self, nursery: trio.Nursery) -> Stream | None:
        await self._muxer.event_started.wait()
        with trio.move_on_after(self._limits.handshake_s):
            try:
                if self._muxer.is_initiator:
                    return await self.open_stream(CONTROL)
                while True:
                    stream = await self._muxer.accept()
                    protocol = await self._first_protocol(stream)
                    if protocol == CONTROL:
                        return stream
                    if protocol is not None:
                        await self._take_stream(nursery, stream, protocol)
            except PeerUnreachable:
                pass
        self.close()
        return None

    async def _first_protocol(self, stream: Stream) -> str | None:
        """What the peer means a stream to be before there is a control stream; None, and the stream
        is reset, if it is nothing for now: other hosts try others first."""
        early = () if self.peer.observes else PEER_SERVICES
        try:
            return await answer(stream, (CONTROL, *early))
        except (PeerUnreachable, NegotiationError):
            await stream.reset()
            return None

    def _queue_frame(self, frame: bytes) -> trio.Event:
        """Queue a request or an answer; the event is set once it has been written."""
        written = trio.Event()
        if self._write_at_once(frame):
            written.set()
        else:
            self._frames.append((frame, written))
            self._queued.notify()
        return written

    def _write_at_once(self, frame: bytes) -> bool:
        """Write a frame if nothing is before it and there is room for it; whether it was."""
        if self._control is None or self._writing or self._messages or self._frames:
            return False
        try:
            return self._control.try_write(frame)
        except PeerUnreachable:
            self.close()
            return False

    async def _write_control(self, control: Stream) -> None:
        try:
            while True:
                while not self._messages and not self._frames:
                    self._writing = False
                    await self._queued.wait()
                self._writing = True
                if self._messages:
                    # Many small messages share the frames of the layers below.
                    batch = b"".join(self._messages)
                    self._messages.clear()
                    self._message_bytes = 0
                    self.peer.count(sent=len(batch))
                    await control.write_in_time(batch, self._limits.take_stall_s)
                else:
                    frame, written = self._frames.popleft()
                    await control.write_in_time(frame, self._limits.take_stall_s)
                    written.set()
        except PeerUnreachable:
            self.close()

    async def _read_control(self, control: Stream, nursery: trio.Nursery) -> None:
        limits = self._limits
        try:
            while True:
                frame = await read_frame(
                    control, control_decoder, limits.max_frame_bytes, limits.read_stall_s
                )
                self.peer.count(received=len(frame.payload or b""))
                if isinstance(frame, Message):
                    self._enqueue(frame)
                elif isinstance(frame, Response):
                    waiting = self._answers.get(frame.id)
                    if waiting is not None:  # else its caller has given up
                        waiting.response = frame
                        waiting.arrived.set()
                elif self._handling >= limits.max_inbound_requests:
                    self.peer.blame("too many requests at once", frame.method)
                    await self._refuse_one_too_many(frame)
                else:
                    self._handling += 1
                    nursery.start_soon(self._handle_request, frame)
        except PeerUnreachable:
            self.close()
        except ProtocolViolation as error:
            self.peer.blame("broke the control protocol", error)
            self.peer.penalise(trio.current_time(), limits.max_penalty_s)
            self.close()

    def _enqueue(self, message: Message) -> None:
        self._inbound.append(message)
        self._inbound_bytes += len(message.payload)
        while (
            len(self._inbound) > self._limits.max_queued_messages
            or self._inbound_bytes > self._limits.max_queued_message_bytes
        ):
            self._inbound_bytes -= len(self._inbound.popleft().payload)
            self.peer.dropped_messages += 1
        self._received.notify()

    async def _deliver_messages(self) -> None:
        while True:
            while not self._inbound:
                await self._received.wait()
            message = self._inbound.popleft()
            self._inbound_bytes -= len(message.payload)
            handler = self._handlers.messages.get(message.topic)
            if handler is None or not self._may_use(message.topic):
                self.peer.blame("unknown topic", message.topic)
                continue
            try:
                outcome = handler(self.peer.address, message.payload)
                if outcome is not None:
                    await outcome
            except (ProtocolViolation, *UNREADABLE) as error:
                self.peer.blame(f"bad {message.topic} message", error)
            except Exception:
                if self._is_news(message.topic):
                    log.exception("a message failed here: %s of %s", message.topic, self._name)

    async def _handle_request(self, request: Request) -> None:
        try:
            handler = self._handlers.requests.get(request.method)
            if handler is None:
                await self._refuse(request, f"this node does not answer to {request.method!r}")
                return
            if not self._may_use(request.method):
                await self._refuse(request, f"a standby may not use {request.method!r}")
                return
            try:
                payload = await handler(self.peer.address, request.payload)
            except (SwarmError, *UNREADABLE) as error:
                if isinstance(error, (ProtocolViolation, *UNREADABLE)):
                    self.peer.blame(f"bad {request.method} request", error)
                await self._refuse(request, short(error))
                return
            except Exception:
                if self._is_news(request.method):
                    log.exception("a request failed here: %s of %s", request.method, self._name)
                await self._refuse(request, "it failed inside this node")
                return
            if len(payload) > self._limits.max_payload_bytes:
                await self._refuse(request, f"the answer would have {len(payload)} bytes")
                return
            self.peer.count(sent=len(payload))
            # Waiting keeps the bound on requests a bound on the answers in memory.
            await self._queue_frame(encode_frame(Response(request.id, payload))).wait()
        finally:
            self._handling -= 1

    def _may_use(self, name: str) -> bool:
        return not self.peer.observes or name in self._handlers.for_observers

    def _is_news(self, name: str) -> bool:
        """Whether what answers to this name fails for the first time."""
        known = name in self._handlers.faulty
        self._handlers.faulty.add(name)
        return not known

    @property
    def _name(self) -> str:
        return to_hex(self.peer.address)

    async def _refuse(self, request: Request, reason: str) -> None:
        await self._queue_frame(encode_frame(Response(request.id, None, reason))).wait()

    async def _refuse_one_too_many(self, request: Request) -> None:
        """Queue a refusal; whoever asks on without reading is not read until it has read.

        No task waits for it: a member that sends requests as fast as it can would own thousands.
        Raises PeerUnreachable if it reads nothing for long.
        """
        limits = self._limits
        refusal = Response(request.id, None, "too many requests at once")
        self._refusals.append(self._queue_frame(encode_frame(refusal)))
        while self._refusals and self._refusals[0].is_set():
            self._refusals.popleft()
        if len(self._refusals) > limits.max_queued_refusals:
            with trio.move_on_after(limits.take_stall_s) as patience:
                await self._refusals.popleft().wait()
            if patience.cancelled_caught:
                self.peer.blame("asks and does not read", f"for {limits.take_stall_s:g} s")
                raise PeerUnreachable("the peer asks and does not read")

    async def _accept_streams(self, nursery: trio.Nursery) -> None:
        try:
            while True:
                await self._take_stream(nursery, await self._muxer.accept())
        except PeerUnreachable:
            self.close()

    async def _take_stream(
        self, nursery: trio.Nursery, stream: Stream, protocol: str | None = None
    ) -> None:
        """Serve a stream in a task of its own, or reset it, if there are too many."""
        if self.peer.observes or self._streams >= self._limits.max_inbound_streams:
            self.peer.blame("too many streams at once", "reset")
            await stream.reset()
        else:
            self._streams += 1
            nursery.start_soon(self._serve_stream, stream, protocol)

    async def _serve_stream(self, stream: Stream, protocol: str | None) -> None:
        """Serve a stream to its end; without a protocol, the peer has still to name it."""
        handlers = self._handlers.streams
        try:
            if protocol is None:
                with trio.fail_after(self._limits.handshake_s):
                    protocol = await answer(stream, handlers)
            await handlers[protocol](self.peer, stream)
        except PeerUnreachable:
            pass  # the peer ended it: its right
        except (NegotiationError, ProtocolViolation, trio.TooSlowError) as error:
            self.peer.blame("broke the protocol of a stream", error or "no protocol in time")
        except Exception:
            if self._is_news("stream"):
                log.exception("a stream of %s failed here", self._name)
        finally:
            self._streams -= 1
            await stream.reset()
