"""The node's HTTP door: JSON-RPC at `POST /`, a status report at `GET /status`.

It listens on loopback unless told otherwise, and a browser that visits a hostile page is a client
on loopback too. Two checks keep such pages out: a request that carries a foreign `Origin` is
refused, and so is one whose `Host` is a name (a page can point its own name at 127.0.0.1; it cannot
change the name that the browser sends). Addresses, `localhost` and configured names pass.

Every request is bounded in size and time. Calls run in worker threads, a few at a time.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from swarm.errors import ConfigurationError

MAX_BODY_BYTES = 1024 * 1024
_BODY_DEADLINE_S = 10.0
_ANSWER_DEADLINE_S = 60.0
_KEEP_ALIVE_S = 30.0
_CLOSING_S = 0.5
_WORKERS = 4
_MAX_WAITING = 64

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Rpc(Protocol):
    """What answers the body of a JSON-RPC request; `RpcMethods` does. It may block."""

    def handle_bytes(self, body: bytes) -> bytes: ...


@asynccontextmanager
async def open_http(
    listen: str, rpc: Rpc, status: Callable[[], object], *, hosts: Sequence[str] = ()
) -> AsyncIterator[str]:
    """Serve on `listen` ("127.0.0.1:8545"; port 0 takes a free one) and yield the URL.

    `status` gives what `GET /status` shows, without blocking; `hosts` are further names under
    which clients may call this node. Raises ConfigurationError if it cannot listen there.
    """
    listener = _listen(listen)
    app = _App(rpc, status, frozenset(name.lower() for name in hosts))
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        # hypercorn takes the descriptor over, and closes it
        config = _configure(listener.detach())
        urls = await nursery.start(partial(serve, app, config, shutdown_trigger=stop.wait))
        try:
            yield urls[0]
        finally:
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + 2 * _CLOSING_S


def _listen(listen: str) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
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


def _configure(descriptor: int) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("swarm.http")
    config.errorlog.setLevel(logging.WARNING)
    config.keep_alive_timeout = _KEEP_ALIVE_S
    config.graceful_timeout = _CLOSING_S
    config.shutdown_timeout = _CLOSING_S
    config.include_server_header = False
    config.alpn_protocols = ["http/1.1"]
    return config


class _Refused(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _App:
    """The ASGI application."""

    def __init__(self, rpc: Rpc, status: Callable[[], object], hosts: frozenset[str]) -> None:
        self._rpc = rpc
        self._status = status
        self._hosts = hosts
        self._threads = trio.CapacityLimiter(_WORKERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            code, body = 200, b""
            try:
                with trio.fail_after(_ANSWER_DEADLINE_S):
                    body = await self._answer(scope, receive)
            except _Refused as refused:
                code, body = refused.code, _explain(str(refused))
            except trio.TooSlowError:
                code, body = 503, _explain("the answer takes too long; ask for less")
            headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": code, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        self._check_caller(scope)
        place = (scope["method"], scope["path"])
        if place == ("GET", "/status"):
            return msgspec.json.encode(self._status())
        if place != ("POST", "/"):
            raise _Refused(404, "there is POST / for JSON-RPC and GET /status")
        body = await _read_body(receive)
        if self._threads.statistics().tasks_waiting >= _MAX_WAITING:
            raise _Refused(503, "too many requests wait for an answer; try again later")
        return await trio.to_thread.run_sync(self._rpc.handle_bytes, body, limiter=self._threads)

    def _check_caller(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
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


async def _read_body(receive: Receive) -> bytes:
    body = bytearray()
    with trio.move_on_after(_BODY_DEADLINE_S):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Refused(400, "the request ended too early")
            body += message.get("body", b"")
            if len(body) > MAX_BODY_BYTES:
                raise _Refused(413, f"a request has at most {MAX_BODY_BYTES} bytes")
            if not message.get("more_body", False):
                return bytes(body)
    raise _Refused(408, f"the request did not come within {_BODY_DEADLINE_S:.0f} s")


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return


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
