"""Blobs on disk: files named by their digest, whole or in the making.

A directory (mode 700) holds, for each blob:

    <root>.manifest     the manifest
    <root>.blob         the bytes: there if and only if all of them are, and are right
    <root>.part         the same file while chunks arrive

A file takes its name only when its bytes are on the disk, so a kill or a loss of power at any
instant leaves either a blob or something that the next start continues or clears away. A `.part`
keeps no journal of what it has: the hash of each chunk says so, at several GB a second. For the
same reason two writers of one blob cannot harm each other: both can only write the right bytes.

All methods block on the disk and may be called from any thread.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Collection
from contextlib import suppress
from functools import partial as bind
from pathlib import Path

from swarm.blobs.manifest import Manifest, Origin
from swarm.blobs.partial import Draft, Partial, writing
from swarm.blobs.tree import leaf_hash
from swarm.errors import BlobError, ChunkPending, ConfigurationError, LocalError, system_fault
from swarm.tensors import Layout, move_durably
from swarm.types import Digest, to_digest, to_hex

_BLOB, _PART, _MANIFEST, _TEMPORARY = ".blob", ".part", ".manifest", ".tmp"
MAX_MAPS = 8
"""Blobs that are sent at the same time; one that is sent later is mapped again."""


class BlobStore:
    """The blobs of one node. Opening it clears what an earlier crash left half done.

    So only the node that owns the directory may open it; others read `<root>.blob`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._held: dict[Digest, Manifest] = {}
        self._partials: dict[Digest, Partial] = {}
        self._maps: dict[Digest, memoryview] = {}
        self._lock = threading.Lock()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._recover()
        except OSError as error:
            raise ConfigurationError(f"cannot keep blobs: {system_fault(error)}") from error

    def has(self, root: Digest) -> bool:
        return root in self._held

    def roots(self) -> frozenset[Digest]:
        """The blobs that are held whole."""
        with self._lock:
            return frozenset(self._held)

    @property
    def total_bytes(self) -> int:
        """What the blobs take on disk, whole or in the making."""
        with self._lock:
            files = [self.path(root) for root in self._held]
        files += self.directory.glob(f"*{_PART}")
        total = 0
        for file in files:
            with suppress(FileNotFoundError):
                total += file.stat().st_size
        return total

    def path(self, root: Digest) -> Path:
        """Where the bytes of a held blob lie, for mapping. Never write to it."""
        return self._file(root, _BLOB)

    def manifest(self, root: Digest) -> Manifest:
        """Raises BlobError if the blob is neither held nor in the making."""
        manifest = self._held.get(root)
        if manifest is not None:
            return manifest
        partial = self._partials.get(root)
        if partial is not None:
            return partial.manifest
        if self._file(root, _PART).exists():
            manifest = self._read_manifest(root)
            if manifest is not None:
                return manifest
        raise BlobError(f"blob {to_hex(root)} is not here")

    def read_chunk(self, root: Digest, index: int) -> bytes:
        """The bytes of one chunk, of a held blob or of one in the making that has it already.

        Raises ChunkPending if it is being collected, BlobError if it is not here, LocalError if the
        disk fails.
        """
        manifest = self.manifest(root)
        start, stop = manifest.chunk_range(index)
        if root not in self._held:
            partial = self._partials.get(root)
            if partial is None:
                raise BlobError(f"blob {to_hex(root)} is not here yet")
            if not partial.holds(index):
                raise ChunkPending(
                    f"chunk {index} of blob {to_hex(root)} is on its way here",
                    bind(partial.wait_for, index),
                )
            return partial.read_chunk(index)
        path = self.path(root)
        try:
            with path.open("rb", buffering=0) as file:
                chunk = os.pread(file.fileno(), stop - start, start)
        except FileNotFoundError:  # pruned, or finished, between the two looks
            raise BlobError(f"blob {to_hex(root)} is not here any more") from None
        except OSError as error:
            raise LocalError(f"cannot read {path}: {error.strerror}") from error
        if len(chunk) != stop - start:
            raise LocalError(f"{path} is shorter than it was; delete it, and it is fetched again")
        return chunk

    def view_chunk(self, root: Digest, index: int) -> bytes | memoryview:
        """As `read_chunk`, without a copy where the blob is held whole: for sending it."""
        manifest = self._held.get(root)
        if manifest is None or not manifest.length_bytes:
            return self.read_chunk(root, index)
        start, stop = manifest.chunk_range(index)
        with self._lock:
            mapped = self._maps.pop(root, None)
            if mapped is None:
                mapped = self._map(root, manifest)
            self._maps[root] = mapped  # last in the dict: latest used
            if len(self._maps) > MAX_MAPS:
                del self._maps[next(iter(self._maps))]
        return mapped[start:stop]

    def _map(self, root: Digest, manifest: Manifest) -> memoryview:
        path = self.path(root)
        try:
            with path.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise BlobError(f"blob {to_hex(root)} is not here any more") from None
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise LocalError(f"cannot map {path}: {error}") from error
        if len(mapped) != manifest.length_bytes:
            raise LocalError(f"{path} is shorter than it was; delete it, and it is fetched again")
        return mapped

    def growing(self, root: Digest) -> Partial | None:
        """The blob in the making, if it is not held whole."""
        return None if root in self._held else self._partials.get(root)

    def scratch(self, name: str) -> Path:
        """Where to write a file that `add` will take; what is left there goes at the next start."""
        return self.directory / (name + _TEMPORARY)

    def add(self, path: Path, origin: Origin | None = None) -> Digest:
        """Move a finished tensor file in, an update with its `origin`; its bytes are read once, a
        chunk at a time.

        It must lie in the store's file system, as `scratch` does. Raises BlobError if it is not
        canonical, and then leaves it where it is.
        """
        layout = Layout.read(path)
        with writing(path):
            leaves = _hash_file(path, layout)
            manifest = Manifest.of_tensors(layout, leaves, origin)
            path.chmod(0o600)
            self._commit(path, manifest)
        return manifest.root

    def add_bytes(self, content: bytes) -> Digest:
        """Keep a small blob of raw bytes: round metadata, a plan's code."""
        manifest = Manifest.of_bytes(content)
        with writing(self.path(manifest.root)):
            temporary = self._write_temporary(manifest.root, _BLOB, content)
            self._commit(temporary, manifest)
        return manifest.root

    def draft(self, name: str, layout: Layout) -> Draft:
        """Begin a tensor file whose bytes are not known yet. Raises LocalError."""
        path = self.scratch(name)
        with writing(path):
            path.unlink(missing_ok=True)
        return Draft(path, layout)

    def publish(self, draft: Draft) -> Digest:
        """Keep a whole draft under its name; one that is held already, by this way or another,
        changes nothing. Raises BlobError if a chunk is missing."""
        manifest = draft.manifest
        if not self.has(manifest.root):
            with writing(draft.path):
                self._commit(draft.path, manifest)
        return manifest.root

    def partial(
        self, root: Digest, manifest: Manifest, *, max_bytes: int, draft: Draft | None = None
    ) -> Partial:
        """Begin or go on to collect a blob that is not held; what an earlier try had is kept.

        A `draft` of it becomes the partial, if there is no other: its right chunks are there then.
        Raises BlobError if it is longer than `max_bytes`, LocalError if the disk is full.
        """
        if manifest.root != root:
            raise BlobError(f"the manifest that came is not that of blob {to_hex(root)}")
        manifest.require(max_bytes=max_bytes)
        with writing(self._file(root, _PART)):
            with self._lock:
                partial = self._partials.get(root)
            if partial is None:
                self._save_manifest(manifest)
                path, leaves = self._file(root, _PART), {}
                if draft is not None and not path.exists() and draft.is_of(manifest):
                    os.replace(draft.path, path)
                    leaves = draft.leaves
                partial = Partial(path, manifest, leaves, lambda: self.has(root), self._commit)
                with self._lock:
                    self._partials[root] = partial
            return partial

    def unfinished(self) -> dict[Digest, Manifest]:
        """Blobs that an earlier run of this node began to collect, or that are being collected."""
        found: dict[Digest, Manifest] = {}
        for file in self.directory.glob(f"*{_PART}"):
            root = to_digest(file.stem)
            manifest = self._read_manifest(root)
            if manifest is not None:
                found[root] = manifest
        return found

    def verify(self, root: Digest) -> bool:
        """Read a held blob again and compare. Raises BlobError if it is not held."""
        manifest = self.manifest(root)
        return all(
            manifest.matches(index, self.read_chunk(root, index))
            for index in range(manifest.chunks)
        )

    def discard(self, roots: Collection[Digest]) -> int:
        """Delete these blobs, whole or in the making; the bytes set free.

        Named one by one, so that what was added a moment ago is never taken for unneeded. Who has
        one mapped keeps what it mapped.
        """
        before = self.total_bytes
        with writing(self.directory), self._lock:
            for root in roots:
                self._held.pop(root, None)
                self._partials.pop(root, None)
                self._maps.pop(root, None)
                self._delete(root)
        return before - self.total_bytes

    # Below: files. A blob is committed by the rename of its bytes; the manifest goes before.

    def _file(self, root: Digest, suffix: str) -> Path:
        return self.directory / (root.hex() + suffix)

    def _commit(self, file: Path, manifest: Manifest) -> None:
        root = manifest.root
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        self._save_manifest(manifest)
        move_durably(file, self.path(root))
        with self._lock:
            self._held[root] = manifest
            self._partials.pop(root, None)
        self._file(root, _PART).unlink(missing_ok=True)

    def _save_manifest(self, manifest: Manifest) -> None:
        path = self._file(manifest.root, _MANIFEST)
        if not path.exists():
            move_durably(self._write_temporary(manifest.root, _MANIFEST, manifest.encode()), path)

    def _write_temporary(self, root: Digest, suffix: str, content: bytes) -> Path:
        path = self._file(root, f"{suffix}.{threading.get_native_id()}{_TEMPORARY}")
        with open(path, "wb", opener=_open_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return path

    def _read_manifest(self, root: Digest) -> Manifest | None:
        try:
            return Manifest.decode(self._file(root, _MANIFEST).read_bytes(), root)
        except (FileNotFoundError, BlobError):
            return None

    def _delete(self, root: Digest) -> None:
        for suffix in (_BLOB, _PART, _MANIFEST):
            self._file(root, suffix).unlink(missing_ok=True)

    def _recover(self) -> None:
        """Load what is whole, keep what can be continued, clear away the rest."""
        wanted = set()
        for file in sorted(self.directory.iterdir()):
            if file.suffix not in (_BLOB, _PART):
                continue
            root = _root_of(file)
            manifest = self._read_manifest(root) if root is not None else None
            if root is None or manifest is None:
                continue
            if file.suffix == _BLOB:
                if file.stat().st_size != manifest.length_bytes:
                    continue
                self._held[root] = manifest
            elif root in self._held:  # ".blob" sorts before ".part"
                continue
            wanted |= {file.name, root.hex() + _MANIFEST}
        for file in self.directory.iterdir():
            ours = file.suffix in (_BLOB, _PART, _MANIFEST, _TEMPORARY)
            if ours and file.name not in wanted:
                file.unlink()


def name_of(path: Path) -> Digest:
    """The name that a finished tensor file has in a store. Raises BlobError if not canonical."""
    layout = Layout.read(path)
    return Manifest.of_tensors(layout, _hash_file(path, layout)).root


def _hash_file(path: Path, layout: Layout) -> bytes:
    """The joined leaf hashes of a tensor file, through one buffer."""
    buffer = memoryview(bytearray(layout.chunk_bytes))
    leaves: list[bytes] = []
    with path.open("rb", buffering=0) as file:
        for _ in range(layout.chunks):
            read = _read_into(file.fileno(), buffer)
            leaves.append(leaf_hash(buffer[:read]))
    return b"".join(leaves)


def _read_into(descriptor: int, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        count = os.readv(descriptor, [buffer[filled:]])
        if count == 0:
            break
        filled += count
    return filled


def _root_of(file: Path) -> Digest | None:
    try:
        return to_digest(file.stem)
    except ValueError:
        return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
