"""The server: loopback by default, and every wait with a deadline."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from swarm.dashboard.access import ENTER, Access, Tickets
from swarm.dashboard.pages import Dashboard
from swarm.dashboard.watching import Watch
from swarm.errors import ConfigurationError

log = logging.getLogger("swarm.dashboard")

MAX_CONNECTIONS = 256
HEAD_BYTES = 16 * 1024
READ_S, KEEP_S = 20, 5


async def serve(directory: Path, listen: str, on_ready: Callable[[str], None]) -> None:
    """Serve the pages of the node in `directory` until cancelled; `on_ready` is given the link
    that opens them, once. Raises ConfigurationError if `listen` cannot be used."""
    listener = _listen(listen)
    host, port, *_ = listener.getsockname()
    tickets, watch = Tickets(), Watch(directory)
    hosts = frozenset({f"{host}:{port}", f"localhost:{port}"})
    app = Access(Dashboard(watch).app(), tickets, hosts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await watch.change(patience_s=READ_S)
        on_ready(f"http://{host}:{port}{ENTER}?token={tickets.token}")
        sockets = [trio.SocketListener(trio.socket.from_stdlib_socket(listener))]
        await trio.serve_listeners(_connections(app), sockets)


def _connections(app: Access) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """What serves a connection.

    One nursery for all would end with the first connection that hypercorn fails on, such as a
    client that goes on sending after it has asked to close: so each one's fault stays in it.
    """
    config = Config()
    config.h11_max_incomplete_size = HEAD_BYTES
    config.read_timeout, config.keep_alive_timeout = READ_S, KEEP_S
    config.errorlog = log
    config.include_server_header = False
    asgi, context = ASGIWrapper(app), WorkerContext(None)  # type: ignore[arg-type]
    places = trio.CapacityLimiter(MAX_CONNECTIONS)

    async def serve_one(stream: trio.SocketStream) -> None:
        if places.available_tokens < 1:
            await stream.aclose()
            return
        async with places:
            try:
                await TCPServer(asgi, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 (of hypercorn's, whatever it is)
                log.info("a connection has failed: %r", error)

    return serve_one


def _listen(text: str) -> socket.socket:
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.IPv4Address(host)
        listener = socket.create_server((str(address), int(port)), backlog=64)
    except (ValueError, OverflowError):
        raise ConfigurationError(
            f"cannot listen on {text!r}: write an IPv4 address and a port, such as 127.0.0.1:8600"
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {text}: {error.strerror}; choose another port, or 0 for any"
        ) from None
    return listener
