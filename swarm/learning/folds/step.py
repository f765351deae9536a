"""Step: how the last model and what the updates reduce to become the next model.

The reduced value r stands for the direction in which all sites together moved away from the last
model w, so g = f64(w) − f64(r) takes the place of a gradient (Reddi et al. 2021, "Adaptive
federated optimization"; Douillard et al. 2023, "DiLoCo"). Without a step the next model is r.

A step works element by element on floats, in float64, by additions, multiplications, divisions and
square roots alone, which IEEE 754 rounds exactly; each is an operation of its own, in the order in
which it is written here. The new values are rounded once: w to the tensor's type, the step's state
to float32 (float64 for float64 tensors). No pow, exp or log, which differ between machines: powers
come from repeated multiplication.

A step's state is part of the model file, so any leader can go on from it and anyone can recompute
it. State that is not there is zeros. Integers and booleans have no step: they are what the updates
reduce to.

A step never fails. What is too large for its type becomes the largest number of that type, and of
float64 tensors |g| is at most 1e150, so that its square is finite; otherwise one contributor with
huge numbers could halt a plan for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np

from swarm.learning.folds.formats import FLOATS, Array, Floats, narrow_within, widen
from swarm.learning.folds.parts import Decay, Part, Rate, Within
from swarm.tensors import DType

PIECE_ELEMENTS = 16 << 10  # a dozen float64 arrays at once stay in the cache
_LARGEST_GRADIENT = 1e150


@dataclass(frozen=True)
class Step(Part):
    """One way to go on from the last model."""

    slots: ClassVar[tuple[str, ...]]
    """What its state is called: for each float tensor, one of the same shape by each name."""

    @property
    def words(self) -> str:
        """One sentence for people."""
        raise NotImplementedError

    def advance(
        self,
        dtype: DType,
        base: Array,
        reduced: Array,
        state: Sequence[Array],
        taken: int,
        out: Array,
        next_state: Sequence[Array],
    ) -> None:
        """The next model into `out`, the next state into `next_state`; arrays of one length.

        `base`, `reduced` and `out` are of type `dtype`, each slot's state of `state_dtype(dtype)`.
        `taken` counts the steps since the state was zeros. `out` may be `reduced` itself.
        """
        kind = state_dtype(dtype)
        if kind is None:
            out[:] = reduced
            return
        for start in range(0, len(out), PIECE_ELEMENTS):
            piece = slice(start, start + PIECE_ELEMENTS)
            w, r = _widened(dtype, base[piece]), _widened(dtype, reduced[piece])
            old = [_widened(kind, slot[piece]) for slot in state]
            with np.errstate(all="ignore"):
                g = np.clip(w - r, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
                new, *slots = self._move(w, g, old, taken)
                narrow_within(dtype, new, out[piece])
                for slot, values in zip(next_state, slots, strict=True):
                    narrow_within(kind, values, slot[piece])

    def _move(
        self, w: Floats, g: Floats, state: Sequence[Floats], taken: int
    ) -> tuple[Floats, ...]:
        """The next model and the next state."""
        raise NotImplementedError


@dataclass(frozen=True)
class Momentum(Step):
    """Momentum (FedAvgM: Hsu, Qi and Brown 2019): b = β·b + g; w = w − lr·b."""

    lr: Rate = 1.0
    beta: Decay = 0.9

    name = "momentum"
    slots = ("velocity",)

    @property
    def words(self) -> str:
        return (
            f"momentum: goes on in the direction of the last rounds (lr {self.lr}, "
            f"beta {self.beta})"
        )

    def _move(
        self, w: Floats, g: Floats, state: Sequence[Floats], taken: int
    ) -> tuple[Floats, ...]:
        velocity = self.beta * state[0] + g
        return w - self.lr * velocity, velocity


@dataclass(frozen=True)
class Nesterov(Step):
    """Nesterov's momentum as DiLoCo takes it: b = μ·b + g; w = w − lr·(g + μ·b)."""

    lr: Rate = 0.7
    momentum: Decay = 0.9

    name = "nesterov"
    slots = ("velocity",)

    @property
    def words(self) -> str:
        return (
            f"nesterov: momentum that looks ahead, as in DiLoCo (lr {self.lr}, "
            f"momentum {self.momentum})"
        )

    def _move(
        self, w: Floats, g: Floats, state: Sequence[Floats], taken: int
    ) -> tuple[Floats, ...]:
        velocity = self.momentum * state[0] + g
        return w - self.lr * (g + self.momentum * velocity), velocity


@dataclass(frozen=True)
class Adaptive(Step):
    """A step for each element by the size of what it saw: FedAdam and FedYogi (Reddi et al. 2021).

    With t steps taken, this one included, m = β₁·m + (1 − β₁)·g, and v as the subclass says:

        w = w − (lr·(m / (1 − β₁ᵗ))) / (√(v / (1 − β₂ᵗ)) + ε)

    The divisions by 1 − βᵗ, which Reddi et al. leave out, make up for state that began as zeros.
    """

    lr: Rate = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    epsilon: Annotated[float, Within(1e-12, 1.0)] = 1e-3

    slots = ("mean", "square")

    def _move(
        self, w: Floats, g: Floats, state: Sequence[Floats], taken: int
    ) -> tuple[Floats, ...]:
        mean = self.beta1 * state[0] + (1.0 - self.beta1) * g
        square = self._square(state[1], g * g)
        full_mean = mean / (1.0 - power(self.beta1, taken + 1))
        full_square = square / (1.0 - power(self.beta2, taken + 1))
        moved = (self.lr * full_mean) / (np.sqrt(full_square) + self.epsilon)
        return w - moved, mean, square

    def _square(self, square: Floats, seen: Floats) -> Floats:
        raise NotImplementedError


@dataclass(frozen=True)
class Adam(Adaptive):
    """v = β₂·v + (1 − β₂)·g²."""

    name = "adam"

    @property
    def words(self) -> str:
        return f"adam: moves each element by its own rate (lr {self.lr})"

    def _square(self, square: Floats, seen: Floats) -> Floats:
        return self.beta2 * square + (1.0 - self.beta2) * seen


@dataclass(frozen=True)
class Yogi(Adaptive):
    """v = v − ((1 − β₂)·g²)·sign(v − g²): it forgets what was large more slowly than Adam."""

    name = "yogi"

    @property
    def words(self) -> str:
        return f"yogi: as adam, but its rates grow back more slowly (lr {self.lr})"

    def _square(self, square: Floats, seen: Floats) -> Floats:
        return square - ((1.0 - self.beta2) * seen) * np.sign(square - seen)


STEPS: tuple[type[Step], ...] = (Momentum, Nesterov, Adam, Yogi)


def state_dtype(dtype: DType) -> DType | None:
    """The type of a step's state for tensors of this type; None where they have none."""
    if dtype not in FLOATS:
        return None
    return "F64" if dtype == "F64" else "F32"


@lru_cache(maxsize=16)
def power(beta: float, exponent: int) -> float:
    """βⁿ by n multiplications from the left, beginning with 1."""
    found = 1.0
    for _ in range(exponent):
        found *= beta
    return found


def _widened(dtype: DType, values: Array) -> Floats:
    wide = np.empty(len(values), np.float64)
    widen(dtype, values, wide)
    return wide
