"""Which model is the plan's best: the newest one, or the best until now.

In a round that chooses, each site's update is what it counts of both on its own validation rows.
Whoever leads adds all of them up; the others do the same before they attest. No model is made: the
round's outcome is one of two that everybody holds, and the chain keeps which. So a node that joined
a moment ago knows the best model as well as any other, and nobody has to remember rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import PlanError, RemoteError, SwarmError
from swarm.learning.metrics.choice import (
    MAX_BYTES,
    Pair,
    Rule,
    choose,
    encode_pair,
    read_pair_file,
)
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import SentCounts
from swarm.protocol import machine as m
from swarm.protocol.program import Program
from swarm.protocol.state import MemberSet, Omission, VerifyLevel, members_in
from swarm.rounds.address_book import AddressBook
from swarm.rounds.checking import judge
from swarm.rounds.collection import Collection, Patience
from swarm.rounds.evaluating import Evaluating
from swarm.rounds.merging import too_few
from swarm.rounds.records import REASONS, Records
from swarm.rounds.site_limits import SiteLimits
from swarm.types import NO_DIGEST, Digest, MemberId, to_hex

Pairs = dict[MemberId, tuple[Counts | None, Counts | None]]


@dataclass
class Selecting:
    """One plan's choices of its best model at one node."""

    program: Program
    book: AddressBook
    store: BlobStore
    collection: Collection
    evaluating: Evaluating
    records: Records
    limits: SiteLimits

    async def count(self, command: m.Train) -> bytes:
        """What this site tells of the newest model, and of the best until now. Raises PlanError if
        the plan does not count what it is to be chosen by."""
        rule, best = self._rule(command.number), command.best or NO_DIGEST
        newest = await self._counts(rule, command.base, command.statistics)
        earlier = None
        if best != NO_DIGEST:
            earlier = await self._counts(rule, best, command.statistics)
        raw = encode_pair(Pair(newest, earlier))
        if len(raw) > MAX_BYTES:
            raise PlanError(
                f"what is counted as {rule.metric!r} takes {len(raw)} bytes, and {MAX_BYTES} are "
                "the most: count fewer bins or classes"
            )
        return raw

    async def _counts(self, rule: Rule, model: Digest, statistics: Digest) -> SentCounts | None:
        told = await self.evaluating.count(model, statistics, rule.metric)
        return told if self.limits.shares_scores else None

    async def merge(self, command: m.Merge) -> m.Event:
        """Choose, as the leader."""
        omitted = dict.fromkeys(members_in(command.gone), Omission.WITHDRAWN)
        try:
            pairs, faults = await self._pairs(command)
            omitted |= faults
            if len(pairs) < command.min_peers:
                raise too_few(command, len(pairs), omitted, self.book)
            model = await self._chosen(command, pairs)
        except SwarmError as error:
            return m.MergeFailed(command.number, command.attempt, str(error))
        here = (command.number, command.attempt)
        return m.Merged(*here, model, *m.omission_reasons(omitted))

    async def verify(self, command: m.Verify) -> m.Event:
        """Choose again, and see whether it is the leader's choice."""
        return await judge(command, self._fault_of)

    async def _fault_of(self, command: m.Verify) -> str | None:
        """Why a choice must not be attested; None if it is right. Raises RemoteError where that
        cannot be told yet."""
        candidate = command.candidate
        if candidate.model not in (command.base, command.best):
            return f"{to_hex(candidate.model)} is neither the newest nor the best model"
        if command.level is VerifyLevel.HELD:  # then nobody but the leader may read updates
            await self.collection.model(candidate.model)
            return None
        pairs, faults = await self._pairs(command)
        wronged = [u for u in pairs if candidate.omitted >> u & 1]
        if wronged:
            return f"it leaves out the counts of {self._names(wronged)}, which are here and valid"
        counted = {i: why for i, why in faults.items() if not candidate.omitted >> i & 1}
        unfit = [i for i, why in counted.items() if why is not Omission.UNREACHABLE]
        if unfit:
            return f"it adds what is no counts, of {self._names(unfit)}"
        if counted:
            names = ", ".join(f"{self.book.name(i)} ({REASONS[o]})" for i, o in counted.items())
            raise RemoteError(f"counts that it adds cannot be checked here: {names}")
        if await self._chosen(command, pairs) != candidate.model:
            return f"{to_hex(candidate.model)} is not the model that the sites' counts choose"
        return None

    async def _pairs(self, command: m.Merge | m.Verify) -> tuple[Pairs, dict[MemberId, Omission]]:
        """The counts of all who have not withdrawn, and those that cannot be used, and why."""
        there = [u for u in command.updates if not _has(command.gone, u.member)]
        patience = Patience.of(command)
        faults = await self.collection.collect_pairs(command.number, there, patience)
        read = partial(_read_all, [u for u in there if u.member not in faults], self.store.path)
        return await trio.to_thread.run_sync(read), faults

    async def _chosen(self, command: m.Merge | m.Verify, pairs: Pairs) -> Digest:
        """The better model, which is here then; what the counts come to is noted."""
        choice = choose(self._rule(command.number), [pairs[i] for i in sorted(pairs)])
        best = command.best or NO_DIGEST
        model = command.base if choice.is_newest or best == NO_DIGEST else best
        await self.collection.model(model)
        record = self.records.at(command.number)
        record.choice = {"newest": choice.newest, "best before": choice.best}
        record.counted = [to_hex(u.update) for u in command.updates if u.member in pairs]
        return model

    def _rule(self, number: int) -> Rule:
        place = self.program.place(number)
        if place is None:
            raise RemoteError(f"the plan has no round {number}")
        return Rule.read(place.stage.merge)

    def _names(self, members: list[MemberId]) -> str:
        return ", ".join(map(self.book.name, members))


def _has(members: MemberSet, member: MemberId) -> bool:
    return bool(members >> member & 1)


def _read_all(updates: list[m.FrozenUpdate], path_of: Callable[[Digest], Path]) -> Pairs:
    return {u.member: read_pair_file(path_of(u.update)) for u in updates}
