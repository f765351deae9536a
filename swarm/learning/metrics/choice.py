"""Which of two models is better, by what all sites count of both on their own rows.

Each site counts the plan's metric of the newest model and of the best one until now. What it tells
of them is small and added up exactly, so that everybody who adds comes to the same choice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import UNREADABLE, BlobError, PlanError
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import SentCounts, unpack

MAX_BYTES = 2**18
"""Of what a site tells of the two models."""
DIGITS = 9
"""After the point, to which values are compared: processors differ in later ones."""
_RULE = re.compile(r"(highest|lowest) ([!-~]{1,80})")


@dataclass(frozen=True)
class Rule:
    """What makes a model the better one. Raises PlanError for a name that cannot travel."""

    metric: str
    lowest: bool = False

    def __post_init__(self) -> None:
        if not _RULE.fullmatch(self.written):
            raise PlanError(
                f"a model is chosen by the metric {self.metric!r:.90}: give the name of one that "
                "`metrics` returns, of 1 to 80 letters, digits and signs without a space"
            )

    @property
    def written(self) -> str:
        """As a program has it."""
        return f"{'lowest' if self.lowest else 'highest'} {self.metric}"

    @classmethod
    def read(cls, text: str) -> Rule:
        """As `written`. Raises PlanError for all else."""
        found = _RULE.fullmatch(text)
        if found is None:
            raise PlanError(
                f"this release of swarm does not know how models are chosen by {text!r:.80}: "
                "update swarm before you consent"
            )
        return cls(found[2], found[1] == "lowest")

    def is_better(self, newest: float | None, best: float | None) -> bool:
        """Whether the newest model takes the best one's place. It does where one of the values is
        not known: nothing says that it is worse."""
        if newest is None or best is None:
            return True
        a, b = round(newest, DIGITS), round(best, DIGITS)
        return a < b if self.lowest else a > b


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one site tells of the two models; None: nothing."""

    newest: SentCounts | None = None
    best: SentCounts | None = None


def check_counted(metric: str, scores: Collection[str], counted: Collection[str]) -> None:
    """Raise PlanError unless a metric by which models are chosen is among the plan's `scores`, and
    `counted`. Without scores there are no rows to tell of."""
    if not scores or metric in counted:
        return
    if metric not in scores:
        raise PlanError(
            f"models are chosen by {metric!r}, and `metrics` returns {', '.join(sorted(scores))}: "
            "choose by one of these"
        )
    raise PlanError(
        f"models are chosen by {metric!r}, which `metrics` returns as a number that does not add "
        "up over sites: return counts, such as swarm.metrics.roc(y, scores)"
    )


@dataclass(frozen=True)
class Choice:
    """What all sites' counts come to: a value is None if no site could tell."""

    is_newest: bool
    newest: float | None
    best: float | None


_decoder = msgspec.json.Decoder(Pair)


def encode_pair(pair: Pair) -> bytes:
    """As it is sent."""
    return msgspec.json.encode(pair)


def read_pair(raw: bytes) -> tuple[Counts | None, Counts | None]:
    """Counts of the newest model and of the best, checked. Raises BlobError saying what is
    wrong."""
    if len(raw) > MAX_BYTES:
        raise BlobError(f"{len(raw)} bytes of two models' counts are more than {MAX_BYTES}")
    try:
        pair = _decoder.decode(raw)
    except UNREADABLE as error:
        raise BlobError(f"these are no counts of two models: {error}") from None
    newest, best = (None if c is None else unpack(c) for c in (pair.newest, pair.best))
    if newest is not None and best is not None and newest.measure != best.measure:
        raise BlobError("the counts of two models are of two measures")
    return newest, best


def read_pair_file(path: Path) -> tuple[Counts | None, Counts | None]:
    """As `read_pair`, of a file."""
    return read_pair(path.read_bytes())


def choose(rule: Rule, sites: Sequence[tuple[Counts | None, Counts | None]]) -> Choice:
    """The better model, by the sites' counts in the order of members. Those of another measure
    than the first one's are left out: their plan is not ours."""
    values = [_sum([site[which] for site in sites]) for which in (0, 1)]
    return Choice(rule.is_better(*values), *values)


def _sum(given: Sequence[Counts | None]) -> float | None:
    told = [counts for counts in given if counts is not None]
    alike = [counts for counts in told if counts.measure == told[0].measure]
    if not alike:
        return None
    total = alike[0]
    for each in alike[1:]:
        total = total + each
    return total.figure.value
