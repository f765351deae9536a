"""Local training: one site's part of a round, as the trainer process and the references run it.

The same base, data, plan, seed and round give the same update, bit for bit, on the same machine:
every epoch seeds all generators from (seed, site, round, epoch), the order of rows included, and
the number of threads is fixed. A checkpoint after an epoch is therefore all that is needed to
resume an interrupted round to the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.learning import checkpoint
from swarm.learning.batches import (
    as_tensors,
    batches,
    derive_seed,
    mean_loss,
    rows_in,
    shuffled,
    to_device,
)
from swarm.learning.checkpoint import Checkpoint
from swarm.learning.loading import plan_faults
from swarm.learning.messages import Samples
from swarm.learning.plan import Data, Plan, Site
from swarm.learning.state import State, as_arrays, copy_state, first_non_finite, set_state, state_of
from swarm.learning.travel import travelling
from swarm.types import Digest

PROGRESS_EVERY_S = 0.5
PARTS = ("train", "validation", "test")

Progress = Callable[[float, int, float], None]
"""Called with the part done (0..1), the epoch, and the mean loss of the last epoch so far."""


@dataclass(frozen=True)
class Update:
    """What training a round gave. `state` is all that is not frozen."""

    state: State
    samples: int
    steps: int
    loss: float
    train_s: float
    resumed_epochs: int


@dataclass(frozen=True)
class Workplace:
    """Where a trainer keeps checkpoints, and of what they are (see `checkpoint`)."""

    folder: Path
    plan: Digest
    keep_optimizer: bool

    def round_file(self) -> Path:
        return self.folder / "round.checkpoint"

    def optimizer_file(self, round: int) -> Path:
        return self.folder / f"optimizer-{round:06d}.checkpoint"


class LocalTraining:
    """A plan at one site: its model, its data, and what is done with them.

    `prepared` replaces the plan's own reading of the site's files: the pooled reference uses it.
    Raises PlanError with the place in the plan, here and in every method, for all that its code
    raises or returns that cannot be trained.
    """

    def __init__(
        self,
        plan: Plan,
        site: Site,
        folder: Path,
        *,
        seed: int | None = None,
        device: str = "auto",
        prepared: Data | None = None,
    ) -> None:
        self.plan = plan
        self.seed = plan.seed if seed is None else seed
        self.site = Site(site.name, site.location, site.options, self.seed)
        self.folder = folder
        self.device = choose_device(device)
        self._given = prepared
        self._data: Data | None = None
        self._prepared: Data | None = None
        self._prepared_for: str | None = None
        self.model = self._new_model().to(self.device)
        with self._faults("building the model"):
            state = state_of(self.model)
            self.travels = travelling(self.model, state, plan.wire_dtype)
        broken = first_non_finite(state)
        if broken is not None:
            raise PlanError(
                f"model() returns a model whose tensor {broken!r} is NaN or infinite: initialise it"
            )

    def make_initial(self) -> State:
        """The initial model, made anew: a node needs it once, and should not keep it in memory."""
        with self._faults("building the model"):
            return {name: value.cpu() for name, value in state_of(self._new_model()).items()}

    @cached_property
    def initial(self) -> State:
        """The initial model, for those who compare with it again and again."""
        return self.make_initial()

    @property
    def data(self) -> Data:
        """This site's data as the plan reads it, before `prepare`; read once."""
        if self._data is None:
            with self._deterministic("data"), self._faults("reading the site's data"):
                self._data = self.plan.data(self.site)
            _check_data(self._data)
        return self._data

    @property
    def has_statistics(self) -> bool:
        """Whether the plan overrides `statistics`, and so asks for a statistics round."""
        return type(self.plan).statistics is not Plan.statistics

    def samples(self) -> Samples:
        """How many rows there are for each use."""
        data = self._tensors(self.data)
        counts = {part: rows_in(getattr(data, part)) for part in PARTS}
        if counts["train"] == 0:
            raise PlanError(f"the site {self.site.name!r} has no training rows")
        return Samples(**counts)

    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """This site's sums, as float64 arrays."""
        data = self.data
        with self._deterministic("statistics"), self._faults("computing statistics"):
            found = as_arrays(self.plan.statistics(data))
        if not found:
            raise PlanError("the plan's statistics are empty: return at least one array")
        return found

    def prepared(self, statistics: Mapping[str, NDArray[Any]] | None) -> Data:
        """The data as the model sees it, given the sums over all sites."""
        if self._given is not None:
            return self._given
        if self._prepared is None or self._prepared_for != _fingerprint(statistics):
            data = self.data
            with self._deterministic("prepare"), self._faults("preparing the data"):
                self._prepared = self._tensors(self.plan.prepare(data, statistics or {}))
            self._prepared_for = _fingerprint(statistics)
        return self._prepared

    def train(
        self,
        round: int,
        base: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None = None,
        *,
        base_digest: bytes = b"",
        workplace: Workplace | None = None,
        progress: Progress = lambda fraction, epoch, loss: None,
        own_copy: bool = True,
    ) -> Update:
        """Train the model from `base`, which is whole, for one round; return the update.

        Without `own_copy`, the update's tensors are the model's, and change with it in the next
        call: one model in memory, not two. With a `workplace`, a checkpoint is taken after each
        epoch, and one of the same round and base is resumed. Raises PlanError where a loss or a
        parameter becomes NaN or infinite.
        """
        data = self.prepared(statistics)
        rows = rows_in(data.train)
        if rows == 0:
            raise PlanError(f"the site {self.site.name!r} has no training rows")
        started = time.monotonic()
        set_state(self.model, base, self.travels)
        self.model.train()
        if type(self.plan).train is not Plan.train:
            with self._deterministic("train", self.site.name, round), self._faults("training"):
                self.plan.train(self.model, data, round)
            done = Checkpoint({}, {}, 0, 0, math.nan)
            resumed = 0
        else:
            key = _key(self, round, base_digest, statistics, workplace)
            done, resumed = self._epochs(round, base, data, key, workplace, progress)
        state = self._trained()
        self._refuse_non_finite(state, f"after training round {round}")
        loss = done.loss
        if math.isnan(loss):
            loss = self._score(lambda: mean_loss(self.plan, self.model, data.train))
        kept = copy_state(state) if own_copy else state
        return Update(kept, rows, done.steps, loss, time.monotonic() - started, resumed)

    def evaluate(
        self,
        state: Mapping[str, torch.Tensor],
        statistics: Mapping[str, NDArray[Any]] | None = None,
        parts: Sequence[str] = PARTS,
    ) -> dict[str, dict[str, float]]:
        """The plan's metrics of a model by part of the data; a part without rows is empty."""
        data = self.prepared(statistics)
        rows = {part: getattr(data, part) for part in parts}
        return {part: self.score(state, r) if rows_in(r) else {} for part, r in rows.items()}

    def score(self, state: Mapping[str, torch.Tensor], part: Any) -> dict[str, float]:
        """The plan's metrics of a whole model on prepared rows, of this site or of several."""
        set_state(self.model, state, self.travels)
        shown = to_device(part, self.device)
        found = self._score(lambda: self.plan.metrics(self.model, shown))
        try:
            return {str(name): float(value) for name, value in found.items()}
        except (AttributeError, TypeError, ValueError):
            raise PlanError(
                f"{type(self.plan).__name__}.metrics must return a dict of numbers, not {found!r}"
            ) from None

    def _new_model(self) -> torch.nn.Module:
        with self._deterministic("initialise"), self._faults("building the model"):
            return self.plan.model()

    def _trained(self) -> State:
        """The model's own tensors (not copies) that are not frozen."""
        state = state_of(self.model)
        return {name: state[name] for name in self.travels}

    def _epochs(
        self,
        round: int,
        base: Mapping[str, torch.Tensor],
        data: Data,
        key: str,
        workplace: Workplace | None,
        progress: Progress,
    ) -> tuple[Checkpoint, int]:
        """The default loop: `epochs` passes, from a checkpoint if there is one."""
        with self._deterministic("optimizer", round), self._faults("making the optimiser"):
            optimizer = self.plan.optimizer(self.model)
        done = Checkpoint({}, {}, 0, 0, math.nan)
        if workplace is not None:
            found = checkpoint.read(workplace.round_file(), key)
            if found is not None:
                done = found
                set_state(self.model, {**base, **found.model}, self.travels)
                if found.optimizer["param_groups"]:
                    optimizer.load_state_dict(found.optimizer)
            elif workplace.keep_optimizer:
                self._restore_optimizer(optimizer, round, workplace)
        resumed = done.epochs
        for epoch in range(done.epochs, self.plan.epochs):
            with self._deterministic("train", self.site.name, round, epoch):
                steps, loss = self._epoch(round, epoch, data, optimizer, progress)
            done = Checkpoint(self._trained(), {}, epoch + 1, done.steps + steps, loss)
            if workplace is not None:
                self._keep(done, optimizer, key, round, workplace)
        return done, resumed

    def _keep(
        self,
        done: Checkpoint,
        optimizer: torch.optim.Optimizer,
        key: str,
        round: int,
        workplace: Workplace,
    ) -> None:
        """Checkpoint an epoch. After the last one the optimiser is kept for the next round, or
        not at all, and first: a round whose checkpoint is complete has nothing left to write."""
        if done.epochs < self.plan.epochs:
            done = replace(done, optimizer=optimizer.state_dict())
        elif workplace.keep_optimizer:
            kept = Checkpoint({}, optimizer.state_dict(), 0, 0, 0.0)
            checkpoint.write(workplace.optimizer_file(round), kept, _optimizer_key(self, workplace))
        checkpoint.write(workplace.round_file(), done, key)

    def _epoch(
        self,
        round: int,
        epoch: int,
        data: Data,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> tuple[int, float]:
        """One pass over the training rows. Returns its steps and mean loss."""
        rows, size = rows_in(data.train), self.plan.batch_size
        order = shuffled(rows, derive_seed(self.seed, self.site.name, round, epoch))
        total = -(-rows // size) * self.plan.epochs
        steps, losses, told = 0, 0.0, time.monotonic()
        with self._faults("computing the loss"):
            for batch in batches(data.train, size, order, self.device):
                optimizer.zero_grad(set_to_none=True)
                loss = self.plan.loss(self.model, batch)
                value = self._finite(loss, round, epoch, steps)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                steps, losses = steps + 1, losses + value
                if time.monotonic() - told >= PROGRESS_EVERY_S:
                    told = time.monotonic()
                    done = (epoch * total // self.plan.epochs + steps) / total
                    progress(min(done, 1.0), epoch, losses / steps)
        progress((epoch + 1) / self.plan.epochs, epoch, losses / steps)
        self._refuse_non_finite(self._trained(), f"in round {round}, epoch {epoch + 1}")
        return steps, losses / steps

    def _finite(self, loss: Any, round: int, epoch: int, step: int) -> float:
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise PlanError(f"loss must return a scalar tensor, not {_describe(loss)}")
        value = float(loss.detach())
        if not math.isfinite(value):
            raise PlanError(
                f"the loss is {value} in round {round}, epoch {epoch + 1}, step {step + 1}: lower "
                "the plan's learning_rate, and look for missing values in the data"
            )
        return value

    def _refuse_non_finite(self, state: State, when: str) -> None:
        name = first_non_finite(state)
        if name is not None:
            raise PlanError(
                f"the model's tensor {name!r} is NaN or infinite {when}: lower the plan's "
                "learning_rate, and look for missing values in the data"
            )

    def _restore_optimizer(
        self, optimizer: torch.optim.Optimizer, round: int, workplace: Workplace
    ) -> None:
        """Load the state left by the last round before this one; forget those before it."""
        earlier = sorted(
            file
            for file in workplace.folder.glob("optimizer-*.checkpoint")
            if file < workplace.optimizer_file(round)
        )
        for file in earlier[:-1]:
            file.unlink(missing_ok=True)
        kept = checkpoint.read(earlier[-1], _optimizer_key(self, workplace)) if earlier else None
        if kept is not None:
            settings = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": kept.optimizer["state"], "param_groups": settings})

    def _score(self, metrics: Callable[[], Any]) -> Any:
        was_training = self.model.training
        self.model.eval()
        try:
            with self._deterministic("metrics"), self._faults("computing metrics"):
                with torch.no_grad():
                    return metrics()
        finally:
            self.model.train(was_training)

    def _tensors(self, data: Data) -> Data:
        _check_data(data)
        return Data(*(as_tensors(getattr(data, part)) for part in PARTS))

    def _faults(self, doing: str) -> Any:
        return plan_faults(self.folder, f"{doing} ({self.site.name})")

    @contextmanager
    def _deterministic(self, *words: str | int) -> Iterator[None]:
        """Seed every generator that a plan may use, from the run's seed and these words."""
        seed = derive_seed(self.seed, *words)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


def choose_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one. Raises PlanError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise PlanError(f'the device {device!r} cannot be used: {first_line}; try "auto"') from None
    return chosen


def _check_data(data: Any) -> None:
    if not isinstance(data, Data):
        raise PlanError(f"data and prepare must return swarm.Data, not {_describe(data)}")


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{type(value).__name__}"


def _fingerprint(statistics: Mapping[str, NDArray[Any]] | None) -> str:
    state = hashlib.sha256()
    for name, array in sorted((statistics or {}).items()):
        state.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return state.hexdigest()


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
            _fingerprint(statistics),
        ]
    )


def _optimizer_key(training: LocalTraining, workplace: Workplace | None) -> str:
    plan = workplace.plan.hex() if workplace else ""
    return f"{plan} {training.seed} {training.site.name}"
