"""A plan's code as bytes with one digest, which members read, compare and consent to.

The bundle of a plan is every `.py`, `.toml` and `.json` file in its folder, apart from `data/`,
`sites.toml` (how a testnet deals out an example's data), `references.toml` (what a testnet compares
the result with), which are no part of the plan, and hidden folders.
A plan may also be a single `.py` file: its bundle is that file under the name `plan.py`.

The digest depends on relative names and contents alone, so every member computes it from what it
was sent, whatever its disk looks like. Everything is bounded, because a bundle arrives from peers:
one bound for what may be proposed, consented to and sent.

Code is read by people before it runs. So it is UTF-8 without anything that does not show, and says
nothing else of its encoding: Python would read other code from the same bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from swarm.errors import UNREADABLE, PlanError, ProtocolViolation
from swarm.types import Digest
from swarm.visible import find_hidden, visible

MAX_FILES = 256
MAX_BUNDLE_BYTES = 2 * 2**20
"""Packed, as it travels: one answer between nodes has no more."""
MAX_NAME_BYTES = 256
SUFFIXES = (".py", ".toml", ".json")

_DOMAIN = b"swarm plan bundle 1\0"
_NOT_PLAN = {"sites.toml", "references.toml"}
_NOT_CODE = {"data", "runs", "node_modules", "build", "dist"}
_ENCODING = re.compile(r"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_UTF8_NAMES = {"utf-8", "utf8", "utf_8"}


@dataclass(frozen=True)
class Bundle:
    """A plan's files by relative POSIX name, in name order."""

    files: dict[str, bytes]

    @property
    def digest(self) -> Digest:
        """SHA-256 over the sorted names and contents, each with its length before it."""
        state = hashlib.sha256(_DOMAIN)
        for name, content in sorted(self.files.items()):
            for part in (name.encode(), content):
                state.update(len(part).to_bytes(8, "big"))
                state.update(part)
        return Digest(state.digest())

    def pack(self) -> bytes:
        """The bundle as one message for the wire; `unpack` reads it."""
        return msgspec.msgpack.encode(_Packed(files=dict(sorted(self.files.items()))))

    def write(self, folder: Path) -> None:
        """Write the files into `folder`, which must be new or empty."""
        for name, content in self.files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


class _Packed(msgspec.Struct, forbid_unknown_fields=True):
    files: dict[str, bytes]


_decoder = msgspec.msgpack.Decoder(_Packed)


def read(path: Path) -> Bundle:
    """Read the plan at `path`: a folder with a `plan.py`, or one `.py` file.

    Raises PlanError if there is no plan, or it is too large, or a link leaves the folder.
    """
    if path.is_file() and path.suffix == ".py":
        files = {"plan.py": path.read_bytes()}
    elif path.is_dir():
        files = {name: (path / name).read_bytes() for name in _code_files(path)}
    else:
        raise PlanError(f"{path} is no plan: name a folder with a plan.py, or one .py file")
    if "plan.py" not in files:
        raise PlanError(f"{path} holds no plan.py: write one, as docs/plans.md shows")
    fault = _fault(files)
    if fault:
        raise PlanError(f"the plan in {path} {fault}")
    return Bundle(files)


def unpack(packed: bytes) -> Bundle:
    """Read a bundle that a peer sent.

    Raises ProtocolViolation if it is no bundle, too large, or names a file outside its folder.
    """
    if len(packed) > MAX_BUNDLE_BYTES:
        raise ProtocolViolation(f"a plan bundle of {len(packed)} bytes is larger than the limit")
    try:
        files = _decoder.decode(packed).files
    except UNREADABLE as error:
        raise ProtocolViolation(f"not a plan bundle: {error}") from error
    fault = _fault(files)
    if fault:
        raise ProtocolViolation(f"a plan bundle {fault}")
    if "plan.py" not in files:
        raise ProtocolViolation("a plan bundle holds no plan.py")
    return Bundle(dict(sorted(files.items())))


def _code_files(folder: Path) -> list[str]:
    found = []
    for directory, names, files in os.walk(folder):
        here = Path(directory)
        names[:] = sorted(n for n in names if _is_code_folder(here / n))
        for name in sorted(files):
            path = here / name
            if path.suffix not in SUFFIXES or name.startswith(".") or name in _NOT_PLAN:
                continue
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                raise PlanError(f"{path} is a link that leaves the plan's folder: copy the file")
            found.append(path.relative_to(folder).as_posix())
            if len(found) > MAX_FILES:
                raise PlanError(
                    f"{folder} holds more than {MAX_FILES} files of code: move data out"
                )
    return sorted(found)


def _is_code_folder(path: Path) -> bool:
    if path.name in _NOT_CODE or path.name.startswith((".", "__")):
        return False
    if path.is_symlink():
        raise PlanError(f"{path} is a link to a folder: copy what the plan needs into its folder")
    return True


def _fault(files: dict[str, bytes]) -> str | None:
    """What is wrong with these files as a bundle, or None."""
    if len(files) > MAX_FILES:
        return f"has {len(files)} files, more than {MAX_FILES}: data belongs in data/"
    size = sum(map(len, files.values()))
    if size > MAX_BUNDLE_BYTES:
        return _too_large(size)
    folders = {str(p) for name in files for p in PurePosixPath(name).parents}
    for name in files:
        if not _is_plain(name):
            return f"names the file {name[:80]!r}, which is not a plain path below its folder"
        if name in folders:
            return f"names {name[:80]!r} both as a file and as a folder"
    size = len(Bundle(files).pack())
    if size > MAX_BUNDLE_BYTES:
        return _too_large(size)
    return next(filter(None, (_hiding(name, content) for name, content in files.items())), None)


def _too_large(size: int) -> str:
    return (
        f"has {size} bytes of code, more than {MAX_BUNDLE_BYTES}, so it cannot be sent to the "
        "others: data belongs in data/"
    )


def _hiding(name: str, content: bytes) -> str | None:
    """What in a file a reader would not see, or None."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        place = content.count(b"\n", 0, error.start) + 1
        return f"is not UTF-8 in {name}, line {place}: save the file in that encoding"
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        hidden = find_hidden(line.replace("\t", " "))
        if hidden is not None:
            return (
                f"hides something from its readers: {name}, line {number}, has the character "
                f"{visible(hidden)}, which does not show; take it out, or write it so in a string"
            )
        declared = _ENCODING.match(line) if number <= 2 and name.endswith(".py") else None
        if declared is not None and declared[1].lower() not in _UTF8_NAMES:
            return f"declares the encoding {declared[1]} in {name}, line {number}: use UTF-8"
    return None


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return (
        0 < len(name.encode("utf-8", "replace")) <= MAX_NAME_BYTES
        and name.isprintable()
        and "\\" not in name
        and ":" not in name
        and not any(part in ("", ".", "..") for part in parts)
        and name.endswith(SUFFIXES)
    )
