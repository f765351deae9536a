"""The node's HTTP door: JSON-RPC at `POST /`, a status report at `GET /status`, and the same as
numbers for Prometheus at `GET /metrics`.

It listens on loopback unless told otherwise, and a browser that visits a hostile page is a client
on loopback too. Two checks keep such pages out: a request that carries a foreign `Origin` is
refused, and so is one whose `Host` is a name (a page can point its own name at 127.0.0.1; it cannot
change the name that the browser sends). Addresses, `localhost` and configured names pass.

HTTP/1.1 by h11, which touches no socket, over trio: two paths need no framework, and here every
wait has a deadline. Connections, heads and bodies are bounded, and so is what is held of bodies and
answers for all clients together; a client that reads its answer too slowly is cut off; calls run in
worker threads, a few at a time. A fault inside a request ends that request.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import h11
import msgspec
import trio

from swarm.errors import ConfigurationError

log = logging.getLogger("swarm.chain")

MAX_BODY_BYTES = 1024 * 1024
_MAX_HEAD_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
_WORKERS = 4
_MAX_WAITING = 64
_JSON = b"application/json"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"
"""As Prometheus reads it."""
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True)
class HttpLimits:
    """Patience with clients, and how many there may be."""

    connections: int = 256
    """At once; further ones are closed unread."""
    held_bytes: int = 64 * 1024 * 1024
    """Of bodies and answers, over all connections; what would need more is answered with 503."""
    head_s: float = 30.0
    """From one answer to the end of the next request's head."""
    body_s: float = 10.0
    answer_s: float = 60.0
    send_s: float = 30.0
    """For the client to take an answer."""
    linger_s: float = 0.5
    """For the client to read a refusal before the rest of what it sends is cut off."""


class Rpc(Protocol):
    """What answers the body of a JSON-RPC request; `RpcMethods` does. It may block."""

    def handle_bytes(self, body: bytes) -> bytes: ...


@asynccontextmanager
async def open_http(
    listen: str,
    rpc: Rpc,
    status: Callable[[], object],
    *,
    metrics: Callable[[], bytes] = lambda: b"",
    hosts: Sequence[str] = (),
    limits: HttpLimits | None = None,
) -> AsyncIterator[str]:
    """Serve on `listen` ("127.0.0.1:8545"; port 0 takes a free one) and yield the URL.

    `status` gives what `GET /status` shows, and `metrics` the text of `GET /metrics`, without
    blocking; `hosts` are further names under
    which clients may call this node. Raises ConfigurationError if it cannot listen there.
    """
    listener = _listen(listen)
    host, port, *_ = listener.getsockname()
    names = frozenset(name.lower() for name in hosts)
    server = _Server(rpc, status, metrics, names, limits or HttpLimits())
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.serve, [accepting])
        try:
            yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            nursery.cancel_scope.cancel()


def _listen(listen: str) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigurationError(
            f"cannot listen on {listen!r}: write an address and a port, such as 127.0.0.1:8545"
        )
    try:
        ((family, kind, _, _, address), *_) = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {listen}: {error.strerror}") from None
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {listen}: {error.strerror}; stop the program that uses it, or "
            "choose another port"
        ) from None
    return listener


Hold = Callable[[int], None]
"""Counts so many more bytes as held for a client; raises _Refused if there is no room."""


class _Refused(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Gone(Exception):
    """The client has ended the connection, or is given up."""


class _Server:
    """Answers the requests of all connections."""

    def __init__(
        self,
        rpc: Rpc,
        status: Callable[[], object],
        metrics: Callable[[], bytes],
        hosts: frozenset[str],
        limits: HttpLimits,
    ) -> None:
        self._rpc = rpc
        self._status = status
        self._metrics = metrics
        self._hosts = hosts
        self._limits = limits
        self._connections = 0
        self._held_bytes = 0
        self._fault_logged = False
        self._threads = trio.CapacityLimiter(_WORKERS)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its end."""
        self._connections += 1
        try:
            if self._connections <= self._limits.connections:
                with suppress(_Gone):
                    await self._serve_requests(_Client(stream, self._limits))
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_requests(self, client: _Client) -> None:
        while True:
            with self._holding() as hold:
                code, body = await self._respond(client, hold)
                await client.send(code, body)
            if not client.may_ask_again():
                await client.linger()
                return

    async def _respond(self, client: _Client, hold: Hold) -> tuple[int, bytes]:
        """Read a request and answer it: the status code and the body."""
        try:
            request = await client.read_head()
            with trio.fail_after(self._limits.answer_s):
                return 200, await self._answer(request, client, hold)
        except _Refused as refused:
            client.answers_with = _JSON
            return refused.code, _explain(str(refused))
        except trio.TooSlowError:
            return 503, _explain("the answer takes too long; ask for less")
        except _Gone:
            raise
        except Exception:
            # One request's trouble stays in that request, whatever it is.
            if not self._fault_logged:
                self._fault_logged = True
                log.exception("a request failed; further failures are not logged")
            return 500, _explain("the request failed inside the node; its log says more")

    async def _answer(self, request: h11.Request, client: _Client, hold: Hold) -> bytes:
        self._check_caller(request)
        place = (request.method, request.target.split(b"?")[0])
        if place == (b"GET", b"/status"):
            await client.read_body(hold)
            answer = msgspec.json.encode(self._status())
        elif place == (b"GET", b"/metrics"):
            await client.read_body(hold)
            answer, client.answers_with = self._metrics(), _TEXT
        elif place == (b"POST", b"/"):
            body = await client.read_body(hold)
            if self._threads.statistics().tasks_waiting >= _MAX_WAITING:
                raise _Refused(503, "too many requests wait for an answer; try again later")
            answer = await trio.to_thread.run_sync(
                self._rpc.handle_bytes, body, limiter=self._threads
            )
        else:
            raise _Refused(404, "there is POST / for JSON-RPC, GET /status and GET /metrics")
        hold(len(answer))
        return answer

    @contextmanager
    def _holding(self) -> Iterator[Hold]:
        """Gives a function that counts bytes as held until the end of the block."""
        mine = 0

        def hold(size: int) -> None:
            nonlocal mine
            if self._held_bytes + size > self._limits.held_bytes:
                raise _Refused(503, "the node holds too much for its clients; try again later")
            self._held_bytes += size
            mine += size

        try:
            yield hold
        finally:
            self._held_bytes -= mine

    def _check_caller(self, request: h11.Request) -> None:
        headers = dict(request.headers)
        host = headers.get(b"host", b"").decode("latin-1")
        if not self._is_ours(_host_name(host)):
            raise _Refused(403, "this node does not answer under that name; use its address")
        origin = headers.get(b"origin")
        if origin is not None and _origin_host(origin) != host.lower():
            raise _Refused(403, "pages of other sites may not ask this node")

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class _Client:
    """One connection as h11 understands it. What ends it is raised as _Gone."""

    def __init__(self, stream: trio.SocketStream, limits: HttpLimits) -> None:
        self._stream = stream
        self._limits = limits
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._wants_body = True
        self.answers_with = _JSON
        """The type of the next answer's content."""

    async def read_head(self) -> h11.Request:
        with trio.move_on_after(self._limits.head_s):
            event = await self._next_event()
            if isinstance(event, h11.Request):
                self._wants_body = event.method != b"HEAD"
                return event
        raise _Gone

    async def read_body(self, hold: Hold) -> bytes:
        """Raises _Refused if it is too long, too slow, or more than there is room for."""
        body = bytearray()
        with trio.move_on_after(self._limits.body_s):
            if self._http.they_are_waiting_for_100_continue:
                await self._write(h11.InformationalResponse(status_code=100, headers=[]))
            while isinstance(event := await self._next_event(), h11.Data):
                hold(len(event.data))
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise _Refused(413, f"a request has at most {MAX_BODY_BYTES} bytes")
            return bytes(body)
        raise _Refused(408, f"the request did not come within {self._limits.body_s:g} s")

    async def send(self, code: int, body: bytes) -> None:
        length = str(len(body)).encode()
        headers = [
            (b"content-type", self.answers_with),
            (b"cache-control", b"no-store"),
            (b"content-length", length),
        ]
        with trio.move_on_after(self._limits.send_s):
            await self._write(
                h11.Response(status_code=code, headers=headers),
                h11.Data(data=body if self._wants_body else b""),
                h11.EndOfMessage(),
            )
            return
        raise _Gone

    def may_ask_again(self) -> bool:
        """Make ready for the next request on this connection, if there may be one."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.answers_with = _JSON
            return True
        return False

    async def linger(self) -> None:
        """Read and forget for a moment: closing at once would take the answer back."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._stream.send_eof()
            with trio.move_on_after(self._limits.linger_s):
                while await self._stream.receive_some(_READ_BYTES):
                    pass

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    self._http.receive_data(await self._stream.receive_some(_READ_BYTES))
                    continue
            except h11.RemoteProtocolError as error:
                raise _Refused(error.error_status_hint, f"this is not HTTP: {error}") from None
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise _Gone from None
            if isinstance(event, (h11.Request, h11.Data, h11.EndOfMessage)):
                return event
            raise _Gone

    async def _write(self, *events: h11.Event) -> None:
        try:
            data = b"".join(self._http.send(event) or b"" for event in events)
            await self._stream.send_all(data)
        except (h11.LocalProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise _Gone from None


def _host_name(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _origin_host(origin: bytes) -> str:
    """The host and port of an Origin header; "" for "null"."""
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        return ""


def _explain(reason: str) -> bytes:
    return msgspec.json.encode({"error": reason})
