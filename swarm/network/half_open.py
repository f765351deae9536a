"""Connections that have not proved to be a member's yet: few, and the oldest gives way.

Refusing newcomers would let whoever holds all places keep members out, silently and for nothing. So
a newcomer always gets in, and the one that goes is the oldest of where most come from: of the host
that has too many, of the network that has too many (/24, /64), or of the network and host with the
most if there are too many in all. Hosts where members were met last go after all others. A member
that arrives alone from its network is thus displaced only by as many networks as there are places,
each of which comes again within the time of a handshake; against that no token in the first bytes
would help either, for it would be checked at this very place.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

MAX_MEMBER_HOSTS = 256


@dataclass(eq=False)
class _Opening:
    host: str
    subnet: str
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class HalfOpen:
    """All half-open connections of a node, the oldest first."""

    def __init__(self, most: int, most_per_subnet: int, most_per_host: int) -> None:
        self._most = most
        self._most_per_subnet = most_per_subnet
        self._most_per_host = most_per_host
        self._openings: list[_Opening] = []
        self._member_hosts: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._openings)

    def remember_member(self, host: str) -> None:
        """A member has proved itself from this host: it is preferred from now on."""
        self._member_hosts[host] = None
        self._member_hosts.move_to_end(host)
        while len(self._member_hosts) > MAX_MEMBER_HOSTS:
            self._member_hosts.popitem(last=False)

    @contextmanager
    def admit(self, host: str) -> Iterator[trio.CancelScope]:
        """A place for a connection from `host`, for the block, which is cancelled if it has to give
        way: `cancelled_caught` of the scope says so."""
        opening = _Opening(host, subnet_of(host))
        self._make_room(opening)
        self._openings.append(opening)
        try:
            with opening.scope:
                yield opening.scope
        finally:
            if opening in self._openings:
                self._openings.remove(opening)

    def _make_room(self, new: _Opening) -> None:
        same_host = [each for each in self._openings if each.host == new.host]
        same_subnet = [each for each in self._openings if each.subnet == new.subnet]
        if len(same_host) >= self._most_per_host:
            self._end_one_of(same_host)
        elif len(same_subnet) >= self._most_per_subnet:
            self._end_one_of(same_subnet)
        elif len(self._openings) >= self._most:
            self._end_one_of(self._openings)

    def _end_one_of(self, openings: Sequence[_Opening]) -> None:
        subnets = Counter(each.subnet for each in openings)
        hosts = Counter(each.host for each in openings)

        def crowd(each: _Opening) -> tuple[bool, int, int]:
            return each.host not in self._member_hosts, subnets[each.subnet], hosts[each.host]

        leaving = max(openings, key=crowd)  # the first of those, which is the oldest
        self._openings.remove(leaving)
        leaving.scope.cancel()


def subnet_of(host: str) -> str:
    """The /24 of an IPv4 address or the /64 of an IPv6 address; anything else is its own."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    bits = 24 if mapped or address.version == 4 else 64
    return str(ipaddress.ip_network((mapped or address, bits), strict=False))
