"""Masked sums by their numbers: nothing wraps, masks cancel, a spoiled sum is noticed."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import PlanError
from swarm.privacy import canaries
from swarm.privacy.fixed_point import Grid, Words, add, mean_grid, sum_grid, weights
from swarm.privacy.masks import PIECE_BYTES, RandomWords, add_masks, sign_of

SEED = bytes(range(32))


def drawn(seed: int = 0) -> RandomWords:
    return RandomWords(seed.to_bytes(32, "big"))


def always_up(count: int) -> Words:
    return np.zeros(count, np.uint32)


def summed(grid: Grid, updates: list[np.ndarray], shares: list[float], seed: int = 0) -> Words:
    total = np.zeros(len(updates[0]), grid.dtype)
    for i, (update, share) in enumerate(zip(updates, shares, strict=True)):
        add(total, grid.encode(update, share, drawn(seed + i)))
    return total


@given(
    st.lists(st.integers(1, 2**45), min_size=1, max_size=12),
    st.floats(1e-6, 1e6),
    st.integers(0, 2**32),
)
def test_the_mean_comes_back_to_within_a_step_for_each_member(
    samples: list[int], clip: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    updates = [rng.uniform(-2 * clip, 2 * clip, 50) for _ in samples]
    grid = mean_grid(clip, len(samples))
    decoded = grid.decode(summed(grid, updates, weights(samples), seed % 1000), 1.0)
    clipped = [np.clip(u, -clip, clip) for u in updates]
    expected = sum(u * w for u, w in zip(clipped, weights(samples), strict=True))
    assert np.abs(decoded - expected).max() <= len(samples) * grid.step * (1 + 1e-9)


@pytest.mark.parametrize("members", [1, 2, 7, 64, 256])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nothing_wraps_though_everybody_is_at_the_clip_bound(members: int, sign: float) -> None:
    grid = mean_grid(8.0, members)
    samples = [random.Random(members).randrange(1, 2**45) for _ in range(members)]
    updates = [np.full(1, 1e30 * sign)] * members
    total = np.zeros(1, grid.dtype)
    for update, share in zip(updates, weights(samples), strict=True):
        add(total, grid.encode(update, share, always_up))
    assert np.sign(grid.decode(total, 1.0)) == sign
    assert abs(grid.decode(total, 1.0)[0]) == pytest.approx(8.0, rel=1e-6)


def test_clipping_comes_before_weighing() -> None:
    grid = mean_grid(1.0, 2)
    total = summed(grid, [np.array([50.0]), np.array([0.0])], [0.01, 0.99])
    assert grid.decode(total, 1.0)[0] == pytest.approx(0.01, abs=3 * grid.step)


def test_the_mean_is_that_of_those_who_contributed() -> None:
    grid = mean_grid(1.0, 3)
    shares = weights([1, 1, 2])
    total = summed(grid, [np.array([0.5]), np.array([0.25])], shares[:2])
    assert grid.decode(total, sum(shares[:2]))[0] == pytest.approx(0.375, abs=1e-8)


def test_rounding_is_right_on_average() -> None:
    grid = Grid(1.0, 1.0, 32)
    words = grid.encode(np.full(200_000, 1 / 3), 1.0, drawn())
    assert set(words.tolist()) == {0, 1}
    assert words.mean() == pytest.approx(1 / 3, abs=0.005)


def test_whole_numbers_are_never_rounded() -> None:
    grid = Grid(100.0, 1.0, 32)
    assert grid.encode(np.array([-7.0, 0.0, 5.0]), 1.0, always_up).view("<i4").tolist() == [
        -7,
        0,
        5,
    ]


@given(st.lists(st.lists(st.integers(0, 2**40), min_size=3, max_size=3), min_size=1, max_size=9))
def test_sums_of_counts_are_exact(columns: list[list[int]]) -> None:
    grid = sum_grid(2.0**40, 9)
    updates = [np.array(row, np.float64) for row in columns]
    total = summed(grid, updates, [1.0] * len(updates))
    assert grid.decode(total, 1.0).tolist() == [sum(c) for c in zip(*columns, strict=True)]


def test_sums_of_fractions_are_exact_to_fifty_bits() -> None:
    grid = sum_grid(1000.0, 5)
    total = summed(grid, [np.array([999.123456789])] * 5, [1.0] * 5)
    assert grid.decode(total, 1.0)[0] == pytest.approx(5 * 999.123456789, rel=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(PlanError, match=f"an element of the update is {bad}"):
        mean_grid(1.0, 2).encode(np.array([0.0, 1.0, bad]), 0.5, drawn())


@pytest.mark.parametrize("weight", [0.0, -0.1, 1.1, float("nan")])
def test_weights_lie_above_zero_and_at_most_at_one(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        mean_grid(1.0, 2).encode(np.zeros(1), weight, drawn())


@pytest.mark.parametrize(
    ("clip", "members"), [(0.0, 2), (float("nan"), 2), (float("inf"), 2), (1.0, 0), (1.0, 257)]
)
def test_bounds_and_members_that_make_no_grid_are_refused(clip: float, members: int) -> None:
    with pytest.raises(ValueError):
        mean_grid(clip, members)


# Masks.


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
@pytest.mark.parametrize("size", [0, 1, 5, PIECE_BYTES // 4 + 3])
def test_masks_of_pairs_cancel_and_self_masks_come_off(dtype: str, size: int) -> None:
    members = range(4)
    keys = {(i, j): os.urandom(32) for i in members for j in members if i < j}
    own = {i: os.urandom(32) for i in members}
    plain = [np.arange(size, dtype=dtype) * (i + 1) for i in members]
    total = np.zeros(size, dtype)
    for i in members:
        shown = plain[i].copy()
        pairs = [(keys[min(i, j), max(i, j)], sign_of(i, j)) for j in members if j != i]
        add_masks(shown, [*pairs, (own[i], 1)])
        assert size < 5 or not (shown == plain[i]).any()
        add(total, shown)
    add_masks(total, [(own[i], -1) for i in members])
    assert (total == sum(plain)).all()


def test_the_keystream_is_chacha20_of_rfc_8439() -> None:
    """Appendix A.1, test vector 1: the first block of the zero key."""
    words = np.zeros(8, "<u4")
    add_masks(words, [(bytes(32), 1)])
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert words.tobytes().hex() == expected


def test_random_words_go_on_where_they_stopped() -> None:
    one, two = RandomWords(SEED), RandomWords(SEED)
    assert (one(10) == np.concatenate([two(4), two(6)])).all()
    assert len(RandomWords(SEED)(PIECE_BYTES)) == PIECE_BYTES


# Canaries.


INSIDE = canaries.CHUNK_WORDS - 2


@pytest.mark.parametrize("size", [0, 1, 100, INSIDE - 1, INSIDE, INSIDE + 1, 3 * INSIDE, 600_000])
def test_chunks_follow_each_other_and_fill_their_frames(size: int) -> None:
    found = list(canaries.chunks(size))
    assert [start for start, _ in found[1:]] == [stop for _, stop in found[:-1]]
    assert (found[0][0], found[-1][1]) == (0, size)
    ends = (k * canaries.CHUNK_WORDS + stop - start + 2 for k, (start, stop) in enumerate(found))
    assert max(ends) == canaries.framed_size(size)


def framed(size: int, dtype: str = "<u4") -> np.ndarray:
    chunk = np.zeros(size + 2, dtype)
    chunk[1:-1] = np.arange(1, size + 1)
    return chunk


@pytest.mark.parametrize("dtype", ["<u4", "<u8"])
def test_a_chunk_gives_back_what_it_holds_and_notices_a_zero_that_is_none(dtype: str) -> None:
    found = canaries.unframe(framed(9, dtype))
    assert found is not None
    assert found.tolist() == list(range(1, 10))
    for at in (0, -1):
        spoiled = framed(9, dtype)
        spoiled[at] += 1
        assert canaries.unframe(spoiled) is None


def test_a_mask_that_does_not_cancel_spoils_the_sum() -> None:
    chunk = framed(1000)
    add_masks(chunk, [(SEED, 1)])
    assert canaries.unframe(chunk) is None
