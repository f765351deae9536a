"""Where a member's own word leads: to public addresses, and near where this node says it is."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from ipaddress import ip_network
from typing import Any

import pytest
import trio
import trio.testing

from swarm.network import open_network
from swarm.network.dial_rules import DialRefused, DialRules
from swarm.network.identity import Identity
from swarm.network.network import NOT_COUNTED
from swarm.network.tcp import parse_endpoint
from swarm.types import to_hex

NAMES = {
    "kyoto.example": ["93.184.216.34"],
    "inside.example": ["10.1.2.3"],
    "both.example": ["10.1.2.3", "93.184.216.34"],
    "mary": ["172.18.0.2"],
    "kyoto": ["172.18.0.5"],
}
KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(3)]


class Names(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> list[Any]:
        text = host.decode() if isinstance(host, bytes) else host
        if text not in NAMES:
            raise OSError(f"{text} is not known")
        return [(2, 1, 6, "", (ip, port)) for ip in NAMES[text]]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


def permitted(stated: str, own: str = "", network: str = "") -> str:
    """Where a stated address is dialled."""
    networks = [ip_network(network)] if network else []
    rules = DialRules([parse_endpoint(own)] if own else [], networks)

    async def ask() -> str:
        trio.socket.set_custom_hostname_resolver(Names())
        return str(await rules.permit(parse_endpoint(stated)))

    return trio.run(ask)


@pytest.mark.parametrize(
    ("stated", "own", "network", "dialled"),
    [
        ("/ip4/93.184.216.34/tcp/4001", "", "", "/ip4/93.184.216.34/tcp/4001"),
        ("/ip4/93.184.216.34/tcp/443", "", "", "/ip4/93.184.216.34/tcp/443"),
        ("/dns4/kyoto.example/tcp/4001", "", "", "/ip4/93.184.216.34/tcp/4001"),
        ("/dns4/both.example/tcp/4001", "", "", "/ip4/93.184.216.34/tcp/4001"),
        ("/dns4/kyoto/tcp/4001", "/dns4/mary/tcp/4001", "", "/ip4/172.18.0.5/tcp/4001"),
        ("/ip4/127.0.0.1/tcp/4002", "/ip4/127.0.0.1/tcp/4001", "", "/ip4/127.0.0.1/tcp/4002"),
        ("/ip4/10.77.0.9/tcp/4001", "/ip4/10.77.0.1/tcp/4001", "", "/ip4/10.77.0.9/tcp/4001"),
        ("/ip4/10.1.2.3/tcp/4001", "", "10.1.0.0/16", "/ip4/10.1.2.3/tcp/4001"),
        ("/ip6/fd00::7/tcp/4001", "/ip6/fd00::1/tcp/4001", "", "/ip6/fd00::7/tcp/4001"),
    ],
)
def test_public_addresses_are_dialled_and_private_ones_near_this_node_or_allowed_by_name(
    stated: str, own: str, network: str, dialled: str
) -> None:
    assert permitted(stated, own, network) == dialled


@pytest.mark.parametrize(
    "stated",
    [
        "/ip4/127.0.0.1/tcp/8545",
        "/ip4/10.1.2.3/tcp/4001",
        "/ip4/192.168.1.1/tcp/8080",
        "/ip4/169.254.169.254/tcp/8080",
        "/ip4/100.64.1.1/tcp/4001",
        "/ip4/224.0.0.1/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/::1/tcp/4001",
        "/ip6/fe80::1/tcp/4001",
        "/ip6/fd00::7/tcp/4001",
        "/ip6/::ffff:10.1.2.3/tcp/4001",
        "/dns4/inside.example/tcp/4001",
    ],
)
def test_a_members_word_leads_to_no_host_inside_this_nodes_network(stated: str) -> None:
    with pytest.raises(DialRefused, match="dial_private"):
        permitted(stated, own="/ip4/198.51.100.7/tcp/4001")


@pytest.mark.parametrize("port", [22, 25, 80, 1023])
def test_a_members_word_leads_to_no_port_of_other_services(port: int) -> None:
    with pytest.raises(DialRefused, match=f"port {port}"):
        permitted(f"/ip4/93.184.216.34/tcp/{port}")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(20):
            await scenario()

    trio.run(bounded)


def test_what_is_refused_is_named_in_the_status_and_nothing_is_dialled() -> None:
    async def scenario() -> None:
        knocks = 0

        async def knocked(stream: trio.SocketStream) -> None:
            nonlocal knocks
            knocks += 1

        victim = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = victim[0].socket.getsockname()[1]
        member = Identity(KEYS[1]).address
        async with trio.open_nursery() as nursery, open_network(KEYS[0]) as network:
            nursery.start_soon(trio.serve_listeners, knocked, victim)
            place = f"/ip4/127.0.0.1/tcp/{port}"
            network.set_members({member: [place]}, stated={member})
            peer = network._peers[member]
            with trio.fail_after(5):
                while not peer.failed_dials:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await trio.sleep(0.5)
            said = network.status()["peers"][to_hex(member)]  # type: ignore[index]
            assert "dial_private" in said["failed_dials"][place]
            assert knocks == 0
            network.set_members({member: [place]})  # now people say so
            with trio.fail_after(5):
                while not knocks:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    run(scenario)


def test_a_stated_address_that_leads_nowhere_is_left_alone_for_a_while() -> None:
    async def scenario() -> None:
        knocks = 0

        async def knocked(stream: trio.SocketStream) -> None:
            nonlocal knocks
            knocks += 1
            await stream.aclose()

        host = await trio.open_tcp_listeners(0, host="127.0.0.1")
        place = f"/ip4/127.0.0.1/tcp/{host[0].socket.getsockname()[1]}"
        member = Identity(KEYS[1]).address
        rules = DialRules([parse_endpoint("/ip4/127.0.0.1/tcp/4001")])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, knocked, host)
            async with open_network(KEYS[0], rules=rules) as network:
                network.set_members({member: [place]}, stated={member})
                await trio.sleep(2)
                assert knocks == 1
            nursery.cancel_scope.cancel()

    run(scenario)


def test_the_status_says_why_an_address_led_nowhere() -> None:
    async def scenario() -> None:
        taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nobody = f"/ip4/127.0.0.1/tcp/{taken[0].socket.getsockname()[1]}"
        await taken[0].aclose()
        member = Identity(KEYS[1]).address
        async with open_network(KEYS[0]) as network, open_network(KEYS[2]) as stranger:
            another = stranger.addresses[0].partition("/p2p/")[0]
            network.set_members({member: [nobody, another]})
            failed = network._peers[member].failed_dials
            with trio.fail_after(10):
                while len(failed) < 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            said = {str(place): failure.why for place, failure in failed.items()}
            assert said[nobody] == "refused: no node listens there"
            assert NOT_COUNTED in said[another] or "another node is there" in said[another]

    run(scenario)


def test_a_member_that_dials_and_cannot_be_dialled_is_told_apart_until_its_address_is_another() -> (
    None
):
    async def scenario() -> None:
        me, member = Identity(KEYS[0]).address, Identity(KEYS[1]).address
        taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nobody = f"/ip4/127.0.0.1/tcp/{taken[0].socket.getsockname()[1]}"
        await taken[0].aclose()
        async with open_network(KEYS[0]) as network, open_network(KEYS[1]) as walled:
            network.set_members({member: [nobody]})
            walled.set_members({me: network.addresses})

            async def until(is_one_way: bool) -> None:
                with trio.fail_after(10):
                    while network.is_one_way(member) is not is_one_way:  # noqa: ASYNC110
                        await trio.sleep(0.01)

            await until(True)
            assert member in network.connected
            assert not walled.is_one_way(me)
            said = network.status()["peers"][to_hex(member)]  # type: ignore[index]
            assert said["failed_dials"] == {nobody: "refused: no node listens there"}
            network.set_members({member: walled.addresses})
            await until(False)
            assert network.status()["refused_connections"] == 0
            assert walled.status()["refused_connections"] == 0

    run(scenario)


def test_a_member_that_comes_back_where_it_says_to_be_is_dialled_there_again_at_once() -> None:
    async def scenario() -> None:
        me, member = Identity(KEYS[0]).address, Identity(KEYS[1]).address
        taken = await trio.open_tcp_listeners(0, host="127.0.0.1")
        place = f"/ip4/127.0.0.1/tcp/{taken[0].socket.getsockname()[1]}"
        await taken[0].aclose()
        rules = DialRules([parse_endpoint("/ip4/127.0.0.1/tcp/4001")])
        async with open_network(KEYS[0], rules=rules) as network:
            network.set_members({member: [place]}, stated={member})
            failed = network._peers[member].failed_dials
            with trio.fail_after(10):
                while not failed:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            async with open_network(KEYS[1], listen=[place]) as back:
                back.set_members({me: network.addresses})
                with trio.fail_after(10):
                    while failed:  # noqa: ASYNC110
                        await trio.sleep(0.01)
                assert member in network.connected
                assert not network.is_one_way(member)

    run(scenario)
