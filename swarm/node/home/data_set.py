"""The rows of this site as a thing with a name, and the digest of its bytes as it is now."""

from __future__ import annotations

import hashlib
from pathlib import Path

from swarm.errors import LocalError
from swarm.rounds.private_rounds import DataSet

_Signature = tuple[tuple[str, int, int], ...]


def data_set_in(name: str, path: Path | None) -> DataSet:
    """The data set of this name in a file or folder. Its digest is worked out when it is asked for,
    and again when sizes or times of files have changed."""
    known: dict[_Signature, str] = {}

    def digest() -> str:
        if path is None:
            return ""
        try:
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            signature = tuple(_signed(file) for file in files)
            if signature not in known:
                known.clear()
                known[signature] = _digest_of(files)
        except OSError as error:
            raise LocalError(f"{path} cannot be read to charge its privacy: {error}") from error
        return known[signature]

    return DataSet(name, digest)


def _signed(file: Path) -> tuple[str, int, int]:
    found = file.stat()
    return str(file), found.st_size, found.st_mtime_ns


def _digest_of(files: list[Path]) -> str:
    """SHA-256 of the files' digests in the order of their content: moving files changes nothing."""
    each = []
    for file in files:
        with file.open("rb") as opened:
            each.append(hashlib.file_digest(opened, "sha256").digest())
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()
