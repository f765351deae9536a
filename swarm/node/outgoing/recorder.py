"""Feeds the list of what left (`outgoing_log`) at each place where something does.

    blobs, chunk by chunk        `rounds.exchange`, before a channel sends them
    code and stages of plans     answers to requests, by `listed`
    counts behind scores         requests and answers, by `ListedScores` and `listed_scores`
    this member's transactions   `chain_link`, once handed over; the chain has them for ever
    everything else              by the network's own counts: once a minute, a line for each member

So for each member the list says as many bytes as went over the wire; after a kill, but for the last
minute of everything else. What was about to go when a connection broke is on it, too.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial

import trio

from swarm.errors import LocalError
from swarm.learning.metrics.wire import read_told
from swarm.network.peers import PeerTraffic
from swarm.node.commands.control import Handler
from swarm.node.outgoing.log import OutgoingLog
from swarm.rounds.joint_scores import Requests
from swarm.rounds.outgoing import Leaving
from swarm.types import Address, Digest, MemberId, PlanId, to_hex

log = logging.getLogger("swarm.node")

LOOK_EVERY_S = 60.0
CHAIN = "the chain"

Answer = Callable[[Address, bytes], Awaitable[bytes]]


@dataclass
class Outgoing:
    """What leaves one node. The three lookups are of what the chain says."""

    log: OutgoingLog
    traffic: Callable[[], Mapping[Address, PeerTraffic]]
    institution: str = ""
    """Whose node this is."""
    name_of_node: Callable[[Address], str] = to_hex
    name_of_member: Callable[[MemberId], str] = str
    plan_with: Callable[[Digest], PlanId | None] = lambda digest: None
    _listed: Counter[Address] = field(default_factory=Counter)
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def leaving(self, leaving: Leaving) -> None:
        """Part of a blob is about to go. Called in worker threads; raises LocalError."""
        purpose = leaving.purpose
        self._add(
            leaving.to,
            purpose.kind,
            leaving.size_bytes,
            plan=purpose.plan,
            round=purpose.round,
            of="" if purpose.of is None else self.name_of_member(purpose.of),
            blob=leaving.blob.hex(),
            part=leaving.part,
            masked=purpose.masked,
        )

    def listed(self, kind: str, answer: Answer) -> Answer:
        """The same answers, to questions that are digests, each on the list before it goes."""

        async def answer_listed(sender: Address, payload: bytes) -> bytes:
            given = await answer(sender, payload)
            plan = self.plan_with(Digest(payload))
            add = partial(self._add, sender, kind, len(given), plan=plan, blob=payload.hex())
            await trio.to_thread.run_sync(add)
            return given

        return answer_listed

    def listed_scores(self, answer: Answer) -> Answer:
        """The same answers to what others tell of a model, each on the list before it goes."""

        async def answer_listed(sender: Address, payload: bytes) -> bytes:
            given = await answer(sender, payload)
            await trio.to_thread.run_sync(self.telling_scores, sender, given)
            return given

        return answer_listed

    def telling_scores(self, to: Address, told: bytes) -> None:
        """What this site's rows say of a model is about to go. Blocks; raises LocalError."""
        if told:
            said, digest = read_told(told), hashlib.sha256(told).hexdigest()
            place = {"plan": said.plan, "round": said.round, "of": self.institution}
            self._add(to, "metrics", len(told), blob=digest, **place)

    def transacted(self, function: str, tx: Digest, size_bytes: int, plan: int | None) -> None:
        """A transaction was handed over. Called in worker threads."""
        try:
            self.log.add("chain", size_bytes, to=CHAIN, what=function, blob=tx.hex(), plan=plan)
        except LocalError as error:
            log.warning("the transaction %s is on the chain alone: %s", to_hex(tx), error)

    def add_the_rest(self) -> None:
        """What went to each member and is not on the list yet. Blocks; raises LocalError."""
        for peer, counted in self.traffic().items():
            with self._counting:
                rest = counted.sent_bytes - self._listed[peer]
            if rest > 0:
                self._add(peer, "control", rest)
        self.log.sync()

    async def keep(self) -> None:
        """Add the rest now and then, for as long as it runs."""
        while True:
            await trio.sleep(LOOK_EVERY_S)
            try:
                await trio.to_thread.run_sync(self.add_the_rest)
            except LocalError as error:
                log.warning("%s", error)

    def close(self) -> None:
        with suppress(LocalError):
            self.add_the_rest()
        self.log.close()

    @property
    def by_name(self) -> dict[str, Handler]:
        return {"outgoing": self.tell}

    async def tell(self) -> object:
        """The list's newest line, with all that has left by now, and what the network counted."""
        await trio.to_thread.run_sync(self.add_the_rest)
        return {
            "lines": self.log.count,
            "chain": self.log.chain,
            "wire": {self.name_of_node(a): asdict(t) for a, t in self.traffic().items()},
        }

    def _add(self, to: Address, kind: str, size_bytes: int, **told: object) -> None:
        self.log.add(kind, size_bytes, to=self.name_of_node(to), **told)
        with self._counting:
            self._listed[to] += size_bytes


@dataclass(frozen=True)
class ListedScores:
    """How the rounds of a plan tell the others what this site's rows say of a model."""

    network: Requests
    outgoing: Outgoing

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes:
        await trio.to_thread.run_sync(self.outgoing.telling_scores, peer, payload)
        return await self.network.request(peer, method, payload, deadline_s=deadline_s)
