"""What a blob is, and the hashes of its chunks: what travels before any of its bytes.

The header (msgpack array: version, kind, codec, base, schema, length, chunk size) fixes how many
chunks there are and what they mean. The manifest that travels is the header plus all leaves: 32
bytes per chunk, 32 KB for a model of 1 GB. `tree.py` makes the blob's name of both.

An update has its origin in the header, too: which member made it, in which round of which plan. So
a digest that somebody copies from a waiting transaction names another's update for good, however
early the copy comes on the chain.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import msgspec

from swarm.blobs.tree import HASH_BYTES, leaf_hash, root_hash
from swarm.errors import UNREADABLE, BlobError, NotItsOwn, SchemaMismatch
from swarm.tensors import (
    MAX_CHUNK_BYTES,
    MAX_FILE_BYTES,
    MIN_CHUNK_BYTES,
    Layout,
    chunk_bytes_for,
)
from swarm.types import NO_DIGEST, Digest, to_hex

MAX_CHUNKS = MAX_FILE_BYTES // MAX_CHUNK_BYTES
MAX_MANIFEST_BYTES = MAX_CHUNKS * HASH_BYTES + 256

_Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Origin(NamedTuple):
    """Where an update comes from, by numbers of the chain."""

    plan: _Number
    round: _Number
    member: _Number

    def __str__(self) -> str:
        return f"member {self.member}'s of round {self.round} of plan {self.plan}"


class Manifest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """What a blob is, and the hashes of its chunks. `decode` what a peer sent.

    kind    "full": the values themselves; "delta": differences to `base`; "masked": integers that
            mean something only when summed. Version 1 merges full ones; the others are reserved.
    codec   how the bytes are written: "safetensors" (a canonical tensor file) or "raw".
    base    the blob that this one refers to, or zeros. Tensors that a full blob with a base does
            not hold are those of its base.
    schema  `Layout.schema_digest` of a tensor file, zeros of raw bytes: another shape is refused
            before any of its bytes have travelled.
    leaves  the chunks' hashes, joined.
    origin  whose update it is; None of everything else.
    """

    version: Literal[1]
    kind: Literal["full", "delta", "masked"]
    codec: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    base: _Hash
    schema: _Hash
    length_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
    chunk_bytes: Annotated[int, msgspec.Meta(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)]
    leaves: Annotated[bytes, msgspec.Meta(max_length=MAX_CHUNKS * HASH_BYTES)]
    origin: Origin | None = None

    @classmethod
    def decode(cls, encoded: bytes, root: Digest) -> Manifest:
        """Read a manifest and check that it is that of `root`. Raises BlobError."""
        if len(encoded) > MAX_MANIFEST_BYTES:
            raise BlobError(
                f"the manifest of blob {to_hex(root)} has {len(encoded)} bytes, over the limit of "
                f"{MAX_MANIFEST_BYTES}"
            )
        try:
            manifest = _decoder.decode(encoded)
        except UNREADABLE as error:
            raise BlobError(
                f"the manifest of blob {to_hex(root)} cannot be read: {error}"
            ) from None
        if manifest.chunk_bytes & (manifest.chunk_bytes - 1):
            raise BlobError(
                f"blob {to_hex(root)} has chunks of {manifest.chunk_bytes} bytes, which is no "
                "power of two"
            )
        if len(manifest.leaves) != HASH_BYTES * manifest.chunks or manifest.root != root:
            raise BlobError(f"the manifest that came is not that of blob {to_hex(root)}")
        return manifest

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @cached_property
    def root(self) -> Digest:
        """The blob's name."""
        sizes = (self.length_bytes, self.chunk_bytes)
        origin = () if self.origin is None else (self.origin,)
        header = (self.version, self.kind, self.codec, self.base, self.schema, *sizes, *origin)
        return Digest(root_hash(msgspec.msgpack.encode(header), self.leaves))

    @property
    def chunks(self) -> int:
        """How many; an empty blob has one empty chunk."""
        return max(1, -(-self.length_bytes // self.chunk_bytes))

    def chunk_range(self, index: int) -> tuple[int, int]:
        """The byte offsets where a chunk starts and stops. Raises BlobError if there is no such."""
        if not 0 <= index < self.chunks:
            raise BlobError(f"blob {to_hex(self.root)} has no chunk {index} of {self.chunks}")
        start = index * self.chunk_bytes
        return start, min(start + self.chunk_bytes, self.length_bytes)

    def matches(self, index: int, chunk: bytes | memoryview) -> bool:
        """Whether these are the bytes of that chunk, 0 ≤ index < chunks."""
        return leaf_hash(chunk) == self.leaf(index)

    def leaf(self, index: int) -> bytes:
        """The hash of one chunk, 0 ≤ index < chunks."""
        return self.leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def require(
        self, *, max_bytes: int, layout: Layout | None = None, origin: Origin | None = None
    ) -> None:
        """Refuse what is longer than expected, holds other tensors or comes from elsewhere.

        Raises SchemaMismatch, or NotItsOwn where only the origin is another.
        """
        if self.length_bytes > max_bytes:
            raise SchemaMismatch(
                f"blob {to_hex(self.root)} has {self.length_bytes} bytes where at most "
                f"{max_bytes} are expected"
            )
        if layout is None:
            return
        if self != Manifest.of_tensors(layout, self.leaves, self.origin):
            raise SchemaMismatch(
                f"blob {to_hex(self.root)} does not hold the expected tensors: it is {self.kind} "
                f"{self.codec}, {self.length_bytes} bytes, schema {to_hex(self.schema)}, but "
                f"expected are {layout.file_bytes} bytes, schema {to_hex(layout.schema_digest)}"
            )
        if self.origin != origin:
            raise NotItsOwn(
                f"blob {to_hex(self.root)} is {_told(self.origin)}, not {_told(origin)}"
            )

    @classmethod
    def of_tensors(cls, layout: Layout, leaves: bytes, origin: Origin | None = None) -> Manifest:
        """Of a whole tensor file."""
        return cls(
            version=1,
            kind="full",
            codec="safetensors",
            base=NO_DIGEST,
            schema=layout.schema_digest,
            length_bytes=layout.file_bytes,
            chunk_bytes=layout.chunk_bytes,
            leaves=leaves,
            origin=origin,
        )

    @classmethod
    def of_bytes(cls, content: bytes) -> Manifest:
        """Of raw bytes: round metadata, a plan's code."""
        chunk_bytes = chunk_bytes_for(len(content))
        chunks = (
            content[start : start + chunk_bytes]
            for start in range(0, max(1, len(content)), chunk_bytes)
        )
        return cls(
            version=1,
            kind="full",
            codec="raw",
            base=NO_DIGEST,
            schema=NO_DIGEST,
            length_bytes=len(content),
            chunk_bytes=chunk_bytes,
            leaves=b"".join(map(leaf_hash, chunks)),
        )


# Made here, not at the first use: msgspec reads a type's annotations then, and a second thread that
# decodes meanwhile meets a half-read type, which ends the process (0.22, SIGSEGV).
_decoder = msgspec.msgpack.Decoder(Manifest)


def _told(origin: Origin | None) -> str:
    return "no update" if origin is None else f"an update, {origin}"
