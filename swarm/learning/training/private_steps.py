"""Differentially private steps of training, by Opacus (Yousefpour et al., arXiv:2109.12298).

Each step takes every row by chance, clips each row's gradient, and adds noise to their sum (DP-SGD,
Abadi et al., arXiv:1607.00133). All chance is the system's, and none of it is kept: with the plan's
seed, which everybody has, anybody could draw the same rows and take the noise away again. That goes
for dropout as well, whose masks would otherwise depend on which other rows are in the batch.
"""

from __future__ import annotations

import random
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import ConfigurationError, LocalError, PlanError
from swarm.learning.data.batches import HasLoss, rows_in, take, to_device
from swarm.privacy.guarantee import Guarantee, Mechanism

_HEAD_BYTES, _WORDS = 24, 624
_STATE_BYTES = 5056
"""How torch writes the state of a generator of the CPU: a head, then the Mersenne Twister's words,
each in 8 bytes."""
PROBED_ROWS = 4
COMPARED_ROWS = 50
PROBE_TOLERANCE = 1e-3

_INSTEAD = {
    "BatchNorm": "torch.nn.GroupNorm, which looks at one row alone",
    "SyncBatchNorm": "torch.nn.GroupNorm, which looks at one row alone",
    "InstanceNorm": "the same with track_running_stats=False",
    "LSTM": "opacus.layers.DPLSTM",
    "GRU": "opacus.layers.DPGRU",
    "RNN": "opacus.layers.DPRNN",
    "MultiheadAttention": "opacus.layers.DPMultiheadAttention",
}
"""What to write in the place of layers by the beginning of their names."""


def check_rows_alone(whole: Any, some: Any, rows: NDArray[np.int64]) -> None:
    """Whether rows that were prepared without the others are as they are among all: if not, noise
    in the gradients does not hide one row, because it is in others, too.

    `some` are the `rows` of the whole part, prepared alone. Raises PlanError.
    """
    for place, row in enumerate(rows[:COMPARED_ROWS]):
        among, alone = (
            _columns(take(part, np.array([at]))) for part, at in ((whole, row), (some, place))
        )
        same = len(among) == len(alone) and all(
            one.shape == other.shape and torch.allclose(one, other, 1e-4, 1e-6, equal_nan=True)
            for one, other in zip(among, alone, strict=True)
        )
        if not same:
            raise PlanError(
                f"training row {row} comes out of `prepare` otherwise if half of the rows are not "
                "there, so a row is in what others become, and `privacy` would promise too much: "
                "scale with numbers that are public, or each row by itself"
            )


def _columns(batch: Any) -> list[torch.Tensor]:
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple | list) else [batch]


def check_private_model(model: torch.nn.Module) -> None:
    """Raise PlanError naming a layer whose gradient cannot be told row by row, and what to use
    instead; ConfigurationError where Opacus is not installed."""
    validators = _opacus().validators.ModuleValidator.VALIDATORS
    for name, module in model.named_modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            continue  # frozen: its buffers may not change, or training is refused
        check = validators.get(type(module))
        if check is not None and check(module):
            kind = type(module).__name__
            instead = next((v for k, v in _INSTEAD.items() if kind.startswith(k)), None)
            raise PlanError(
                f"the layer {name or 'model'!r} is a {kind}, with which the plan's privacy "
                f"cannot be kept: use {instead or 'another layer'}"
            )


@dataclass(frozen=True)
class BatchesByChance:
    """Which rows each step of a round takes: every one with the same probability, by itself."""

    part: Any
    noise: Mechanism
    epochs: int
    mean_size: int
    """What the plan calls its batch size. Sums of gradients are divided by it whatever was drawn:
    how many rows there are is nobody else's business."""
    device: torch.device

    @property
    def in_epoch(self) -> int:
        return self.noise.steps // self.epochs

    def draw(self) -> Iterator[Any]:
        """The batches of an epoch; None for a step without any row."""
        chance = np.random.default_rng()  # of 128 bits from the system
        rows = rows_in(self.part)
        for _ in range(self.in_epoch):
            drawn = np.flatnonzero(chance.random(rows) < self.noise.rate)
            yield to_device(take(self.part, drawn), self.device) if len(drawn) else None


class PrivateSteps:
    """One round's private steps (`seeded_steps.Steps`). Made by `private_steps`.

    A step in which no row was drawn has noise alone, and is taken by itself.
    """

    def __init__(
        self,
        given: BatchesByChance,
        optimizer: Any,
        generator: torch.Generator,
        parameters: Sequence[Any],
    ) -> None:
        self._given, self._optimizer = given, optimizer
        self._generator, self._parameters = generator, parameters

    @property
    def in_epoch(self) -> int:
        return self._given.in_epoch

    @contextmanager
    def chance(self, epoch: int) -> Iterator[None]:
        """Whatever a plan draws comes from the system, too."""
        seed = secrets.randbits(64)
        torch.manual_seed(seed)
        fill_with_entropy(torch.default_generator)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield

    def batches(self, epoch: int) -> Iterator[Any]:
        for batch in self._given.draw():
            self._optimizer.zero_grad(set_to_none=True)
            if batch is not None:
                yield batch
                continue
            for parameter in self._parameters:
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            self._step()

    def take(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        if any(parameter.grad_sample is None for parameter in self._parameters):
            raise PlanError(
                "the loss leaves out a parameter that is to be trained, so its rows cannot be "
                "told apart: set its requires_grad to False, or use it in every loss"
            )
        self._step()

    def _step(self) -> None:
        fill_with_entropy(self._generator)
        self._optimizer.step()


@contextmanager
def private_steps(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    guarantee: Guarantee,
    given: BatchesByChance,
) -> Iterator[PrivateSteps]:
    """Steps that clip each row's gradient and add noise; afterwards the model is as it was.

    Raises PlanError for an optimiser that does not hold just what is to be trained.
    """
    opacus = _opacus()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    if trained != {id(p) for p in parameters}:
        raise PlanError(
            "optimizer must be given all parameters that are to be trained, and no others, in a "
            "plan with privacy: [p for p in model.parameters() if p.requires_grad]"
        )
    generator = torch.Generator(given.device)
    # Strict, it would refuse every buffer; those that training changes are refused afterwards.
    hooks = opacus.GradSampleModule(model, strict=False)
    try:
        private = opacus.optimizers.DPOptimizer(
            optimizer,
            noise_multiplier=given.noise.noise,
            max_grad_norm=guarantee.max_grad_norm,
            expected_batch_size=given.mean_size,
            generator=generator,
            secure_mode=True,  # of several draws: the bits of one float tell no row
        )
        with warnings.catch_warnings():
            # Opacus hooks the first layer as well, whose inputs need no gradient: as it should.
            warnings.filterwarnings("ignore", "Full backward hook is firing")
            yield PrivateSteps(given, private, generator, parameters)
    finally:
        hooks.remove_hooks()
        for parameter in model.parameters():
            parameter.grad = None
            for name in ("grad_sample", "summed_grad", "_forward_counter"):
                if hasattr(parameter, name):
                    delattr(parameter, name)


def check_rows_apart(
    calls: HasLoss, model: torch.nn.Module, part: Any, device: torch.device
) -> None:
    """Raise PlanError unless the loss of a batch is the mean of its rows' losses.

    Then no row has a part in another's gradient, which is what clipping relies on. A few rows are
    looked at, in evaluation mode.
    """
    rows = np.arange(min(PROBED_ROWS, rows_in(part)))
    was_training = model.training
    model.eval()

    def loss_of(some: NDArray[np.int64]) -> float:
        return float(calls.loss(model, to_device(take(part, some), device)))

    try:
        with torch.no_grad():
            together, apart = loss_of(rows), [loss_of(rows[i : i + 1]) for i in rows]
    finally:
        model.train(was_training)
    mean = sum(apart) / len(apart)
    if not abs(together - mean) <= PROBE_TOLERANCE * max(1.0, abs(mean)):
        # Without the numbers: they are of these very rows.
        raise PlanError(
            "the loss of a few rows is not the mean of their losses: in a plan with privacy it "
            "must be, with no weight or term that depends on the other rows of the batch"
        )


def fill_with_entropy(generator: torch.Generator) -> None:
    """Fill a generator's whole state from the system.

    Seeding is not enough on a CPU: torch takes 32 bits of a seed, which can be tried out. On a GPU
    a seed is all of the state. Raises LocalError if this torch writes states in another way.
    """
    if generator.device.type != "cpu":
        generator.manual_seed(secrets.randbits(63))
        return
    state = generator.get_state()
    if state.numel() != _STATE_BYTES:
        raise LocalError(
            f"torch {torch.__version__} writes a generator's state in {state.numel()} bytes, and "
            f"{_STATE_BYTES} are known here: noise would be drawn from 32 bits; use a release of "
            "swarm that knows this torch"
        )
    fresh = torch.Generator().manual_seed(secrets.randbits(32)).get_state()
    words = np.frombuffer(secrets.token_bytes(4 * _WORDS), np.uint32).astype(np.uint64)
    written = torch.from_numpy(words.view(np.uint8).copy())
    fresh[_HEAD_BYTES : _HEAD_BYTES + 8 * _WORDS] = written
    generator.set_state(fresh)


def _opacus() -> Any:
    try:
        import opacus
        import opacus.optimizers
        import opacus.validators
    except ImportError as error:
        raise ConfigurationError(
            f"the plan has privacy, and opacus cannot be imported ({error}): "
            "pip install 'swarm[dp]', and restart the node"
        ) from None
    return opacus
