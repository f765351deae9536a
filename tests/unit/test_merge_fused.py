"""The compiled loops of a merge give the bits that numpy's give, or are not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import BlobError
from swarm.learning.folds import averages
from swarm.learning.folds import fused_mean as fused
from swarm.learning.folds.averages import FUSED_FROM_ELEMENTS
from swarm.learning.folds.formats import Array
from swarm.learning.folds.reduce import MEAN, SUM, Reduce

SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-45, 1.1754944e-38, 3e38, -3e38, 1.0], np.float32)


def some_updates(seed: int, count: int, elements: int) -> list[Array]:
    """Finite float32 numbers of every size, those that are special among them."""
    rng = np.random.default_rng(seed)
    updates = []
    for _ in range(count):
        bits = rng.integers(0, 2**32, elements, dtype=np.uint32)
        bits[(bits & 0x7F800000) == 0x7F800000] &= np.uint32(0x80FFFFFF)
        values = bits.view(np.float32)
        values[: elements // 8] = rng.choice(SPECIAL, elements // 8)
        values[elements // 8 : elements // 4] = rng.standard_normal(elements // 4 - elements // 8)
        values.setflags(write=False)  # as those of a mapped file
        updates.append(values)
    return updates


def merged(
    method: Reduce, updates: list[Array], samples: list[int], whole: bool
) -> tuple[bytes, str]:
    """The bits, or why there are none: of all at once, or of parts that only numpy merges."""
    out = np.zeros(len(updates[0]), np.float32)
    step = len(out) if whole else FUSED_FROM_ELEMENTS - 1
    try:
        for start in range(0, len(out), step):
            part = slice(start, start + step)
            method.merge("F32", [u[part] for u in updates], samples, out[part])
    except BlobError as error:
        return b"", str(error)
    return out.tobytes(), ""


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    samples=st.lists(st.integers(1, fused.MAX_FACTOR), min_size=1, max_size=9),
    method=st.sampled_from([MEAN, SUM]),
)
def test_compiled_loops_merge_to_the_same_bits_as_numpy(
    seed: int, samples: list[int], method: Reduce
) -> None:
    updates = some_updates(seed, len(samples), FUSED_FROM_ELEMENTS + 100)
    assert merged(method, updates, samples, True) == merged(method, updates, samples, False)


def test_large_float32_merges_are_compiled_and_counts_that_could_round_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []
    real = fused.merge

    def counted(inputs: list[Array], *rest: object) -> bool:
        used.append(len(inputs))
        return real(inputs, *rest)  # type: ignore[arg-type]

    updates = [np.ones(FUSED_FROM_ELEMENTS, np.float32)] * 3
    assert merged(MEAN, updates, [1, 2, 3], True)  # loaded and compared with numpy before
    monkeypatch.setattr(fused, "merge", counted)
    merged(MEAN, updates, [1, 2, 2**29], True)
    assert used == []
    merged(MEAN, updates, [1, 2, 2**29 - 1], True)
    assert used == [3] * -(-FUSED_FROM_ELEMENTS // averages.PIECE_ELEMENTS)


@pytest.mark.parametrize("place", [0, 5, FUSED_FROM_ELEMENTS - 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_compiled_loops_too(place: int, value: float) -> None:
    updates = [np.ones(FUSED_FROM_ELEMENTS, np.float32) for _ in range(3)]
    updates[1][place] = value
    out = np.empty(FUSED_FROM_ELEMENTS, np.float32)
    with pytest.raises(BlobError, match=f"contributor 1 has a value that is not finite: {value}"):
        MEAN.merge("F32", updates, [1, 2, 3], out)


def test_arrays_that_lie_across_words_are_left_to_numpy() -> None:
    raw = np.zeros(4 * FUSED_FROM_ELEMENTS + 1, np.uint8)
    crooked = raw[1:].view(np.float32)
    assert not fused.takes([crooked], [1.0], np.empty(FUSED_FROM_ELEMENTS, np.float32))
    assert merged(MEAN, [crooked], [1], True)[1] == ""


def test_compiled_loops_that_differ_from_numpy_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(inputs: object, factors: object, divisor: object, out: Array, acc: object) -> bool:
        out[:] = 7
        return True

    monkeypatch.setattr(fused, "merge", wrong)
    averages._load_fused.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            bits, _ = merged(MEAN, [np.ones(FUSED_FROM_ELEMENTS, np.float32)], [1], True)
    finally:
        averages._load_fused.cache_clear()
    assert bits == np.ones(FUSED_FROM_ELEMENTS, np.float32).tobytes()
    assert "merging without them" in caplog.text
