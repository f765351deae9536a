"""The parts of the network that need no network: names, addresses, frames, negotiation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from eth_keys.datatypes import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import ConfigurationError
from swarm.network import multistream
from swarm.network.identity import Identity, address_of
from swarm.network.tcp import parse_endpoint
from swarm.network.wire import (
    Message,
    Request,
    Response,
    control_decoder,
    encode_frame,
    short,
    wanted_decoder,
)

KEY = bytes(range(1, 33))


def test_the_peer_id_of_a_node_key_gives_its_chain_address() -> None:
    identity = Identity(KEY)
    assert identity.address == PrivateKey(KEY).public_key.to_canonical_address()
    assert address_of(identity.peer_id) == identity.address


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32), b"\xff" * 32])
def test_a_key_that_is_none_is_refused_with_a_remedy(key: bytes) -> None:
    with pytest.raises(ConfigurationError, match="swarm init"):
        Identity(key)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("/ip4/192.0.2.7/tcp/4001", "192.0.2.7", 4001),
        ("/ip6/::1/tcp/0", "::1", 0),
        ("/dns4/node.example.org/tcp/443", "node.example.org", 443),
    ],
)
def test_multiaddrs_that_can_be_dialled(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.host, endpoint.port, endpoint.peer) == (host, port, None)
    assert str(endpoint) == text


def test_a_multiaddr_that_names_its_node_gives_the_address() -> None:
    identity = Identity(KEY)
    endpoint = parse_endpoint(f"/ip4/192.0.2.7/tcp/4001/p2p/{identity.peer_id}")
    assert endpoint.peer == identity.address
    assert parse_endpoint(endpoint.multiaddr(identity.peer_id)) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:4001",
        "/ip4/192.0.2.7",
        "/ip4/192.0.2.7/udp/4001/quic-v1",
        "/ip4/192.0.2.7/tcp/99999",
        "/ip4/192.0.2.7/tcp/4001/ws",
        "/ip4/192.0.2.7/tcp/4001/p2p/nonsense",
        # A PeerID that is a hash (of an RSA key) names no node key.
        "/ip4/192.0.2.7/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "/ip4/192.0.2.7/tcp/4001/tcp/4001/p2p/x",
        "/dns4/zurich_basel/tcp/4001",
        "/dns4/-a/tcp/4001",
        "/ip4/192.0.2.7/tcp/4001\n",
        "/ip4/192.0.2.7/tcp/ 4001",
    ],
)
def test_other_multiaddrs_are_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"address|multiaddr|PeerID"):
        parse_endpoint(text)


@pytest.mark.parametrize(
    "frame",
    [Message("t", b"1"), Request(7, "m", b""), Response(7, b"x"), Response(7, None, "no")],
)
def test_control_frames_survive_the_wire(frame: Message | Request | Response) -> None:
    encoded = encode_frame(frame)
    assert int.from_bytes(encoded[:4], "big") == len(encoded) - 4
    assert control_decoder.decode(encoded[4:]) == frame


@pytest.mark.parametrize(
    "body",
    [
        [9, "t", b""],  # unknown tag
        [1, "", b""],  # no topic
        [1, "t" * 65, b""],  # topic too long
        [1, "t", b"", 1],  # a field too many
        [1, "t"],  # a field too few
        [1, "t", "text"],  # wrong type
        [2, -1, "m", b""],  # negative id
        [3, 1, None, "x" * 1001],  # refusal too long
        {"topic": "t"},
        17,
    ],
)
def test_malformed_control_frames_are_refused(body: object) -> None:
    with pytest.raises(msgspec.DecodeError):
        control_decoder.decode(msgspec.msgpack.encode(body))


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_bytes_never_raise_anything_but_a_decode_error(body: bytes) -> None:
    for decoder in (control_decoder, wanted_decoder):
        with suppress(msgspec.DecodeError):
            decoder.decode(body)


def test_a_refusal_is_one_bounded_line() -> None:
    assert short("a\n  b\tc") == "a b c"
    assert len(short("x" * 5000)) == 1000


class Pipe:
    """One end of a byte stream in memory, with exact reads."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.taken = 0

    async def read(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = await self._stream.receive_some(n - len(data))
            if not more:
                raise EOFError
            data += more
        self.taken += n
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    def close(self) -> None:
        self._stream.send_stream.close()


def negotiate(
    initiate: Callable[[Pipe], Awaitable[object]], respond: Callable[[Pipe], Awaitable[object]]
) -> list[object]:
    """What both sides return or raise, initiator first."""
    outcomes: list[object] = [None, None]

    async def play(side: int, act: Callable[[Pipe], Awaitable[object]], end: Pipe) -> None:
        try:
            outcomes[side] = await act(end)
        except (multistream.NegotiationError, EOFError) as error:
            outcomes[side] = error
        finally:
            end.close()

    async def main() -> None:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + 5
            nursery.start_soon(play, 0, initiate, Pipe(near))
            nursery.start_soon(play, 1, respond, Pipe(far))

    trio.run(main)
    return outcomes


def test_peers_agree_on_a_protocol_they_share() -> None:
    outcomes = negotiate(
        lambda end: multistream.propose(end, "/b/1"),
        lambda end: multistream.answer(end, ("/a/1", "/b/1")),
    )
    assert outcomes == [None, "/b/1"]


def test_a_protocol_that_is_not_offered_is_refused() -> None:
    near, _ = negotiate(
        lambda end: multistream.propose(end, "/c/1"),
        lambda end: multistream.answer(end, ("/a/1",)),
    )
    assert isinstance(near, multistream.NegotiationError)
    assert "'na'" in str(near)


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # 2^63 bytes announced
        b"\xff\x7f",  # 16 KiB announced
        b"\x05hello",  # no newline
        b"\x06hello\n",  # not multistream
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n" + b"x" * 100,
    ],
)
def test_whoever_speaks_something_else_is_refused_after_few_bytes(hostile: bytes) -> None:
    ends: list[Pipe] = []

    async def respond(end: Pipe) -> object:
        ends.append(end)
        return await multistream.answer(end, ("/a/1",))

    _, far = negotiate(lambda end: end.write(hostile), respond)
    assert isinstance(far, multistream.NegotiationError)
    assert ends[0].taken <= 128


def test_endless_proposals_are_refused() -> None:
    async def propose_for_ever(end: Pipe) -> None:
        await end.write(b"\x13/multistream/1.0.0\n" + 100 * b"\x05/x/1\n")

    _, far = negotiate(propose_for_ever, lambda end: multistream.answer(end, ("/a/1",)))
    assert isinstance(far, multistream.NegotiationError)
    assert "8 attempts" in str(far)
