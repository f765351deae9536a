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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from swarm.errors import LocalError
from swarm.privacy.derivation import KEY_BYTES, derive

PIECE_BYTES = 1 << 20
_TAG_BYTES = 16
_NONCE_BYTES = 12
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
        key = self._open_key() or self._make_key()
        sealed = bytearray()
        pieces = max(1, -(-len(content) // PIECE_BYTES))
        for index in range(pieces):
            piece = content[index * PIECE_BYTES : (index + 1) * PIECE_BYTES]
            cipher, bound = _cipher_of(key, entry, index, pieces)
            sealed += cipher.encrypt(bytes(_NONCE_BYTES), piece, bound)
        _write_durably(self._file(entry), sealed)

    def get(self, entry: str) -> bytes | None:
        """An entry; None if there is none, or if its key was erased. Raises LocalError for a file
        that is not what was written."""
        key = self._open_key()
        if key is None:
            return None
        try:
            sealed = self._file(entry).read_bytes()
        except FileNotFoundError:
            return None
        size = PIECE_BYTES + _TAG_BYTES
        pieces = max(1, -(-len(sealed) // size))
        content = bytearray()
        try:
            for index in range(pieces):
                cipher, bound = _cipher_of(key, entry, index, pieces)
                raw = sealed[index * size : (index + 1) * size]
                content += cipher.decrypt(bytes(_NONCE_BYTES), raw, bound)
        except InvalidTag:
            raise LocalError(
                f"{self._file(entry)} was changed, or belongs to another attempt: this node sits "
                "the attempt out; look at the disk if it happens again"
            ) from None
        return bytes(content)

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
            _write_durably(next_file, heir._sealed(key))
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

    def _sealed(self, key: bytes) -> bytes:
        nonce = self._entropy(_NONCE_BYTES)
        return nonce + self._wrapping.encrypt(nonce, key, self._place.name.encode())

    def _file(self, entry: str) -> Path:
        return self._place / entry

    def _make_key(self) -> bytes:
        self._place.mkdir(parents=True, exist_ok=True)
        _sync_folder(self._place.parent)
        key = self._entropy(KEY_BYTES)
        _write_durably(self._file(_KEY_FILE), self._sealed(key))
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


def _cipher_of(key: bytes, entry: str, index: int, pieces: int) -> tuple[ChaCha20Poly1305, bytes]:
    """A piece's own key, so that no nonce is needed, and what is bound to it."""
    place = index.to_bytes(8, "big") + pieces.to_bytes(8, "big")
    return ChaCha20Poly1305(derive(key, entry.encode() + b"\0" + place)), place


def _write_durably(file: Path, content: bytes | bytearray) -> None:
    draft = file.with_name(file.name + ".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
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
