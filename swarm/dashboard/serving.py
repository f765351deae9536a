"""The server: loopback by default, and every wait with a deadline."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as serve_app

from swarm.dashboard.access import ENTER, Access, Tickets
from swarm.dashboard.pages import Dashboard
from swarm.dashboard.watching import Watch
from swarm.errors import ConfigurationError

HEAD_BYTES = 16 * 1024
READ_S, KEEP_S, END_S = 20, 30, 1


async def serve(directory: Path, listen: str, on_ready: Callable[[str], None]) -> None:
    """Serve the pages of the node in `directory` until cancelled; `on_ready` is given the link
    that opens them, once. Raises ConfigurationError if `listen` cannot be used."""
    listener = _listen(listen)
    host, port, *_ = listener.getsockname()
    tickets, watch = Tickets(), Watch(directory)
    hosts = frozenset({f"{host}:{port}", f"localhost:{port}"})
    app = Access(Dashboard(watch).app(), tickets, hosts)
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.h11_max_incomplete_size = HEAD_BYTES
    config.read_timeout, config.keep_alive_timeout = READ_S, KEEP_S
    config.graceful_timeout = END_S
    config.errorlog = logging.getLogger("swarm.dashboard")
    config.include_server_header = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await watch.change(patience_s=READ_S)
        on_ready(f"http://{host}:{port}{ENTER}?token={tickets.token}")
        await serve_app(app, config, shutdown_trigger=trio.sleep_forever)  # type: ignore[arg-type]


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
