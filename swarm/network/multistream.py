"""multistream-select 1.0: how two libp2p peers agree on the protocol of a connection or stream.

Both sides send `/multistream/1.0.0`; the initiator proposes a protocol; the responder repeats it,
or answers `na`. Each line is a varint length, the text and a newline
(https://github.com/multiformats/multistream-select).

Written here in place of libp2p's own because that one takes any announced length up to 2^64 from
peers that have proved nothing yet, and waits for an answer after each line: the initiator here
sends both lines at once, which saves a round trip per negotiation.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

HEADER = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_LINE_BYTES = 1024
MAX_PROPOSALS = 8


class NegotiationError(Exception):
    """The peers share no protocol, or one of them does not speak multistream-select."""


class Wire(Protocol):
    """Whatever bytes go over: a TCP connection, a secured session, a stream.

    `read(n)` returns exactly n bytes or raises.
    """

    async def read(self, n: int) -> bytes: ...
    async def write(self, data: bytes) -> None: ...


async def propose(wire: Wire, protocol: str) -> None:
    """As initiator, agree on `protocol`. Raises NegotiationError if the peer will not."""
    await wire.write(_encode_line(HEADER) + _encode_line(protocol))
    _expect_header(await _read_line(wire))
    answer = await _read_line(wire)
    if answer != protocol:
        raise NegotiationError(f"the peer answered {answer!r} to {protocol!r}")


async def answer(wire: Wire, protocols: Collection[str]) -> str:
    """As responder, agree on one of `protocols` and return it. Raises NegotiationError."""
    await wire.write(_encode_line(HEADER))
    _expect_header(await _read_line(wire))
    for _ in range(MAX_PROPOSALS):
        proposal = await _read_line(wire)
        if proposal in protocols:
            await wire.write(_encode_line(proposal))
            return proposal
        await wire.write(_encode_line(NOT_AVAILABLE))
    raise NegotiationError(f"the peer proposed nothing known in {MAX_PROPOSALS} attempts")


def _expect_header(line: str) -> None:
    if line != HEADER:
        raise NegotiationError(f"the peer began with {line!r}, not with {HEADER}")


def _encode_line(text: str) -> bytes:
    line = text.encode() + b"\n"
    assert len(line) < 0x80  # so that the varint is one byte
    return bytes([len(line)]) + line


async def _read_line(wire: Wire) -> str:
    length = (await wire.read(1))[0]
    if length >= 0x80:
        high = (await wire.read(1))[0]
        length = (length & 0x7F) | (high << 7)
        if high >= 0x80 or length > MAX_LINE_BYTES:
            raise NegotiationError(f"a line may have {MAX_LINE_BYTES} bytes, not {length} or more")
    line = await wire.read(length) if length else b""
    if not line.endswith(b"\n"):
        raise NegotiationError("a line must end in a newline")
    return line[:-1].decode("utf-8", errors="backslashreplace")
