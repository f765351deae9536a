"""Merging is exactly the stated arithmetic: checked against rational numbers, pinned by digests."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import numpy as np
import pytest
import torch
from blake3 import blake3
from harness.exact import UNSIGNED, as_array, exact, finite_bits, rounded
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BlobError, LocalError
from swarm.learning.folds.averages import PIECE_ELEMENTS
from swarm.learning.folds.formats import narrow
from swarm.learning.folds.golden import self_check
from swarm.learning.folds.reduce import MEAN, SUM, Reduce
from swarm.learning.folds.vectors import GOLDEN_WEIGHTS, golden_input
from swarm.tensors import NUMPY_DTYPES, DType


def reference(
    dtype: str, contributions: list[Fraction], samples: list[int] | None
) -> Fraction | None:
    """The stated arithmetic, each operation exact and then rounded to float64."""
    acc: Fraction | None = None
    for value, count in zip(contributions, samples or [1] * len(contributions), strict=True):
        product = rounded(value * count, "F64")
        if product is None:
            return None
        acc = product if acc is None else rounded(acc + product, "F64")
        if acc is None:
            return None
    assert acc is not None
    if samples is not None:
        acc = rounded(acc / sum(samples), "F64")
        assert acc is not None
    return rounded(acc, dtype)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("method", [MEAN, SUM], ids=lambda method: method.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_floats_merge_as_exact_arithmetic_says(
    dtype: DType, method: Reduce, data: st.DataObject
) -> None:
    contributors = data.draw(st.integers(1, 5))
    bits = [
        data.draw(st.lists(finite_bits(dtype), min_size=4, max_size=4)) for _ in range(contributors)
    ]
    samples = data.draw(
        st.lists(st.integers(1, 2**40), min_size=contributors, max_size=contributors)
    )
    inputs = [as_array(row, dtype) for row in bits]
    out = np.zeros_like(inputs[0])
    expected = [
        reference(
            dtype,
            [exact(row[column], dtype) for row in bits],
            samples if method is MEAN else None,
        )
        for column in range(4)
    ]
    if None in expected:
        with pytest.raises(BlobError, match="do not fit"):
            method.merge(dtype, inputs, samples, out)
        return
    method.merge(dtype, inputs, samples, out)
    merged = [exact(int(value), dtype) for value in out.view(UNSIGNED[dtype])]
    assert merged == expected


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_mean_of_one_contributor_is_its_own_bits(dtype: DType, data: st.DataObject) -> None:
    if dtype == "F64":
        bits = [0x3FF5_5555_5555_5555, 1 << 63, 1]  # a large one may overflow times its samples
    else:
        bits = data.draw(st.lists(finite_bits(dtype), min_size=3, max_size=3))
    values = as_array(bits, dtype)
    out = np.zeros_like(values)
    MEAN.merge(dtype, [values], [1 if dtype == "F64" else data.draw(st.integers(1, 2**29))], out)
    assert out.tobytes() == values.tobytes()


def test_a_weighted_mean_by_hand() -> None:
    out = np.zeros(2, np.float32)
    inputs = [np.array([1.0, 10.0], np.float32), np.array([4.0, -20.0], np.float32)]
    MEAN.merge("F32", inputs, [2, 1], out)
    assert out.tolist() == [2.0, 0.0]


def test_multiplying_happens_in_float64() -> None:
    out = np.zeros(1, np.float32)
    third = np.array([1 / 3], np.float32)
    MEAN.merge("F32", [third, third, third], [3, 5, 11], out)
    assert out[0] == third[0]  # in float32 the products would have been rounded


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("dtype", "half_step", "one"), [("F16", 2.0**-11, 0x3C00), ("BF16", 2.0**-8, 0x3F80)]
)
def test_float16_and_bfloat16_are_rounded_once_not_twice(
    dtype: DType, half_step: float, one: int, sign: float
) -> None:
    # Beside the middle between two neighbours; in float32 it would be the very middle.
    values = np.array([1 + half_step + 2.0**-40, 1 + 3 * half_step - 2.0**-40]) * sign
    out = np.zeros(2, np.uint16)
    narrow(dtype, values, out.view(np.float16) if dtype == "F16" else out)
    assert (out & 0x7FFF).tolist() == [one + 1, one + 1]


def test_pieces_join_without_a_seam() -> None:
    length = 2 * PIECE_ELEMENTS + 77
    random = np.random.default_rng(5)
    inputs = [random.standard_normal(length).astype(np.float32) for _ in range(3)]
    whole, parts = np.zeros(length, np.float32), np.zeros(length, np.float32)
    MEAN.merge("F32", inputs, [3, 1, 2], whole)
    for cut in (slice(0, 1001), slice(1001, length)):
        MEAN.merge("F32", [values[cut] for values in inputs], [3, 1, 2], parts[cut])
    assert whole.tobytes() == parts.tobytes()
    assert np.allclose(whole, (3 * inputs[0] + inputs[1] + 2 * inputs[2]) / 6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", [MEAN, SUM], ids=lambda method: method.name)
def test_a_value_that_is_not_finite_is_refused_and_its_contributor_named(
    dtype: DType, value: float, method: Reduce
) -> None:
    inputs = [np.ones(PIECE_ELEMENTS + 5, f"f{8 if dtype == 'F64' else 4}") for _ in range(3)]
    if dtype == "F16":
        inputs = [values.astype(np.float16) for values in inputs]
    inputs[1][-1] = value
    with pytest.raises(BlobError, match="contributor 1 has a value that is not finite"):
        method.merge(dtype, inputs, [1, 1, 1], np.zeros_like(inputs[0]))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7F81, 0x7FFF, 0xFFFF])
def test_a_bfloat16_that_is_not_finite_is_refused(bits: int) -> None:
    inputs = [np.zeros(3, np.uint16), np.array([0, 0, bits], np.uint16)]
    with pytest.raises(BlobError, match=f"contributor 1 .*0x{bits:04x}"):
        MEAN.merge("BF16", inputs, [1, 1], np.zeros(3, np.uint16))


def test_a_sum_that_leaves_its_type_is_refused_with_no_contributor_to_blame() -> None:
    inputs = [np.array([3e38], np.float32)] * 2
    with pytest.raises(BlobError, match="all contributions are finite"):
        SUM.merge("F32", inputs, [1, 1], np.zeros(1, np.float32))


def test_integers_take_the_maximum_in_a_mean_and_add_exactly_in_a_sum() -> None:
    inputs = [np.array([2**53 + 1, -5], np.int64), np.array([7, -3], np.int64)]
    out = np.zeros(2, np.int64)
    MEAN.merge("I64", inputs, [1, 100], out)
    assert out.tolist() == [2**53 + 1, -3]
    SUM.merge("I64", inputs, [1, 100], out)
    assert out.tolist() == [2**53 + 8, -8]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("I64", [2**63 - 1, 1]),
        ("I64", [-(2**63), -1]),
        ("I32", [2**31 - 1, 1]),
        ("I16", [-(2**15), -1]),
        ("I8", [127, 1]),
        ("U8", [255, 1]),
    ],
)
def test_a_sum_of_integers_that_overflows_is_refused(dtype: DType, values: list[int]) -> None:
    numpy_dtype = "u1" if dtype == "U8" else f"i{int(dtype[1:]) // 8}"
    inputs = [np.array([value, 0], numpy_dtype) for value in values]
    with pytest.raises(BlobError, match="does not fit"):
        SUM.merge(dtype, inputs, [1, 1], np.zeros(2, numpy_dtype))


@pytest.mark.parametrize("method", [MEAN, SUM], ids=lambda method: method.name)
def test_booleans_are_ored_and_other_bytes_refused(method: Reduce) -> None:
    merge = method.merge
    out = np.zeros(3, bool)
    merge("BOOL", [np.array([True, False, False]), np.array([False, False, True])], [1, 1], out)
    assert out.tolist() == [True, False, True]
    with pytest.raises(BlobError, match="contributor 1"):
        merge("BOOL", [out, np.array([0, 2, 1], np.uint8).view(bool)], [1, 1], np.zeros(3, bool))


@pytest.mark.parametrize("samples", [[], [1], [1, 0], [1, -2], [1, 2**53], [1, 2, 3]])
def test_sample_counts_that_cannot_be_weights_are_refused(samples: list[int]) -> None:
    inputs = [np.ones(1, np.float32)] * 2
    with pytest.raises(ValueError, match="sample counts"):
        MEAN.merge("F32", inputs, samples, np.zeros(1, np.float32))


def test_empty_tensors_merge_to_empty_ones() -> None:
    for dtype, numpy_dtype in (("F32", "f4"), ("I8", "i1"), ("BOOL", "?"), ("BF16", "u2")):
        for method in (MEAN, SUM):
            empty = np.zeros(0, numpy_dtype)
            method.merge(dtype, [empty, empty], [1, 1], empty.copy())  # type: ignore[arg-type]


def test_means_and_sums_are_those_of_the_first_release() -> None:
    hasher = blake3()
    for name, numpy_dtype in NUMPY_DTYPES.items():
        dtype = cast(DType, name)
        inputs = [golden_input(dtype, contributor) for contributor in range(3)]
        for method in (MEAN, SUM):
            out = np.empty(512, numpy_dtype)
            method.merge(dtype, inputs, GOLDEN_WEIGHTS[:3], out)
            hasher.update(out.tobytes())
    pinned = "133870ba365c57f8a786f4295dcf7e44eb7f8e004cd2fc584a7b70b5f2e57790"
    assert hasher.hexdigest() == pinned


def test_flush_to_zero_is_found() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no flush-to-zero mode")
    try:
        with pytest.raises(LocalError, match="flush"):
            self_check()
    finally:
        torch.set_flush_denormal(False)
    self_check()
