"""Where a node lets members send it: bounds on addresses that a member states of itself.

Addresses in this node's own configuration and in the network file are people's, and dialled as they
are. What a member states on the chain is its own word: without bounds, it could have every other
member's node knock at hosts inside that member's network. So it leads only to public addresses, and
to private ones in the network where this node says it is itself (a /24 or /64) or that its operator
names; never to a port below 1024 but 443; and a name counts as what it resolves to, which is then
what is dialled.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import trio

from swarm.network.half_open import subnet_of
from swarm.network.tcp import Endpoint

FIRST_FREE_PORT = 1024
HTTPS = 443
FAMILIES = {"ip4": socket.AF_INET, "dns4": socket.AF_INET, "ip6": socket.AF_INET6,
            "dns6": socket.AF_INET6, "dns": socket.AF_UNSPEC}  # fmt: skip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class DialRefused(OSError):
    """This node does not dial there, whoever asks."""


class DialRules:
    """`own` is where this node says that it is; `networks` are what its operator allows besides."""

    def __init__(self, own: Sequence[Endpoint], networks: Sequence[Network] = ()) -> None:
        self._own = own
        self._networks = networks

    async def permit(self, endpoint: Endpoint) -> Endpoint:
        """The IP address and port to dial for a stated endpoint.

        Raises DialRefused with the remedy, or OSError for a name that cannot be resolved. The
        caller sets the deadline.
        """
        if endpoint.port < FIRST_FREE_PORT and endpoint.port != HTTPS:
            raise DialRefused(
                f"port {endpoint.port} is below {FIRST_FREE_PORT} and not {HTTPS}: have the member "
                "announce another, or name it under `network.peers`"
            )
        found = await _resolve(endpoint)
        for host in found:
            if await self._is_allowed(host):
                protocol = "ip6" if ":" in host else "ip4"
                return Endpoint(host, endpoint.port, protocol, endpoint.peer)
        raise DialRefused(
            f"{', '.join(found)} is not a public address: if the member is there, name its network "
            "in `network.dial_private`, or the member under `network.peers`"
        )

    async def _is_allowed(self, host: str) -> bool:
        address = _address(host)
        if address.is_multicast or address.is_unspecified:
            return False
        if address.is_global:
            return True
        if any(address in network for network in self._networks):
            return True
        for mine in self._own:
            try:
                if subnet_of(str(address)) in {subnet_of(h) for h in await _resolve(mine)}:
                    return True
            except OSError:
                continue  # this node's own name cannot be resolved here: it tells nothing
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Without a zone, and an IPv4 address as such however it is written."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


async def _resolve(endpoint: Endpoint) -> list[str]:
    """The IP addresses of an endpoint. Raises OSError."""
    found = await trio.socket.getaddrinfo(
        endpoint.host,
        endpoint.port,
        family=FAMILIES[endpoint.protocol],
        type=socket.SOCK_STREAM,
    )
    return list(dict.fromkeys(str(place[0]) for *_, place in found))
