"""Steps are exactly the stated arithmetic, agree with torch's optimisers, and never fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from math import isqrt
from typing import Any

import numpy as np
import pytest
import torch
from harness.exact import UNSIGNED, as_array, exact, finite_bits, rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.learning.folds.formats import LARGEST, Array
from swarm.learning.folds.step import (
    PIECE_ELEMENTS,
    Adam,
    Momentum,
    Nesterov,
    Step,
    Yogi,
    power,
    state_dtype,
)
from swarm.tensors import NUMPY_DTYPES, DType

FLOAT_TYPES = ["F64", "F32", "F16", "BF16"]
STEPS: list[Step] = [Momentum(0.5, 0.9), Nesterov(), Adam(), Yogi(0.1, 0.8, 0.95, 1e-6)]


def zeros(step: Step, dtype: DType, elements: int) -> list[Array]:
    kind = state_dtype(dtype)
    assert kind is not None
    return [np.zeros(elements, NUMPY_DTYPES[kind]) for _ in step.slots]


def advanced(
    step: Step, dtype: DType, base: Array, reduced: Array, state: list[Array], taken: int
) -> tuple[Array, list[Array]]:
    out, after = np.empty_like(base), [np.empty_like(slot) for slot in state]
    step.advance(dtype, base, reduced, state, taken, out, after)
    return out, after


def walk(step: Step, gradients: Iterable[Array], start: Array) -> list[Array]:
    """The models after each step, where the sites together moved against these gradients."""
    model, state = start, zeros(step, "F64", len(start))
    models = []
    for taken, gradient in enumerate(gradients):
        model, state = advanced(step, "F64", model, model - gradient, state, taken)
        models.append(model)
    return models


# The definition, in rational numbers: each operation exact, and then rounded to float64.


def f64(value: Fraction) -> Fraction:
    found = rounded(value, "F64")
    assert found is not None
    return found


def times(a: Fraction, b: Fraction) -> Fraction:
    return f64(a * b)


def root(value: Fraction) -> Fraction:
    """The square root, correctly rounded: of 2²⁰⁰ times as much, whole, with a sticky bit."""
    shift = 1400
    scaled = (value.numerator << 2 * shift) // value.denominator
    found = isqrt(scaled)
    exactly = found * found == scaled and (value.numerator << 2 * shift) % value.denominator == 0
    return f64(Fraction(2 * found + (not exactly), 1 << shift + 1))


def reference(
    step: Step, w: Fraction, r: Fraction, state: list[Fraction], taken: int
) -> tuple[Fraction, list[Fraction]]:
    """In float64, before the last rounding."""
    g = f64(w - r)
    if isinstance(step, Momentum | Nesterov):
        beta = Fraction(step.beta if isinstance(step, Momentum) else step.momentum)
        b = f64(times(beta, state[0]) + g)
        towards = b if isinstance(step, Momentum) else f64(g + times(beta, b))
        return f64(w - times(Fraction(step.lr), towards)), [b]
    assert isinstance(step, Adam | Yogi)
    lr, beta1, beta2 = Fraction(step.lr), Fraction(step.beta1), Fraction(step.beta2)
    m = f64(times(beta1, state[0]) + times(f64(1 - beta1), g))
    seen = times(g, g)
    if isinstance(step, Adam):
        v = f64(times(beta2, state[1]) + times(f64(1 - beta2), seen))
    else:
        sign = (state[1] > seen) - (state[1] < seen)
        v = f64(state[1] - times(f64(1 - beta2), seen) * sign)
    powers = [Fraction(1), Fraction(1)]
    for _ in range(taken + 1):
        powers = [times(powers[0], beta1), times(powers[1], beta2)]
    first, second = (f64(1 - p) for p in powers)
    below = f64(root(f64(v / second)) + Fraction(step.epsilon))
    return f64(w - f64(times(lr, f64(m / first)) / below)), [m, v]


def within(value: Fraction, dtype: str) -> Fraction:
    """Rounded, or the largest number of the type."""
    largest = Fraction(LARGEST[dtype])
    found = rounded(max(-largest, min(largest, value)), dtype)
    assert found is not None
    return found


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_steps_are_as_exact_arithmetic_says(dtype: DType, step: Step, data: st.DataObject) -> None:
    row = st.lists(finite_bits(dtype), min_size=3, max_size=3)
    slot = st.lists(finite_bits("F32"), min_size=3, max_size=3)
    base, reduced = data.draw(row), data.draw(row)
    state = [data.draw(slot) for _ in step.slots]
    if len(state) == 2:
        state[1] = [bits & 0x7FFF_FFFF for bits in state[1]]  # squares
    taken = data.draw(st.integers(0, 5))
    out, after = advanced(
        step, dtype, as_array(base, dtype), as_array(reduced, dtype),
        [as_array(bits, "F32") for bits in state], taken,
    )  # fmt: skip
    for k in range(3):
        w, r = exact(base[k], dtype), exact(reduced[k], dtype)
        new, slots = reference(step, w, r, [exact(bits[k], "F32") for bits in state], taken)
        assert exact(int(out.view(UNSIGNED[dtype])[k]), dtype) == within(new, dtype)
        found = [exact(int(values.view(np.uint32)[k]), "F32") for values in after]
        assert found == [within(value, "F32") for value in slots]


def torch_walk(
    optimizer: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    gradients: Iterable[Array],
    start: Array,
) -> list[Array]:
    weights = torch.tensor(start, requires_grad=True)
    stepper = optimizer([weights])
    models = []
    for gradient in gradients:
        weights.grad = torch.tensor(gradient)
        stepper.step()
        models.append(weights.detach().numpy().copy())
    return models


TORCH: list[tuple[Step, Any]] = [
    (Momentum(0.3, 0.8), lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.8)),
    (Nesterov(), lambda p: torch.optim.SGD(p, lr=0.7, momentum=0.9, nesterov=True)),
    (Adam(), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.99), eps=1e-3)),
    (
        Adam(0.5, 0.5, 0.999, 1e-8),
        lambda p: torch.optim.Adam(p, lr=0.5, betas=(0.5, 0.999), eps=1e-8),
    ),
]


@pytest.mark.parametrize(("step", "optimizer"), TORCH, ids=lambda value: repr(value)[:20])
def test_steps_agree_with_torch(step: Step, optimizer: Any) -> None:
    rng = np.random.default_rng(2)
    start = rng.standard_normal(50)
    gradients = [rng.standard_normal(50) * scale for scale in (1, 0.1, 3, 1e-3, 1, 1, 0, 2)] * 5
    ours, theirs = walk(step, gradients, start), torch_walk(optimizer, gradients, start)
    for model, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(model, expected, rtol=1e-12, atol=1e-12)


def test_yogi_is_that_of_its_paper_corrected_as_adam() -> None:
    """torch has none: Zaheer et al. 2018, algorithm 2, written out with scalars."""
    gradients = [0.5, 0.01, -2.0, 0.0, 1.0, 1e-3]
    w = m = v = 0.0
    expected = []
    for t, g in enumerate(gradients, 1):
        m = 0.9 * m + 0.1 * g
        v = v - 0.01 * g * g * np.sign(v - g * g)
        w -= 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.99**t)) ** 0.5 + 1e-3)
        expected.append(w)
    found = walk(Yogi(), [np.array([g]) for g in gradients], np.zeros(1))
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-12, atol=1e-14)


def test_yogi_and_adam_take_the_same_first_step_and_then_part() -> None:
    gradients = [np.array([2.0]), np.array([0.1]), np.array([0.1])]
    yogi, adam = (walk(step, gradients, np.ones(1)) for step in (Yogi(), Adam()))
    np.testing.assert_allclose(yogi[0], adam[0], rtol=1e-12)
    assert abs(yogi[2] - adam[2]) > 1e-6


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_pieces_join_without_a_seam(step: Step) -> None:
    rng = np.random.default_rng(7)
    elements = 2 * PIECE_ELEMENTS + 5
    base, reduced = (rng.standard_normal(elements).astype(np.float32) for _ in range(2))
    state = [np.abs(rng.standard_normal(elements)).astype(np.float32) for _ in step.slots]
    whole, slots = advanced(step, "F32", base, reduced, state, 3)
    for cut in (slice(0, 1001), slice(1001, elements)):
        part, part_slots = advanced(
            step, "F32", base[cut], reduced[cut], [slot[cut] for slot in state], 3
        )
        assert part.tobytes() == whole[cut].tobytes()
        assert [s.tobytes() for s in part_slots] == [s[cut].tobytes() for s in slots]


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("step", [*STEPS, Adam(1000.0, 0.0, 0.0, 1e-12)], ids=repr)
def test_no_finite_update_makes_a_step_fail(step: Step, dtype: DType) -> None:
    largest = np.zeros(1, NUMPY_DTYPES[dtype])
    if dtype == "BF16":
        extreme = np.array([0x7F7F, 0xFF7F, 0x0001, 0x8001, 0x0000], np.uint16)
    else:
        info = np.finfo(largest.dtype)
        some = [info.max, info.min, info.smallest_subnormal, -info.smallest_subnormal, 0]
        extreme = np.array(some, largest.dtype)
    reduced = np.tile(extreme, len(extreme))
    model = np.repeat(extreme, len(extreme))
    state = zeros(step, dtype, len(model))
    for taken in range(40):
        model, state = advanced(step, dtype, model, reduced, state, taken)
        reduced = np.roll(reduced, 7)
        for values in (model, *state):
            wide = values.astype(np.uint32) << 16 if values.dtype == np.uint16 else values
            assert np.isfinite(wide.view(np.float32) if wide.dtype == np.uint32 else wide).all()


@pytest.mark.parametrize("dtype", ["I64", "I32", "I16", "I8", "U8", "BOOL"])
def test_integers_and_booleans_are_what_the_updates_reduce_to(dtype: DType) -> None:
    assert state_dtype(dtype) is None
    reduced = np.array([1, 0, 1]).astype(NUMPY_DTYPES[dtype])
    for step in STEPS:
        out, _ = advanced(step, dtype, np.zeros_like(reduced), reduced, [], 4)
        assert out.tobytes() == reduced.tobytes()


def test_powers_come_from_repeated_multiplication() -> None:
    found = 1.0
    for exponent in range(50):
        assert power(0.97, exponent) == found
        found *= 0.97
    assert power(0.0, 0) == 1.0
    assert power(0.5, 100_000) == 0.0
