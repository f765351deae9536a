"""What all sites together know of a model: each tells the others its counts, and adds up theirs.

A site scores each new final model on its own rows. Scores that are numbers stay here; counts
(`swarm.learning.metrics`) go to the nodes of all who joined the plan, those without training rows
too. Who hears them answers with its own of the same model, so that a node that was away asks and
tells in one. What comes is checked, kept apart for each member, and added up anew with each: a
member's later word replaces its earlier one. Nothing here decides anything: a member can lie about
its own rows, as it can in its update, and costs the consortium its figures and nothing else.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from swarm.errors import BlobError, RemoteError, SwarmError
from swarm.learning.metrics.counts import Counts, Figure
from swarm.learning.metrics.wire import ByName, Told, encode_told, merge_all, read_told, unpack
from swarm.protocol.state import Plan, member_set, members_in
from swarm.rounds.address_book import AddressBook
from swarm.rounds.records import JointFigure, JointScore, Records
from swarm.types import Address, MemberId, PlanId

log = logging.getLogger("swarm.plan")

METHOD = "plan.scores"
MAX_PLACES = 2**18
"""Of what a site tells of one model: 2 MiB as it is kept."""
KEPT_MODELS = 2
"""Of each member's word, by the newest rounds."""
ANSWER_WITHIN_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
TELL_FOR_S = 24 * 3600.0
"""How long a node that cannot be reached is tried of one model."""


class Requests(Protocol):
    """What is needed of the network here."""

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes: ...


@dataclass(frozen=True)
class Word:
    """What one member has told of one model, checked."""

    raw: bytes
    model: str
    parts: dict[str, dict[str, Counts]]


@dataclass
class JointScores:
    """One plan's joint scores at one node."""

    plan: PlanId
    book: AddressBook
    records: Records
    requests: Requests
    joined: int = 0
    """Who has joined the plan, as a set of members."""
    _words: dict[MemberId, dict[int, Word]] = field(default_factory=dict)
    _telling: trio.CancelScope = field(default_factory=trio.CancelScope)

    def observe(self, plan: Plan) -> None:
        """The plan as it stands at a new head."""
        self.joined = plan.participants | member_set(plan.consents)

    async def tell(self, number: int, model: str, parts: Mapping[str, ByName]) -> None:
        """Tell the others this site's counts of a model, and hear theirs; until all have answered,
        a newer model is told, or a day has passed. Without counts there is nothing to tell."""
        told = Told(self.plan, number, model, {part: c for part, c in parts.items() if c})
        raw = encode_told(told)
        self._add_up(number)  # others may have told theirs before the model was known here
        if not told.parts:
            return
        try:
            self._take(self.book.me, raw)
        except BlobError as error:
            log.warning("the scores of round %d stay here: %s", number, error)
            return
        self._telling.cancel()
        with trio.CancelScope() as self._telling:
            async with trio.open_nursery() as nursery:
                for peer in self.book.addresses(members_in(self.joined)):
                    nursery.start_soon(self._tell_one, peer, raw)

    async def _tell_one(self, peer: Address, raw: bytes) -> None:
        pause_s = FIRST_PAUSE_S
        with trio.move_on_after(TELL_FOR_S):
            while True:
                try:
                    answer = await self.requests.request(
                        peer, METHOD, raw, deadline_s=ANSWER_WITHIN_S
                    )
                    if answer:
                        self.hear(peer, answer)
                    return
                except BlobError as error:
                    log.warning("%s sent scores of no use: %s", self._name(peer), error)
                    return
                except SwarmError as error:
                    log.debug("%s has not heard the scores yet: %s", self._name(peer), error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def hear(self, sender: Address, raw: bytes) -> bytes:
        """Take a member's word; the answer is this node's own of the same model, if it has one.

        Raises RemoteError for who has not joined, BlobError for what no rows could give.
        """
        member = self.book.owner(sender)
        if member is None or not self.joined >> member.id & 1:
            raise RemoteError(f"only those who joined plan {self.plan} tell scores of its models")
        told = self._take(member.id, raw)
        own = self._words.get(self.book.me, {}).get(told.round)
        return own.raw if own is not None and own.model == told.model else b""

    def _take(self, member: MemberId, raw: bytes) -> Told:
        told = read_told(raw)
        places = sum(c.measure.places for part in told.parts.values() for c in part.values())
        if places > MAX_PLACES:
            raise BlobError(f"scores of {places} counts are more than {MAX_PLACES}")
        parts = {
            part: {name: unpack(counts) for name, counts in of_part.items()}
            for part, of_part in told.parts.items()
        }
        words = self._words.setdefault(member, {})
        words[told.round] = Word(raw, told.model, parts)
        for old in sorted(words)[:-KEPT_MODELS]:
            del words[old]
        self._add_up(told.round)
        return told

    def _add_up(self, number: int) -> None:
        """Write what the sites say of a round's model into its record, once that is known."""
        record = self.records.rounds.get(number)
        if record is None or not record.model:
            return
        words = {
            member: by_round[number]
            for member, by_round in sorted(self._words.items())
            if number in by_round and by_round[number].model == record.model
        }
        parts = sorted({part for word in words.values() for part in word.parts})
        record = self.records.at(number)
        record.joint = {part: _joint(words, part) for part in parts}
        self.records.save()

    def _name(self, peer: Address) -> str:
        member = self.book.owner(peer)
        return "a former member" if member is None else member.name


def _joint(words: Mapping[MemberId, Word], part: str) -> dict[str, JointScore]:
    """What the members' counts on one part of their rows say together, by metric. A metric counts
    if more than half of them measure it, and in the way in which most do."""
    told = {member: word.parts[part] for member, word in words.items() if part in word.parts}
    found = {}
    for name in sorted({name for counts in told.values() for name in counts}):
        of_name = {member: counts[name] for member, counts in told.items() if name in counts}
        usual = _most(counts.measure for counts in of_name.values())
        alike = {m: counts for m, counts in of_name.items() if counts.measure == usual}
        if 2 * len(alike) > len(told):
            merged = merge_all([{name: counts} for counts in alike.values()])[name]
            found[name] = JointScore(
                figures={key: _written(figure) for key, figure in merged.figures().items()},
                sites={int(m): _written(counts.figure) for m, counts in alike.items()},
            )
    return found


def _most(measures: Iterable[object]) -> object:
    return Counter(measures).most_common(1)[0][0]


def _written(figure: Figure) -> JointFigure:
    return JointFigure(figure.value, figure.low, figure.high, figure.rows)
