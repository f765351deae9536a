"""Which blobs of a node are kept, and for how long."""

from __future__ import annotations

import logging
from collections.abc import Callable, Set
from dataclasses import dataclass, field

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import LocalError
from swarm.protocol.machine import blobs_to_keep
from swarm.protocol.program import Program
from swarm.protocol.state import BEST_SLOT, Plan, PlanStatus, RoundStatus
from swarm.rounds.records import Records
from swarm.types import NO_DIGEST, Digest

log = logging.getLogger("swarm.node")

PRUNE_EVERY_S = 30.0


@dataclass
class PlanBlobs:
    """One plan's blobs at one node: what is still needed of them, and what has served."""

    store: BlobStore
    records: Records
    program: Program
    keep_models: int
    _made: dict[int, set[Digest]] = field(default_factory=dict)
    """What was made or pulled for a round, by its number."""
    _sums: dict[int, frozenset[Digest]] = field(default_factory=dict)
    """Of the newest round."""
    _plan: Plan | None = None

    def observe(self, plan: Plan) -> None:
        """The plan as it stands at a new head."""
        self._plan = plan

    def note(self, number: int, *blobs: Digest) -> None:
        """These were made or pulled for a round."""
        self._made.setdefault(number, set()).update(blobs)

    def note_sum(self, number: int, total: Digest) -> None:
        """This is a sum of masked updates: the round's roster may read it before it stands on the
        chain, as it may read what was added up."""
        self.note(number, total)
        self._sums = {number: self._sums.get(number, frozenset()) | {total}}

    def sums_for(self, number: int) -> Set[Digest]:
        return self._sums.get(number, frozenset())

    def made_for(self, number: int) -> Set[Digest]:
        return self._made.get(number, frozenset())

    def models(self) -> dict[int, Digest]:
        """The final models that are kept here, by round of the chain: the newest, and the best
        where the plan chooses one."""
        made = self.records.models().items()
        models = [(n, digest) for n, digest in made if self.program.number_of(n) is not None]
        wanted = models[-self.keep_models :]
        if self._best != NO_DIGEST and self._best not in dict(wanted).values():
            earlier = [(n, digest) for n, digest in models if digest == self._best]
            wanted = [*(earlier[:1] or [(self._chosen_in, self._best)]), *wanted]
        return {n: digest for n, digest in sorted(wanted) if self.store.has(digest)}

    def chosen(self) -> int | None:
        """The round of the model that people are to have, if it is here: the best one where the
        plan chooses one, or the newest."""
        kept = self.models()
        if self._best == NO_DIGEST:
            return max(kept, default=None)
        return next((n for n, digest in kept.items() if digest == self._best), None)

    @property
    def _best(self) -> Digest:
        return NO_DIGEST if self._plan is None else self._plan.outputs[BEST_SLOT]

    def made_in(self, model: Digest) -> int | None:
        """The round of training that has made a model, as far as this node remembers."""
        made = self.records.models().items()
        trained = [n for n, digest in made if digest == model and self.program.number_of(n)]
        return trained[0] if trained else None

    @property
    def _chosen_in(self) -> int:
        return 0 if self._plan is None else self._plan.output_rounds[BEST_SLOT]

    def metas(self) -> set[Digest]:
        """What this site said of its own updates: kept as long as the plan."""
        return self.records.metas()

    @property
    def are_known(self) -> bool:
        """Whether the plan was observed, and so what it needs."""
        return self._plan is not None

    def needed(self) -> set[Digest]:
        """The blobs that the plan still needs, here or for others: updates until their round is
        final or the plan stopped."""
        if self._plan is None:
            return set()
        recent, over = blobs_to_keep(self._plan, self.models().values()), last_over(self._plan)
        made = (made for n, made in self._made.items() if n > over)
        return set(recent).union(self.metas(), self.records.counted(), *made)

    def take_spent(self) -> set[Digest]:
        """What was made or pulled for rounds that are over; told once."""
        over = -1 if self._plan is None else last_over(self._plan)
        spent = [n for n in self._made if n <= over]
        return set[Digest]().union(*(self._made.pop(n) for n in spent))


def last_over(plan: Plan) -> int:
    """The newest round that is over: final, or ended with its plan; -1 before the first."""
    if plan.status is PlanStatus.STOPPED:
        return plan.rules.rounds
    if plan.round is None:
        return -1
    return plan.round.number - (plan.round.status is not RoundStatus.FINAL)


@dataclass
class Pruning:
    """What the last look saw: nothing goes before it is known that nobody is about to need it."""

    _known: Set[Digest] = field(default_factory=frozenset)

    def look(self, here: Set[Digest], needed: Set[Digest], spent: Set[Digest]) -> Set[Digest]:
        """What is to be deleted of the blobs that are `here`.

        Nothing that is `needed`. Of the rest, at once what has served its purpose: what is `spent`,
        or was needed at the last look. What was not even there at the last look may have been made
        or pulled a moment ago, and its need not be known yet: it goes if the next look finds it so.
        """
        dropped = (here - needed) & (self._known | spent)
        self._known = needed | (here - dropped)
        return dropped


@dataclass
class Retention:
    """Deletes what no plan of a node needs any more, for as long as `run` runs."""

    store: BlobStore
    are_needs_known: Callable[[], bool]
    take_needs: Callable[[], tuple[set[Digest], set[Digest]]]
    """What all plans need, and what is spent; each blob is told spent once."""
    _pruning: Pruning = field(default_factory=Pruning)
    _moved_on: trio.Event = field(default_factory=trio.Event)

    def look_soon(self) -> None:
        """A round has opened, closed or ended."""
        self._moved_on.set()

    async def run(self) -> None:
        """Look whenever a round moves on, and now and then: what was still on its way when its
        round ended comes after that."""
        while True:
            with trio.move_on_after(PRUNE_EVERY_S):
                await self._moved_on.wait()
            self._moved_on = trio.Event()
            if not self.are_needs_known():
                continue
            whole = self.store.roots()
            here = whole | (await trio.to_thread.run_sync(self.store.unfinished)).keys()
            dropped = self._pruning.look(here, *self.take_needs())
            try:
                await trio.to_thread.run_sync(self.store.discard, dropped)
            except LocalError as error:
                log.warning("blobs that are not needed any more are still here: %s", error)
