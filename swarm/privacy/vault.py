"""Where the secrets of an attempt lie: written whole before anything depends on them, then erased.

A vault is a folder. Each attempt has a folder in it, with a random key, sealed by a key that
follows from the node key, and one file for each entry, sealed by the random key. So whoever steals
the node key later, or a copy of the disk, opens no round that was erased: nothing that ever hid an
update can be derived from the node key.

An entry is written once, to a temporary file, synced, renamed, and its folder synced: after a kill
it is there whole or not at all, and a second, different one is refused. Erasing overwrites the key
first; file systems that keep old blocks keep a sealed key whose own key the node still has, which
is as far as software can go: docs/privacy.md says so.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from swarm.errors import LocalError
from swarm.privacy.derivation import KEY_BYTES, derive

PIECE_BYTES = 1 << 20
_TAG_BYTES = 16
_NONCE_BYTES = 12
_SEALED_BYTES = PIECE_BYTES + _TAG_BYTES
_KEY_FILE = "key"
_NEXT_KEY_FILE = "key.next"
_PURPOSE = b"swarm/vault/1"


class Vault:
    """The secrets of one attempt, or of one round, in the folder `place`.

    `node_secret` opens it; `entropy` is the system's. Entries are bytes by name.
    """

    def __init__(self, place: Path, node_secret: bytes, entropy: Callable[[int], bytes]) -> None:
        self._place = place
        self._wrapping = ChaCha20Poly1305(derive(node_secret, _PURPOSE))
        self._entropy = entropy
        self._key: bytes | None = None

    def put(self, entry: str, content: bytes) -> None:
        """Keep an entry for good; returns when it would survive a power cut.

        Raises LocalError if another content was kept under this name before.
        """
        before = self.get(entry)
        if before is not None:
            if before != content:
                raise LocalError(f"{self._file(entry)} holds another secret: it is never replaced")
            return
        pieces = [content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES)]
        self._seal(entry, len(content), iter(pieces or [b""]))

    def put_file(self, entry: str, about: bytes, file: Path) -> None:
        """As `put`, of these bytes and then a whole file, of which only a piece is in memory."""
        size = len(about) + file.stat().st_size
        with file.open("rb") as source:

            def pieces() -> Iterator[bytes]:
                yield about + source.read(PIECE_BYTES - len(about))
                while piece := source.read(PIECE_BYTES):
                    yield piece

            before = self.open(entry)
            if before is None:
                self._seal(entry, size, pieces())
            elif before.size != size or any(
                before.piece(at) != piece for at, piece in enumerate(pieces())
            ):
                raise LocalError(f"{self._file(entry)} holds another secret: it is never replaced")

    def get(self, entry: str) -> bytes | None:
        """An entry; None if there is none, or if its key was erased. Raises LocalError for a file
        that is not what was written."""
        kept = self.open(entry)
        return None if kept is None else kept.read(0, kept.size)

    def open(self, entry: str) -> Entry | None:
        """An entry that is read in pieces; None as `get`."""
        key, file = self._open_key(), self._file(entry)
        return Entry(file, key) if key is not None and file.exists() else None

    def erase(self) -> None:
        """Make all entries unreadable for good, then remove them. Does nothing a second time."""
        self._key = None
        with suppress(FileNotFoundError):
            self._overwrite_key()
            self._file(_KEY_FILE).unlink()
            _sync_folder(self._place)
        shutil.rmtree(self._place, ignore_errors=True)

    def hand_over(self, node_secret: bytes) -> None:
        """Have another node key open this vault from now on, in the place of this one: entries stay
        as they are. After a kill, give it again. Raises LocalError if neither key opens it."""
        key_file, next_file = self._file(_KEY_FILE), self._file(_NEXT_KEY_FILE)
        if not next_file.exists():
            heir = Vault(self._place, node_secret, self._entropy)
            try:
                key = self._open_key()
            except LocalError:
                heir._open_key()  # it was handed over before
                return
            if key is None:
                return
            _write_durably(next_file, [heir._sealed(key)])
        self._key = None
        self._overwrite_key()
        next_file.rename(key_file)
        _sync_folder(self._place)

    def _overwrite_key(self) -> None:
        """Whoever gets the node key later opens nothing with what was here."""
        key_file = self._file(_KEY_FILE)
        size = key_file.stat().st_size
        with key_file.open("r+b") as file:
            file.write(self._entropy(size))
            file.flush()
            os.fsync(file.fileno())

    def _seal(self, entry: str, size: int, content: Iterator[bytes]) -> None:
        key = self._open_key() or self._make_key()
        pieces = max(1, -(-size // PIECE_BYTES))

        def sealed() -> Iterator[bytes]:
            for index, piece in enumerate(content):
                cipher, bound = _cipher_of(key, entry, index, pieces)
                yield cipher.encrypt(bytes(_NONCE_BYTES), piece, bound)

        _write_durably(self._file(entry), sealed())

    def _sealed(self, key: bytes) -> bytes:
        nonce = self._entropy(_NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, key, self._place.name.encode())

    def _file(self, entry: str) -> Path:
        return self._place / entry

    def _make_key(self) -> bytes:
        self._place.mkdir(parents=True, exist_ok=True)
        _sync_folder(self._place.parent)
        key = self._entropy(KEY_BYTES)
        _write_durably(self._file(_KEY_FILE), [self._sealed(key)])
        self._key = key
        return key

    def _open_key(self) -> bytes | None:
        if self._key is None:
            try:
                sealed = self._file(_KEY_FILE).read_bytes()
            except FileNotFoundError:
                return None
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            try:
                self._key = self._wrapping.decrypt(nonce, body, self._place.name.encode())
            except (InvalidTag, ValueError):
                raise LocalError(
                    f"{self._file(_KEY_FILE)} cannot be opened with this node key: this node sits "
                    "the attempt out; look at the disk if it happens again"
                ) from None
        return self._key


class Entry:
    """One entry of a vault, of which the last piece that was read stays open."""

    def __init__(self, file: Path, key: bytes) -> None:
        self._file, self._key = file, key
        sealed = file.stat().st_size
        self._pieces = max(1, -(-sealed // _SEALED_BYTES))
        self.size = max(0, sealed - self._pieces * _TAG_BYTES)
        self._last: tuple[int, bytes] | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Its bytes from one offset to another. Raises LocalError for a file that is not what was
        written."""
        first, last = start // PIECE_BYTES, max(start, stop - 1) // PIECE_BYTES
        pieces = [self.piece(index) for index in range(first, last + 1)]
        offset = first * PIECE_BYTES
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return content[start - offset : stop - offset]

    def piece(self, index: int) -> bytes:
        """One piece of PIECE_BYTES, the last one shorter. Raises LocalError as `read`."""
        if self._last is None or self._last[0] != index:
            cipher, bound = _cipher_of(self._key, self._file.name, index, self._pieces)
            try:
                with self._file.open("rb") as file:
                    file.seek(index * _SEALED_BYTES)
                    raw = file.read(_SEALED_BYTES)
                self._last = index, cipher.decrypt(bytes(_NONCE_BYTES), raw, bound)
            except InvalidTag:
                raise LocalError(
                    f"{self._file} was changed, or belongs to another attempt: this node sits "
                    "the attempt out; look at the disk if it happens again"
                ) from None
        return self._last[1]


def _cipher_of(key: bytes, entry: str, index: int, pieces: int) -> tuple[ChaCha20Poly1305, bytes]:
    """A piece's own key, so that no nonce is needed, and what is bound to it."""
    place = index.to_bytes(8, "big") + pieces.to_bytes(8, "big")
    return ChaCha20Poly1305(derive(key, entry.encode() + b"\0" + place)), place


def _write_durably(file: Path, content: Iterable[bytes]) -> None:
    draft = file.with_name(file.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        for piece in content:
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    draft.rename(file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
