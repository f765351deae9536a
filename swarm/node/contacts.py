"""Under which addresses members can be reached, as each of them says on the chain.

Founders' addresses stand in the network file. A member that joined later or has moved states its
own: its node signs the transaction, so nobody can state another's. They are hints: whoever answers
there must prove its key, and an address that cannot be used is skipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    return decode_contact(member.contact) or founding.get(member.node, ())


def contact_owed(
    me: Member, announced: Sequence[str], founding: Mapping[Address, Addresses]
) -> bytes | None:
    """What this node should state now; None if the others know where it is."""
    wanted = encode_contact(announced)
    known = me.contact or encode_contact(founding.get(me.node, ()))
    return None if not wanted or wanted == known else wanted
