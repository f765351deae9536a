"""Under which addresses members can be reached, as each of them says on the chain.

Founders' addresses stand in the network file. A member that joined later or has moved states its
own: its node signs the transaction, so nobody can state another's. They are hints: whoever answers
there must prove its key, an address that cannot be used is skipped, and what a member states leads
to no host that the dial rules keep out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from swarm.network.dial_rules import DialRules
from swarm.network.tcp import parse_endpoint
from swarm.protocol.membership import MAX_CONTACT_BYTES
from swarm.protocol.state import Member
from swarm.types import Address

MAX_ADDRESSES = 8
Addresses = tuple[str, ...]


def encode_contact(addresses: Sequence[str]) -> bytes:
    """What the chain keeps: the first of the addresses, as many as there is room for."""
    kept: list[str] = []
    for address in addresses[:MAX_ADDRESSES]:
        if len("\n".join([*kept, address]).encode()) > MAX_CONTACT_BYTES:
            break
        kept.append(address)
    return "\n".join(kept).encode()


def decode_contact(contact: bytes) -> Addresses:
    """The addresses that a member states; none if what it states is no text."""
    try:
        lines = contact.decode().split("\n")
    except UnicodeDecodeError:
        return ()
    return tuple(line for line in lines[:MAX_ADDRESSES] if line.isprintable() and line)


def addresses_of(
    member: Member, configured: Mapping[str, Sequence[str]], founding: Mapping[Address, Addresses]
) -> Addresses:
    """Where to dial a member: as this node's configuration says, as the member says itself, or as
    the network file says."""
    if member.name in configured:
        return tuple(configured[member.name])
    return decode_contact(member.contact) or _founding(member, founding)


def is_stated(
    member: Member, configured: Mapping[str, Sequence[str]], founding: Mapping[Address, Addresses]
) -> bool:
    """Whether `addresses_of` has any that are nothing but the member's own word."""
    known = _founding(member, founding)
    return member.name not in configured and not set(decode_contact(member.contact)) <= set(known)


def dial_rules(
    address: Address,
    announced: Sequence[str],
    listen: Sequence[str],
    founding: Mapping[Address, Addresses],
    networks: Sequence[str],
) -> DialRules:
    """What this node dials of members' own word: public addresses, those near where it says it is
    itself, and those in `networks`."""
    own = tuple(announced) or founding.get(address, ()) or tuple(listen)
    return DialRules([parse_endpoint(each) for each in own], [ip_network(n) for n in networks])


def contact_owed(
    me: Member, announced: Sequence[str], founding: Mapping[Address, Addresses]
) -> bytes | None:
    """What this node should state now; None if the others know where it is."""
    wanted = encode_contact(announced)
    known = me.contact or encode_contact(_founding(me, founding))
    return None if not wanted or wanted == known else wanted


def _founding(member: Member, founding: Mapping[Address, Addresses]) -> Addresses:
    """Where the network file says that a member is, whichever key its node has now."""
    return founding.get(member.node) or founding.get(member.account, ())
