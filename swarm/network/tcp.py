"""TCP under libp2p: addresses, listening, dialling, and a byte stream that notices dead links.

libp2p's own TCP transport is not used, for what was measured of it: it binds with SO_REUSEPORT, so
two nodes share a port without a word; its listener lives in a task outside every nursery; and a
link that is dropped without a reset hangs its readers for ever. Here a port in use is an error, and
the kernel ends a connection whose peer is silent for about 14 seconds.

The bulk channel shares the port: libp2p begins with the bytes `13 2f`, TLS with `16 03`, and
`TcpStream.peek` tells which.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from swarm.errors import ConfigurationError
from swarm.network.identity import address_of
from swarm.types import Address

READ_AHEAD_BYTES = 256 * 1024
MAX_READ_BYTES = 20 * 1024 * 1024
HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")
ADDRESS_FORM = (
    "write it like /ip4/192.0.2.7/tcp/4001 or /dns4/swarm.hospital.example/tcp/4001, where the "
    "name of a host has letters, digits, hyphens and dots"
)


@dataclass(frozen=True)
class Endpoint:
    """Where to listen or dial; `peer` if the multiaddr ends in /p2p/…"""

    host: str
    port: int
    protocol: str = "ip4"
    peer: Address | None = None

    def multiaddr(self, peer_id: ID) -> str:
        return f"/{self.protocol}/{self.host}/tcp/{self.port}/p2p/{peer_id}"

    def __str__(self) -> str:
        return f"/{self.protocol}/{self.host}/tcp/{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """Read `/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEERID]`.

    Raises ConfigurationError for anything else, an underscore in a host's name among it, which
    Docker Compose would resolve and other DNS servers and libp2p would not.
    """
    if not text.isprintable() or " " in text:
        raise ConfigurationError(f"{text!r} cannot be used as an address; {ADDRESS_FORM}")
    try:
        parts = [(p.name, v) for p, v in Multiaddr(text).items()]
    except (MultiaddrError, ValueError) as error:
        raise ConfigurationError(
            f"{text!r} cannot be used as an address ({_reason(error)}); {ADDRESS_FORM}"
        ) from None
    names = [name for name, _ in parts]
    if len(parts) not in (2, 3) or names[0] not in HOSTS or names[1] != "tcp":
        raise ConfigurationError(f"{text!r} cannot be used as an address; {ADDRESS_FORM}")
    peer = None
    if len(parts) == 3:
        peer = address_of(ID.from_string(str(parts[2][1]))) if names[2] == "p2p" else None
        if peer is None:
            raise ConfigurationError(f"{text!r} must end in /p2p/ and the PeerID of a node key")
    return Endpoint(str(parts[0][1]), int(str(parts[1][1])), names[0], peer)


def _reason(error: Exception) -> str:
    """What the library found, without the address that it says again."""
    return str(getattr(error, "message", error)) or type(error).__name__


async def listen(endpoint: Endpoint) -> Sequence[trio.SocketListener]:
    """Bind an endpoint; port 0 takes any free one.

    Raises ConfigurationError if the address cannot be bound, a port in use among the reasons.
    """
    try:
        return await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {endpoint}: {error.strerror or error}; "
            "choose another address or end the program that holds it"
        ) from None


def bound_endpoint(listener: trio.SocketListener) -> Endpoint:
    host, port, *_ = listener.socket.getsockname()
    return Endpoint(host, port, "ip6" if listener.socket.family == socket.AF_INET6 else "ip4")


async def serve(
    listeners: Sequence[trio.SocketListener], accept: Callable[[TcpStream], Awaitable[None]]
) -> None:
    """Hand every inbound connection to `accept`, each in a task of its own."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            connection = TcpStream(stream)
        except OSError:  # gone before it was looked at
            await trio.aclose_forcefully(stream)
            return
        try:
            await accept(connection)
        finally:
            await connection.close()

    await trio.serve_listeners(handle, list(listeners))


async def dial(endpoint: Endpoint) -> TcpStream:
    """Connect. The caller sets the deadline. Raises OSError."""
    return TcpStream(await trio.open_tcp_stream(endpoint.host, endpoint.port))


class TcpStream(ReadWriteCloser):  # type: ignore[misc]  # libp2p is untyped for mypy
    """A TCP connection as libp2p's Noise wants it, with read-ahead.

    `read(n)` returns exactly n bytes: libp2p's own loops give up after 100 short reads, which a
    slow link reaches. Reading at the end of the stream raises ConnectionClosedError.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._ahead = bytearray()
        host, port, *_ = stream.socket.getpeername()
        self.remote: tuple[str, int] = (host, port)
        notice_dead_peers(stream)

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > MAX_READ_BYTES:
            raise ConnectionClosedError(f"refused to read {n} bytes at once")
        while len(self._ahead) < n:
            try:
                received = await self._stream.receive_some(READ_AHEAD_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(str(error) or "connection lost") from error
            if not received:
                raise ConnectionClosedError("closed by the peer")
            self._ahead += received
        taken = bytes(memoryview(self._ahead)[:n])
        del self._ahead[:n]
        return taken

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error) or "connection lost") from error

    async def peek(self, size: int) -> bytes:
        """The first bytes that the peer sends, left where they are; fewer if it ends before.

        The kernel is asked to wake us for all of them at once: one that sent a single byte and
        stopped would otherwise keep this turning.
        """
        sock = self._stream.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        try:
            await trio.lowlevel.wait_readable(sock.fileno())
            opening: bytes = await sock.recv(size, socket.MSG_PEEK)
            return opening
        except OSError as error:
            raise ConnectionClosedError(str(error)) from error
        finally:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def detach(self) -> socket.socket:
        """The connection as a plain socket, which outlives this; nothing may have been read."""
        return socket.socket(fileno=os.dup(self._stream.socket.fileno()))

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)

    def get_remote_address(self) -> tuple[str, int]:
        return self.remote


def notice_dead_peers(stream: trio.SocketStream) -> None:
    """Let the kernel end a connection whose peer is silent, and send small frames at once.

    Without these, a link that drops packets without a reset hangs both sides for ever. With them
    both fail in about 14 seconds, whether or not data is under way (tcp(7)).
    """
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 3),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 12_000),  # milliseconds
        # Unsent bytes stay in our queue, where a small frame waits behind few of them.
        ("TCP_NOTSENT_LOWAT", 256 * 1024),
    ):
        if hasattr(socket, option):  # Linux has all, others some
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
