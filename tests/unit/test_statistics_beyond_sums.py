"""Quantiles, ranges and vocabularies of all sites, from sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import swarm
from swarm.learning.data.bins import edges_of
from swarm.learning.parameters.named_tensors import read_arrays, write_arrays
from swarm.rounds.small_counts import withhold


def test_quantiles_of_summed_histograms_are_those_of_all_rows_to_a_bin() -> None:
    r = np.random.default_rng(0)
    x = np.stack([r.normal(70, 12, 3000), r.exponential(1e-3, 3000), r.normal(0, 1e5, 3000)], 1)
    x[::7, 0] = np.nan
    summed = sum(swarm.histogram(x[i::4]) for i in range(4))
    assert isinstance(summed, np.ndarray)
    at = [0.05, 0.25, 0.5, 0.75, 0.95]
    exact = np.nanquantile(x[:, :2], at, axis=0)
    np.testing.assert_allclose(swarm.quantiles(summed, at)[:, :2], exact, rtol=1 / 64, atol=2**-15)


def test_all_values_lie_within_the_range_that_is_told_and_nearly_fill_it() -> None:
    r = np.random.default_rng(1)
    x = r.normal(3, 20, (500, 2))
    low, high = swarm.value_range(swarm.histogram(x[:200]) + swarm.histogram(x[200:]))
    assert (low <= x.min(0)).all()
    assert (x.max(0) <= high).all()
    np.testing.assert_allclose(low, x.min(0), rtol=1 / 64)
    np.testing.assert_allclose(high, x.max(0), rtol=1 / 64)


def test_a_column_without_values_has_no_quantiles() -> None:
    summed = swarm.histogram(np.full((5, 1), np.nan))
    assert np.isnan(swarm.quantiles(summed, 0.5)).all()
    assert swarm.histogram(np.zeros((0, 3))).shape[0] == 3


def test_what_is_no_histogram_or_part_is_refused() -> None:
    with pytest.raises(ValueError, match="no number of bins"):
        swarm.quantiles(np.ones((2, 10)), 0.5)
    with pytest.raises(ValueError, match="from 0 to 1"):
        swarm.quantiles(swarm.histogram([[1.0]]), 50)
    with pytest.raises(ValueError, match="1 to 10 bits"):
        swarm.histogram([[1.0]], bits=20)


@given(st.floats(-60000, 60000), st.integers(1, 8))
def test_a_value_lies_between_the_edges_of_its_bin(value: float, bits: int) -> None:
    place = int(np.flatnonzero(swarm.histogram([[value]], bits)[0])[0])
    edges = edges_of(bits)
    assert edges[place] <= value <= edges[place + 1]


def test_unstandardise_gives_back_what_was_standardised() -> None:
    r = np.random.default_rng(2)
    x = np.concatenate([r.normal(100, 5, (50, 2)), np.full((50, 1), 7.0)], axis=1)
    known = swarm.moments(x)
    back = swarm.unstandardise(swarm.standardise(x, known), known)
    np.testing.assert_allclose(back, x, rtol=1e-5)


def test_values_that_are_declared_are_counted_in_their_order() -> None:
    assert swarm.tally([3, 1, 3], among=[1, 2, 3]).tolist() == [1, 0, 2]
    assert swarm.tally(["a", "b", "b"], among="ab", at_least=2).tolist() == [0, 2]
    with pytest.raises(ValueError, match="'x' is none of a, b"):
        swarm.tally(["x"], among="ab")


def test_vocabularies_that_nobody_knew_are_joined_by_a_sum() -> None:
    sites = [["icu", "icu", "general"], ["general", "Stroke Unit"], ["pédiatrie", "icu"], []]
    summed = sum(swarm.tally(words) for words in sites)
    assert isinstance(summed, np.ndarray)
    assert swarm.read_tally(summed) == {"Stroke Unit": 1, "general": 2, "icu": 3, "pédiatrie": 1}


@pytest.mark.parametrize("seed", range(20))
def test_as_many_words_as_there_is_room_for_are_told_apart(seed: int) -> None:
    r = np.random.default_rng(seed)
    words = [f"code {n}" for n in r.choice(10**6, 256, replace=False)]
    sites = [list(r.choice(words, 300)) for _ in range(24)]
    summed = sum(swarm.tally(own) for own in sites)
    assert isinstance(summed, np.ndarray)
    found = swarm.read_tally(summed)
    assert found == {w: sum(s.count(w) for s in sites) for w in sorted(set().union(*sites))}
    assert sum(found.values()) == 24 * 300


def test_more_words_than_there_is_room_for_are_refused_and_not_misread() -> None:
    summed = swarm.tally([str(n) for n in range(500)], room=100)
    with pytest.raises(ValueError, match="more than about 128 different values"):
        swarm.read_tally(summed)
    with pytest.raises(ValueError, match="at most 48 bytes"):
        swarm.tally(["x" * 49])
    with pytest.raises(ValueError, match="no sum of tallies"):
        swarm.read_tally(np.ones(3))


def test_rare_words_of_a_site_are_not_told() -> None:
    summed = swarm.tally(["rare", "often", "often"], at_least=2)
    assert swarm.read_tally(summed) == {"often": 2}


@given(st.lists(st.lists(st.text(max_size=12).filter(lambda w: not w.endswith("\0"))), max_size=4))
def test_any_words_come_back(sites: list[list[str]]) -> None:
    summed = np.sum([swarm.tally(s) for s in ([], *sites)], axis=0)
    joined = [w for s in sites for w in s]
    assert swarm.read_tally(summed) == {w: joined.count(w) for w in sorted(set(joined))}


def test_joined_words_outlive_a_site_that_tells_of_no_few_rows(tmp_path: Path) -> None:
    file = tmp_path / "statistics"
    words = ["icu"] * 12 + ["general"] * 10 + ["rare"] * 9
    write_arrays(file, {"ward": swarm.tally(words, at_least=10)})
    assert withhold(file, 10) == {}
    summed = read_arrays(file)["ward"] + swarm.tally(["icu"] * 10, at_least=10)
    assert swarm.read_tally(summed) == {"general": 10, "icu": 22}
