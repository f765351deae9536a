"""Ping and identify: what libp2p's own host gets from a node, as a member and as anybody else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.utils import read_exactly
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from multiaddr import Multiaddr

from swarm.network import Network, NetworkLimits, open_network, peer_services
from swarm.network.identity import Identity
from swarm.network.peer_services import IDENTIFY, PING, PING_BYTES
from swarm.network.wire import CONTROL, Request, Response, encode_frame
from swarm.types import Address

NODE, MEMBER, STANDBY, STRANGER = (hashlib.sha256(bytes([i])).digest() for i in range(4))
REFUSED = (BaseLibp2pError, trio.TooSlowError)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await scenario()

    trio.run(bounded)


@asynccontextmanager
async def node(limits: NetworkLimits | None = None) -> AsyncIterator[Network]:
    member, standby = Identity(MEMBER).address, Identity(STANDBY).address
    async with open_network(NODE, limits=limits or NetworkLimits()) as network:
        network.set_members({member: (), standby: ()}, observers=[standby])
        yield network


@asynccontextmanager
async def stock_host(key: bytes, network: Network) -> AsyncIterator[tuple[IHost, PeerInfo]]:
    """libp2p's own host with this key, and where it finds the node."""
    host = new_host(key_pair=create_new_key_pair(key))
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        info = info_from_p2p_addr(Multiaddr(network.addresses[0]))
        host.get_peerstore().add_addrs(info.peer_id, info.addrs, 60)
        try:
            yield host, info
        finally:
            await host.close()


async def open_stream(host: IHost, peer: ID, protocol: str) -> INetStream:
    with trio.fail_after(5):
        return await host.new_stream(peer, [TProtocol(protocol)])


async def ask_who(host: IHost, peer: ID) -> Identify:
    stream = await open_stream(host, peer, IDENTIFY)
    told = bytearray()
    with suppress(StreamEOF):
        while True:
            told += await stream.read(1024)
    return parse_identify_response(bytes(told))


async def ping(stream: INetStream, content: bytes) -> bytes:
    await stream.write(content)
    return await read_exactly(stream, PING_BYTES)


def test_a_members_libp2p_host_pings_a_node_and_is_told_what_it_is() -> None:
    async def scenario() -> None:
        async with node() as network, stock_host(MEMBER, network) as (host, info):
            await host.connect(info)
            assert len(await PingService(host).ping(info.peer_id, 3)) == 3
            said = await ask_who(host, info.peer_id)
            assert said.public_key == Identity(NODE).key_pair.public_key.serialize()
            assert [Multiaddr(each) for each in said.listen_addrs] == [
                Multiaddr(each.split("/p2p/")[0]) for each in network.addresses
            ]
            assert set(said.protocols) == {CONTROL, PING, IDENTIFY}

    run(scenario)


def test_pings_go_on_beside_the_members_own_protocol() -> None:
    async def echo(sender: Address, payload: bytes) -> bytes:
        return payload

    async def scenario() -> None:
        async with node() as network, stock_host(MEMBER, network) as (host, info):
            network.handle("echo", echo)
            early = await open_stream(host, info.peer_id, PING)
            control = await open_stream(host, info.peer_id, CONTROL)
            late = await open_stream(host, info.peer_id, PING)
            for i, stream in enumerate((early, late, early)):
                assert await ping(stream, bytes([i]) * PING_BYTES) == bytes([i]) * PING_BYTES
            await control.write(encode_frame(Request(5, "echo", b"hello")))
            expected = encode_frame(Response(5, b"hello"))
            assert await read_exactly(control, len(expected)) == expected
            assert network.connected == {Identity(MEMBER).address}

    run(scenario)


@pytest.mark.parametrize("protocol", [PING, IDENTIFY])
def test_a_stranger_is_turned_away_before_it_may_ask(protocol: str) -> None:
    async def scenario() -> None:
        async with node() as network, stock_host(STRANGER, network) as (host, info):
            with pytest.raises(REFUSED):
                await open_stream(host, info.peer_id, protocol)
            assert network.status()["refused_connections"] >= 1  # type: ignore[operator]

    run(scenario)


@pytest.mark.parametrize("protocol", [PING, IDENTIFY])
def test_a_standby_is_answered_neither_before_its_control_stream_nor_after(protocol: str) -> None:
    async def scenario() -> None:
        async with node() as network, stock_host(STANDBY, network) as (host, info):
            with pytest.raises(REFUSED):
                await open_stream(host, info.peer_id, protocol)
            await open_stream(host, info.peer_id, CONTROL)
            with pytest.raises(REFUSED):
                await open_stream(host, info.peer_id, protocol)

    run(scenario)


def test_a_ping_stream_on_which_nothing_comes_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_services, "PING_IDLE_S", 0.2)

    async def scenario() -> None:
        async with node() as network, stock_host(MEMBER, network) as (host, info):
            stream = await open_stream(host, info.peer_id, PING)
            await ping(stream, bytes(PING_BYTES))
            await stream.write(b"half a ping")
            with trio.fail_after(5), pytest.raises(BaseLibp2pError):
                await read_exactly(stream, PING_BYTES)

    run(scenario)


def test_pings_are_paced_and_streams_of_them_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_services, "PING_PAUSE_S", 0.05)

    async def scenario() -> None:
        limits = NetworkLimits(max_inbound_streams=2)
        async with node(limits) as network, stock_host(MEMBER, network) as (host, info):
            control = await open_stream(host, info.peer_id, CONTROL)
            first = await open_stream(host, info.peer_id, PING)
            started = trio.current_time()
            await first.write(bytes(PING_BYTES * 11))
            await read_exactly(first, PING_BYTES * 11)
            assert trio.current_time() - started >= 0.5  # ten pauses lie between eleven answers
            second = await open_stream(host, info.peer_id, PING)
            with pytest.raises(REFUSED):
                await open_stream(host, info.peer_id, PING)
            assert await ping(second, bytes(PING_BYTES)) == bytes(PING_BYTES)
            await control.write(encode_frame(Request(5, "nothing", b"")))
            assert await control.read(4)

    run(scenario)
