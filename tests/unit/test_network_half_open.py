from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio

from swarm.network.half_open import MAX_MEMBER_HOSTS, HalfOpen, subnet_of


def who_is_left(limits: tuple[int, int, int], hosts: list[str], *members: str) -> list[str]:
    """Connections from `hosts`, one after the other, that all stay silent; who is still there."""

    async def scenario() -> list[str]:
        half_open = HalfOpen(*limits)
        for member in members:
            half_open.remember_member(member)
        with ExitStack() as stack:
            places = [(host, stack.enter_context(half_open.admit(host))) for host in hosts]
            left = [host for host, place in places if not place.cancel_called]
            assert len(left) == len(half_open)
            return left

    return trio.run(scenario)


def test_a_newcomer_always_gets_in_and_the_oldest_of_its_host_goes() -> None:
    assert who_is_left((9, 9, 2), ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.1"]) == [
        "10.0.0.2",
        "10.0.0.1",
        "10.0.0.1",
    ]


def test_of_a_crowded_network_its_busiest_host_gives_way() -> None:
    hosts = ["10.0.0.9", *["10.0.0.1"] * 3, *["10.0.0.2"] * 2]
    assert who_is_left((9, 4, 3), hosts) == ["10.0.0.9", "10.0.0.1", "10.0.0.2", "10.0.0.2"]


def test_where_all_places_are_taken_the_busiest_network_gives_way() -> None:
    hosts = ["10.0.1.1", *[f"10.0.0.{n}" for n in range(4)], "10.0.2.1"]
    assert "10.0.1.1" in who_is_left((4, 4, 4), hosts)
    assert who_is_left((4, 4, 4), hosts).count("10.0.2.1") == 1


def test_hosts_of_members_are_the_last_to_go() -> None:
    hosts = ["10.0.1.1", *[f"10.1.{n}.1" for n in range(50)]]
    assert "10.0.1.1" not in who_is_left((4, 4, 4), hosts)
    assert "10.0.1.1" in who_is_left((4, 4, 4), hosts, "10.0.1.1")
    forgotten = [f"10.2.{n}.1" for n in range(MAX_MEMBER_HOSTS)]
    assert "10.0.1.1" not in who_is_left((4, 4, 4), hosts, "10.0.1.1", *forgotten)


@pytest.mark.parametrize(
    ("host", "subnet"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_network_is_24_bits_of_ipv4_or_64_of_ipv6(host: str, subnet: str) -> None:
    assert subnet_of(host) == subnet
