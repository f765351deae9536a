"""What one node does about one plan: events in, commands out; no clock, no IO, no randomness.

The machine is level-triggered. It keeps the newest snapshot of the chain and a little memory of its
own (what it holds, what it has asked for), and after every event it compares what is with what
should be and asks for the difference. A node that was killed and restarted therefore needs no
recovery code: its first snapshot tells it where the round stands.

What the chain says                   what this node does about it
------------------------------------  -------------------------------------------------------------
no round runs, one may open           `open`, the first in member order first
somebody invited is undecided         wait, for as long as the invitation lasts
a newer final model or statistics     Fetch it, from anyone who has it
OPEN, a trainer, no result yet        Train; `check_in` before the liveness interval runs out
OPEN, holds the plan's role           Hold it, and `check_in`; its silence may void the attempt
no longer so                          Release the role
OPEN, result ready                    `submit` with the reveal and the next commitment
OPEN, submitted, nobody live missing  `close`
CLOSED, a submitter, level FULL       Merge, to know what every candidate must be
CLOSED, another leads, not FULL       Follow its merge, so that most of the model is here by then
CLOSED, this node leads, not FULL     ExpectDraft: those who follow it may ask before it merges
CLOSED, this node's slot has come     Merge, then `merge`, unless an earlier leader's merge is right
CLOSED, a candidate stands            equal to the own merge: `attest`; otherwise Verify, `attest`;
                                      refused if its output or its next stage is not the program's
CLOSED, a merge is on its way         as if it stood, but this node leads none the later
CLOSED, the majority needs others only  `attest`, but half a second later
CLOSED, a majority has attested         `finalise` (only after a withdrawal: `attest` finalises)
OPEN or CLOSED beyond hope            `void`
another round or attempt has begun    DropDrafts of those before
a new final model is here             Evaluate it, once
the plan has ended                    Fetch the last model; stop

Rounds whose updates are masked have a table of their own for what comes after the close, in
`masked_table`: its commands go out as MaskedWork, its transactions like all others.

Refused or failed requests are asked for again later, each with its own growing pause. Time is
given with every event, in seconds of this node's clock; the chain's own clock may differ by
seconds, and a transaction sent too early is just sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from swarm.protocol import masked_table
from swarm.protocol.blob_access import masked_blobs
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.program import Place, Program
from swarm.protocol.state import (
    BEST_SLOT,
    GATHERED_SLOT,
    MAX_MEMBERS,
    MODEL_SLOT,
    UNDER_WAY,
    Candidate,
    MemberSet,
    Omission,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    VerifyLevel,
    has_majority,
    holder_live_until,
    majority,
    masked_voters,
    masked_votes_needed,
    may_close,
    may_open,
    may_void,
    member_set,
    members_in,
    pending,
    present_in,
    submitters,
)
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

RESERVE_S = 0.5
"""How long the attesters whom a majority does not need wait for it."""
STAGGER_S = 1.0
"""How much longer each next member in order waits with a transaction that anyone may send."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0
"""Short, so that whatever failed through an outage is tried again soon after it."""
LONGEST_TRAINING_PAUSE_S = 30.0
STUCK_AFTER = 4
"""What failed this often in a row is no reason any more to make others wait."""
UNKNOWN_CANDIDATE = "RoundUnknownCandidate"
"""How the contract refuses to have attested what nobody has posted yet."""
PLAN_FAILURES_ALLOWED = 2
"""A plan whose own code fails this often in a row is not tried again until the node restarts."""


# Events: past tense. `now` is this node's clock in seconds.


@dataclass(frozen=True)
class ChainObserved:
    """A new head: the plan as it stands there, and the set of present members."""

    plan: Plan
    members: MemberSet


@dataclass(frozen=True)
class TimePassed:
    """Nothing but time; sent at `machine.wake_at`."""


@dataclass(frozen=True)
class TrainingProgressed:
    """How far the running training is, in thousandths."""

    permille: int


@dataclass(frozen=True)
class TrainingFinished:
    """The trainer's result for round `number` from `base` lies in the blob store."""

    number: int
    base: Digest
    update: Digest
    samples: int
    meta: Digest


@dataclass(frozen=True)
class TrainingFailed:
    """`fault_of_plan`: the plan's code raised; trying again is not expected to help."""

    number: int
    base: Digest
    reason: str
    fault_of_plan: bool


@dataclass(frozen=True)
class HoldingEnded:
    """The role is not held any more; `fault` says why, if it was not released."""

    number: int
    attempt: int
    fault: str | None = None


@dataclass(frozen=True)
class BlobHeld:
    """A model or statistics record is now complete in the blob store."""

    digest: Digest


@dataclass(frozen=True)
class FetchFailed:
    digest: Digest
    reason: str


@dataclass(frozen=True)
class Merged:
    """This node merged the frozen updates itself; the model lies in the blob store."""

    number: int
    attempt: int
    model: Digest
    omitted: MemberSet
    reasons: bytes


@dataclass(frozen=True)
class MergeFailed:
    number: int
    attempt: int
    reason: str


@dataclass(frozen=True)
class CandidateVerified:
    """The candidate's model is held and right, to the plan's level."""

    number: int
    attempt: int
    model: Digest
    omitted: MemberSet


@dataclass(frozen=True)
class CandidateRefused:
    """`final`: the candidate is wrong. Otherwise it could not be checked yet."""

    number: int
    attempt: int
    model: Digest
    omitted: MemberSet
    reason: str
    final: bool


@dataclass(frozen=True)
class MergeAnnounced:
    """A merge waits for a block, as this node's own copy of the waiting transactions has it.

    That it will stand is not sure. But checking it takes about as long as the block does, and who
    has checked it may have the attestation follow at once, perhaps in the same block.
    """

    number: int
    attempt: int
    leader: MemberId
    outcome: Outcome


@dataclass(frozen=True)
class MaskedWorkEnded:
    """Work for a masked round has ended, and `held` is what this node holds now. What was asked for
    and is not in it is asked for again, after a pause."""

    command: masked_table.Work
    held: masked_table.Holdings


@dataclass(frozen=True)
class TransactionSettled:
    """A transaction came into a block, or was refused (`error`: the contract's error name)."""

    function: str
    number: int
    attempt: int
    error: str | None


Event = (
    ChainObserved
    | TimePassed
    | TrainingProgressed
    | TrainingFinished
    | TrainingFailed
    | HoldingEnded
    | BlobHeld
    | FetchFailed
    | Merged
    | MergeFailed
    | CandidateVerified
    | CandidateRefused
    | MergeAnnounced
    | MaskedWorkEnded
    | TransactionSettled
)


# Commands: imperative.


@dataclass(frozen=True)
class Train:
    """Have the trainer do `task` for round `number`, starting from `base`."""

    number: int
    attempt: int
    task: str
    base: Digest
    statistics: Digest
    within: int
    """The round's number within its stage: what the trainer, and whatever is seeded, are told."""
    epochs: int = 0
    """Passes over the site's rows; 0: as many as the plan says."""
    holder: MemberId | None = None
    """Who holds the plan's role in this attempt."""
    best: Digest | None = None
    """As in Merge; with `rows`, the best model if the plan has chosen one."""
    rows: Digest | None = None
    """What the stage before has gathered, if the work begins from it; NO_DIGEST if nothing was."""


@dataclass(frozen=True)
class Hold:
    """Hold the plan's role in an attempt that begins with `base`, until Release."""

    number: int
    attempt: int
    task: str
    base: Digest
    statistics: Digest
    within: int


@dataclass(frozen=True)
class Release:
    """The attempt in which this node holds the role is over."""


@dataclass(frozen=True)
class StopTraining:
    """The running training is of no use any more."""


@dataclass(frozen=True)
class Fetch:
    """Pull a final model, or else a statistics record, from whoever has it."""

    digest: Digest
    is_model: bool


@dataclass(frozen=True)
class FrozenUpdate:
    """One frozen submission, as a merge takes it."""

    member: MemberId
    update: Digest
    samples: int


@dataclass(frozen=True)
class Merge:
    """Pull all these updates and merge them as the program says, leaving out what cannot be used.

    `gone` are submitters that withdrew: they are left out. `patience_s` is how long an update that
    makes no progress is waited for. `best` is None, or, in a round that chooses between models, the
    best one until now, which is NO_DIGEST before the first: then `base` is the other, the newest.
    """

    number: int
    attempt: int
    base: Digest
    updates: tuple[FrozenUpdate, ...]
    gone: MemberSet
    min_peers: int
    patience_s: float
    best: Digest | None = None


@dataclass(frozen=True)
class Verify:
    """Pull a candidate's model and check it to `level`; try the updates that it leaves out.

    `gone` and `best` as in Merge: it leaves the former out. `seed` is the round's: it decides which
    chunks a shared check recomputes here.
    """

    number: int
    attempt: int
    base: Digest
    candidate: Candidate
    updates: tuple[FrozenUpdate, ...]
    gone: MemberSet
    level: VerifyLevel
    seed: Digest
    patience_s: float
    best: Digest | None = None


@dataclass(frozen=True)
class Follow:
    """Collect the model of a closed round while `leader` merges these updates; `gone` as in Merge.

    No event ends it: what it has not brought is pulled once the merge is posted.
    """

    number: int
    attempt: int
    leader: MemberId
    updates: tuple[FrozenUpdate, ...]
    gone: MemberSet


@dataclass(frozen=True)
class ExpectDraft:
    """This node is about to merge: whoever asks for what it has of the model is made to wait."""

    number: int
    attempt: int


@dataclass(frozen=True)
class DropDrafts:
    """Models in the making are of no use any more, but for this round and attempt."""

    number: int
    attempt: int


@dataclass(frozen=True)
class Evaluate:
    """Score a final model on this site's own rows. No event ends it: failing costs the score.

    Test rows are for one look, at the plan's last model, or the best where it chooses one.
    """

    number: int
    model: Digest
    statistics: Digest
    on_test_rows: bool


@dataclass(frozen=True)
class MaskedWork:
    """Work for a masked round (`masked_table`); it ends in MaskedWorkEnded."""

    command: masked_table.Work


@dataclass(frozen=True)
class Transact:
    """Send a transaction of the contract. `arguments` follow the plan, round and attempt."""

    function: str
    number: int
    attempt: int
    arguments: tuple[object, ...] = ()


@dataclass(frozen=True)
class Report:
    """Something that the people at this site should read."""

    text: str


Command = (
    Train
    | Hold
    | Release
    | StopTraining
    | Fetch
    | Merge
    | Verify
    | Follow
    | ExpectDraft
    | DropDrafts
    | Evaluate
    | MaskedWork
    | Transact
    | Report
)


@dataclass
class _Asked:
    """One request: under way, or failed and not to be repeated before `not_before`."""

    running: bool = False
    not_before: float = 0.0
    failures: int = 0


@dataclass
class _Result:
    update: Digest
    samples: int
    meta: Digest


@dataclass
class RoundMachine:
    """The machine of one plan on one node.

    `me` is this node's member number, `node_secret` what its election secrets are derived from
    (never leaves the node), `holds` tells whether a blob is complete here, `program` what the
    plan's rounds are for: the chain has its digest only.
    """

    plan_id: PlanId
    me: MemberId
    node_secret: bytes
    holds: Callable[[Digest], bool]
    program: Program
    table: masked_table.Table = field(default_factory=lambda: masked_table.TABLE)
    """What is done about masked rounds."""
    plan: Plan | None = None
    members: MemberSet = 0
    wake_at: float = float("inf")
    """When to send `TimePassed` at the latest, on this node's clock."""
    halted: str | None = None
    """Why this node has stopped training the plan, if it has."""
    _asked: dict[tuple[object, ...], _Asked] = field(default_factory=dict)
    _results: dict[tuple[int, Digest], _Result] = field(default_factory=dict)
    _training: tuple[int, Digest] | None = None
    """What the trainer does until it says that this has ended, even if it was told to stop."""
    _stopping: bool = False
    _training_attempt: int = 0
    _holding: tuple[int, int] | None = None
    """The attempt in which this node holds the role, until it says that this has ended."""
    _releasing: bool = False
    _permille: int = 0
    _training_failures: int = 0
    _merged: dict[tuple[int, int], Merged] = field(default_factory=dict)
    _verdicts: dict[tuple[int, int, Digest, int], bool] = field(default_factory=dict)
    _checked_at: dict[tuple[int, int, Digest, int], float] = field(default_factory=dict)
    """When this node was first ready to attest a candidate."""
    _announced: dict[tuple[int, int, MemberId], Candidate] = field(default_factory=dict)
    """Merges that wait for a block, the first of each leader; in masked rounds, of each epoch's sum
    and of the model."""
    _misled: set[tuple[int, int]] = field(default_factory=set)
    """Attempts in which an attestation came before what it attests: then it waits for that."""
    _followed: set[tuple[int, int, MemberId]] = field(default_factory=set)
    """The leaders whose merges are followed, or were; this node's own is expected."""
    _evaluated: int = 0
    """The newest round whose model was scored, or is being scored."""
    _plan_failures: int = 0
    _held: masked_table.Holdings = field(default_factory=masked_table.Holdings)
    """What this node holds for masked rounds."""
    _commands: list[Command] = field(default_factory=list)
    _now: float = 0.0

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event in; return what is to be done now. Never raises on what others sent."""
        self._commands = []
        self._now = now
        self._remember(event, now)
        self.wake_at = float("inf")
        if self.plan is not None:
            self._decide(self.plan, now)
        return self._commands

    # Events change memory only.

    def _remember(self, event: Event, now: float) -> None:
        match event:
            case ChainObserved(plan, members):
                self._enter(plan)
                gone = self._gone()
                self.plan, self.members = plan, members
                if self._gone() != gone:
                    # What wrongly left an update out may be right now that its owner has gone.
                    self._verdicts = {place: v for place, v in self._verdicts.items() if v}
            case TrainingProgressed(permille):
                self._permille = min(max(permille, 0), 1000)
            case TrainingFinished(number, base, update, samples, meta):
                self._training_ended(number, base)
                self._plan_failures = self._training_failures = 0
                self._results[number, base] = _Result(update, samples, meta)
                self._settle(("train", number, base))
            case TrainingFailed(number, base, reason, fault_of_plan):
                if self._training_ended(number, base):
                    self._settle(("train", number, base))
                else:
                    self._training_failed(event, now)
                    self._plan_failures += fault_of_plan
                    if self._plan_failures >= PLAN_FAILURES_ALLOWED:
                        self.halted = reason
            case HoldingEnded(number, attempt, fault):
                self._holding, self._releasing = None, False
                self._fail(("hold", number, attempt), now)
                if fault is not None and self._is_running(number, attempt):
                    self._report(f"holding the role in {self._title(number)} failed: {fault}")
            case BlobHeld(digest):
                self._settle(("fetch", digest))
            case FetchFailed(digest, reason):
                self._fail(("fetch", digest), now)
                self._report(f"the newest model is not here yet: {reason}")
            case Merged(number, attempt):
                self._merged[number, attempt] = event
                self._settle(("merge job", number, attempt))
            case MergeFailed(number, attempt, reason):
                self._fail(("merge job", number, attempt), now)
                if self._is_running(number, attempt):
                    self._report(f"merging {self._title(number)} failed: {reason}")
            case CandidateVerified(number, attempt, model, omitted):
                self._verdicts[number, attempt, model, omitted] = True
                self._settle(("verify", number, attempt, model, omitted))
            case CandidateRefused(number, attempt, model, omitted, reason, final):
                if final:
                    self._verdicts[number, attempt, model, omitted] = False
                self._fail(("verify", number, attempt, model, omitted), now)
                if final or self._is_running(number, attempt):
                    self._report(f"the merge of {self._title(number)} is not attested: {reason}")
            case MergeAnnounced():
                self._note_announced(event, now)
            case MaskedWorkEnded(command, held):
                self._held = held
                self._fail(_masked_key(command), now)
            case TransactionSettled("attest", number, attempt, error) if error == UNKNOWN_CANDIDATE:
                self._misled.add((number, attempt))
                self._settle(("attest", number, attempt))
            case TransactionSettled(function, number, attempt, error):
                # Settled without error, the next snapshot shows the effect; until then, or if it
                # was refused, the request counts as failed and waits for its pause.
                self._fail((function, number, attempt), now)
                if error is None:
                    self._asked[function, number, attempt].failures = 0
                elif function in ("submit", "merge"):
                    self._report(f"{function} in {self._title(number)} was refused: {error}")
            case TimePassed():
                pass

    def _is_running(self, number: int, attempt: int) -> bool:
        round = None if self.plan is None else self.plan.round
        if round is None or round.status is RoundStatus.FINAL:
            return False
        return (round.number, round.attempt) == (number, attempt)

    def _note_announced(self, event: MergeAnnounced, now: float) -> None:
        round = None if self.plan is None else self.plan.round
        if round is None or not self._is_running(event.number, event.attempt):
            return
        first = round.first_slot_of(event.leader)
        # Whose slot has not come cannot post it: nobody is made to pull models by announcing them.
        may_lead = first is not None and now >= round.slot_begins_at(first)
        if may_lead and event.outcome.omitted >> MAX_MEMBERS == 0:
            candidate = Candidate(event.leader, event.outcome, 1 << event.leader, int(now))
            self._announced.setdefault((event.number, event.attempt, event.leader), candidate)

    def _training_ended(self, number: int, base: Digest) -> bool:
        """Note that the trainer is free; whether it had been told to stop."""
        stopped = self._stopping and self._training == (number, base)
        if self._training == (number, base):
            self._training, self._stopping = None, False
        return stopped

    def _training_failed(self, event: TrainingFailed, now: float) -> None:
        self._training_failures += 1
        key = ("train", event.number, event.base)
        self._fail(key, now, self._training_failures - 1, LONGEST_TRAINING_PAUSE_S)
        self._report(f"training of {self._title(event.number)} failed: {event.reason}")

    def _enter(self, plan: Plan) -> None:
        """Forget what belongs to rounds that are over."""
        new, old = plan.round, None if self.plan is None else self.plan.round
        if new is None:
            return
        here = (new.number, new.attempt)
        if old is not None and (old.number, old.attempt) == here:
            if (new.status, new.epoch) != (old.status, old.epoch):
                # What is merged from now on is something else.
                self._misled.discard(here)
                self._announced = {k: v for k, v in self._announced.items() if k[:2] != here}
                for key in (("merge", *here), ("attest", *here)):
                    if key in self._asked and not self._asked[key].running:
                        self._settle(key)
            return
        self._results = {k: v for k, v in self._results.items() if k[0] >= new.number}
        self._merged = {k: v for k, v in self._merged.items() if k >= here}
        self._verdicts = {k: v for k, v in self._verdicts.items() if k[:2] >= here}
        self._checked_at = {k: v for k, v in self._checked_at.items() if k[:2] >= here}
        self._announced = {k: v for k, v in self._announced.items() if k[:2] >= here}
        self._misled = {k for k in self._misled if k >= here}
        self._followed = {k for k in self._followed if k[:2] >= here}
        self._commands.append(DropDrafts(*here))
        # A failing trainer's pauses go on (`_training_failures`), everything else starts afresh.
        # A request under way is remembered until it ends, however late that is: its owner answers.
        self._asked = {k: a for k, a in self._asked.items() if a.running or k[0] == "fetch"}

    # Decisions: what should be, compared with what is.

    def _decide(self, plan: Plan, now: float) -> None:
        self._consider_evaluating(plan)
        self._consider_holding(plan, now)
        if not self.members & (1 << self.me):
            self._drop_training(None)
            return
        self._fetch_newest(plan, now)
        round = plan.round
        is_over = plan.status in (PlanStatus.COMPLETED, PlanStatus.STOPPED)
        bit = 1 << self.me
        # Whoever was in the roster of a locked round helps to open it, even if it withdrew since.
        stays = round is not None and round.status is RoundStatus.LOCKED and round.roster & bit
        if is_over or not (plan.participants & bit or stays):
            self._drop_training(None)
            return
        if round is not None and not self._is_in_program(round):
            # More than half have attested a step that the program does not have.
            self.halted = f"round {round.number} is not what the plan's program says"
            self._drop_training(None)
            return
        if round is None or round.status not in UNDER_WAY:
            self._consider_open(plan, round, now)
            return
        if plan.is_masked:
            self._follow_table(plan, round, now)
        if round.status in (RoundStatus.MASKING, RoundStatus.LOCKED):
            if not self._on_probation:
                self._drop_training(None)
            return
        if round.status is RoundStatus.OPEN:
            self._take_part(plan, round, now)
            self._consider_close(plan, round, now)
        else:
            if not self._on_probation:
                self._drop_training(None)
            self._settle_round(plan, round, now)
            self._consider_following(plan, round, now)
        self._consider_void(plan, round, now)

    def _follow_table(self, plan: Plan, round: Round, now: float) -> None:
        """Do what the table of masked rounds says."""
        here, stage = (round.number, round.attempt), self._place(round).stage
        following = self.program.next_after(round.number)
        announced = () if here in self._misled else tuple(self._announced.values())
        view = masked_table.View(
            *(plan, round, self.members, self.me, self._held, stage.slot, following, int(now)),
            announced,
        )
        for command in masked_table.wanted(view, self.table):
            if isinstance(command, masked_table.Send):
                if command.function != "attest" or self._may_attest(view, command.arguments[0]):
                    self._transact(command.function, *here, now, *command.arguments)
            else:
                self._ask(_masked_key(command), now, MaskedWork(command))
        if round.masking is not None:
            for at in masked_table.wake_times(view):
                self._wake(at)

    def _may_attest(self, view: masked_table.View, outcome: object) -> bool:
        """Whether this node attests now, or waits a moment because it is in reserve."""
        told = (*view.round.candidates, *view.announced)
        candidate = next(c for c in told if c.outcome == outcome)
        voters = masked_voters(view.round, view.masking)
        needed = masked_votes_needed(view.round, view.masking)
        ready_at = self._checked_at.setdefault((*view.attempt, candidate.model, 0), self._now)
        waits = in_reserve(candidate, voters, needed, self.me)
        if waits and self._now < ready_at + RESERVE_S:
            self._wake(ready_at + RESERVE_S)
            return False
        return True

    def _fetch_newest(self, plan: Plan, now: float) -> None:
        for slot, digest in enumerate(plan.outputs):
            if digest != NO_DIGEST and not self.holds(digest):
                self._ask(("fetch", digest), now, Fetch(digest, slot in (MODEL_SLOT, BEST_SLOT)))

    def _consider_evaluating(self, plan: Plan) -> None:
        """Have each new final model scored once, as soon as it is here, and the last one on test
        rows too; where the plan chooses its best model, that one instead."""
        is_over, last_choice = plan.status is PlanStatus.COMPLETED, self.program.last_choice
        is_last = is_over or plan.model_round >= self.program.last_model_round
        scored = [(plan.model_round, plan.model, is_last and not last_choice)]
        chosen_in = plan.output_rounds[BEST_SLOT]
        if chosen_in and (is_over or chosen_in >= last_choice):
            scored.append((chosen_in, plan.outputs[BEST_SLOT], True))
        for number, model, on_test_rows in scored:
            if number > self._evaluated and self.holds(model):
                self._evaluated = number
                self._commands.append(Evaluate(number, model, plan.statistics, on_test_rows))

    def _consider_open(self, plan: Plan, round: Round | None, now: float) -> None:
        number, attempt = (0, 0) if round is None else (round.number, round.attempt)
        willing = plan.participants & self.members
        turn = self._turn(willing)
        if may_open(plan, self.members, int(now - turn)):
            self._transact("open", number, attempt, now)
        elif willing.bit_count() >= plan.rules.min_peers:
            self._wake(plan.until + turn)

    def _take_part(self, plan: Plan, round: Round, now: float) -> None:
        bit = 1 << self.me
        if round.holder == self.me and present_in(round, self.members) & bit:
            self._check_in(plan, round, now)
        trains = present_in(round, self.members) & round.trainers & bit
        if not trains or round.submitted & bit or self.halted:
            self._drop_training(None)
            return
        result = self._results.get((round.number, round.base))
        if result is not None:
            self._submit(plan, round, result, now)
            return
        given = (round.base, plan.statistics, *self._given_beside(plan, round))
        needed = [digest for digest in given if digest is not None and digest != NO_DIGEST]
        if self._makes_headway(needed):
            self._check_in(plan, round, now)
        if not all(self.holds(digest) for digest in needed):
            return  # `_fetch_newest` has asked for them
        self._train(plan, round, now)

    def _train(self, plan: Plan, round: Round, now: float) -> None:
        wanted = (round.number, round.base)
        # What was asked of a role's holder is of no use once another holds it.
        is_stale = round.holder is not None and self._training_attempt != round.attempt
        if not self._on_probation or is_stale:
            self._drop_training(None if is_stale else wanted)
        if self._training is not None:
            return  # this one, or one that was told to stop and has not yet
        place = self._place(round)
        train = Train(
            round.number,
            round.attempt,
            place.stage.task,
            round.base,
            plan.statistics,
            place.within,
            place.stage.epochs,
            round.holder,
            *self._given_beside(plan, round),
        )
        if self._ask(("train", *wanted), now, train):
            self._training, self._permille = wanted, 0
            self._training_attempt = round.attempt

    def _consider_holding(self, plan: Plan, now: float) -> None:
        round, wanted = plan.round, None
        if plan.status is PlanStatus.RUNNING and round is not None and not self.halted:
            is_held = round.status is RoundStatus.OPEN and round.holder == self.me
            if is_held and present_in(round, self.members) >> self.me & 1:
                wanted = (round.number, round.attempt)
        if self._holding not in (None, wanted) and not self._releasing:
            self._releasing = True
            self._commands.append(Release())
        if wanted is None or round is None or self._holding is not None:
            return
        needed = [round.base, *([plan.statistics] if plan.statistics != NO_DIGEST else [])]
        if not self._is_in_program(round) or not all(self.holds(digest) for digest in needed):
            return
        place = self._place(round)
        hold = Hold(*wanted, place.stage.task, round.base, plan.statistics, place.within)
        if self._ask(("hold", *wanted), now, hold):
            self._holding = wanted

    def _makes_headway(self, needed: Iterable[Digest]) -> bool:
        """Whether the others should wait for this node: not if what it tries keeps failing."""
        fetches = (self._asked.get(("fetch", digest), _Asked()) for digest in needed)
        return all(f.failures < STUCK_AFTER for f in fetches) and not self._on_probation

    @property
    def _on_probation(self) -> bool:
        """Whether the trainer failed so often that the others are not asked to wait for it.

        The next training then runs to its end whatever the rounds do: once it succeeds, the others
        wait again, however slow this site is.
        """
        return self._training_failures >= STUCK_AFTER

    def _submit(self, plan: Plan, round: Round, result: _Result, now: float) -> None:
        keys = self._held.keys.get((round.number, round.attempt), b"") if plan.is_masked else b""
        if plan.is_masked and not keys:
            return  # the table has asked for them
        consent = plan.consents[self.me]
        secret = secret_for(
            self.node_secret, plan.id, consent.committed_round, consent.committed_attempt
        )
        known = commitment_to(secret) == consent.commitment
        following = secret_for(self.node_secret, plan.id, round.number, round.attempt)
        self._transact(
            "submit",
            round.number,
            round.attempt,
            now,
            NO_DIGEST if plan.is_masked else result.update,
            min(result.samples, consent.max_samples),
            secret if known else bytes(32),
            commitment_to(following),
            result.meta,
            keys,
        )

    def _check_in(self, plan: Plan, round: Round, now: float) -> None:
        due = plan.live_until(self.me, round) - plan.rules.liveness_s * 2 / 3
        if now >= due:
            self._transact("checkIn", round.number, round.attempt, now, self._permille)
        else:
            self._wake(due)

    def _consider_close(self, plan: Plan, round: Round, now: float) -> None:
        turn = self._turn(submitters(round, self.members))
        then = int(now - turn)
        if may_close(plan, round, self.members, then):
            self._transact("close", round.number, round.attempt, now)
        elif submitters(round, self.members).bit_count() >= plan.rules.min_peers:
            rules = plan.rules
            waited_for = members_in(pending(plan, round, self.members, then))
            silent_at = max((plan.live_until(m, round) + 1 for m in waited_for), default=0)
            self._wake(
                turn
                + max(
                    round.opened_at + rules.window_s,
                    round.min_peers_at + rules.grace_s,
                    min(silent_at, round.opened_at + rules.max_round_s),
                )
            )

    def _settle_round(self, plan: Plan, round: Round, now: float) -> None:
        here = (round.number, round.attempt)
        voters = submitters(round, self.members)
        for candidate in round.candidates:
            if has_majority(round, candidate, self.members):
                self._transact("finalise", *here, now, candidate.outcome)
                return
        if not voters & (1 << self.me):
            return
        level = plan.rules.verify_level
        mine = self._merged.get(here)
        if mine is None and level is VerifyLevel.FULL:
            self._merge(plan, round, now)
        unsettled = False
        for candidate in round.candidates:
            verdict = self._judge(plan, round, candidate, mine, now)
            attested = bool(candidate.attesters & (1 << self.me))
            if attested or (verdict is not False and not self._has_failed(here, candidate)):
                unsettled = True
        for candidate in self._announced.values() if here not in self._misled else ():
            if round.candidate(candidate.outcome) is None:
                self._judge(plan, round, candidate, mine, now)
        self._consider_merge(plan, round, mine, unsettled, now)

    def _judge(
        self, plan: Plan, round: Round, candidate: Candidate, mine: Merged | None, now: float
    ) -> bool | None:
        """Have a merge checked if it is not yet, attest it if it is right; what is known of it."""
        here = (round.number, round.attempt)
        outcome = candidate.outcome
        if outcome != self._outcome(round, candidate.model, candidate.omitted):
            self._refuse(
                round,
                outcome,
                f"it is to become output {outcome.slot} and to be followed by stage "
                f"{outcome.next}, which is not what the plan's program says",
            )
            return False
        verdict = self._verdicts.get((*here, candidate.model, candidate.omitted))
        if mine is not None and (mine.model, mine.omitted) == (candidate.model, candidate.omitted):
            verdict = True
        if candidate.attesters & (1 << self.me):
            return verdict
        if verdict is True:
            self._attest(plan, round, candidate, now)
        elif verdict is None and (
            mine is not None or plan.rules.verify_level is not VerifyLevel.FULL
        ):
            self._verify(plan, round, candidate, now)
        return verdict

    def _attest(self, plan: Plan, round: Round, candidate: Candidate, now: float) -> None:
        """Attest, after a moment if this node is in reserve: of three attestations that come at the
        same time where two make the majority, the third would be refused at everybody's expense."""
        key = (round.number, round.attempt, candidate.model, candidate.omitted)
        ready_at = self._checked_at.setdefault(key, now)
        voters = submitters(round, self.members)
        waits = in_reserve(candidate, voters, majority(voters.bit_count()), self.me)
        if waits and now < ready_at + RESERVE_S:
            self._wake(ready_at + RESERVE_S)
            return
        level = int(plan.rules.verify_level)
        self._transact("attest", *key[:2], now, candidate.outcome, level, NO_DIGEST)

    def _consider_merge(
        self, plan: Plan, round: Round, mine: Merged | None, unsettled: bool, now: float
    ) -> None:
        """Lead, if this node's slot has come and no posted merge may still turn out right."""
        first = round.first_slot_of(self.me)
        if first is None or any(c.leader == self.me for c in round.candidates):
            return
        cycle = len(round.eligible)
        begins_at = round.slot_begins_at(first)
        if unsettled:
            # Somebody led before. If that does not become final, this node's next slot counts.
            begins_at = round.slot_begins_at(first + cycle)
        gone = self._gone()
        if now < begins_at:
            self._wake(begins_at)
            return
        if mine is None or gone & ~mine.omitted:
            # A merge from before a withdrawal would be refused: the update must be left out now.
            self._merge(plan, round, now)
            return
        outcome = self._outcome(round, mine.model, mine.omitted)
        if round.candidate(outcome) is None:
            self._transact("merge", round.number, round.attempt, now, outcome, mine.reasons)

    def _consider_following(self, plan: Plan, round: Round, now: float) -> None:
        """Have the model collected while its leader merges it, unless this node merges itself."""
        here, bit = (round.number, round.attempt), 1 << self.me
        makes_model = self._best(plan, round) is None
        is_checked_in_part = plan.rules.verify_level is not VerifyLevel.FULL
        is_of_use = makes_model and is_checked_in_part and bool(round.eligible)
        if not is_of_use or round.candidates or not submitters(round, self.members) & bit:
            return
        slot = round.slot_at(int(now))
        self._wake(round.slot_begins_at(slot + 1))
        leader = round.leader_at(int(now))
        if (*here, leader) in self._followed:
            return
        if leader == self.me:
            self._followed.add((*here, leader))
            self._commands.append(ExpectDraft(*here))
        elif here not in self._merged and ("merge job", *here) not in self._asked:
            self._followed.add((*here, leader))
            self._commands.append(Follow(*here, leader, frozen_updates(round), self._gone()))

    def _merge(self, plan: Plan, round: Round, now: float) -> None:
        key = ("merge job", round.number, round.attempt)
        self._ask(
            key,
            now,
            Merge(
                round.number,
                round.attempt,
                round.base,
                frozen_updates(round),
                self._gone(),
                plan.rules.min_peers,
                round.slot_s / 2,
                self._best(plan, round),
            ),
        )

    def _verify(self, plan: Plan, round: Round, candidate: Candidate, now: float) -> None:
        key = ("verify", round.number, round.attempt, candidate.model, candidate.omitted)
        self._ask(
            key,
            now,
            Verify(
                round.number,
                round.attempt,
                round.base,
                candidate,
                frozen_updates(round),
                self._gone(),
                plan.rules.verify_level,
                round.seed,
                round.slot_s / 2,
                self._best(plan, round),
            ),
        )

    def _consider_void(self, plan: Plan, round: Round, now: float) -> None:
        turn = self._turn(plan.participants & self.members)
        if may_void(plan, round, self.members, int(now - turn)):
            self._transact("void", round.number, round.attempt, now)
        elif round.status is RoundStatus.CLOSED:
            self._wake(round.voidable_at + turn)
        else:
            ends_at = round.opened_at + plan.rules.max_round_s
            if round.holder is not None:
                ends_at = min(ends_at, holder_live_until(plan, round) + 1)
            self._wake(ends_at + turn)

    # Requests: at most one of a kind under way, repeated after a growing pause.

    def _transact(
        self,
        function: str,
        number: int,
        attempt: int,
        now: float,
        *arguments: object,
    ) -> None:
        self._ask((function, number, attempt), now, Transact(function, number, attempt, arguments))

    def _ask(self, key: tuple[object, ...], now: float, command: Command) -> bool:
        asked = self._asked.setdefault(key, _Asked())
        if asked.running:
            return False
        if now < asked.not_before:
            self._wake(asked.not_before)
            return False
        asked.running = True
        self._commands.append(command)
        return True

    def _settle(self, key: tuple[object, ...]) -> None:
        self._asked.pop(key, None)

    def _fail(
        self,
        key: tuple[object, ...],
        now: float,
        failures: int | None = None,
        longest_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """Note a failure, the first after `failures` others (by default, those of this request)."""
        asked = self._asked.setdefault(key, _Asked())
        asked.running = False
        before = asked.failures if failures is None else failures
        asked.not_before = now + min(FIRST_PAUSE_S * 2 ** min(before, 16), longest_s)
        asked.failures = before + 1

    def _has_failed(self, here: tuple[int, int], candidate: Candidate) -> bool:
        """Whether this candidate could not be checked when it was last tried."""
        key = ("verify", *here, candidate.model, candidate.omitted)
        return key in self._asked and self._asked[key].failures > 0

    def _drop_training(self, wanted: tuple[int, Digest] | None) -> None:
        """Stop a training that is not the wanted one; the next begins when it has ended."""
        if self._training not in (None, wanted) and not self._stopping:
            self._stopping = True
            self._commands.append(StopTraining())

    def _report(self, text: str) -> None:
        self._commands.append(Report(text))

    def _wake(self, at: float) -> None:
        # What was due already and is not done waits for another event, not for time.
        if at > self._now:
            self.wake_at = min(self.wake_at, at)

    def _turn(self, members: MemberSet) -> float:
        """Seconds that this node lets earlier members of these go first with what anyone may
        send; those outside come last."""
        before = members & ((1 << self.me) - 1) if members & (1 << self.me) else members
        return STAGGER_S * before.bit_count()

    def _gone(self) -> int:
        """Frozen submitters that withdrew or ceased to be members since the close."""
        round = None if self.plan is None else self.plan.round
        if round is None or round.status is not RoundStatus.CLOSED:
            return 0
        return round.submitted & ~submitters(round, self.members)

    def _place(self, round: Round) -> Place:
        """Where a round of this plan stands. `_decide` lets no round pass that stands nowhere."""
        place = self.program.place(round.number)
        assert place is not None
        return place

    def _title(self, number: int) -> str:
        """What people call a round."""
        return self.program.title_of(number)

    def _outcome(self, round: Round, model: Digest, omitted: MemberSet) -> Outcome:
        """What a round with this merge ends with, by the program."""
        assert self.plan is not None
        is_better = model != self.plan.outputs[BEST_SLOT]
        slot = self._place(round).stage.slot
        return Outcome(model, omitted, slot, self.program.next_after(round.number, is_better))

    def _best(self, plan: Plan, round: Round) -> Digest | None:
        """The best model until now, if the round chooses one."""
        chooses = self._place(round).stage.slot == BEST_SLOT
        return plan.outputs[BEST_SLOT] if chooses else None

    def _given_beside(self, plan: Plan, round: Round) -> tuple[Digest | None, Digest | None]:
        """`best` and `rows` of the work in a round."""
        if not self._place(round).stage.reads_rows:
            return self._best(plan, round), None
        best = plan.outputs[BEST_SLOT]
        return None if best == NO_DIGEST else best, plan.outputs[GATHERED_SLOT]

    def _is_in_program(self, round: Round) -> bool:
        place = self.program.place(round.number)
        return place is not None and place.index == round.stage

    def _refuse(self, round: Round, outcome: Outcome, why: str) -> None:
        """Say once why a merge is not even checked."""
        if self._is_first("refused", round, outcome):
            self._report(f"a merge of {self._title(round.number)} is refused: {why}")

    def _is_first(self, what: str, round: Round, which: object) -> bool:
        key = (what, round.number, round.attempt, which)
        return self._asked.setdefault(key, asked := _Asked()) is asked


def _masked_key(command: masked_table.Work) -> tuple[object, ...]:
    """Which request it is: one of a kind is under way at a time, for each epoch and pair."""
    names = ("attempt", "epoch", "dealer", "complainant", "total")
    about = (getattr(command, name, None) for name in names)
    return ("masked", type(command).__name__, *about)


def frozen_updates(round: Round) -> tuple[FrozenUpdate, ...]:
    """The submissions of a closed round in member order, as a merge takes them."""
    chosen = (round.submissions[member] for member in members_in(round.submitted))
    return tuple(FrozenUpdate(s.member, s.update, s.samples) for s in chosen)


def in_reserve(candidate: Candidate, voters: MemberSet, needed: int, me: MemberId) -> bool:
    """Whether so many of these voters are reached without `me`, if those who come first after the
    candidate's leader, in member order, attest it."""
    lacking = needed - (candidate.attesters & voters).bit_count()
    missing = members_in(voters & ~candidate.attesters)
    turns = [(i - candidate.leader) % MAX_MEMBERS for i in missing]
    return sum(turn < (me - candidate.leader) % MAX_MEMBERS for turn in turns) >= lacking


def omission_reasons(omitted: dict[MemberId, Omission]) -> tuple[int, bytes]:
    """(set, one reason byte a member in member order), as `merge` takes them."""
    members = member_set(omitted)
    return members, bytes(omitted[member] for member in members_in(members))


def blobs_to_keep(plan: Plan, recent: Iterable[Digest]) -> frozenset[Digest]:
    """What a node may not prune: the newest final records, `recent`, and of a running round its
    base, updates and candidates. A plan that was stopped in the middle of a round needs none of
    that any more."""
    keep = {plan.base, *plan.outputs, *recent}
    round = plan.round if plan.status is PlanStatus.RUNNING else None
    if round is not None and round.status is not RoundStatus.FINAL:
        keep.add(round.base)
        keep |= {s.update for s in round.submissions.values()}
        keep |= {c.model for c in round.candidates} | masked_blobs(round)
    return frozenset(keep - {NO_DIGEST})
