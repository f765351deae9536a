"""Local training: one site's part of a round, as the trainer process and the references run it.

The same base, data, plan, seed and round give the same update, bit for bit, on the same machine:
every epoch seeds all generators from (seed, site, round, epoch), the order of rows included, and
the number of threads is fixed. A checkpoint after an epoch is therefore all that is needed to
resume an interrupted round to the same bytes.

A plan with privacy is the exception: all of its chance is the system's (`private_steps`), so a
round that is resumed goes on with fresh noise, and ends in other bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import torch
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.learning.code.method_signatures import Calls
from swarm.learning.data.batches import first_gap, mean_loss, rows_in, to_device
from swarm.learning.metrics.counts import Counts
from swarm.learning.parameters.named_tensors import State, copy_state
from swarm.learning.parameters.travel import Rows, completed
from swarm.learning.plans.plan import Context, Data, Link, Plan
from swarm.learning.plans.plan_faults import machine_faults, valid_text
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import learning_rate_in, rules_of
from swarm.learning.scripts.script import Script
from swarm.learning.scripts.session import Submitted
from swarm.learning.training import checkpoint
from swarm.learning.training.anchor import Anchor, OnDevice
from swarm.learning.training.checkpoint import Checkpoint, Workplace
from swarm.learning.training.private_steps import (
    BatchesByChance,
    check_rows_apart,
    private_steps,
)
from swarm.learning.training.seeded_steps import SeededSteps, SharedSteps, Steps
from swarm.learning.training.site_plan import PARTS, SitePlan, describe, fingerprint_of
from swarm.learning.training.together import Together
from swarm.privacy.accountant import mechanism_for
from swarm.privacy.guarantee import Mechanism

PROGRESS_EVERY_S = 0.5
NO_ROWS: Rows = MappingProxyType({})
Score = TypeVar("Score")


class RoleLink(Link, Protocol):
    """The way to the holder of a role, as training uses it."""

    def state(self) -> State:
        """The tensors that live at the role, as they are now. Raises NoAnswer."""


Progress = Callable[[float, int, float], None]
"""Called with the part done (0..1), the epoch, and the mean loss of the last epoch so far."""


def ignore(fraction: float, epoch: int, loss: float) -> None:
    """For those who do not want to hear of progress."""


@dataclass(frozen=True)
class Update:
    """What training a round gave. `state` is all that is not frozen; `kept` what stays here of it,
    and beside it; `metrics` what a script has told of it, None for other plans."""

    state: State
    kept: State
    samples: int
    steps: int
    loss: float
    train_s: float
    resumed_epochs: int
    metrics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Scores:
    """A plan's metrics of one model on some rows: all as numbers, and those that are counts."""

    numbers: dict[str, float]
    counts: dict[str, Counts]


class LocalTraining(SitePlan):
    """What is done with a plan at one site: training, and scoring models."""

    def train(
        self,
        round: int,
        base: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None = None,
        *,
        base_digest: bytes = b"",
        workplace: Workplace | None = None,
        progress: Progress = ignore,
        own_copy: bool = True,
        round_in_all: int = 0,
        epochs: int | None = None,
        kept: State | None = None,
        rows: Rows = NO_ROWS,
        noise: Mechanism | None = None,
        link: RoleLink | None = None,
        entropy: bytes = b"",
        together: Together | None = None,
    ) -> Update:
        """Train the model from `base`, which is whole, for one round; return the update.

        `round` counts within the stage, `round_in_all` among all rounds, for the plan to see.
        `epochs` takes the place of the plan's. `kept` is what this site kept of the last round that
        counted, or None; `rows` are what was gathered in the last round. `noise` is that of a plan
        with privacy; by default, what it asks for at a site that declares all its rows. `link`
        leads to the holder of the plan's role, if it has one.

        With `entropy`, all that is drawn at random follows from it as well as from the seed.
        With `together`, this process has a part of each batch, and the others have the rest.

        Without `own_copy`, the update's tensors are the model's, and change with it in the next
        call: one model in memory, not two. With a `workplace`, a checkpoint is taken after each
        epoch, and one of the same round and base is resumed. Raises PlanError where a loss or a
        parameter becomes NaN or infinite.
        """
        self.entropy = entropy
        data = self.prepared(statistics)
        with self.faults("counting rows", "prepare"):
            count = rows_in(data.train)
            if count == 0:
                raise PlanError(f"the site {self.site.name!r} has no training rows")
        started = time.monotonic()
        base = self.put(base, kept)
        self.model.train()
        with self.faults("making the schedule", "learning_rate"):
            calls = self.calls(base, round, round_in_all, rows, epochs, link)
        submitted: Submitted | None = None
        if self.owns_its_loop:
            faults = self.faults("training", "train")
            with self.deterministic("train", self.site.name, round), faults:
                submitted = calls.train(self.model, data)
            if link is not None:
                self.take_held(link.state())
            done = Checkpoint({}, {}, 0, 0, math.nan)
            resumed = 0
        else:
            key = _key(self, round, base_digest, statistics, workplace)
            done, resumed = self._epochs(
                round, base, data, calls, key, workplace, progress, noise, together
            )
        owner = "train" if self.owns_its_loop else "loss"
        with self.faults("taking the update", owner):
            state, stays = self.trained(), self.kept()
            self.refuse_non_finite(state, f"after training round {round}")
            self.refuse_thawed(base)
            if self.plan.privacy is not None:
                self._refuse_changed_buffers(base)
        loss = done.loss
        if isinstance(submitted, Submitted):
            count, loss = min(count, submitted.rows), submitted.metrics.get("loss", math.nan)
        elif math.isnan(loss) and link is None:  # with a role, the model's other part is elsewhere
            loss = self._score(lambda: mean_loss(calls, self.model, data.train), "loss")
        if own_copy:
            state, stays = copy_state(state), copy_state(stays)
        told = submitted.metrics if isinstance(submitted, Submitted) else None
        train_s = time.monotonic() - started
        return Update(state, stays, count, done.steps, loss, train_s, resumed, told)

    def calls(
        self,
        base: Mapping[str, torch.Tensor],
        round: int = 0,
        round_in_all: int = 0,
        rows: Rows = NO_ROWS,
        epochs: int | None = None,
        link: RoleLink | None = None,
    ) -> Calls:
        """The plan's methods, with what they may know of the round that begins with `base`."""
        return Calls(self.plan, self.context(base, round, round_in_all, rows, link), epochs)

    def context(
        self,
        base: Mapping[str, torch.Tensor],
        round: int,
        round_in_all: int,
        rows: Rows = NO_ROWS,
        link: RoleLink | None = None,
    ) -> Context:
        """What the plan's methods are told of a round."""
        return Context(
            self.site,
            round,
            round_in_all,
            learning_rate_in(self.plan, round),
            self.statistics_used,
            OnDevice(base, self.device),
            rows,
            self.plan.batch_size,
            self.device,
            {} if link is None or self.role is None else {self.role: link},
        )

    @property
    def owns_its_loop(self) -> bool:
        """Whether the plan writes `train` itself."""
        return type(self.plan).train is not Plan.train

    @property
    def scores_itself(self) -> bool:
        """Whether the plan is a script, which reads its rows itself."""
        return isinstance(self.plan, Script)

    def evaluate(
        self,
        state: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None = None,
        parts: Sequence[str] = PARTS,
        kept: State | None = None,
    ) -> dict[str, dict[str, float]]:
        """The plan's metrics of a model, with what this site has `kept`, by part of the data; a
        part without rows is empty."""
        return {part: self.measure_part(state, statistics, part, kept).numbers for part in parts}

    def score(
        self, state: Mapping[str, torch.Tensor], part: Any, kept: State | None = None
    ) -> dict[str, float]:
        """The plan's metrics of a whole model, with what this site has `kept`, on prepared rows, of
        this site or of several: of counts, the main figure."""
        return self.measure(state, part, kept).numbers

    def measure(
        self, state: Mapping[str, torch.Tensor], part: Any, kept: State | None = None
    ) -> Scores:
        """As `score`, with those of the metrics that are counts."""
        state = self.put(state, kept)
        shown = to_device(part, self.device)
        calls = self.calls(state)
        return self._score(lambda: _scores(calls.metrics(self.model, shown)), "metrics")

    def count(
        self,
        state: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None,
        part: str,
        kept: State | None = None,
    ) -> dict[str, Counts]:
        """What this site tells the others of a model on one part of its rows: the metrics that are
        counts, and none of fewer rows than the plan's `min_rows`."""
        return self.told(self.measure_part(state, statistics, part, kept))

    def measure_part(
        self,
        state: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None,
        part: str,
        kept: State | None = None,
    ) -> Scores:
        """As `measure`, on one part of this site's rows; empty if there are none. A script scores
        on its own validation rows, which it alone knows."""
        if self.scores_itself and part == "validation":
            return self.measure(state, None, kept)
        rows = getattr(self.prepared(statistics), part)
        return self.measure(state, rows, kept) if rows_in(rows) else Scores({}, {})

    def told(self, scores: Scores) -> dict[str, Counts]:
        """What of a model's scores the others are told."""
        told = {n: c.withheld_below(self.plan.min_rows) for n, c in scores.counts.items()}
        return {name: counts for name, counts in told.items() if counts.rows}

    def _epochs(
        self,
        round: int,
        base: Mapping[str, torch.Tensor],
        data: Data,
        calls: Calls,
        key: str,
        workplace: Workplace | None,
        progress: Progress,
        noise: Mechanism | None,
        together: Together | None,
    ) -> tuple[Checkpoint, int]:
        """The default loop: `epochs` passes, from a checkpoint if there is one."""
        faults = self.faults("making the optimiser", "optimizer")
        with self.deterministic("optimizer", round), faults:
            optimizer = calls.optimizer(self.model)
            if not isinstance(optimizer, torch.optim.Optimizer):
                raise PlanError(
                    f"optimizer must return a torch Optimizer, not {describe(optimizer)}"
                )
        done = Checkpoint({}, {}, 0, 0, math.nan)
        # Before a checkpoint is read: it holds near what the round began with.
        anchor = Anchor(self.model, self.travels.keys(), self.plan.proximal)
        if workplace is not None:
            found = checkpoint.read(workplace.round_file(), key)
            if found is not None:
                done = found
                self.put(completed(found.model, dict(base)), found.model)
                if found.optimizer["param_groups"]:
                    optimizer.load_state_dict(found.optimizer)
            elif workplace.keep_optimizer:
                with self.faults("restoring the optimiser", "optimizer"):
                    self._restore_optimizer(optimizer, round, workplace)
        resumed = done.epochs
        with self._steps(round, data, calls, anchor, optimizer, noise, together) as steps:
            for epoch in range(done.epochs, calls.epochs):
                with steps.chance(epoch):
                    loss = self._epoch(round, epoch, calls, steps, progress)
                state = {**self.trained(), **self.kept()}
                done = Checkpoint(state, {}, epoch + 1, done.steps + steps.in_epoch, loss)
                if workplace is not None and (together is None or together.rank == 0):
                    with self.faults("keeping the optimiser", "optimizer"), machine_faults():
                        self._keep(done, calls.epochs, optimizer, key, round, workplace)
        return done, resumed

    def _steps(
        self,
        round: int,
        data: Data,
        calls: Calls,
        anchor: Anchor,
        optimizer: torch.optim.Optimizer,
        noise: Mechanism | None,
        together: Together | None,
    ) -> AbstractContextManager[Steps]:
        """The steps of a round, private where the plan says so."""
        guarantee = self.plan.privacy
        if guarantee is None:
            words = (self.site.name, round)
            # The order of rows is the same in all processes, and nothing else that is drawn.
            own = () if together is None or together.rank == 0 else (together.rank,)
            steps = SeededSteps(
                data.train,
                calls.batch_size,
                self.device,
                optimizer,
                anchor,
                lambda epoch: self.seed_of(*words, epoch),
                lambda epoch: self.deterministic("train", *words, epoch, *own),
            )
            if together is None:
                return nullcontext(steps)
            return nullcontext(SharedSteps(steps, self.model, together))
        noise = noise or self.noise_for(self.samples().train)
        with self.faults("looking at the rows' losses", "loss"):
            check_rows_apart(calls, self.model, data.train, self.device)
        given = BatchesByChance(data.train, noise, calls.epochs, calls.batch_size, self.device)
        return private_steps(self.model, optimizer, guarantee, given)

    def noise_for(self, rows: int) -> Mechanism:
        """What a round of a plan with privacy takes at a site that declares so many training rows.

        Raises PlanError if no noise is enough, or the plan has no privacy.
        """
        rules = rules_of(self.plan)
        if rules.privacy is None:
            raise PlanError("the plan has no privacy: it takes no noise")
        rounds = program_of(self.plan).training_rounds
        return mechanism_for(
            rules.privacy,
            rows=rows,
            batch_size=rules.batch_size,
            epochs=rules.epochs,
            rounds=rounds,
        )

    def _refuse_changed_buffers(self, base: Mapping[str, torch.Tensor]) -> None:
        """What training wrote into a buffer came from rows, and has no noise."""
        parameters = dict(self.model.named_parameters())
        for name, value in self.trained().items():
            if name not in parameters and not torch.equal(value.cpu(), base[name].cpu()):
                raise PlanError(
                    f"training has changed the buffer {name!r}, which has no noise, and the plan "
                    "has privacy: leave buffers as they are in training"
                )

    def _keep(
        self,
        done: Checkpoint,
        epochs: int,
        optimizer: torch.optim.Optimizer,
        key: str,
        round: int,
        workplace: Workplace,
    ) -> None:
        """Checkpoint an epoch. After the last one the optimiser is kept for the next round, or
        not at all, and first: a round whose checkpoint is complete has nothing left to write."""
        if done.epochs < epochs:
            done = replace(done, optimizer=optimizer.state_dict())
        elif workplace.keep_optimizer:
            kept = Checkpoint({}, optimizer.state_dict(), 0, 0, 0.0)
            checkpoint.write(workplace.optimizer_file(round), kept, _optimizer_key(self, workplace))
        checkpoint.write(workplace.round_file(), done, key)

    def _epoch(
        self,
        round: int,
        epoch: int,
        calls: Calls,
        steps: Steps,
        progress: Progress,
    ) -> float:
        """One pass over the training rows. Returns its mean loss."""
        taken, losses, told = 0, 0.0, time.monotonic()
        given = steps.batches(epoch)
        while (batch := self._next(given)) is not None:
            with self.faults("computing the loss", "loss"):
                with self.arithmetic():
                    loss = calls.loss(self.stepping, batch)
                value = self._finite(loss, batch, round, epoch, taken)
                steps.take(loss)
            taken, losses = taken + 1, losses + value
            if time.monotonic() - told >= PROGRESS_EVERY_S:
                told = time.monotonic()
                done = (epoch + taken / steps.in_epoch) / calls.epochs
                progress(min(done, 1.0), epoch, losses / taken)
        mean = losses / taken if taken else math.nan
        progress((epoch + 1) / calls.epochs, epoch, mean)
        with self.faults("training", "loss"):
            self.refuse_non_finite(self.trained(), f"in round {round}, epoch {epoch + 1}")
        return mean

    def _next(self, given: Iterator[Any]) -> Any:
        with self.faults("reading a batch of rows", "data"):
            return next(given, None)

    def _finite(self, loss: Any, batch: Any, round: int, epoch: int, step: int) -> float:
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise PlanError(f"loss must return a scalar tensor, not {describe(loss)}")
        if not loss.requires_grad:
            raise PlanError(
                "the loss does not depend on the model's parameters: compute it with torch "
                "functions from what model(…) returns, without detach, .item() or no_grad"
            )
        value = float(loss.detach())
        if not math.isfinite(value):
            gap = first_gap(batch)
            where = f"the loss is {value} in round {round}, epoch {epoch + 1}, step {step + 1}"
            if gap is not None:
                raise PlanError(f"{where}, because {gap}: fill missing values in prepare")
            raise PlanError(
                f"{where}: lower the plan's learning_rate, and look for missing values in the data"
            )
        return value

    def _restore_optimizer(
        self, optimizer: torch.optim.Optimizer, round: int, workplace: Workplace
    ) -> None:
        """Load the state left by the last round before this one."""
        file = workplace.last_optimizer(round)
        kept = checkpoint.read(file, _optimizer_key(self, workplace)) if file else None
        if kept is not None:
            settings = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": kept.optimizer["state"], "param_groups": settings})

    def _score(self, metrics: Callable[[], Score], method: str) -> Score:
        was_training = self.model.training
        self.model.eval()
        try:
            with self.deterministic("metrics"), self.faults("computing metrics", method):
                with torch.no_grad():
                    return metrics()
        finally:
            self.model.train(was_training)


def _scores(given: Any) -> Scores:
    if not isinstance(given, Mapping):
        raise PlanError(f"metrics must return a dict of numbers, not {describe(given)}")
    numbers, counts = {}, {}
    for key, value in given.items():
        name = valid_text(str(key))
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise PlanError(
                f"metrics must return a dict of numbers or counts, and {key!r} is {describe(value)}"
            ) from None
        if isinstance(value, Counts):
            counts[name] = value
    return Scores(numbers, counts)


def _key(
    training: LocalTraining,
    round: int,
    base_digest: bytes,
    statistics: Mapping[str, NDArray[Any]] | None,
    workplace: Workplace | None,
) -> str:
    """What a checkpoint is valid for: everything that decides the rest of the round."""
    return " ".join(
        [
            _optimizer_key(training, workplace),
            str(round),
            base_digest.hex(),
            fingerprint_of(statistics),
        ]
    )


def _optimizer_key(training: LocalTraining, workplace: Workplace | None) -> str:
    plan = workplace.plan.hex() if workplace else ""
    return f"{plan} {training.seed} {training.site.name}"
