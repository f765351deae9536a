"""Weights from distances are exact, the same in any order, and cannot be spoilt by one liar."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from harness.exact import as_array, exact, finite_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BlobError
from swarm.learning.folds import fused_gram, gram
from swarm.learning.folds.distance_weights import (
    choose_nearest,
    find_majority,
    weigh_towards_centre,
)
from swarm.learning.folds.formats import Array
from swarm.learning.folds.gram import COMPILED_FROM_ELEMENTS, Elements, Gram, find_gram
from swarm.learning.folds.reduce import ByDistance, GeometricMedian, Krum, MultiKrum
from swarm.tensors import DType

FLOAT_TYPES = ["F64", "F32", "F16", "BF16"]


def gram_of(dtype: DType, base: Array, inputs: Sequence[Array]) -> Gram:
    return find_gram(lambda: [Elements(dtype, base, inputs)])


def points(rows: Sequence[Sequence[float]]) -> Gram:
    """The Gram matrix of these points, as differences to zero."""
    arrays = [np.array(row) for row in rows]
    return gram_of("F64", np.zeros_like(arrays[0]), arrays)


def exponent(value: Fraction) -> int:
    """e with value = m · 2ᵉ and ½ ≤ m < 1."""
    found = value.numerator.bit_length() - value.denominator.bit_length()
    return found + (value >= Fraction(2) ** found)


def reference_gram(dtype: str, base: list[int], rows: list[list[int]]) -> Gram:
    """The definition, in rational numbers; for types whose differences a float64 holds exactly."""
    origin = [exact(bits, dtype) for bits in base]
    differences = [
        [exact(bits, dtype) - zero for bits, zero in zip(row, origin, strict=True)] for row in rows
    ]
    reach = [max(abs(d) for d in row) for row in differences]
    middle = sorted(reach)[(len(reach) - 1) // 2 :]
    positive = [r for r in middle if r]
    common = 22 - (exponent(positive[0]) if positive else 1)
    shifts = [min(common, 30 - exponent(r)) if r else common for r in reach]
    whole = [
        [round(d * Fraction(2) ** shift) << (max(shifts) - shift) for d in row]
        for row, shift in zip(differences, shifts, strict=True)
    ]
    return [
        [sum(a * b for a, b in zip(one, other, strict=True)) for other in whole] for one in whole
    ]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_the_matrix_is_that_of_the_definition(dtype: DType, data: st.DataObject) -> None:
    row = st.lists(finite_bits(dtype), min_size=5, max_size=5)
    base, *rows = [data.draw(row) for _ in range(data.draw(st.integers(2, 6)))]
    if dtype == "BF16":  # of similar size, or a float64 cannot hold their difference exactly
        base, *rows = ([bits & 0x83FF | 0x3C00 for bits in values] for values in (base, *rows))
    found = gram_of(dtype, as_array(base, dtype), [as_array(values, dtype) for values in rows])
    assert found == reference_gram(dtype, base, rows)


def test_a_difference_halfway_between_two_steps_goes_to_the_even_one() -> None:
    # The middle contributor reaches 2, so steps are 2⁻²⁰.
    half = 2.0**-21
    rows = [np.array([2.0, values]) for values in (half, 3 * half, half + 2.0**-60)]
    found = gram_of("F64", np.zeros(2), rows)
    assert [found[i][i] - (2 << 20) ** 2 for i in range(3)] == [0, 4, 1]


def test_pieces_and_tensors_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(4)
    rows = [rng.standard_normal(100_001).astype(np.float32) for _ in range(4)]
    base = rng.standard_normal(100_001).astype(np.float32)
    cuts = [slice(0, 7), slice(7, 70_000), slice(70_000, 70_000), slice(70_000, 100_001)]
    parts = [Elements("F32", base[cut], [row[cut] for row in rows]) for cut in cuts]
    whole = gram_of("F32", base, rows)
    assert find_gram(lambda: parts) == whole
    assert find_gram(lambda: parts[::-1]) == whole


def test_integers_and_booleans_have_no_part_in_it_but_must_be_fit() -> None:
    zeros, flags = np.zeros(2, np.int64), np.zeros(2, bool)
    ones, base = [np.ones(3, np.float32)] * 3, np.zeros(3, np.float32)
    floats = Elements("F32", base, ones)
    others = [
        Elements("I64", zeros, [zeros + k for k in range(3)]),
        Elements("BOOL", flags, [~flags] * 3),
    ]
    assert find_gram(lambda: [floats, *others]) == find_gram(lambda: [floats])
    wrong = Elements("BOOL", flags, [flags, flags, np.array([0, 2], np.uint8).view(bool)])
    with pytest.raises(BlobError, match="contributor 2"):
        find_gram(lambda: [floats, wrong])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    rows = [np.zeros(4), np.array([0, 0, value, 0]), np.zeros(4)]
    with pytest.raises(BlobError, match="contributor 1 has a value that is not finite"):
        gram_of("F64", np.zeros(4), rows)


def test_the_compiled_loop_gives_numpys_products(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    shape = (5, gram.PIECE_ELEMENTS)
    limits = (-(2**30), 2**30 + 1)
    for rows in (rng.integers(*limits, shape, np.int32), np.full(shape, -(2**30), np.int32)):
        assert fused_gram.multiply(rows) == gram._multiply_plainly(rows)
        exactly = sum(int(a) * int(b) for a, b in zip(rows[1], rows[0], strict=True))
        assert gram._multiply(rows)[0][1] == exactly


def test_large_models_are_multiplied_by_the_compiled_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    real = fused_gram.multiply

    def counted(rows: Array) -> tuple[Gram, Gram]:
        used.append(rows.shape[1])
        return real(rows)

    monkeypatch.setattr(fused_gram, "multiply", counted)
    for elements in (COMPILED_FROM_ELEMENTS - 1, COMPILED_FROM_ELEMENTS):
        gram_of("F32", np.zeros(elements, np.float32), [np.ones(elements, np.float32)] * 3)
    assert used[-1] == COMPILED_FROM_ELEMENTS
    assert COMPILED_FROM_ELEMENTS - 1 not in used


def test_a_compiled_loop_that_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    elements = COMPILED_FROM_ELEMENTS
    rows = [np.full(elements, k, np.float32) for k in range(3)]
    expected = gram_of("F32", np.zeros(elements, np.float32), rows)
    nothing = [[0] * (i + 1) for i in range(3)]
    monkeypatch.setattr(fused_gram, "multiply", lambda rows: (nothing, nothing))
    gram._load_compiled.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert gram_of("F32", np.zeros(elements, np.float32), rows) == expected
    finally:
        gram._load_compiled.cache_clear()
    assert "working without it" in caplog.text


def test_krum_keeps_the_update_nearest_to_the_others() -> None:
    line = points([[0.0], [1.0], [3.0], [3.5], [50.0]])
    # Squared distances to the two nearest others: 1+9, 1+4, .25+4, .25+6.25, …
    assert Krum(1).weigh(line) == (0, 0, 1, 0, 0)
    six = points([[0.0], [1.0], [3.0], [3.5], [4.5], [50.0]])
    # To the three nearest: 22.25, 11.25, 6.5, 7.5, 15.5, …
    assert MultiKrum(1, 3).weigh(six) == (0, 1, 1, 1, 0, 0)


def test_updates_that_score_the_same_are_kept_together() -> None:
    assert choose_nearest(points([[-1.0], [1.0], [9.0]]), 0, 1) == (1, 1, 0)
    assert Krum(1).weigh(points([[1.0]] * 5)) == (1, 1, 1, 1, 1)


@pytest.mark.parametrize("rule", [Krum(1), MultiKrum(1, 2), GeometricMedian()], ids=repr)
def test_the_order_of_contributors_does_not_show(rule: ByDistance) -> None:
    rows = np.random.default_rng(9).standard_normal((5, 20))
    rows[4] = rows[3]
    weights = rule.weigh(points(rows.tolist()))
    for order in permutations(range(5)):
        found = rule.weigh(points(rows[list(order)].tolist()))
        assert found == tuple(weights[k] for k in order)


def float_weiszfeld(rows: Array, steps: int) -> Array:
    centre = np.median(rows, axis=0)
    for _ in range(steps):
        weights = 1 / np.maximum(np.linalg.norm(rows - centre, axis=1), 1e-12)
        centre = weights @ rows / weights.sum()
    return np.asarray(centre)


@pytest.mark.parametrize("count", [3, 4, 8, 21])
def test_the_geometric_median_is_the_point_of_least_distance(count: int) -> None:
    def distance(point: Array) -> float:
        return float(np.linalg.norm(rows - point, axis=1).sum())

    rows = np.random.default_rng(count).standard_normal((count, 10))
    rows[0] *= 30
    weights = np.array(GeometricMedian().weigh(points(rows.tolist())))
    assert max(weights) == 1 << 24
    least = distance(float_weiszfeld(rows, 5000))
    assert distance(weights @ rows / weights.sum()) < least * (1 + 1e-5)
    assert distance(rows.mean(axis=0)) > least * 1.01


def test_a_majority_at_one_place_holds_the_geometric_median_there() -> None:
    weights = weigh_towards_centre(points([[1.0], [1.0], [1.0], [7.0], [-300.0]]), 8)
    assert weights[:3] == (1 << 24,) * 3
    assert max(weights[3:]) < 1 << 6


def test_the_safe_start_is_the_smallest_ball_with_a_majority() -> None:
    assert find_majority(points([[0.0], [10.0], [11.0], [12.0], [90.0]])) == [0, 1, 1, 1, 0]
    assert find_majority(points([[0.0], [1.0], [9.0], [10.0]])) == [1, 1, 1, 1]
    assert find_majority(points([[0.0], [1.0], [9.0]])) == [1, 1, 0]


RULES = [Krum(3), MultiKrum(3, 2), GeometricMedian()]


@pytest.mark.parametrize("size", [1e-30, 1.0, 100.0, 1e6, 1e30, 3e38])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_three_liars_of_nine_cannot_lead_astray(rule: ByDistance, size: float) -> None:
    """With numbers of any size; two of them hide behind a third with huge ones."""
    rng = np.random.default_rng(6)
    honest = 1 + 0.1 * rng.standard_normal((6, 200))
    liars = np.vstack([np.full(200, -10.0), np.full(200, -10.0), np.full(200, -size)])
    rows = [row.astype(np.float32) for row in np.vstack([liars, honest])]
    weights = rule.weigh(gram_of("F32", np.zeros(200, np.float32), rows))
    out = np.zeros(200, np.float32)
    rule.merge("F32", rows, weights, out)
    assert np.abs(out - 1).mean() < (0.8 if isinstance(rule, GeometricMedian) else 0.15)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_few_steps_are_enough_against_the_most_liars_with_huge_numbers(size: float) -> None:
    """From the mean of all, each step would leave four fifths of the way to them."""
    rng = np.random.default_rng(6)
    honest = 1 + 0.1 * rng.standard_normal((5, 200))
    rows = [row.astype(np.float32) for row in np.vstack([np.full((4, 200), -size), honest])]
    rule, out = GeometricMedian(3), np.zeros(200, np.float32)
    rule.merge("F32", rows, rule.weigh(gram_of("F32", np.zeros(200, np.float32), rows)), out)
    assert np.abs(out - 1).mean() < 0.5


def test_huge_float64_liars_leave_a_finite_result() -> None:
    largest = np.finfo(np.float64).max
    rows = [np.full(3, value) for value in (1.0, 1.1, 0.9, largest, -largest)]
    found = gram_of("F64", np.zeros(3), rows)
    for rule in (Krum(1), GeometricMedian()):
        out = np.zeros(3)
        rule.merge("F64", rows, rule.weigh(found), out)
        assert abs(out - 1).max() <= 0.1
    assert gram_of("F64", np.full(3, -largest), rows)[3][3] > 0  # a difference over the largest


def test_differences_too_small_for_any_scale_are_no_differences() -> None:
    assert points([[5e-324], [0.0], [1e-320]]) == [[0] * 3] * 3


def test_too_few_contributors_are_refused() -> None:
    for rule, count in ((Krum(1), 4), (MultiKrum(1, 4), 6), (GeometricMedian(), 2)):
        with pytest.raises(ValueError, match="contributors"):
            rule.weigh(points([[1.0]] * count))


@pytest.mark.parametrize("weights", [(0, 0, 0), (1, 1), (1, -1, 1), ()])
def test_weights_that_cannot_be_are_refused(weights: tuple[int, ...]) -> None:
    rows = [np.ones(2)] * 3
    with pytest.raises(ValueError, match="weigh"):
        Krum(1).merge("F64", rows, weights, np.zeros(2))


def test_integers_follow_the_chosen_updates_or_the_median() -> None:
    rows = [np.array([value], np.int64) for value in (2**62, 5, 3, 4)]
    out = np.zeros(1, np.int64)
    MultiKrum(1, 2).merge("I64", rows, (0, 0, 1, 1), out)
    assert out[0] == 4
    GeometricMedian().merge("I64", rows, (1, 9, 9, 9), out)
    assert out[0] == 5
