"""Tensors as the bytes of a stream's frame: a list of types and shapes, and their contents.

    4 bytes   length of the list, big-endian
    list      msgpack, [type, [dimensions]] of each tensor
    contents  little-endian, each from a multiple of ALIGN bytes on

No pickle: whoever reads checks every number before a tensor is made, and copies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
import torch

from swarm.errors import UNREADABLE, PlanError, ProtocolViolation
from swarm.protocol.streams import MAX_FRAME_BYTES

ALIGN = 64
MAX_TENSORS = 1024
LENGTH_BYTES = 4
TYPES = {
    str(kind).removeprefix("torch."): kind
    for kind in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
_NAMES = {kind: name for name, kind in TYPES.items()}
_Size = Annotated[int, msgspec.Meta(ge=0, le=MAX_FRAME_BYTES)]
_Shape = Annotated[list[_Size], msgspec.Meta(max_length=8)]
_decoder = msgspec.msgpack.Decoder(
    Annotated[list[tuple[str, _Shape]], msgspec.Meta(max_length=MAX_TENSORS)]
)


def pack(tensors: Sequence[torch.Tensor]) -> list[memoryview]:
    """The frame's bytes, in pieces; contents are not copied where they lie in one. Raises PlanError
    for what is no tensor that can be sent, or is too large."""
    ready = [_ready(each) for each in tensors]
    listed = msgspec.msgpack.encode([(_NAMES[each.dtype], list(each.shape)) for each in ready])
    pieces = [memoryview(len(listed).to_bytes(LENGTH_BYTES, "big") + listed)]
    size = len(pieces[0])
    for each in ready:
        gap = -size % ALIGN
        pieces.append(memoryview(bytes(gap)))
        pieces.append(_bytes_of(each))
        size += gap + len(pieces[-1])
    if size > MAX_FRAME_BYTES or len(ready) > MAX_TENSORS:
        raise PlanError(
            f"{len(ready)} tensors of {size} bytes are too much to be sent at once "
            f"({MAX_TENSORS}, {MAX_FRAME_BYTES} bytes): send them in parts"
        )
    return [piece for piece in pieces if len(piece)]


def unpack(frame: bytearray) -> tuple[torch.Tensor, ...]:
    """Read what `pack` wrote; the tensors lie in `frame`. Raises ProtocolViolation."""
    start = LENGTH_BYTES + int.from_bytes(frame[:LENGTH_BYTES], "big")
    if len(frame) < LENGTH_BYTES or start > len(frame):
        raise ProtocolViolation(f"a frame of {len(frame)} bytes does not hold its list of tensors")
    try:
        listed = _decoder.decode(memoryview(frame)[LENGTH_BYTES:start])
    except UNREADABLE as error:
        raise ProtocolViolation(f"tensors that cannot be read: {error}") from None
    found = []
    for name, shape in listed:
        if name not in TYPES:
            raise ProtocolViolation(f"a tensor of the type {name[:20]!r}")
        kind, count = TYPES[name], math.prod(shape)
        start += -start % ALIGN
        end = start + count * kind.itemsize
        if end > len(frame):
            raise ProtocolViolation(f"a tensor of {shape} goes beyond its frame")
        flat = (
            torch.frombuffer(frame, dtype=kind, count=count, offset=start)
            if count
            else torch.empty(0, dtype=kind)
        )
        found.append(flat.reshape(shape))
        start = end
    if start != len(frame):
        raise ProtocolViolation(f"{len(frame) - start} bytes after the last tensor")
    return tuple(found)


def _ready(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise PlanError(f"only tensors are sent to a role, not {type(value).__name__}")
    if value.dtype not in _NAMES or value.layout != torch.strided or value.ndim > 8:
        raise PlanError(f"a tensor of {value.dtype} ({value.layout}) cannot be sent to a role")
    return value.detach().cpu().contiguous()


def _bytes_of(value: torch.Tensor) -> memoryview:
    return value.reshape(-1).view(torch.uint8).numpy().data
