"""Order statistics are exactly the stated arithmetic, whoever sent which value."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from harness.exact import UNSIGNED, as_array, exact, finite_bits, rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BlobError
from swarm.learning.folds.formats import Array
from swarm.learning.folds.medians import sort_rows
from swarm.learning.folds.reduce import Krum, Maximum, Median, Reduce, Trimmed
from swarm.tensors import NUMPY_DTYPES, DType

FLOAT_TYPES = ["F64", "F32", "F16", "BF16"]
INTEGER_TYPES = ["I64", "I32", "I16", "I8", "U8"]
RULES = [Maximum(), Median(), Trimmed(0.1), Trimmed(0.3)]


def dropped(rule: Reduce, count: int) -> int:
    """How many values the definition leaves out at either end."""
    if isinstance(rule, Median):
        return (count - 1) // 2
    assert isinstance(rule, Trimmed)
    tenths = round(10 * rule.share)
    return min(-(-tenths * count // 10), (count - 1) // 2)


def place(bits: int, dtype: str) -> tuple[Fraction, bool]:
    """Where a float stands in the order: zeros by their sign."""
    return exact(bits, dtype), bits < 1 << 8 * np.dtype(UNSIGNED[dtype]).itemsize - 1


def reference(rule: Reduce, column: list[int], dtype: str) -> Fraction | None:
    """The stated arithmetic, each operation exact and then rounded; None where it overflows."""
    ordered = sorted(column, key=lambda bits: place(bits, dtype))
    if isinstance(rule, Maximum):
        return exact(ordered[-1], dtype)
    drop = dropped(rule, len(ordered))
    kept = [exact(bits, dtype) for bits in ordered[drop : len(ordered) - drop]]
    acc: Fraction | None = kept[0]
    for value in kept[1:]:
        assert acc is not None
        acc = rounded(acc + value, "F64")
        if acc is None:
            return None
    assert acc is not None
    mean = rounded(acc / len(kept), "F64")
    assert mean is not None
    return rounded(mean, dtype)


def merged(rule: Reduce, dtype: DType, inputs: list[Array]) -> Array:
    out = np.zeros_like(inputs[0])
    rule.merge(dtype, inputs, [1] * len(inputs), out)
    return out


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_floats_reduce_as_exact_arithmetic_says(
    dtype: DType, rule: Reduce, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, 8))
    row = st.lists(finite_bits(dtype), min_size=4, max_size=4)
    bits = [data.draw(row) for _ in range(count)]
    if count > 1 and data.draw(st.booleans()):
        bits[-1] = bits[0]  # ties
    inputs = [as_array(values, dtype) for values in bits]
    expected = [reference(rule, [r[column] for r in bits], dtype) for column in range(4)]
    if None in expected:
        with pytest.raises(BlobError, match="do not fit"):
            merged(rule, dtype, inputs)
        return
    found = merged(rule, dtype, inputs).view(UNSIGNED[dtype])
    assert [exact(int(value), dtype) for value in found] == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12])
def test_the_network_sorts_all_zeros_and_ones(count: int) -> None:
    """And hence everything: Knuth's zero-one principle."""
    columns = np.array(list(product([0, 1], repeat=count)), np.int8).T
    rows = sort_rows([row.copy() for row in columns])
    assert np.array_equal(np.array(rows), np.sort(columns, axis=0))


@pytest.mark.parametrize("count", [31, 64, 100, 256])
def test_the_network_sorts_many_rows(count: int) -> None:
    columns = np.random.default_rng(count).integers(-9, 9, (count, 300), np.int32)
    rows = sort_rows([row.copy() for row in columns])
    assert np.array_equal(np.array(rows), np.sort(columns, axis=0))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_the_order_of_contributors_does_not_show(rule: Reduce, dtype: DType) -> None:
    rng = np.random.default_rng(3)
    wide = rng.standard_normal((5, 64)) * 10.0 ** rng.integers(-5, 5, (5, 64))
    wide[:, :4] = [[0.0], [-0.0], [0.0], [-0.0], [0.0]]
    if dtype == "BF16":
        inputs = [row.astype(np.float32).view(np.uint32) >> 16 for row in wide]
        rows = [row.astype(np.uint16) for row in inputs]
    else:
        rows = [row.astype(NUMPY_DTYPES[dtype]) for row in wide]
    results = {merged(rule, dtype, list(order)).tobytes() for order in permutations(rows)}
    assert len(results) == 1


def test_negative_zero_comes_before_zero() -> None:
    zeros = [np.array([value], np.float32) for value in (0.0, -0.0, -0.0)]
    assert np.signbit(merged(Median(), "F32", zeros)[0])
    assert not np.signbit(merged(Maximum(), "F32", zeros)[0])


def test_one_value_in_the_middle_is_kept_bit_for_bit() -> None:
    rows = [np.array([value]) for value in (5e-324, 1.7976931348623157e308, -1.0)]
    assert merged(Median(), "F64", rows).tolist() == [5e-324]


@pytest.mark.parametrize("dtype", INTEGER_TYPES)
def test_integers_take_the_upper_median_and_the_largest_of_what_is_left(dtype: DType) -> None:
    limits = np.iinfo(NUMPY_DTYPES[dtype])
    four = [np.array([v], NUMPY_DTYPES[dtype]) for v in (limits.max, 7, limits.min, 3)]
    assert merged(Median(), dtype, four).tolist() == [7]
    assert merged(Trimmed(0.1), dtype, four).tolist() == [7]
    assert merged(Maximum(), dtype, four).tolist() == [limits.max]
    assert merged(Median(), dtype, four[1:]).tolist() == [3]


def test_booleans_are_true_where_at_least_half_are() -> None:
    rows = [np.array(v) for v in ([True, True], [True, False], [False, False], [False, False])]
    assert merged(Median(), "BOOL", rows).tolist() == [True, False]
    assert merged(Trimmed(0.1), "BOOL", rows).tolist() == [True, False]
    assert merged(Maximum(), "BOOL", rows).tolist() == [True, True]
    rows[2] = np.array([0, 2], np.uint8).view(bool)
    for rule in RULES:
        with pytest.raises(BlobError, match="contributor 2"):
            merged(rule, "BOOL", rows)


@pytest.mark.parametrize("rule", [*RULES, Krum(1)], ids=repr)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_what_is_not_finite_is_refused_though_it_would_be_left_out(
    rule: Reduce, value: float, dtype: DType
) -> None:
    rows = [np.full(3, k, NUMPY_DTYPES[dtype]) for k in range(5)]
    rows[3][1] = value
    weights = [1, 0, 0, 0, 0]
    with pytest.raises(BlobError, match="contributor 3 has a value that is not finite"):
        rule.merge(dtype, rows, weights, np.zeros_like(rows[0]))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7F81, 0xFFFF])
def test_a_bfloat16_that_is_not_finite_is_refused(rule: Reduce, bits: int) -> None:
    rows = [np.full(3, 0x3F80, np.uint16) for _ in range(5)]
    rows[4][2] = bits
    with pytest.raises(BlobError, match=f"contributor 4 .*0x{bits:04x}"):
        merged(rule, "BF16", rows)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_pieces_join_without_a_seam(rule: Reduce) -> None:
    rng = np.random.default_rng(8)
    rows = [rng.standard_normal(200_003).astype(np.float32) for _ in range(4)]
    whole = merged(rule, "F32", rows)
    cuts = [slice(0, 1), slice(1, 65_537), slice(65_537, 200_003)]
    parts = [merged(rule, "F32", [row[cut] for row in rows]) for cut in cuts]
    assert whole.tobytes() == np.concatenate(parts).tobytes()


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.1, {1: 0, 2: 0, 3: 1, 8: 1, 10: 1, 11: 2, 20: 2}),
        (0.3, {3: 1, 5: 2, 10: 3, 11: 4, 20: 6}),
        (0.4, {4: 1, 5: 2, 6: 2, 7: 3, 8: 3, 10: 4}),
    ],
)
def test_a_share_is_the_decimal_as_written_and_rounded_up(
    share: float, counts: dict[int, int]
) -> None:
    assert {count: Trimmed(share).bears(count) for count in counts} == counts


def test_no_tensor_is_too_small() -> None:
    for dtype in NUMPY_DTYPES:
        empty = np.zeros(0, NUMPY_DTYPES[dtype])
        for rule in RULES:
            rule.merge(dtype, [empty, empty], [1, 1], empty.copy())  # type: ignore[arg-type]
