"""One node's part in one plan, put together, as the rest of the node sees it.

chain ── heads ─► Participation ─► inbox ─► Driver ◄─► round machine
                    │ history, blobs          │ commands
                    ▼                         ▼
                  records      training, collection, merging, checking, …, transactions
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from swarm.blobs.store import BlobStore
from swarm.learning.plans.stages import CROSS_EVALUATE, PERSONALISE
from swarm.learning.supervisor.supervisor import Trainer
from swarm.learning.supervisor.trainer_messages import Progress, Rules
from swarm.privacy.guarantee import Guarantee
from swarm.protocol import machine as m
from swarm.protocol.program import Program
from swarm.protocol.state import (
    GATHERED_SLOT,
    Member,
    MemberSet,
    Plan,
    Round,
    RoundStatus,
    member_set,
    waited_for,
)
from swarm.rounds.address_book import AddressBook
from swarm.rounds.checking import Checking
from swarm.rounds.collection import Collection
from swarm.rounds.drafts import Drafts
from swarm.rounds.driver import Driver
from swarm.rounds.evaluating import Evaluating
from swarm.rounds.exchange import Exchange
from swarm.rounds.following import Following
from swarm.rounds.hidden_updates import HiddenUpdates
from swarm.rounds.history import History, Past
from swarm.rounds.holding import Holding
from swarm.rounds.inbox import Inbox
from swarm.rounds.joint_scores import JointScores, Requests
from swarm.rounds.kept_state import KeptState
from swarm.rounds.layouts import Layouts
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.masked_work import MaskedWork
from swarm.rounds.merging import Merging
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.private_rounds import DataSet, PrivateRounds
from swarm.rounds.records import KEPT_ROUNDS, Meters, Records
from swarm.rounds.retention import PlanBlobs, last_over
from swarm.rounds.selecting import Selecting
from swarm.rounds.serving import Serving
from swarm.rounds.site_limits import NO_LIMITS, SiteLimits
from swarm.rounds.streams import StreamCarrier, StreamEnd, StreamName, Streams
from swarm.rounds.training import Training
from swarm.rounds.transactions import Sender, Transactions
from swarm.types import Address, Digest, MemberId, PlanId, to_hex

Stage = tuple[int, int, RoundStatus]
"""Round, attempt and status of a plan's newest round."""


class Chain(Sender, Past, Protocol):
    """What is needed of the chain: transactions, and rounds of the past."""


@dataclass
class Participation:
    """`run` it in a nursery; call `observe` with every new snapshot of the chain."""

    machine: m.RoundMachine
    driver: Driver
    inbox: Inbox
    book: AddressBook
    layouts: Layouts
    collection: Collection
    training: Training
    evaluating: Evaluating
    joint_scores: JointScores
    history: History
    records: Records
    blobs: PlanBlobs
    kept: KeptState
    masked_work: MaskedWork
    private: PrivateRounds
    streams: Streams
    stage: Stage | None = None
    """Where the plan's newest round stands; None before its first."""
    _fault: str | None = None
    _work: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self) -> None:
        """Work on the plan until cancelled or halted."""
        with self._work:
            await self.driver.run()

    async def observe(
        self, plan: Plan, members: dict[MemberId, Member], ended: list[Round]
    ) -> None:
        """A new head: the plan as it stands there, all members ever, and the rounds that are known
        to have ended since the last one."""
        if self._fault is not None:
            return  # nobody takes anything out of the inbox any more
        self.book.members = members
        self.layouts.model0 = plan.base
        present = member_set(i for i, member in members.items() if member.present)
        await self.history.note(self.machine.plan, plan, present, ended)
        await self.kept.observe(plan, present, ended)
        if plan.is_masked:
            await self.masked_work.settle(plan)
        self.blobs.observe(plan)
        self.joint_scores.observe(plan)
        self._note_figures(plan)
        round = plan.round
        self.stage = None if round is None else (round.number, round.attempt, round.status)
        self.collection.end_rounds(last_over(plan))
        await self.inbox.put(m.ChainObserved(plan, present))

    def halt(self, why: str) -> None:
        """End its work for good, by a fault; what it holds is kept, and served to others."""
        self._fault = why
        self._work.cancel()

    def hear_scores(self, sender: Address, told: bytes) -> bytes:
        """Take what another site says of a model; the answer is this site's own word of it."""
        return self.joint_scores.hear(sender, told)

    def admit_stream(self, sender: Address, name: StreamName) -> None:
        """Raise RemoteError unless a member may ask this node as the role's holder, now."""
        self.streams.admit(sender, name)

    def join_stream(self, sender: Address, name: StreamName) -> StreamEnd:
        """The end here of a member's stream."""
        return self.streams.join(sender, name)

    def announce(self, merge: m.MergeAnnounced) -> None:
        """A merge waits for a block. It is in order to miss that: the block will tell of it."""
        self.inbox.offer(merge)

    async def recount_privacy(self, plan: Plan, rules: Rules) -> None:
        """Charge what the chain shows that a plan with privacy has spent here, and is not listed.
        Raises ChainError, LocalError."""
        await self.private.recount(plan, rules)

    # What people and the rest of the node may ask.

    @property
    def privacy(self) -> tuple[Guarantee, float] | None:
        """What the plan promises and has spent here; None without privacy."""
        promised = self.private.guarantee
        return None if promised is None else (promised, self.private.spent(promised))

    @property
    def id(self) -> PlanId:
        return self.machine.plan_id

    @property
    def title(self) -> str:
        """The plan's number and name."""
        return str(self.id) if self.plan is None else f"{self.id} {self.plan.name}"

    @property
    def plan(self) -> Plan | None:
        """The plan as the round machine sees it; None before its first look."""
        return self.machine.plan

    @property
    def program(self) -> Program:
        """What the plan's rounds are for."""
        return self.machine.program

    def waited_for(self, now: int) -> MemberSet:
        """Those whose answer, update or merge comes next, at Unix time `now`."""
        plan = self.machine.plan
        return 0 if plan is None else waited_for(plan, self.machine.members, now)

    @property
    def present(self) -> MemberSet:
        """The members of this moment, as the round machine knows them."""
        return self.machine.members

    @property
    def halted(self) -> str | None:
        """Why this node has stopped training the plan, or working on it at all, if it has."""
        return self._fault or self.machine.halted

    @property
    def last_report(self) -> str:
        return self.driver.last_report

    @property
    def progress(self) -> Progress | None:
        """How far the running training is."""
        return self.training.progress

    @property
    def trainer_pid(self) -> int | None:
        return self.training.pid

    def holds(self, blob: Digest) -> bool:
        """Whether a blob is complete here."""
        return self.machine.holds(blob)

    def names(self) -> dict[MemberId, str]:
        return self.book.names()

    def rounds(self, newest: int = KEPT_ROUNDS, tables: bool = False) -> list[dict[str, Any]]:
        """What is remembered of the newest rounds, oldest first; with `tables`, what each site's
        rows say of each site's model too."""
        return [
            record
            | {
                "title": self.program.title_of(record["round"]),
                "number": self.program.number_of(record["round"]),
                **({"table": self._table(record["round"], record["model"])} if tables else {}),
            }
            for record in self.records.as_list(self.book.names(), newest)
        ]

    def _note_figures(self, plan: Plan) -> None:
        """Write down what all sites told of models of their own, once that is here: a later round
        that gathers something takes its place."""
        number, made = plan.output_rounds[GATHERED_SLOT], plan.outputs[GATHERED_SLOT]
        record = self.records.rounds.get(number)
        if record is None or record.figures is not None or self._task(number) != PERSONALISE:
            return
        record.figures = self.evaluating.figures_of(to_hex(made))
        if record.figures is not None:
            self.records.at(number)
            self.records.save()

    async def read_table(self) -> None:
        """Read what each site's rows say of each site's model, if the plan has found that out, so
        that `rounds` has it: of many sites it takes seconds, in a thread."""
        plan = self.machine.plan
        if plan is not None:
            number, made = plan.output_rounds[GATHERED_SLOT], plan.outputs[GATHERED_SLOT]
            await trio.to_thread.run_sync(self._table, number, to_hex(made))

    def _table(self, number: int, made: str) -> dict[str, Any] | None:
        """What each site's rows say of each site's model; None for other rounds."""
        is_table, names = self._task(number) == CROSS_EVALUATE and made, self.book.names()

        def name(member: int) -> str:
            return names.get(MemberId(member), f"member {member}")

        return self.evaluating.table_of(made, name) if is_table else None

    def _task(self, number: int) -> str:
        place = self.program.place(number)
        return "" if place is None else place.stage.task

    def models(self) -> dict[int, Digest]:
        """The final models that are kept here, by round of the chain."""
        return self.blobs.models()

    @property
    def chosen(self) -> int | None:
        """The round of the model that people are to have, if it is here."""
        return self.blobs.chosen()

    def made_in(self, model: Digest) -> int | None:
        """The round of training that has made a model, as far as this node remembers."""
        return self.blobs.made_in(model)

    def contributors_in(self, number: int) -> MemberSet:
        """Whose updates are in what a round has made, as this node has seen it on the chain; none
        if it remembers no such round."""
        record = self.records.rounds.get(number)
        return 0 if record is None else member_set(record.contributors)

    @property
    def kept_file(self) -> Path | None:
        """What this site has kept of its own, if the plan keeps anything."""
        return self.kept.current

    @property
    def knows_needs(self) -> bool:
        """Whether it has observed its plan, and so knows what that needs."""
        return self.blobs.are_known or self._fault is not None

    def needed(self) -> set[Digest]:
        return self.blobs.needed()

    def take_spent(self) -> set[Digest]:
        return self.blobs.take_spent()

    async def evaluate(self, number: int, model: Digest, statistics: Digest) -> dict[str, Any]:
        """Score a model of this plan once more; its metrics by part of this site's rows."""
        await self.evaluating.evaluate(m.Evaluate(number, model, statistics, True))
        return self.records.at(number).metrics

    async def export(self, model: Digest, out: Path, *, own_parts: bool) -> None:
        """Write a model as a whole file; with this site's own parts only for people here."""
        await self.evaluating.export(model, out, own_parts=own_parts)


def open_participation(
    plan: PlanId,
    me: MemberId,
    election_secret: bytes,
    program: Program,
    *,
    chain: Chain,
    store: BlobStore,
    exchange: Exchange,
    requests: Requests,
    carrier: StreamCarrier,
    trainer: Trainer,
    holder: Trainer,
    records: Records,
    own_model: Path,
    keep_models: int,
    kept_state: Path,
    privacy: PrivacyLedger,
    data_set: DataSet,
    traffic: Callable[[], tuple[int, int]],
    secrets: MaskedSecrets,
    genesis: Digest,
    limits: SiteLimits = NO_LIMITS,
) -> Participation:
    """Put together one node's part in one plan, and have the exchange serve by its rules.

    `holder` is the process for the plan's role, if it has one: without the site's rows. `own_model`
    is where this site's own model is kept, if the plan makes one, and `kept_state` the folder for
    what it keeps of rounds. `privacy` is charged for `data_set`. `traffic` is (bytes sent, bytes
    received) by this node so far; `secrets` are those of masked rounds on the chain that `genesis`
    names; `limits` are the site's own.
    """

    def read_meters() -> Meters:
        return Meters(time.monotonic(), exchange.busy_s, *traffic())

    inbox, book = Inbox(), AddressBook(me)
    machine = m.RoundMachine(plan, me, election_secret, store.has, program)
    blobs = PlanBlobs(store, records, program, keep_models)
    layouts = Layouts(me, trainer, store, program)
    drafts = Drafts(plan, store, exchange)
    collection = Collection(plan, book, store, exchange, layouts, blobs)
    kept = KeptState(me, kept_state, chain)
    masked = MaskedWork(plan, me, genesis, program, book, store, exchange, layouts, blobs, secrets)
    hidden = HiddenUpdates(plan, secrets, masked) if program.is_masked else None
    streams = Streams(plan, me, machine, book, carrier, records, limits, exchange.on_leaving)
    private = PrivateRounds(
        plan, me, program, store, chain, privacy, data_set, lambda: machine.plan
    )
    joint = JointScores(plan, book, records, requests)
    evaluating = Evaluating(
        trainer, store, layouts, collection, kept, records, joint, limits.min_count
    )
    selecting = Selecting(program, book, store, collection, evaluating, records, limits)
    training = Training(
        plan, me, trainer, store, collection, blobs, kept, records, inbox, private, streams,
        selecting, own_model, limits, hidden,
    )  # fmt: skip
    driver = Driver(
        machine,
        inbox,
        exchange.rules_changed,
        training,
        Holding(holder, store, collection, streams),
        collection,
        Merging(book, store, layouts, collection, drafts, blobs, records),
        Checking(book, store, exchange, layouts, collection, drafts, blobs),
        selecting,
        Following(book, layouts, drafts),
        evaluating,
        Transactions(plan, chain, records),
        masked,
    )
    serving = Serving(machine, book, drafts, blobs)
    exchange.allow(serving.may_read, serving.may_read_soon, serving.purpose_of)
    history = History(records, chain, read_meters)
    return Participation(
        machine, driver, inbox, book, layouts, collection, training, evaluating, joint,
        history, records, blobs, kept, masked, private, streams,
    )  # fmt: skip
