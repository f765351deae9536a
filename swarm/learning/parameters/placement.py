"""Where each tensor of a plan lives: which travel, how they become one, which stay at a site.

A plan's `tensors` maps patterns of names to places; the first that matches a name decides, and what
none matches is `shared()`. In a pattern `*` stands for any letters, dots too; all else for itself.

The placement is part of a plan's program, whose digest stands on the chain: so it is written in one
way, and whoever merges reads it there, and never asks the plan's code, which could answer otherwise
at another site.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal

import msgspec

from swarm.errors import UNREADABLE, BlobError, PlanError
from swarm.learning.folds.fold import Fold, decode_fold
from swarm.learning.folds.reduce import FULL_ONLY, MEAN, SUM, Reduce
from swarm.learning.folds.step import Step

MAX_ROWS = 64
MAX_PATTERN = 200
MAX_TEXT = 8192
RESERVED = "~"
"""What the names begin with of what swarm adds to files: a step's state, gathered rows."""


@dataclass(frozen=True)
class Shared:
    """Travels up, is folded, comes down."""

    fold: Fold = field(default_factory=Fold)


@dataclass(frozen=True)
class Local:
    """Stays at its site, and lasts there."""


@dataclass(frozen=True)
class Frozen:
    """The same at every site; never travels.

    Its values are those of the initial model, or of a safetensors file with this SHA-256 that an
    option of each site names.
    """

    option: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class Gathered:
    """Travels up; every contributor's value is kept, in a row of its own."""


@dataclass(frozen=True)
class At:
    """Changes during a round at whoever holds a role, and nowhere else. When a site has trained, it
    takes these tensors from the holder into its update; the updates' mean comes down."""

    role: str

    @property
    def fold(self) -> Fold:
        """How what the sites have taken becomes one."""
        return Fold()


Folded = Shared | At
"""Places of tensors that are folded."""
Place = Folded | Local | Frozen | Gathered


# What a plan writes.


def shared(
    reduce: Reduce = MEAN,
    step: Step | None = None,
    by: Literal["samples", "site"] | None = None,
) -> Shared:
    """Tensors that all sites make together, by a reduce and a step after it (`docs/methods.md`).

    `by="site"` has a mean count every site once. Raises PlanError for what does not go together.
    """
    return Shared(Fold(reduce, step, by))


def local() -> Local:
    """Tensors that every site has its own of: they never leave it."""
    return Local()


def frozen(file: str = "", sha256: str = "") -> Frozen:
    """Tensors that do not change: as `model()` makes them, or from a safetensors file.

    `file` is the name of an option of the site, under `[data.options]` in its node.toml, which says
    where the file lies there; `sha256` is the file's digest, in hexadecimal. Raises PlanError if
    one of them is missing.
    """
    if bool(file) != bool(sha256):
        raise PlanError(
            "frozen takes a file and its sha256, or neither: with `sha256sum FILE` you find it"
        )
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise PlanError(f"frozen: {sha256!r:.80} is no SHA-256: give 64 hexadecimal digits")
    return Frozen(file, sha256)


def gathered() -> Gathered:
    """Tensors of which all sites' values come down, side by side, and are not merged."""
    return Gathered()


def at(role: str) -> At:
    """Tensors that whoever holds a role trains, by what the sites ask of it (`Plan.roles`)."""
    return At(role)


# What a plan has written.


@dataclass(frozen=True)
class Placement:
    """Patterns and their places, in order. The last pattern is `*`."""

    rows: tuple[tuple[str, Place], ...] = (("*", Shared()),)

    def row_of(self, name: str) -> int:
        """The number of the first row that matches a tensor's name."""
        return next(i for i, pattern in enumerate(self._patterns) if pattern.fullmatch(name))

    def place_of(self, name: str) -> Place:
        return self.rows[self.row_of(name)][1]

    @property
    def folds(self) -> tuple[Fold, ...]:
        return tuple(place.fold for _, place in self.rows if isinstance(place, Folded))

    @property
    def roles(self) -> set[str]:
        """The roles whose holders have tensors of their own."""
        return {place.role for _, place in self.rows if isinstance(place, At)}

    @property
    def gathers(self) -> bool:
        return any(isinstance(place, Gathered) for _, place in self.rows)

    @property
    def has_files(self) -> bool:
        """Whether some tensors come from files of the sites, and are in no model file."""
        return any(isinstance(place, Frozen) and place.sha256 for _, place in self.rows)

    @property
    def needs_full(self) -> bool:
        """Whether its merges can only be checked from whole updates."""
        return any(fold.reduce.verify_levels == FULL_ONLY for fold in self.folds)

    def level(self, verify: str) -> str:
        """The least level that `verify` stands for: that of "auto" follows from the folds."""
        return verify if verify != "auto" else "full" if self.needs_full else "held"

    def check(self, min_peers: int, verify: str) -> None:
        """Raise PlanError, with the remedy, unless a plan may have these folds with so many
        contributors at least and at this level ("held", "shared" or "full")."""
        for fold in self.folds:
            fold.check(min_peers, verify)

    def unmatched(self, names: Iterable[str]) -> list[str]:
        """The patterns that none of these names comes to; but for a last `*`."""
        used = {self.row_of(name) for name in names}
        return [pattern for i, (pattern, _) in enumerate(self.rows[:-1]) if i not in used]

    def encode(self) -> str:
        """The one way to write it: printable ASCII."""
        short = next((word for word, known in _SHORT.items() if known == self), None)
        if short is not None:
            return short
        rows = [[pattern, *_words(place)] for pattern, place in self.rows]
        return msgspec.json.encode(rows).decode()

    def in_words(self) -> list[str]:
        """What becomes of the tensors, a line for each pattern, for people."""
        return [f"{pattern}: {_sentence(place)}" for pattern, place in self.rows]

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        parts = (pattern.split("*") for pattern, _ in self.rows)
        return [re.compile(".*".join(map(re.escape, part)), re.DOTALL) for part in parts]


def placement_of(tensors: Any) -> Placement:
    """The placement that a plan's `tensors` says. Raises PlanError naming what it cannot be."""
    if not isinstance(tensors, Mapping):
        raise PlanError(
            f"tensors is {tensors!r:.80}, but must map patterns of names to places, as in "
            '{"head.*": swarm.local()}'
        )
    rows: list[tuple[str, Place]] = []
    for pattern, place in tensors.items():
        _check_pattern(pattern)
        if not isinstance(place, Place):
            raise PlanError(
                f"tensors: {pattern!r} is {place!r:.80}, but must be a place such as "
                "swarm.shared(swarm.median()) or swarm.local()"
            )
        rows.append((pattern, place))
    if not rows or rows[-1][0] != "*":
        rows.append(("*", Shared()))
    found = Placement(tuple(rows))
    if len(rows) > MAX_ROWS or len(found.encode()) > MAX_TEXT:
        raise PlanError(f"tensors has {len(rows)} patterns, too long to agree on: use fewer")
    return found


@lru_cache(maxsize=64)
def read_placement(text: str) -> Placement:
    """Read what `encode` wrote.

    Raises PlanError for what this release does not know, or what is not written so.
    """
    if text in _SHORT:
        return _SHORT[text]
    try:
        rows = _rows.decode(text)
        found = Placement(tuple((pattern, _place(words)) for pattern, *words in rows))
    except (*UNREADABLE, BlobError, ValueError) as error:
        raise PlanError(
            f"this release of swarm does not know the merge {text[:80]!a} that the plan asks for "
            f"({error}): update swarm before you consent"
        ) from None
    if not rows or rows[-1][0] != "*" or found.encode() != text:
        raise PlanError(f"the plan's merge is not written as merges are: {text[:80]!a}")
    return found


def _place(words: list[str]) -> Place:
    match words:
        case ["shared", fold]:
            return Shared(decode_fold(bytes.fromhex(fold)))
        case ["local"]:
            return Local()
        case ["frozen", *rest] if len(rest) < 2:
            return Frozen(sha256="".join(rest))
        case ["gathered"]:
            return Gathered()
        case ["at", role]:
            return At(role)
    raise PlanError(
        f"this release of swarm does not know the place {' '.join(words)[:40]!r} that the plan "
        "asks for: update swarm before you consent"
    )


def _words(place: Place) -> list[str]:
    match place:
        case Shared(fold):
            return ["shared", fold.encode().hex()]
        case Local():
            return ["local"]
        case Frozen(_, sha256):
            return ["frozen", sha256] if sha256 else ["frozen"]
        case Gathered():
            return ["gathered"]
        case At(role):
            return ["at", role]


def _sentence(place: Place) -> str:
    match place:
        case Shared(fold):
            return fold.words
        case Local():
            return "stay at each site"
        case Frozen(_, sha256):
            return (
                f"do not change, from the file with SHA-256 {sha256}" if sha256 else "do not change"
            )
        case Gathered():
            return "travel, and are kept side by side"
        case At(role):
            return f"change at whoever holds {role!r}, which no check of a merge can repeat"


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str) or not pattern or len(pattern) > MAX_PATTERN:
        raise PlanError(f"tensors: {pattern!r:.80} is no pattern of names")
    if not pattern.isascii() or not pattern.isprintable():
        raise PlanError(f"tensors: the pattern {pattern!a} has characters that are not plain ASCII")


_rows = msgspec.json.Decoder(list[list[str]])

_SHORT = {
    "mean": Placement(),
    "sum": Placement((("*", Shared(Fold(SUM))),)),
    "gather": Placement((("*", Gathered()),)),
}
"""What most stages have: shorter, and what programs said before there were places."""
