"""One-time tokens: the right to one fetch over the bulk channel, for one member, for ten seconds.

The control stream decides who may fetch, the bulk channel carries bytes, and a token is the only
thing that passes between them. Whoever comes with one that is unknown, used, expired or another
member's is refused; the owner's token stays good when another tries it.
"""

from __future__ import annotations

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.errors import ProtocolViolation
from swarm.types import NO_DIGEST, Address, Digest, to_hex

TOKEN_BYTES = 32
LIFETIME_S = 10.0
REMEMBERED_S = 600.0
"""For so long a token that came too late is told from one that was never given."""
MAX_TICKETS_PER_MEMBER = 16


@dataclass(frozen=True)
class Ticket:
    """What a token is good for."""

    member: Address
    root: Digest
    indices: Sequence[int]
    expires_at: float
    stream: bytes = b""
    """The name of a stream, if it is good for that and no fetch."""


class Tickets:
    """The tokens that this node has given out, and not taken back or forgotten yet."""

    def __init__(self) -> None:
        self._open: OrderedDict[bytes, Ticket] = OrderedDict()

    def issue(self, member: Address, root: Digest, indices: Sequence[int], now: float) -> bytes:
        """A new token for chunks; a member that has too many tokens loses its oldest."""
        # Four bytes each: they are kept for minutes, and Python's own numbers take ten times that.
        return self._add(Ticket(member, root, array("I", indices), now + LIFETIME_S), now)

    def issue_stream(self, member: Address, name: bytes, now: float) -> bytes:
        """As `issue`, for a stream."""
        return self._add(Ticket(member, NO_DIGEST, (), now + LIFETIME_S, name), now)

    def _add(self, issued: Ticket, now: float) -> bytes:
        member = issued.member
        for token, ticket in list(self._open.items()):
            if now >= ticket.expires_at + REMEMBERED_S:
                del self._open[token]
        theirs = [token for token, ticket in self._open.items() if ticket.member == member]
        for token in theirs[: max(0, len(theirs) + 1 - MAX_TICKETS_PER_MEMBER)]:
            del self._open[token]
        token = secrets.token_bytes(TOKEN_BYTES)
        self._open[token] = issued
        return token

    def redeem(self, token: bytes, member: Address, now: float) -> Ticket:
        """What `member` may fetch; the token is used up.

        Raises ProtocolViolation, and for a token that has only come too late TimeoutError: whoever
        slept meanwhile, or was cut off, did no wrong.
        """
        ticket = self._open.get(token)
        if ticket is None:
            raise ProtocolViolation("a token that was never given, or was used before")
        if ticket.member != member:
            raise ProtocolViolation(f"a token that was given to {to_hex(ticket.member)}")
        del self._open[token]
        if now >= ticket.expires_at:
            raise TimeoutError(f"a token that is over {LIFETIME_S:g} s old")
        return ticket

    def forget(self, member: Address) -> None:
        """Nothing that this member holds is good any more."""
        for token in [t for t, ticket in self._open.items() if ticket.member == member]:
            del self._open[token]
