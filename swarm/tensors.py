"""Tensor files: one canonical safetensors layout for models, updates and statistics.

Every parameter set that swarm stores, sends or merges is a safetensors file that anybody can open
with the safetensors library (format: https://github.com/huggingface/safetensors). That format
leaves freedom: the order of tensors, metadata, spaces. Here there is exactly one file for given
tensors, so that equal values give equal bytes and hence one digest on every machine:

- tensors lie in order of element size, largest first, then by name; no gaps, no metadata;
- the header is compact JSON in that same order, padded with spaces up to a chunk edge;
- the chunk size follows from the size of the data alone.

Sizes are powers of two and go down from tensor to tensor, so a chunk edge is always an element
edge: chunk k of a merge needs chunk k of each update and nothing else.

A file is read by mapping it, never by loading it. What a peer sent is parsed strictly: all that is
not canonical is refused with BlobError, within bounds on memory that do not depend on the sender.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from blake3 import blake3

from swarm.errors import UNREADABLE, BlobError, LocalError
from swarm.types import Digest

DType = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]

NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its raw bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

MIN_CHUNK_BYTES = 4 << 10
MAX_CHUNK_BYTES = 1 << 20
CHUNKS_PER_FILE = 256  # aimed at between the two: enough to overlap transfer and merge
MAX_FILE_BYTES = 64 << 30
MAX_HEADER_BYTES = 4 << 20
MAX_TENSORS = 32_768
MAX_NAME_BYTES = 512
MAX_DIMENSIONS = 32

_SCHEMA_DOMAIN = "swarm 2026 tensor schema v1"
_PREFIX_BYTES = 8  # the header's length, little-endian, before the JSON


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, element type and shape of one tensor."""

    name: Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
    dtype: DType
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)], ...],
        msgspec.Meta(max_length=MAX_DIMENSIONS),
    ]

    @property
    def size_bytes(self) -> int:
        return NUMPY_DTYPES[self.dtype].itemsize * prod(self.shape)


class Segment(NamedTuple):
    """A run of elements of one type; `start` and `stop` are byte offsets in the file."""

    dtype: DType
    start: int
    stop: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One tensor in the JSON header; the order of the fields is the canonical one."""

    dtype: DType
    shape: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)], ...],
        msgspec.Meta(max_length=MAX_DIMENSIONS),
    ]
    data_offsets: tuple[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)],
        Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)],
    ]


_entries = msgspec.json.Decoder(dict[str, _Entry])  # here, for `swarm.blobs.tree`'s reason


def chunk_bytes_for(data_bytes: int) -> int:
    """The chunk size for so many bytes of data: a power of two, so that tiny files stay tiny."""
    aimed = max(1, -(-data_bytes // CHUNKS_PER_FILE))
    return min(max(1 << (aimed - 1).bit_length(), MIN_CHUNK_BYTES), MAX_CHUNK_BYTES)


@dataclass(frozen=True)
class Layout:
    """Where every tensor of a canonical file lies. Made by `from_specs`, `parse` or `read`.

    `header` is everything before the data: length prefix, JSON and padding. `starts` holds the byte
    offset of each tensor in the file, in the order of `specs`.
    """

    specs: tuple[TensorSpec, ...]
    starts: tuple[int, ...]
    header: bytes = field(repr=False)
    chunk_bytes: int
    file_bytes: int

    @classmethod
    def from_specs(cls, specs: Iterable[TensorSpec]) -> Layout:
        """The one layout of these tensors, given in any order.

        Raises ValueError for no tensors, too many, a name twice, or a tensor that cannot be.
        """
        ordered = tuple(sorted(specs, key=_canonical_place))
        if not 1 <= len(ordered) <= MAX_TENSORS:
            raise ValueError(f"a file holds 1 to {MAX_TENSORS} tensors, not {len(ordered)}")
        entries: dict[str, _Entry] = {}
        end = 0
        for spec in ordered:
            _check_spec(spec)
            if spec.name in entries:
                raise ValueError(f"two tensors are named {spec.name!r}")
            start, end = end, end + spec.size_bytes
            entries[spec.name] = _Entry(spec.dtype, spec.shape, (start, end))
        chunk_bytes = chunk_bytes_for(end)
        text = msgspec.json.encode(entries)
        data_start = -(-(_PREFIX_BYTES + len(text)) // chunk_bytes) * chunk_bytes
        if data_start > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {data_start} bytes is over {MAX_HEADER_BYTES}")
        if data_start + end > MAX_FILE_BYTES:
            raise ValueError(f"a file of {data_start + end} bytes is over {MAX_FILE_BYTES}")
        prefix = (data_start - _PREFIX_BYTES).to_bytes(_PREFIX_BYTES, "little")
        return cls(
            specs=ordered,
            starts=tuple(data_start + entry.data_offsets[0] for entry in entries.values()),
            header=(prefix + text).ljust(data_start, b" "),
            chunk_bytes=chunk_bytes,
            file_bytes=data_start + end,
        )

    @classmethod
    def parse(cls, header: bytes, file_bytes: int) -> Layout:
        """Read a header (length prefix, JSON and padding) that a peer may have written.

        Raises BlobError naming what is not canonical.
        """
        try:
            entries = _entries.decode(header[_PREFIX_BYTES:])
        except UNREADABLE as error:
            raise BlobError(f"the tensor file's header cannot be read: {error}") from None
        specs = [TensorSpec(name, entry.dtype, entry.shape) for name, entry in entries.items()]
        try:
            layout = cls.from_specs(specs)
        except ValueError as error:
            raise BlobError(f"the tensor file's header is refused: {error}") from None
        for spec, canonical in zip(specs, layout.specs, strict=True):
            if spec != canonical:
                raise BlobError(
                    f"tensor {spec.name!r} stands where {canonical.name!r} belongs: tensors are "
                    "ordered by element size, largest first, then by name"
                )
        if layout.header != header:
            raise BlobError(
                "the tensor file's header is not canonical: gaps between tensors, other padding, "
                "spaces or escapes, or a name twice"
            )
        if layout.file_bytes != file_bytes:
            raise BlobError(
                f"the tensor file has {file_bytes} bytes, but its header describes "
                f"{layout.file_bytes}"
            )
        return layout

    @classmethod
    def read(cls, source: Path | OpenFile) -> Layout:
        """The layout of a file; only its header is read. Raises BlobError if not canonical."""
        if isinstance(source, Path):
            with _opened(source) as opened:
                return cls.read(opened)
        with _reading(source):
            file_bytes = os.fstat(source.descriptor).st_size
            prefix = os.pread(source.descriptor, _PREFIX_BYTES, 0)
            header_bytes = _PREFIX_BYTES + int.from_bytes(prefix, "little")
            if header_bytes > min(file_bytes, MAX_HEADER_BYTES):
                raise BlobError(
                    f"{source.name} is no tensor file: its first 8 bytes announce a header of "
                    f"{header_bytes} bytes, in a file of {file_bytes} (at most {MAX_HEADER_BYTES})"
                )
            header = os.pread(source.descriptor, header_bytes, 0)
        return cls.parse(header, file_bytes)

    @property
    def data_start(self) -> int:
        return len(self.header)

    @property
    def chunks(self) -> int:
        return -(-self.file_bytes // self.chunk_bytes)

    @cached_property
    def schema_digest(self) -> Digest:
        """Names names, types and shapes: equal if and only if two files can be merged."""
        text = self.header[_PREFIX_BYTES:].rstrip(b" ")
        return Digest(blake3(text, derive_key_context=_SCHEMA_DOMAIN).digest())

    @cached_property
    def runs(self) -> tuple[Segment, ...]:
        """The data as runs of one element type, each over as many tensors as share it."""
        runs: list[Segment] = []
        for spec, start in zip(self.specs, self.starts, strict=True):
            stop = start + spec.size_bytes
            if start == stop:
                continue
            if runs and runs[-1].dtype == spec.dtype:
                runs[-1] = runs[-1]._replace(stop=stop)
            else:
                runs.append(Segment(spec.dtype, start, stop))
        return tuple(runs)

    def segments(self, chunk: int) -> list[Segment]:
        """The elements in one chunk, 0 ≤ chunk < chunks; a chunk of header only has none."""
        if not 0 <= chunk < self.chunks:
            raise IndexError(f"chunk {chunk} of {self.chunks}")
        return self.segments_between(chunk * self.chunk_bytes, (chunk + 1) * self.chunk_bytes)

    def segments_between(self, start: int, stop: int) -> list[Segment]:
        """The elements between two byte offsets, both on chunk edges (or beyond the end)."""
        found: list[Segment] = []
        first = max(0, bisect_right(self._run_starts, start) - 1)
        for run in islice(self.runs, first, bisect_left(self._run_starts, stop)):
            if run.stop > start:
                found.append(Segment(run.dtype, max(run.start, start), min(run.stop, stop)))
        return found

    def tensor_at(self, offset: int) -> TensorSpec:
        """The tensor that the byte at this offset of the file belongs to, for messages."""
        return self.specs[max(0, bisect_right(self.starts, offset) - 1)]

    @cached_property
    def _run_starts(self) -> tuple[int, ...]:
        return tuple(run.start for run in self.runs)

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {spec.name: index for index, spec in enumerate(self.specs)}

    def view(self, raw: np.ndarray[Any, np.dtype[np.uint8]], name: str) -> np.ndarray[Any, Any]:
        """One tensor in a whole file's bytes, without a copy. Raises KeyError for its name."""
        index = self._indices[name]
        spec, start = self.specs[index], self.starts[index]
        part = raw[start : start + spec.size_bytes]
        return part.view(NUMPY_DTYPES[spec.dtype]).reshape(spec.shape)


class TensorFile(Mapping[str, np.ndarray[Any, Any]]):
    """A mapped tensor file: `file["layer.weight"]` is a view of the disk's bytes, made when asked.

    BF16 tensors are views of their raw bits as uint16. The mapping ends with its last view.
    """

    def __init__(self, layout: Layout, raw: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.layout = layout
        self.raw = raw  # the whole file, uint8

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        return self.layout.view(self.raw, name)

    def __iter__(self) -> Iterator[str]:
        return (spec.name for spec in self.layout.specs)

    def __len__(self) -> int:
        return len(self.layout.specs)


class OpenFile(NamedTuple):
    """A file that somebody else opened, and will close; `name` is for messages."""

    descriptor: int
    name: str

    def __str__(self) -> str:
        return self.name


def open_file(source: Path | OpenFile) -> TensorFile:
    """Map a canonical file for reading.

    Raises BlobError if it is not canonical, LocalError if it cannot be opened. Nobody may shorten
    the file while it is mapped: the kernel would kill the reader.
    """
    if isinstance(source, Path):
        with _opened(source) as opened:
            return open_file(opened)
    layout = Layout.read(source)
    with _reading(source):
        mapped = mmap.mmap(source.descriptor, layout.file_bytes, access=mmap.ACCESS_READ)
    return TensorFile(layout, np.frombuffer(mapped, np.uint8))


@contextmanager
def create_file(target: Path | OpenFile, layout: Layout) -> Iterator[TensorFile]:
    """Write a tensor file through its mapping; at the end it is durable and has its name.

    The tensors begin as zeros. If the block raises, nothing is left. Views that outlive the block
    must not be written to. Raises LocalError when the disk is full or cannot be written. A file
    that somebody else opened is only filled: making it durable is theirs.
    """
    if isinstance(target, OpenFile):
        with _filled(target, layout) as file:
            yield file
        return
    with _renamed(target) as descriptor, _filled(OpenFile(descriptor, str(target)), layout) as file:
        yield file


def copy_file(source: int, target: Path) -> None:
    """Copy what an open file holds now to a new file, which is durable when this returns.

    Whoever else has `source` open cannot change the copy. Raises LocalError; then nothing is left.
    """
    size_bytes = os.fstat(source).st_size
    with _renamed(target) as descriptor, _writing(target):
        reserve(descriptor, size_bytes)
        offset = 0
        while offset < size_bytes:
            copied = _copy_some(source, descriptor, offset, size_bytes - offset)
            if not copied:
                raise LocalError(f"cannot write {target}: what it is copied from became shorter")
            offset += copied


def _copy_some(source: int, target: int, offset: int, most: int) -> int:
    if hasattr(os, "copy_file_range"):  # within the kernel; shares the blocks where the disk can
        return os.copy_file_range(source, target, most, offset, offset)
    return os.pwrite(target, os.pread(source, min(most, 1 << 20), offset), offset)


@contextmanager
def _renamed(path: Path) -> Iterator[int]:
    """A new file, open for writing, that is durable and has its name after the block."""
    with _writing(path):
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        yield descriptor
        with _writing(path):
            os.fsync(descriptor)
            move_durably(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


@contextmanager
def _filled(target: OpenFile, layout: Layout) -> Iterator[TensorFile]:
    with _writing(target):
        # Reserved now: a full disk met later, through the mapping, would kill the process.
        reserve(target.descriptor, layout.file_bytes)
        mapped = mmap.mmap(target.descriptor, layout.file_bytes)
    mapped[: layout.data_start] = layout.header
    yield TensorFile(layout, np.frombuffer(mapped, np.uint8))
    with _writing(target):
        mapped.flush()


def reserve(descriptor: int, size_bytes: int) -> None:
    """Give an open file its size, with the disk space behind it. Raises OSError if there is none.

    Where the system cannot reserve, the file is sparse.
    """
    if hasattr(os, "posix_fallocate") and size_bytes:
        os.posix_fallocate(descriptor, 0, size_bytes)
    os.ftruncate(descriptor, size_bytes)


def move_durably(temporary: Path, path: Path) -> None:
    """Give a synced file its final name, so that it survives a loss of power. Raises OSError."""
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _canonical_place(spec: TensorSpec) -> tuple[int, str]:
    return -NUMPY_DTYPES[spec.dtype].itemsize, spec.name


def _check_spec(spec: TensorSpec) -> None:
    try:
        encoded = spec.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name {spec.name!r} is not valid Unicode") from None
    if not 1 <= len(encoded) <= MAX_NAME_BYTES or spec.name == "__metadata__":
        raise ValueError(f"{spec.name[:64]!r} cannot name a tensor (1 to {MAX_NAME_BYTES} bytes)")
    if any(byte < 0x20 or byte == 0x7F for byte in encoded):
        raise ValueError(f"the name {spec.name!r} has control characters")
    # As if no dimension were 0: such a shape must be one that numpy and torch can hold.
    if NUMPY_DTYPES[spec.dtype].itemsize * prod(max(size, 1) for size in spec.shape) > (
        MAX_FILE_BYTES
    ):
        raise ValueError(f"tensor {spec.name!r} of shape {list(spec.shape)} is too large")


@contextmanager
def _opened(path: Path) -> Iterator[OpenFile]:
    with _reading(path):
        file = path.open("rb")
    with file:
        yield OpenFile(file.fileno(), path.name)


@contextmanager
def _reading(source: Path | OpenFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalError(f"cannot read {source}: {error.strerror}") from error


@contextmanager
def _writing(target: Path | OpenFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalError(
            f"cannot write {target}: {error.strerror}; check the disk's free space and permissions"
        ) from error
