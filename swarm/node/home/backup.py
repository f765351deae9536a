"""What only this institution has of its node, as one file, and a node's directory made from it.

    hospital.tar.gz
      node.toml  network.json  card.json  key.json …  the keys stay encrypted
      records/ outgoing/ kept/ own/ …                 see FOLDERS
      backup.json                                     at the end: every file with its SHA-256

Not in it: the password, which would make it the institution; the site's data; what the other
members have. Nor the secrets of masked rounds, whose copy would outlive their erasure: a restored
node sits such a round out, and knows by `masked/opened` whose sums it has helped to open. And no
votes: an old copy of them could make a node contradict itself. So a restored node is marked as one
whose votes are not known (`swarm.chain.startup`).

A backup is written beside its place and renamed; a directory is restored beside its place, checked
file by file, and renamed. What is cut short or was changed is refused whole.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO

import msgspec

from swarm.chain.service import distrust_votes
from swarm.chain.store import VoteStore
from swarm.errors import UNREADABLE, ConfigurationError
from swarm.node.home.config import NodeConfig, load_config
from swarm.node.home.keys import address_in, sync_folder
from swarm.node.home.password import ACCOUNT_KEY, NEXT_KEY
from swarm.node.home.setup import CARD
from swarm.types import to_hex

MANIFEST = "backup.json"
VERSION = 1
FOLDERS = (
    "overrides",
    "signed-overrides",
    "confirmations",
    "zoo",
    "records",
    "outgoing",
    "kept",
    "own",
    "masked/opened",
)
"""What a node keeps and no other member has."""
PRIVACY = "privacy.jsonl"
"""What this site's rows have spent of their privacy."""
MAX_FILES = 100_000
MAX_BYTES = 2**40
MAX_MANIFEST_BYTES = 64 * 2**20
PIECE_BYTES = 2**20


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """`files` has the SHA-256 of each, in hex, by its path in the directory."""

    version: int
    name: str
    node: str
    made_at: Annotated[int, msgspec.Meta(ge=0)]
    files: dict[str, str]


@dataclass(frozen=True)
class Restored:
    """What was restored, and the file in which its password is to stand, if its node reads one."""

    name: str
    made_at: int
    password_file: Path | None


_manifests = msgspec.json.Decoder(Manifest)


def write_backup(directory: Path, file: Path) -> list[Path]:
    """Write the backup of the node in `directory` to the new file `file`, mode 600. Returns the
    files that belong to the node and lie elsewhere: they are not in it.

    Raises ConfigurationError, OSError; then `file` is not there.
    """
    config = load_config(directory)
    if file.exists():
        raise ConfigurationError(f"{file} exists already: name a new file for the backup")
    own, elsewhere = _files_of(directory, config)
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as raw:
            _write(raw, directory, config, own)
            raw.flush()
            os.fsync(raw.fileno())
        partial.replace(file)
        sync_folder(file.absolute().parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return elsewhere


def read_backup(file: Path, directory: Path) -> Restored:
    """Make the node's directory `directory` from the backup in `file`; it must be new, or empty.

    Raises ConfigurationError, and then leaves nothing behind.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ConfigurationError(
            f"{directory} is not empty: restore into a new directory, and never over one whose "
            "node has run since"
        )
    partial = directory.with_name(directory.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    try:
        partial.mkdir(mode=0o700, parents=True)
        manifest = _extract(file, partial)
        config = load_config(partial)
        if config.chain.rpc_url is None:
            with closing(VoteStore(partial / "chain" / "votes.db")) as votes:
                distrust_votes(votes)
        partial.replace(directory)
        sync_folder(directory.absolute().parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    password = config.key.password_file
    return Restored(
        config.name, manifest.made_at, None if password is None else directory / password
    )


def _files_of(directory: Path, config: NodeConfig) -> tuple[list[Path], list[Path]]:
    """The files to keep, as paths in `directory`; and those that lie elsewhere."""
    names = ["node.toml", CARD, config.key.file, ACCOUNT_KEY, NEXT_KEY, PRIVACY]
    if config.chain.rpc_url is None:
        names.append(config.chain.network)
    there = [directory / name for name in names if (directory / name).exists()]
    for folder in FOLDERS:
        there += sorted(path for path in (directory / folder).rglob("*") if path.is_file())
    home = directory.resolve()
    inside = [path for path in there if path.resolve().is_relative_to(home)]
    return [path.relative_to(directory) for path in inside], [p for p in there if p not in inside]


def _write(raw: BinaryIO, directory: Path, config: NodeConfig, files: list[Path]) -> None:
    digests: dict[str, str] = {}
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive:
        for path in files:
            try:
                source = (directory / path).open("rb")
            except FileNotFoundError:
                continue  # a running node has replaced it since it was listed
            with source:
                # A list that grows meanwhile is taken as long as it is now.
                size = os.fstat(source.fileno()).st_size
                copied = _Hashed(source, size)
                archive.addfile(_entry(path.as_posix(), size), copied)
                digests[path.as_posix()] = copied.digest
        node = to_hex(address_in(directory / config.key.file))
        manifest = Manifest(VERSION, config.name, node, int(time.time()), digests)
        content = msgspec.json.encode(manifest)
        archive.addfile(_entry(MANIFEST, len(content)), io.BytesIO(content))


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = size, 0o600, int(time.time())
    return entry


class _Hashed:
    """The first `size` bytes of a file, for tarfile to read, hashed on the way."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self._left = source, size
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def read(self, count: int = -1) -> bytes:
        piece = self._source.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(piece)
        self._hash.update(piece)
        return piece


def _extract(file: Path, folder: Path) -> Manifest:
    """Write what is in the backup into `folder`, and check it. Raises ConfigurationError."""
    found: dict[str, str] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(file, "r:gz") as archive:
            for entry, content in _entries(archive, file):
                if entry.name == MANIFEST:
                    manifest = _manifests.decode(content.read(MAX_MANIFEST_BYTES))
                else:
                    found[entry.name] = _copy(content, folder / entry.name)
    except (tarfile.TarError, EOFError, *UNREADABLE) as error:
        raise ConfigurationError(
            f"{file} cannot be read as a backup ({error}): take another copy of it"
        ) from None
    if manifest is None:
        raise ConfigurationError(f"{file} has no {MANIFEST}: it was cut short; take another copy")
    if manifest.version != VERSION:
        raise ConfigurationError(
            f"{file} is a backup of version {manifest.version}, and this release reads {VERSION}: "
            "install the release that wrote it"
        )
    for name in manifest.files.keys() | found.keys():
        if manifest.files.get(name) != found.get(name):
            raise ConfigurationError(
                f"{file}: {name} is not as it was backed up: take another copy of the backup"
            )
    return manifest


def _entries(archive: tarfile.TarFile, file: Path) -> Iterator[tuple[tarfile.TarInfo, BinaryIO]]:
    """Each plain file in the archive. Raises ConfigurationError for what no backup holds."""
    total_bytes = 0
    for count, entry in enumerate(archive, 1):
        path = PurePosixPath(entry.name)
        total_bytes += entry.size
        content = archive.extractfile(entry) if entry.isreg() else None
        is_ours = len(path.parts) == 1 or any(path.is_relative_to(folder) for folder in FOLDERS)
        if content is None or not is_ours or path.is_absolute() or ".." in path.parts:
            raise ConfigurationError(f"{file}: {entry.name!r} belongs in no backup of a node")
        if count > MAX_FILES or total_bytes > MAX_BYTES:
            raise ConfigurationError(f"{file} holds more than a node keeps: it is no backup")
        yield entry, content  # type: ignore[misc]


def _copy(content: BinaryIO, path: Path) -> str:
    """Write one file, mode 600, durably; its SHA-256 in hex."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as target:
        while piece := content.read(PIECE_BYTES):
            digest.update(piece)
            target.write(piece)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()
