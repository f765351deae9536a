"""Blobs in the making: files that fill chunk by chunk, in any order, and are read meanwhile.

Two kinds. A `Partial` is of a blob whose name, and so whose every chunk's hash, is known: it takes
right bytes only. A `Draft` is of a tensor file that is still being computed, here or at a peer, so
that nobody knows its name yet: it takes what comes, remembers the hash of each chunk, and once the
name is known, every chunk with the wrong hash counts as missing (`BlobStore.partial`). So a draft
may be passed on before it is verified, and is never used before.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.blobs.manifest import Manifest
from swarm.blobs.tree import leaf_hash
from swarm.errors import BlobError, LocalError
from swarm.tensors import Layout
from swarm.types import to_hex

Chunks = Collection[tuple[int, bytes | memoryview]]


class PartialBlob:
    """What both kinds do. All methods may be called from any thread, and may block on the disk."""

    def __init__(self, path: Path, length_bytes: int, chunk_bytes: int) -> None:
        self.path = path
        self.length_bytes = length_bytes
        self.chunk_bytes = chunk_bytes
        self.chunks = max(1, -(-length_bytes // chunk_bytes))
        self._missing = set(range(self.chunks))
        self._arrived = threading.Condition()
        # Open from the first chunk to the last: to open it for each would cost more than to hash.
        with writing(path):
            self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", 0)
            self.found_bytes = os.fstat(self._file.fileno()).st_size
            _give_size(self._file.fileno(), length_bytes)

    @property
    def missing(self) -> list[int]:
        """The chunks not yet written, in order."""
        with self._arrived:
            return sorted(self._missing)

    def holds(self, index: int) -> bool:
        return index not in self._missing

    def chunk_range(self, index: int) -> tuple[int, int]:
        """The byte offsets where a chunk starts and stops. Raises BlobError if there is no such."""
        if not 0 <= index < self.chunks:
            raise BlobError(f"{self.path.name} has no chunk {index} of {self.chunks}")
        start = index * self.chunk_bytes
        return start, min(start + self.chunk_bytes, self.length_bytes)

    def write_chunks(self, chunks: Chunks) -> None:
        """Several at once. The first wrong one raises BlobError; those before it are kept."""
        raise NotImplementedError

    def read_chunk(self, index: int) -> bytes:
        """A chunk that is held. Raises LocalError if the disk fails."""
        start, stop = self.chunk_range(index)
        with reading(self.path):
            return os.pread(self._file.fileno(), stop - start, start)

    def wait_for(self, index: int, timeout_s: float) -> bool:
        """Wait until a chunk is held; whether it is."""
        with self._arrived:
            return self._arrived.wait_for(lambda: self.holds(index), timeout_s)

    def map(self) -> memoryview:
        """The whole file, mapped for reading; what is missing reads as anything."""
        if not self.length_bytes:
            return memoryview(b"")
        with reading(self.path):
            mapped = mmap.mmap(self._file.fileno(), self.length_bytes, access=mmap.ACCESS_READ)
        return memoryview(mapped)

    def _keep(self, index: int, start: int, chunk: bytes | memoryview) -> None:
        view = memoryview(chunk)
        while view:
            count = os.pwrite(self._file.fileno(), view, start)
            view, start = view[count:], start + count
        with self._arrived:
            self._missing.discard(index)
            self._arrived.notify_all()


class Partial(PartialBlob):
    """A blob of known name in the making. `is_held` tells whether it was added by other means,
    `commit` gives the finished file its name."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        leaves: dict[int, bytes],
        is_held: Callable[[], bool],
        commit: Callable[[Path, Manifest], None],
    ) -> None:
        self.manifest = manifest
        self.root = manifest.root
        self._is_held = is_held
        self._commit = commit
        super().__init__(path, manifest.length_bytes, manifest.chunk_bytes)
        if leaves:
            self._missing -= {i for i in self._missing if leaves.get(i) == manifest.leaf(i)}
        elif self.found_bytes:
            self._take_stock()

    def write_chunk(self, index: int, chunk: bytes | memoryview) -> None:
        """Raises BlobError if these are not the bytes of that chunk; nothing is written then."""
        self.write_chunks([(index, chunk)])

    def write_chunks(self, chunks: Chunks) -> None:
        if self._is_held():
            return
        with writing(self.path):
            for index, chunk in chunks:
                start, stop = self.manifest.chunk_range(index)
                # The length as well: the blob's author may have hashed longer chunks.
                if len(chunk) != stop - start or not self.manifest.matches(index, chunk):
                    raise BlobError(
                        f"chunk {index} of blob {to_hex(self.root)} came with {len(chunk)} bytes "
                        "that do not have its hash"
                    )
                if not self.holds(index):
                    self._keep(index, start, chunk)

    def finish(self) -> None:
        """Make the blob held. Raises BlobError if a chunk is missing."""
        if self._is_held():
            return
        missing = self.missing
        if missing:
            raise BlobError(
                f"blob {to_hex(self.root)} lacks {len(missing)} of {self.manifest.chunks} chunks"
            )
        with writing(self.path):
            try:
                self._commit(self.path, self.manifest)
            except FileNotFoundError:
                if not self._is_held():  # else another thread finished it just now
                    raise

    def _take_stock(self) -> None:
        """Find what an earlier try had written."""
        for index in range(self.chunks):
            if self.manifest.matches(index, self.read_chunk(index)):
                self._missing.discard(index)


class Draft(PartialBlob):
    """A tensor file of known layout, whose bytes are being made. Its header is there already."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self.layout = layout
        self.leaves: dict[int, bytes] = {}
        super().__init__(path, layout.file_bytes, layout.chunk_bytes)
        for start in range(0, layout.data_start, layout.chunk_bytes):
            header = layout.header[start : start + layout.chunk_bytes]
            self.write_chunks([(start // layout.chunk_bytes, header)])

    def write_chunks(self, chunks: Chunks) -> None:
        """Each chunk is taken once, and only checked for its length (BlobError)."""
        with writing(self.path):
            for index, chunk in chunks:
                start, stop = self.chunk_range(index)
                if len(chunk) != stop - start:
                    raise BlobError(f"chunk {index} of a draft came with {len(chunk)} bytes")
                if not self.holds(index):
                    self.leaves[index] = leaf_hash(chunk)
                    self._keep(index, start, chunk)

    @property
    def manifest(self) -> Manifest:
        """What it is, once no chunk is missing. Raises BlobError before."""
        if self._missing:
            raise BlobError(f"a draft lacks {len(self._missing)} of {self.chunks} chunks")
        leaves = b"".join(self.leaves[index] for index in range(self.chunks))
        return Manifest.of_tensors(self.layout, leaves)

    def is_of(self, manifest: Manifest) -> bool:
        """Whether it may be a draft of that blob."""
        return manifest == Manifest.of_tensors(self.layout, manifest.leaves)

    def discard(self) -> None:
        """Delete it. Who has it mapped keeps what it mapped."""
        with writing(self.path):
            self.path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system become LocalError."""
    try:
        yield
    except OSError as error:
        raise LocalError(
            f"cannot write {error.filename or path}: {error.strerror}; check the disk's free "
            "space and permissions"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of the system become LocalError."""
    try:
        yield
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error


def _give_size(descriptor: int, size_bytes: int) -> None:
    """Make a file so long, if there is room for what it lacks. Raises OSError if there is not.

    The room is not reserved: it is only ever filled by `pwrite`, which says so when there is none,
    and to reserve it in memory (tmpfs) costs as much as to fill it.
    """
    system = os.fstatvfs(descriptor)
    present = os.fstat(descriptor).st_blocks * 512
    if size_bytes - present > system.f_bavail * system.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(descriptor, size_bytes)
