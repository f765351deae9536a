"""Questions to the list of what left: which lines, and how much in sum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from swarm.node.outgoing.log import Entry, read_entries

OF_THE_LIST = ("begin", "torn")
"""Lines that tell of the list itself."""


@dataclass(frozen=True)
class Wanted:
    """Which lines; None: all."""

    plan: int | None = None
    peer: str | None = None
    kind: str | None = None
    day: str | None = None

    def takes(self, entry: Entry) -> bool:
        asked = (
            (self.plan, entry.plan),
            (self.peer, entry.to),
            (self.kind, entry.kind),
            (self.day, day_of(entry)),
        )
        return entry.kind not in OF_THE_LIST and all(w in (None, is_) for w, is_ in asked)


@dataclass(frozen=True)
class Line:
    """One thing that left."""

    entry: Entry

    def in_words(self) -> dict[str, Any]:
        told = self.entry
        at = datetime.fromtimestamp(told.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return {
            "at": at,
            "to": told.to,
            "plan": told.plan,
            "round": told.round,
            "kind": f"{told.kind} {told.what}".strip(),
            "of": told.of,
            "bytes": told.bytes,
            "masked": told.masked,
            "part": told.part,
            "blob": told.blob,
        }


@dataclass
class Sum:
    """What left on one day, to one member, of one kind and plan."""

    day: str
    plan: int | None
    kind: str
    of: str
    to: str
    lines: int = 0
    size_bytes: int = 0

    def in_words(self) -> dict[str, Any]:
        return {
            "day": self.day,
            "plan": self.plan,
            "kind": self.kind,
            "of": self.of,
            "to": self.to,
            "lines": self.lines,
            "bytes": self.size_bytes,
        }


def find(folder: Path, wanted: Wanted, newest_files: int = 0) -> Iterator[Line]:
    """The wanted lines, oldest first: of all files, or of so many newest ones."""
    return (Line(entry) for entry in read_entries(folder, newest_files) if wanted.takes(entry))


def sums_of(lines: Iterable[Line]) -> list[Sum]:
    """Lines added up, by day, plan, kind, whose rows they tell of, and to whom."""
    found: dict[tuple[Any, ...], Sum] = {}
    for entry in (line.entry for line in lines):
        key = (day_of(entry), entry.plan, entry.kind, entry.of, entry.to)
        one = found.setdefault(key, Sum(*key))
        one.lines += 1
        one.size_bytes += entry.bytes
    return sorted(found.values(), key=lambda s: (s.day, s.plan or 0, s.kind, s.of, s.to))


def day_of(entry: Entry) -> str:
    """Of UTC, as 2026-11-29."""
    return datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d")
