"""What a node remembers of each round, for people and for reports: who led, how it scored, and
where the seconds and the bytes went. Times are seconds on this node's clock.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import UNREADABLE
from swarm.protocol.state import Candidate, Omission, Round, members_in
from swarm.protocol.streams import Conversation
from swarm.types import Digest, MemberId, to_digest, to_hex

log = logging.getLogger("swarm.node")

KEPT_ROUNDS = 1000
MAX_LINES = 4 * KEPT_ROUNDS
"""Before the file is written anew."""
RECENT_ROUNDS = 30
"""Told in each status; whoever wants them all asks for them."""
REASONS = {int(o): o.name.lower().replace("_", " ") for o in Omission}


@dataclass(frozen=True, slots=True)
class JointFigure:
    """A number about `rows` rows, with its 95% interval where there is one; None: not known."""

    value: float | None
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True, slots=True)
class JointScore:
    """A metric that sites count: what it says of all their rows, the main figure first, and that
    main figure by site."""

    figures: dict[str, JointFigure]
    sites: dict[int, JointFigure]


@dataclass(slots=True)
class StreamRecord:
    """What this node and a member said to each other over streams in a round, one being the role's
    holder. `fault` is the first that the member did wrong."""

    questions: int = 0
    answers: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    """Contents of frames."""
    fault: str | None = None

    def note(self, book: Conversation, asks: bool) -> None:
        """Take over the figures of a stream's book."""
        self.questions, self.answers = book.asked, book.answered
        self.received_bytes = book.answered_bytes if asks else book.asked_bytes


@dataclass(slots=True)
class RoundRecord:
    """One round as this node lived through it."""

    round: int
    """Its number on the chain."""
    attempt: int
    leader: int | None = None
    contributors: list[int] = field(default_factory=list)
    omitted: dict[int, str] = field(default_factory=dict)
    """Whose updates the leader left out, and why, as the chain has it."""
    model: str = ""
    meta: str = ""
    """What this site said of its own update (`rounds.metas`), by digest."""
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Of the merged model on this site's own rows: "validation" and "test". JSON knows no NaN: a
    score that cannot be given, such as an AUC of one class, is None."""
    own_metrics: dict[str, float | None] = field(default_factory=dict)
    """Of this site's update, before it was merged, as the trainer or the plan's script tells."""
    joint: dict[str, dict[str, JointScore]] = field(default_factory=dict)
    """Of the merged model on all sites' rows, by part and metric, as far as they have told."""
    choice: dict[str, float | None] = field(default_factory=dict)
    """Where the round chose the best model: what all sites counted of the two."""
    counted: list[str] = field(default_factory=list)
    """The blobs from which that choice follows, by digest: kept as long as the plan."""
    figures: dict[str, Any] | None = None
    """Where sites told scores of models of their own: what these come to (`rounds.figures`)."""
    holder: int | None = None
    """Who held the plan's role."""
    talks: dict[int, StreamRecord] = field(default_factory=dict)
    """What went over streams within the round, by member."""
    loss: float | None = None
    train_s: float = 0.0
    exchange_s: float = 0.0
    """In which at least one blob was being pulled."""
    merge_s: float = 0.0
    """Spent merging or checking a merge, pulling excluded."""
    chain_s: float = 0.0
    """Spent waiting for this node's own transactions."""
    total_s: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    sent_by_close_bytes: int | None = None
    """By this node to all peers, from its start until it saw the submission closed. Between two
    closings lies all that one merge moved: the updates, and the model even to those who pull it
    after it is final."""
    received_by_close_bytes: int | None = None
    final_at: float = 0.0
    """When this node saw the final merge: Unix time."""


_decoder = msgspec.json.Decoder(RoundRecord)


@dataclass
class Meters:
    """Readings at the opening of a round, to subtract from those at its end."""

    at: float
    exchange_s: float
    sent_bytes: int
    received_bytes: int


class Records:
    """The rounds of one plan, kept in a file so that a restart forgets none of them.

    The file has a line of JSON for each record that changed, so that what a round costs does not
    grow with the rounds before it: of several lines for a round the last one counts. It is for
    people and reports, and tells which older models are kept: no round depends on it, so it is
    written without waiting for the disk.
    """

    def __init__(self, path: Path) -> None:
        self.rounds: dict[int, RoundRecord] = {}
        self._path = path
        self._opened: dict[int, Meters] = {}
        self._closed: dict[int, int] = {}
        self._changed: set[int] = set()
        self._lines = 0
        self._is_whole = True
        """Whether the file ends with a whole line, so that another can follow."""
        with suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines():
                with suppress(*UNREADABLE):
                    record = _decoder.decode(line)
                    self.rounds[record.round] = record
            self._is_whole = False  # a kill may have cut the last line short

    def opened(self, round: Round, meters: Meters) -> None:
        """A round was seen open; a further attempt keeps the first one's meters."""
        record = self.at(round.number)
        record.attempt = round.attempt
        record.holder = round.holder
        self._opened.setdefault(round.number, meters)

    def closed(self, round: Round, meters: Meters) -> None:
        """A round was seen closed; of each attempt the first look counts, and the last attempt."""
        if self._closed.get(round.number) == round.attempt:
            return
        self._closed[round.number] = round.attempt
        record = self.at(round.number)
        record.sent_by_close_bytes = meters.sent_bytes
        record.received_by_close_bytes = meters.received_bytes

    def at(self, number: int) -> RoundRecord:
        """The record of a round, to be changed."""
        self._changed.add(number)
        return self.rounds.setdefault(number, RoundRecord(number, 1))

    def finalised(self, round: Round, winner: Candidate, meters: Meters) -> None:
        """A round's final merge was seen."""
        record = self.at(round.number)
        record.attempt = round.attempt
        record.final_at = time.time()
        record.leader = winner.leader
        record.contributors = [int(m) for m in members_in(round.submitted & ~winner.omitted)]
        left_out = zip(members_in(winner.omitted), winner.reasons, strict=False)
        record.omitted = {int(m): REASONS.get(r, f"reason {r}") for m, r in left_out}
        record.model = to_hex(winner.model)
        self._closed.pop(round.number, None)
        began = self._opened.pop(round.number, None)
        if began is not None:
            record.total_s = meters.at - began.at
            record.exchange_s = meters.exchange_s - began.exchange_s
            record.bytes_sent = meters.sent_bytes - began.sent_bytes
            record.bytes_received = meters.received_bytes - began.received_bytes
        self.save()

    def models(self) -> dict[int, Digest]:
        """What final rounds have made, by round of the chain, oldest first."""
        return {
            number: to_digest(record.model)
            for number, record in sorted(self.rounds.items())
            if record.model
        }

    def metas(self) -> set[Digest]:
        """What this site said of its own updates."""
        return {to_digest(record.meta) for record in self.rounds.values() if record.meta}

    def counted(self) -> set[Digest]:
        """From what the choices of the best model follow."""
        return {to_digest(blob) for record in self.rounds.values() for blob in record.counted}

    def save(self) -> None:
        """Write what has changed, and forget what is older than the newest KEPT_ROUNDS."""
        for number in sorted(self.rounds)[:-KEPT_ROUNDS]:
            del self.rounds[number]
        changed = [self.rounds[n] for n in sorted(self._changed & self.rounds.keys())]
        self._changed.clear()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lines + len(changed) > MAX_LINES or not self._is_whole:
                partial = self._path.with_name(self._path.name + ".partial")
                partial.write_bytes(_lines(self.rounds.values()))
                partial.replace(self._path)
                self._lines, self._is_whole = len(self.rounds), True
            else:
                with self._path.open("ab") as file:
                    file.write(_lines(changed))
                self._lines += len(changed)
        except OSError as error:
            log.warning("cannot write %s: %s; rounds go on without", self._path, error.strerror)
            self._is_whole = False

    def as_list(
        self, names: Mapping[MemberId, str], newest: int = KEPT_ROUNDS
    ) -> list[dict[str, Any]]:
        """The newest rounds, oldest first, with members by name."""

        def name(member: int | None) -> str | None:
            return None if member is None else names.get(MemberId(member), f"member {member}")

        return [
            msgspec.to_builtins(record)
            | {
                "leader": name(record.leader),
                "contributors": [name(m) for m in record.contributors],
                "holder": name(record.holder),
                "talks": {name(m): msgspec.to_builtins(s) for m, s in record.talks.items()},
                "omitted": {name(m): why for m, why in record.omitted.items()},
                "joint": {
                    part: {metric: _by_name(score, name) for metric, score in scores.items()}
                    for part, scores in record.joint.items()
                },
            }
            for record in (self.rounds[n] for n in sorted(self.rounds)[-newest:])
        ]


def _by_name(score: JointScore, name: Callable[[int], str | None]) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(score)
    return told | {"sites": {name(m): told["sites"][m] for m in score.sites}}


def known(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Scores as records keep them: None where there is none."""
    return {name: value if math.isfinite(value) else None for name, value in scores.items()}


def _lines(records: Iterable[RoundRecord]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)
