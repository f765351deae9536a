"""What a site says of an update beside it, as long as its plan is kept: the chain has the digest.

Typed and small, so that whoever audits a plan later can read each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from swarm.errors import UNREADABLE, BlobError

Hex = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]
MAX_META_BYTES = 1 << 10


@dataclass(frozen=True)
class Meta:
    """Of one update. Seconds are this site's, and nobody can check them."""

    base: Hex
    """The model that it was made from."""
    task: Annotated[str, msgspec.Meta(max_length=32)]
    steps: Annotated[int, msgspec.Meta(ge=0)] = 0
    train_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    epsilon: Annotated[float, msgspec.Meta(ge=0)] | UnsetType = UNSET
    """What a plan with privacy has spent of it here, this update included."""
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] | UnsetType = UNSET


_decoder = msgspec.json.Decoder(Meta)


def encode_meta(meta: Meta) -> bytes:
    """As it is kept and sent."""
    return msgspec.json.encode(meta, order="sorted")


def decode_meta(raw: bytes) -> Meta:
    """Read one. Raises BlobError for anything else."""
    if len(raw) > MAX_META_BYTES:
        raise BlobError(f"{len(raw)} bytes say nothing of an update: {MAX_META_BYTES} are the most")
    try:
        meta = _decoder.decode(raw)
    except UNREADABLE as error:
        raise BlobError(f"this says nothing of an update: {error}") from None
    if encode_meta(meta) != raw:
        raise BlobError("this says nothing of an update: it is not written as one is")
    return meta
