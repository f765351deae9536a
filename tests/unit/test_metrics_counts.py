"""Counts that sites add up: what they say of all rows, and what of them is believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from swarm import metrics
from swarm.errors import BlobError
from swarm.learning.data.bins import bins_of, centres_of
from swarm.learning.metrics.counts import Counts, Figure
from swarm.learning.metrics.probabilities import Calibration
from swarm.learning.metrics.sums import read_sum, sum_of
from swarm.learning.metrics.wire import SentCounts, decode_all, encode_all, merge_all, pack, unpack
from swarm.learning.simulation.whole_run import run_federated

EXAMPLES = Path(__file__).parents[2] / "examples"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(kind: str, rows: int, seed: int) -> Counts:
    """Counts of each kind, of so many random rows."""
    r = rng(seed)
    z = r.normal(0, 2, rows)
    y = (r.random(rows) < 1 / (1 + np.exp(-z))).astype(float)
    three = r.integers(0, 3, rows)
    made: dict[str, Callable[[], Counts]] = {
        "roc": lambda: metrics.roc(y, z),
        "classes": lambda: metrics.roc(three, r.normal(0, 1, (rows, 3))),
        "calibration": lambda: metrics.calibration(y, z),
        "confusion": lambda: metrics.confusion(three, r.integers(0, 3, rows), 3),
        "errors": lambda: metrics.errors(z, z + r.normal(0, 1, rows)),
        "average": lambda: metrics.average(z),
        "concordance": lambda: metrics.concordance(np.exp(-z), y, z, until=5.0),
    }
    return made[kind]()


KINDS = ("roc", "classes", "calibration", "confusion", "errors", "average", "concordance")


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_sites_add_up_in_any_order_to_the_same(kind: str) -> None:
    sites = [drawn(kind, rows, seed) for seed, rows in enumerate((40, 3, 0, 77))]
    merged = metrics.merge(sites)
    assert merged == metrics.merge(sites[::-1])
    assert merged.rows == 120
    assert merged.values.dtype == np.int64
    assert all(f.rows <= 120 for f in merged.figures().values())


@pytest.mark.parametrize("kind", ["roc", "classes", "confusion", "concordance"])
def test_histograms_of_sites_are_those_of_all_rows(kind: str) -> None:
    r = rng()
    y, z = r.integers(0, 3, 90), r.normal(0, 1, (90, 3))
    make: dict[str, Callable[[slice], Counts]] = {
        "roc": lambda s: metrics.roc(y[s] > 0, z[s, 0]),
        "classes": lambda s: metrics.roc(y[s], z[s]),
        "confusion": lambda s: metrics.confusion(y[s], z[s], 3),
        "concordance": lambda s: metrics.concordance(np.abs(z[s, 0]), y[s] > 0, z[s, 1], until=2.0),
    }
    parts = [make[kind](slice(0, 10)), make[kind](slice(10, 90))]
    assert metrics.merge(parts) == make[kind](slice(0, 90))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_of_no_rows_say_nothing_and_break_nothing(kind: str) -> None:
    empty = drawn(kind, 0, 0)
    assert empty.rows == 0
    named = {"events"}  # of which there are 0
    assert all(f.value is None for name, f in empty.figures().items() if name not in named)
    assert math.isnan(float(empty))


def test_an_auc_from_bins_is_the_exact_one_within_the_tied_pairs() -> None:
    for seed, scale in enumerate((0.01, 1.0, 30.0)):
        r = rng(seed)
        y = r.integers(0, 2, 400)
        z = scale * (r.normal(0, 1, 400) + y)
        counts = metrics.roc(y, z)
        exact = metrics.auc(y, z)
        tied = counts.figures()["tied pairs"].value
        assert tied is not None
        assert abs(float(counts) - exact) <= tied / 2 + 1e-12
        assert float(counts) == pytest.approx(exact, abs=0.002)


@pytest.mark.parametrize("example", ["heart", "stroke", "tuberculosis"])
def test_the_auc_of_all_sites_of_an_example_is_that_of_their_pooled_rows(example: str) -> None:
    run = run_federated(EXAMPLES / example, rounds=3)
    for site in run.sites:
        site.plan.metrics = counted(site.plan.metrics)  # type: ignore[method-assign]
    merged = run.result()["roc"]
    assert float(merged) == pytest.approx(run.score()["auc"], abs=0.002)
    assert merged.rows == sum(site.samples().test for site in run.sites)
    low, high = merged.figure.low, merged.figure.high
    assert low is not None
    assert high is not None
    assert low < float(merged) < high


def counted(exact: Callable[..., dict[str, float]]) -> Callable[..., dict[str, float | Counts]]:
    """An example's metrics, and counts of the same model and rows."""

    def measured(
        model: torch.nn.Module, data: tuple[torch.Tensor, ...]
    ) -> dict[str, float | Counts]:
        return {**exact(model, data), "roc": metrics.roc(data[-1], model(data[0])[:, 0])}

    return measured


def test_figures_agree_with_those_of_scikit_learn() -> None:
    r = rng(3)
    y = r.integers(0, 2, 500)
    z = np.round(r.normal(0, 1, 500) + y, 1)  # nothing in between: bins lose nothing
    found = metrics.roc(y, z).figures()
    assert found["auprc"].value == pytest.approx(reference.average_precision_score(y, z), abs=2e-3)
    assert found["auc"].value == pytest.approx(reference.roc_auc_score(y, z), abs=1e-3)
    p = 1 / (1 + np.exp(-z))
    brier = metrics.calibration(y, z).figures()["brier"].value
    assert brier == pytest.approx(reference.brier_score_loss(y, p), abs=1e-12)
    a, b = r.integers(0, 4, 300), r.integers(0, 4, 300)
    for weights in ("none", "linear", "quadratic"):
        kappa = metrics.confusion(a, b, 4, weights=weights).figures()["kappa"].value
        given = None if weights == "none" else weights
        assert kappa == pytest.approx(reference.cohen_kappa_score(a, b, weights=given), abs=1e-12)
    table = metrics.confusion(a, b, 4).figures()
    assert table["balanced accuracy"].value == pytest.approx(
        reference.balanced_accuracy_score(a, b)
    )
    target = 1e6 + r.normal(0, 1, 300)
    guess = target + r.normal(0, 0.5, 300)
    errors = metrics.errors(target, guess).figures()
    assert errors["r2"].value == pytest.approx(reference.r2_score(target, guess), abs=1e-9)
    assert errors["mae"].value == pytest.approx(reference.mean_absolute_error(target, guess))
    assert errors["pearson"].value == pytest.approx(np.corrcoef(target, guess)[0, 1], abs=1e-9)


def test_of_several_classes_each_has_an_auc_and_their_mean_is_the_main_figure() -> None:
    r = rng(4)
    y = r.integers(0, 3, 600)
    z = r.normal(0, 1, (600, 3)) + 1.5 * np.eye(3)[y]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    found = metrics.roc(y, z).figures()
    assert found["auc"].value == pytest.approx(
        reference.roc_auc_score(y, p, multi_class="ovr"), abs=2e-3
    )
    assert list(found) == ["auc", *(f"auc of class {k}" for k in range(3))]


def test_sensitivity_is_read_where_enough_of_the_healthy_are_spared() -> None:
    y = np.repeat([0, 1], [10, 4])
    z = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 3, 9, 10, 11.0])
    found = metrics.roc(y, z, specificity=0.9).figures()
    assert found["specificity"].value == pytest.approx(0.9)
    assert found["sensitivity"].value == pytest.approx(0.75)
    assert found["sensitivity"].rows == 4
    strict = metrics.roc(y, z, specificity=0.95).figures()
    assert strict["sensitivity"].value == 0  # one healthy row has the highest score


def test_a_concordance_from_bins_is_harrells_of_all_rows() -> None:
    r = rng(5)
    risk = r.normal(0, 1, 300)
    time, censored = r.exponential(np.exp(-risk)), r.exponential(2, 300)
    seen, event = np.minimum(time, censored), time < censored
    agree = pairs = 0.0
    for i in np.flatnonzero(event & (seen < 4)):
        later = seen > seen[i]
        pairs += later.sum()
        agree += (risk[i] > risk[later]).sum() + 0.5 * (risk[i] == risk[later]).sum()
    counts = metrics.concordance(seen, event, risk, until=4.0)
    assert float(counts) == pytest.approx(agree / pairs, abs=0.005)


def test_calibration_sees_probabilities_that_are_too_sure() -> None:
    r = rng(6)
    z = r.normal(-1, 1, 4000)
    y = r.random(4000) < 1 / (1 + np.exp(-z))
    sure = metrics.calibration(y, 2 * z)
    assert isinstance(sure.measure, Calibration)
    slope = sure.figures()["slope"]
    assert slope.high is not None
    assert slope.high < 0.6
    table = sure.measure.table(sure.values)
    assert sum(figure.rows for _, figure in table) == 4000
    said, seen = table[-1]
    assert seen.value is not None
    assert said > seen.value + 0.05


def test_a_slope_that_does_not_exist_is_not_given() -> None:
    divided = metrics.calibration([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0])
    assert divided.figures()["slope"].value is None


def test_counts_of_few_rows_are_withheld() -> None:
    counts = drawn("roc", 4, 0)
    assert counts.withheld_below(5).rows == 0
    assert not counts.withheld_below(5).values.any()
    assert counts.withheld_below(4) == counts


def test_labels_that_are_none_of_the_classes_are_named() -> None:
    with pytest.raises(ValueError, match="0 or 1, and 2 is among them"):
        metrics.roc([1, 2], [0.1, 0.2])
    with pytest.raises(ValueError, match="from 0 to 2, and 3 is among them"):
        metrics.confusion([3], [0], 3)
    with pytest.raises(ValueError, match=r"2 labels and logits of shape \[3\]"):
        metrics.calibration([0, 1], [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="a time is -1"):
        metrics.concordance([-1.0], [1], [0.0], until=1.0)
    with pytest.raises(ValueError, match="specificity"):
        metrics.roc([1, 0], [0.1, 0.2], specificity=1.5)
    with pytest.raises(ValueError, match="take a larger unit"):
        metrics.errors([1e30], [0.0])


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=50), st.integers(1, 6))
def test_bins_keep_the_order_of_scores(values: list[float], bits: int) -> None:
    scores = np.sort(np.array(values))
    bins = bins_of(scores, bits)
    assert (np.diff(bins) >= 0).all()
    inside = (np.abs(scores) < 2**16) & (np.abs(scores) >= 2**-16)
    near = centres_of(bits)[bins][inside]
    assert (np.abs(near - scores[inside]) <= np.abs(scores[inside]) * 2.0**-bits).all()


@given(st.lists(st.lists(st.floats(-1e15, 1e15)), min_size=1, max_size=5))
def test_sums_of_sites_are_exact(sites: list[list[float]]) -> None:
    digits = sum(np.array(sum_of(values, "values")) for values in sites)
    assert isinstance(digits, np.ndarray)
    exact = sum(Fraction(value) for values in sites for value in values)
    assert abs(read_sum(digits) - exact) <= len(sites) * Fraction(1, 2**64)


@pytest.mark.parametrize("kind", KINDS)
def test_counts_come_back_from_the_wire_as_they_were(kind: str) -> None:
    told = {"x": drawn(kind, 50, 1), "y": drawn(kind, 0, 1)}
    raw = encode_all(told)
    assert decode_all(raw) == told
    assert len(raw) < 3000  # by rows, not by places
    assert merge_all([told, told])["x"].rows == 100


def test_counts_that_no_rows_could_give_are_refused() -> None:
    good = pack(drawn("roc", 20, 0))
    change = msgspec.structs.replace
    refused = [
        (change(good, values=[-1, *good.values[1:]]), "below 0"),
        (change(good, values=[2**60, *good.values[1:]]), "more than"),
        (change(good, values=good.values[1:]), "not in order"),
        (change(good, gaps=[0, *good.gaps[1:]]), "not in order"),
        (change(good, gaps=[100_000, *good.gaps[1:]]), "and there are"),
        (change(good, values=[2**70, *good.values[1:]]), "no rows could give"),
    ]
    for sent, why in refused:
        with pytest.raises(BlobError, match=why):
            unpack(sent)
    errors = drawn("errors", 5, 0)
    with pytest.raises(BlobError, match="of 32 bits"):
        unpack(pack(Counts(errors.measure, errors.values + 2**40)))
    for raw in (b"", b"[]", b'{"x":{"measure":{"type":"other"},"gaps":[],"values":[]}}', b"\xff"):
        with pytest.raises(BlobError, match="no counts"):
            decode_all(raw)


@settings(max_examples=200)
@given(st.sampled_from(KINDS), st.data())
def test_whatever_numbers_come_figures_are_given_or_not_but_nothing_breaks(
    kind: str, data: st.DataObject
) -> None:
    template = drawn(kind, 3, 0)
    count = data.draw(st.integers(0, min(20, template.measure.places)))
    places = sorted(
        data.draw(
            st.sets(st.integers(0, template.measure.places - 1), min_size=count, max_size=count)
        )
    )
    numbers = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=count, max_size=count))
    small = data.draw(st.booleans())
    sent = SentCounts(
        pack(template).measure,
        np.diff(places, prepend=-1).tolist(),
        [abs(n) % 2**30 for n in numbers] if small else numbers,
    )
    try:
        counts = unpack(sent)
    except BlobError:
        return
    for figure in merge_all([{"x": counts}] * 3)["x"].figures().values():
        assert figure.value is None or math.isfinite(figure.value)
        assert (figure.low is None) == (figure.high is None)


def test_a_figure_is_told_with_its_interval() -> None:
    assert str(Figure(0.9, 0.85, 0.93, 100)) == "0.900 (0.850 to 0.930)"
    assert str(Figure(None)) == "–"
    assert repr(drawn("average", 10, 0)).startswith("<mean ")


@pytest.mark.parametrize("least", [2, 10])
def test_coarse_counts_tell_of_no_few_rows_and_of_nearly_the_same_auc(least: int) -> None:
    r = rng(8)
    y = r.integers(0, 2, 400)
    z = r.normal(0, 1, 400) + y
    fine = metrics.roc(y, z)
    coarse = fine.coarsened(least)
    assert coarse.rows == 400
    assert not ((coarse.values > 0) & (coarse.values < least)).any()
    tied = coarse.figures()["tied pairs"].value
    assert tied is not None
    assert abs(float(coarse) - float(fine)) <= tied / 2
    assert float(coarse) == pytest.approx(float(fine), abs=0.02)
    assert metrics.calibration(y, z).coarsened(least).rows == 400
    assert float(metrics.calibration(y, z).coarsened(least)) == float(metrics.calibration(y, z))


def test_counts_that_would_tell_of_few_whatever_is_put_together_are_withheld() -> None:
    y = np.repeat([0, 1], [50, 3])
    assert metrics.roc(y, np.arange(53.0)).coarsened(5).rows == 0
    assert metrics.confusion(y, y, 2).coarsened(5).rows == 0
    assert metrics.confusion(y, y, 2).coarsened(3).rows == 53
    assert metrics.average(np.ones(4)).coarsened(5).rows == 0
    assert metrics.average(np.ones(5)).coarsened(5).rows == 5
    assert metrics.roc([0, 1], [0.0, 1.0]).coarsened(1).rows == 2


@given(st.lists(st.tuples(st.booleans(), st.integers(-9, 9)), max_size=60), st.integers(2, 6))
def test_putting_bins_together_loses_no_row(rows: list[tuple[bool, int]], least: int) -> None:
    y, z = [float(label) for label, _ in rows], [float(score) for _, score in rows]
    fine = metrics.roc(y, z)
    coarse = fine.coarsened(least).values.reshape(2, -1)
    few = [0 < n < least for n in fine.values.reshape(2, -1).sum(axis=1)]
    assert not ((coarse > 0) & (coarse < least)).any()
    if not any(few):
        assert coarse.sum(axis=1).tolist() == fine.values.reshape(2, -1).sum(axis=1).tolist()
