"""What peers say to each other, and how a frame of it looks.

Two protocols, both on streams of an authenticated connection:

    /swarm/control/1   one stream per connection, opened by the dialler, used by both sides:
                       frames of `Message`, `Request` and `Response`
    /swarm/blob/1      one stream per fetch: a `ChunksWanted` frame, answered by `ChunksFollow`
                       and the chunks, or by a `Refusal`

A frame is a 4-byte big-endian length and that many bytes of msgpack. A chunk is an 8-byte header
(index, length; both big-endian) and its bytes, so that a large one is neither copied nor parsed; a
header with index `CHUNK_REFUSED` is followed by a refusal in words instead.

Chunks look the same on the bulk channel (`bulk`), where a token from a `BulkGrant` asks for them.
"""

from __future__ import annotations

import struct
from typing import Annotated, TypeVar

import msgspec

from swarm.errors import UNREADABLE, ProtocolViolation
from swarm.network.muxer import Stream
from swarm.visible import visible

CONTROL = "/swarm/control/1"
BLOB = "/swarm/blob/1"

LENGTH = struct.Struct(">I")
CHUNK_HEADER = struct.Struct(">II")
CHUNK_REFUSED = 0xFFFF_FFFF
MAX_REFUSAL_CHARS = 1000
MAX_CERTIFICATE_BYTES = 4096

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
RequestId = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
RefusalText = Annotated[str, msgspec.Meta(max_length=MAX_REFUSAL_CHARS)]


class Message(msgspec.Struct, tag=1, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One-way; messages of one sender arrive in order."""

    topic: Name
    payload: bytes


class Request(msgspec.Struct, tag=2, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Answered by the `Response` with the same id."""

    id: RequestId
    method: Name
    payload: bytes


class Response(msgspec.Struct, tag=3, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The answer, or in words why there is none."""

    id: RequestId
    payload: bytes | None
    refusal: RefusalText | None = None


class ChunksWanted(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Send these chunks of this blob, in this order."""

    root: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    indices: list[Annotated[int, msgspec.Meta(ge=0, lt=CHUNK_REFUSED)]]


class BulkWanted(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Grant me these chunks over the bulk channel, where I shall show this certificate (DER)."""

    root: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    indices: list[Annotated[int, msgspec.Meta(ge=0, lt=CHUNK_REFUSED)]]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]


class StreamWanted(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Grant me the stream of this name over the bulk channel, where I shall show this certificate
    (DER)."""

    name: Annotated[bytes, msgspec.Meta(min_length=1, max_length=64)]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]


class BulkGrant(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A token for them, the certificate that I shall show (DER), and the ports where I listen."""

    token: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    certificate: Annotated[bytes, msgspec.Meta(max_length=MAX_CERTIFICATE_BYTES)]
    ports: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=65_535)]], msgspec.Meta(max_length=4)
    ]


class BulkCall(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Dial me for the bulk channel, where you know me to be, or where this connection ends at one
    of these ports, and send this token first: I shall fetch over that connection."""

    token: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    ports: Annotated[
        list[Annotated[int, msgspec.Meta(ge=1, le=65_535)]], msgspec.Meta(max_length=4)
    ]


ControlFrame = Message | Request | Response
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
control_decoder: msgspec.msgpack.Decoder[ControlFrame] = msgspec.msgpack.Decoder(ControlFrame)
wanted_decoder = msgspec.msgpack.Decoder(ChunksWanted)
want_decoder = msgspec.msgpack.Decoder(BulkWanted)
stream_decoder = msgspec.msgpack.Decoder(StreamWanted)
grant_decoder = msgspec.msgpack.Decoder(BulkGrant)
call_decoder = msgspec.msgpack.Decoder(BulkCall)


def encode_frame(value: msgspec.Struct) -> bytes:
    body = _encoder.encode(value)
    return LENGTH.pack(len(body)) + body


async def read_frame(
    stream: Stream, decoder: msgspec.msgpack.Decoder[T], max_bytes: int, stall_s: float
) -> T:
    """Wait for a frame, as long as it takes; once begun it must go on within `stall_s`.

    Raises ProtocolViolation for an oversized or malformed frame, PeerUnreachable for a broken one.
    """
    first = await stream.read(1)
    (length,) = LENGTH.unpack(first + await stream.read_in_time(LENGTH.size - 1, stall_s))
    if length > max_bytes:
        raise ProtocolViolation(f"a frame may have {max_bytes} bytes, this one announces {length}")
    body = await stream.read_in_time(length, stall_s)
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise ProtocolViolation(f"a frame that cannot be read: {error}") from None


def short(text: object) -> str:
    """A refusal or a peer's words, bounded, on one line, all of it visible."""
    return visible(" ".join(str(text)[: 2 * MAX_REFUSAL_CHARS].split()))[:MAX_REFUSAL_CHARS]
