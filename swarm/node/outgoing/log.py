"""What left the building: an append-only list, in which each line confirms the ones before it.

    outgoing/00000001.jsonl
      {"n":1,"at":…,"kind":"begin","after":"00…","chain":"9f…"}
      {"n":2,"at":…,"kind":"update","to":"Kyoto","bytes":1048576,…,"chain":"c1…"}

`chain` is the SHA-256 of the `chain` before it and of the line without it, so whoever changes,
inserts or removes a line must write every later one anew; who has noted one `chain` elsewhere finds
that, too. A line is handed to the system before its bytes leave: killing the node loses none. What
cannot be written down does not leave.

Files are bounded in size and number. A new one begins with the last `chain` of the one before, so
the newest confirm themselves when the oldest are deleted or archived.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import UNREADABLE, LocalError, system_fault

log = logging.getLogger("swarm.node")

OUTGOING = "outgoing"
"""The folder, in a node's directory."""
FILE_BYTES = 8 * 2**20
FIRST_CHAIN = "0" * 64
TAIL_BYTES = 64 * 1024
MOST_LINES = 2**53
SEARCHED_BYTES = 1000
_LINK = b',"chain":"'
_ENDING = len(_LINK) + 64 + len(b'"}')


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One line. `to` and `of` are members' names, `at` Unix time, `blob` a digest in hex,
    `part` a chunk's number; `what` names a transaction's function.

    kind    as `swarm.rounds.outgoing.Purpose` has it, or: "code", "program": of a plan; "chain":
            a transaction of this member's; "control": everything else to that member since the last
            such line: blocks, votes, questions, hash trees; "begin": of a file; "torn": the node
            ended in the middle of the line before
    """

    n: int
    at: float
    kind: str
    to: str = ""
    what: str = ""
    bytes: int = 0
    plan: int | None = None
    round: int | None = None
    of: str = ""
    blob: str = ""
    part: int | None = None
    masked: bool = False
    after: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Entry)


def link(before: str, body: bytes) -> str:
    """The `chain` of a line that says `body` after the one whose `chain` is `before`."""
    return hashlib.sha256(bytes.fromhex(before) + body).hexdigest()


class OutgoingLog:
    """Appends to the list in `folder`; from any thread. Raises LocalError if the disk fails."""

    def __init__(
        self, folder: Path, *, most_bytes: int = 2**30, file_bytes: int = FILE_BYTES
    ) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._most_files = max(2, most_bytes // file_bytes)
        self._lock = threading.Lock()
        self._file = -1
        self._size = 0
        self._number = 0
        self.count = 0
        """How many lines there are, of files that were deleted too."""
        self.chain = FIRST_CHAIN
        """Of the newest line: worth noting elsewhere."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = files_in(folder)
            if files:
                self._continue(files[-1])
            else:
                self._begin_file()
        except OSError as error:
            raise LocalError(
                f"cannot write the list of what left: {system_fault(error)}"
            ) from error

    def add(self, kind: str, size_bytes: int, **told: object) -> None:
        """Write one line; when this returns, it survives the end of this process."""
        try:
            with self._lock:
                if self._size >= self._file_bytes:
                    self._begin_file()
                self._append(kind, bytes=size_bytes, **told)
        except OSError as error:
            raise LocalError(
                f"what leaves cannot be written down in {self._folder} ({error.strerror}), so it "
                "stays here: free disk space"
            ) from error

    def sync(self) -> None:
        """Have the disk hold what was added, so that it survives a loss of power."""
        with self._lock:
            os.fsync(self._file)

    def close(self) -> None:
        with self._lock:
            os.fsync(self._file)
            os.close(self._file)

    def _append(self, kind: str, **told: object) -> None:
        number, now = self.count + 1, round(time.time(), 3)
        entry = msgspec.convert({"n": number, "at": now, "kind": kind, **told}, Entry)
        body = _encoder.encode(entry)[:-1]
        chain = link(self.chain, body)
        line = body + _LINK + chain.encode() + b'"}\n'
        written = os.write(self._file, line)
        if written < len(line):  # a full disk; the rest of a line is worth nothing
            os.ftruncate(self._file, self._size)
            raise OSError(28, os.strerror(28))
        self._size += len(line)
        self.count, self.chain = number, chain

    def _begin_file(self) -> None:
        path = self._folder / f"{self._number + 1:08d}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
        self._file, self._size = file, 0
        self._number += 1
        self._append("begin", after=self.chain)
        for old in files_in(self._folder)[: -self._most_files]:
            old.unlink()

    def _continue(self, path: Path) -> None:
        """Go on after the last line of the newest file, whole or not."""
        self._number = int(path.stem)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._size = os.fstat(self._file).st_size
        if self._size == 0:  # killed between the two steps of its beginning
            os.close(self._file)
            path.unlink()
            self._file, self._number = -1, self._number - 1
            older = files_in(self._folder)
            return self._continue(older[-1]) if older else self._begin_file()
        start = max(0, self._size - TAIL_BYTES)
        tail = os.pread(self._file, TAIL_BYTES, start)
        *lines, torn = tail.split(b"\n")
        if not self._take_up(lines) and start > 0:
            *lines, torn = os.pread(self._file, self._size, 0).split(b"\n")
            self._take_up(lines)
        if lines and self.chain.encode() not in lines[-1]:
            log.warning(
                "the newest line in %s is not what was written: `swarm node outgoing --verify` "
                "names the place",
                path,
            )
        if torn:
            os.write(self._file, b"\n")
            self._size += 1
            self._take_in(torn)
        return None

    def _take_up(self, lines: list[bytes]) -> bool:
        """Go on after the newest of these that can be read; whether there is one.

        A line that a disk has damaged stays where it is, for `verify` to name: it must not end
        this node at each start.
        """
        for line in reversed(lines):
            body, said = _parts(line)
            entry = _read(body) if re.fullmatch("[0-9a-f]{64}", said) else None
            if entry is not None and 0 < entry.n < MOST_LINES:
                self.count, self.chain = entry.n, said
                return True
        return False

    def _take_in(self, torn: bytes) -> None:
        """Go on after a line that had no end: only its line break was missing, or more."""
        body, said = _parts(torn)
        if said and link(self.chain, body) == said:
            self.chain, self.count = said, self.count + 1
            return
        self.chain = link(self.chain, torn)
        self._append("torn", bytes=len(torn))


def files_in(folder: Path) -> list[Path]:
    """The files of a list, oldest first."""
    return sorted(path for path in folder.glob("*.jsonl") if path.stem.isdigit())


def read_entries(folder: Path, newest_files: int = 0) -> Iterator[Entry]:
    """All that can be read, oldest first, or that of the newest files; whether it is what was
    written is `verify`'s to say."""
    for path in files_in(folder)[-newest_files:]:
        with path.open("rb") as file:
            for line in file:
                try:
                    yield _decoder.decode(line)
                except UNREADABLE:
                    continue


@dataclass(frozen=True)
class Verdict:
    """`fault` names the first byte, or line, that is not as it was written; "" if there is none."""

    lines: int
    chain: str
    fault: str = ""


def verify(folder: Path) -> Verdict:
    """Whether every line confirms the ones before it."""
    files = files_in(folder)
    is_from_the_beginning = bool(files) and int(files[0].stem) == 1
    chain, number, count = FIRST_CHAIN if is_from_the_beginning else "", 0, 0
    for path in files:
        content = path.read_bytes()
        lines = content.split(b"\n")
        is_whole = lines[-1] == b""
        if is_whole:
            lines.pop()
        offset = 0
        for index, raw in enumerate(lines):
            where = f"{path.name}, line {index + 1}"
            following = lines[index + 1] if index + 1 < len(lines) else b""
            body, said = _parts(raw)
            if not said and b'"kind":"torn","bytes":%d' % len(raw) in following:
                chain = link(chain or FIRST_CHAIN, raw)
                offset += len(raw) + 1
                continue
            before = chain or _after(raw)
            if index == 0 and said and link(_after(raw), body) == said and _after(raw) != before:
                return Verdict(count, chain, f"{where}: it does not follow {_before(files, path)}")
            entry = _read(body) if said and link(before, body) == said else None
            if entry is None:
                change = _find_change(chain, raw, following)
                is_last = index + 1 == len(lines) and path == files[-1]
                if change is None and is_last and not is_whole:
                    break  # it is being written, or the node ended in the middle of it
                return Verdict(count, chain, f"{where}: {_told(raw, change, offset)}")
            if number and entry.n != number + 1:
                return Verdict(count, chain, f"{where}: its number is {entry.n}, after {number}")
            chain, number = said, entry.n
            count += 1
            offset += len(raw) + 1
    return Verdict(count, chain)


def _parts(raw: bytes) -> tuple[bytes, str]:
    """A line without its `chain`, and that; "" where it has none."""
    ending = raw[-_ENDING:]
    if not (ending.startswith(_LINK) and ending.endswith(b'"}')):
        return raw, ""
    return raw[:-_ENDING], ending[len(_LINK) : -2].decode(errors="replace")


def _read(body: bytes) -> Entry | None:
    try:
        return _decoder.decode(body + b"}")
    except UNREADABLE:
        return None


def _after(line: bytes) -> str:
    """The `chain` that the first line of a file says it follows, or the first of all."""
    entry = _read(_parts(line)[0].removesuffix(b"}"))
    after = "" if entry is None else entry.after
    return after if re.fullmatch("[0-9a-f]{64}", after) else FIRST_CHAIN


def _before(files: list[Path], path: Path) -> str:
    return files[files.index(path) - 1].name


def _find_change(before: str, raw: bytes, following: bytes) -> tuple[int, int] | None:
    """Where one byte makes a line what was written, and which; None if no single one does.
    `before` is empty for the first line of the oldest file, which says itself what it follows.

    A line of 300 bytes has 77,000 neighbours, and each costs a hash: a fifth of a second. Longer
    ones than are written are not searched. A byte that has become a line break has cut the line in
    two, so the next one is looked at with it.
    """
    if len(raw) > SEARCHED_BYTES:
        return None
    text = bytearray(raw + b"\n" + following[:SEARCHED_BYTES])
    for at in range(len(raw) + 1):
        found = text[at]
        for byte in range(256):
            text[at] = byte
            body, said = _parts(bytes(text).split(b"\n", 1)[0])
            if said and byte != found and link(before or _after(body + b"}"), body) == said:
                return at, byte
        text[at] = found
    return None


def _told(raw: bytes, change: tuple[int, int] | None, offset: int) -> str:
    if change is None:
        return f"from byte {offset} on it is not what was written, or lines before it are gone"
    at, byte = change
    found = raw[at] if at < len(raw) else ord("\n")
    return f"byte {offset + at} of the file is {chr(found)!r} and was {chr(byte)!r}"
