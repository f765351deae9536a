"""What a plan says: checked numbers, one way to write a fold, and who may have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from time import thread_time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import swarm
from swarm.errors import BlobError, LocalError, PlanError
from swarm.learning.folds import Fold, Reduce, Step, decode_fold, golden
from swarm.learning.folds.formats import Array
from swarm.learning.folds.gram import Elements, find_gram
from swarm.learning.folds.reduce import REDUCES, ByDistance, Maximum, Sum
from swarm.learning.folds.step import STEPS

ROOT = Path(__file__).parents[2]
RULES: list[Reduce] = [
    *(swarm.mean(), Sum(), Maximum(), swarm.median(), swarm.trimmed(0.1)),
    *(swarm.krum(2), swarm.multi_krum(1, 3), swarm.geometric_median(steps=4)),
]
MOVES: list[Step | None] = [
    *(None, swarm.momentum(0.5, 0.8), swarm.nesterov(lr=0.7, momentum=0.9)),
    *(swarm.adam(0.1), swarm.yogi(0.1, beta2=0.999)),
]
ROBUST = [swarm.median(), swarm.trimmed(0.1), swarm.krum(1), swarm.multi_krum(1, 3)]
ROBUST.append(swarm.geometric_median())


def every_fold() -> list[Fold]:
    some = [Fold(rule, step) for rule in RULES for step in MOVES if not step or rule.name != "sum"]
    return [*some, Fold(by="site")]


def test_every_rule_and_step_is_covered_here_and_by_the_golden_folds() -> None:
    assert {type(rule) for rule in RULES} == set(REDUCES)
    assert {type(step) for step in MOVES if step} == set(STEPS)
    assert {*golden.REDUCED, *golden.STEPPED} >= {swarm.mean(), swarm.nesterov()}
    names = [kind.name for kind in (*REDUCES, *STEPS)]
    assert list(golden.GOLDEN) == names
    assert len(set(names)) == len(names)


def test_a_fold_is_written_in_one_way_and_read_back() -> None:
    written = [fold.encode() for fold in every_fold()]
    assert len(set(written)) == len(written)
    assert [decode_fold(raw) for raw in written] == every_fold()


def test_the_bytes_of_a_fold_are_pinned() -> None:
    fold = Fold(swarm.trimmed(0.1), swarm.nesterov(lr=0.7, momentum=0.9))
    assert fold.encode().hex() == (
        "07" + b"trimmed".hex() + "08" + "3fb999999999999a"
        "08" + b"nesterov".hex() + "10" + "3fe6666666666666" + "3feccccccccccccd" + "01"
    )  # fmt: skip
    assert Fold().encode().hex() == "04" + b"mean".hex() + "00" + "00" + "00"
    assert swarm.multi_krum(2, 5).encode()[-16:].hex() == f"{2:016x}{5:016x}"


def test_equal_numbers_are_written_alike() -> None:
    assert swarm.momentum(1, 0).encode() == swarm.momentum(1.0, -0.0).encode()
    assert swarm.momentum(np.float64(0.5)).encode() == swarm.momentum(0.5).encode()


@given(st.binary(max_size=60))
def test_other_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises((BlobError, PlanError)):
        decode_fold(raw)


def test_a_fold_that_is_changed_anywhere_is_another_or_none() -> None:
    for fold in every_fold()[::3]:
        raw = fold.encode()
        for cut in range(len(raw)):
            with pytest.raises((BlobError, PlanError)):
                decode_fold(raw[:cut])
        with pytest.raises(BlobError):
            decode_fold(raw + b"\x00")
        for place in range(len(raw)):
            changed = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
            try:
                assert decode_fold(changed) != fold
            except (BlobError, PlanError):
                continue


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"\x06bulyan\x00\x00\x01", "does not know the reduce 'bulyan'"),
        (b"\x06bulyan\x08" + bytes(8) + b"\x00\x01", "does not know the reduce 'bulyan'"),
        (b"\x04mean\x00\x04lion\x00\x00", "does not know the step 'lion'"),
    ],
)
def test_a_fold_of_a_later_release_is_refused_in_one_sentence(raw: bytes, words: str) -> None:
    with pytest.raises(PlanError, match=words + ".*: update swarm before you consent"):
        decode_fold(raw)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: swarm.trimmed(0.5), r"trimmed: share is 0.5, but must be from 0.001 to 0.499"),
        (lambda: swarm.trimmed(0), "share is 0"),
        (lambda: swarm.trimmed(float("nan")), "share is nan"),
        (lambda: swarm.trimmed("0.1"), "share is '0.1', but must be a number"),
        (lambda: swarm.krum(0), "krum: f is 0, but must be from 1 to 126"),
        (lambda: swarm.krum(1.0), "f is 1.0, but must be a whole number"),
        (lambda: swarm.krum(True), "f is True, but must be a whole number"),
        (lambda: swarm.multi_krum(1, 0), "m is 0"),
        (lambda: swarm.geometric_median(steps=65), "steps is 65"),
        (lambda: swarm.momentum(lr=0), "lr is 0"),
        (lambda: swarm.momentum(beta=1.0), "beta is 1.0, but must be from 0.0 to 0.999999"),
        (lambda: swarm.nesterov(lr=float("inf")), "lr is inf"),
        (lambda: swarm.adam(epsilon=0), "epsilon is 0"),
        (lambda: swarm.yogi(beta2=-0.1), "beta2 is -0.1"),
        (lambda: Fold(swarm.nesterov()), "reduce is Nesterov.*such as swarm.mean"),
        (lambda: Fold(step=swarm.mean()), "step is Mean.*such as swarm.nesterov"),
        (lambda: Fold(Sum(), swarm.adam()), "adam goes from .* a sum of models is none"),
        (lambda: Fold(by="row"), "by is 'row', but must be"),
        (lambda: Fold(swarm.median(), by="samples"), "median counts every site once"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(make: Any, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        make()


@pytest.mark.parametrize(
    ("rule", "least"),
    [
        (swarm.mean(), 1),
        (swarm.median(), 3),
        (swarm.trimmed(0.1), 3),
        (swarm.krum(1), 5),
        (swarm.krum(3), 9),
        (swarm.multi_krum(1, 2), 5),
        (swarm.multi_krum(1, 6), 9),
        (swarm.geometric_median(), 3),
    ],
)
def test_a_plan_that_merges_too_few_updates_for_its_rule_is_refused(
    rule: Reduce, least: int
) -> None:
    Fold(rule).check(least, "full")
    with pytest.raises(PlanError, match=f"set min_peers to {least} or more"):
        Fold(rule).check(least - 1, "full")


def test_rules_by_distance_need_full_checks_and_others_go_with_any() -> None:
    for rule in RULES:
        for verify in ("held", "shared", "full"):
            if isinstance(rule, ByDistance) and verify != "full":
                with pytest.raises(PlanError, match="set verify to 'full'"):
                    Fold(rule).check(256, verify)
            else:
                Fold(rule).check(256, verify)


def test_rules_that_bear_liars_count_sites() -> None:
    samples = [5, 7, 9]
    assert Fold().weights(samples) == samples
    assert Fold(by="site").weights(samples) == [1, 1, 1]
    assert Fold(swarm.median()).weights(samples) == [1, 1, 1]
    with pytest.raises(ValueError, match="distances"):
        Fold(swarm.krum(1)).weights(samples)
    assert {rule.name: rule.bears(30) for rule in RULES} == {
        **{"mean": 0, "sum": 0, "maximum": 0, "median": 14, "trimmed": 3},
        **{"krum": 2, "multi_krum": 1, "geometric_median": 14},
    }
    assert swarm.krum(2).bears(6) == swarm.median().bears(2) == 0


def test_equal_folds_are_equal() -> None:
    assert Fold(by="samples") == Fold() != Fold(by="site")
    for rule in RULES[1:]:
        assert Fold(rule, by="site") == Fold(rule)
        assert Fold(rule, by="site").encode() == Fold(rule).encode()


def test_every_fold_has_words_for_people() -> None:
    assert swarm.krum(1).words == (
        "krum: keeps the update nearest to the others; bears 1 liar of n ≥ 5"
    )
    words = Fold(swarm.mean(), swarm.nesterov(), by="site").words
    assert "every site counting once. Then nesterov: " in words
    for fold in every_fold():
        assert fold.reduce.name in fold.words
        assert fold.step is None or fold.step.name in fold.words


def reduced(rule: Reduce, rows: list[Array]) -> Array:
    weights: Any = [1] * len(rows)
    if isinstance(rule, ByDistance):
        weights = rule.weigh(find_gram(lambda: [Elements("F32", np.zeros_like(rows[0]), rows)]))
    out = np.zeros_like(rows[0])
    rule.merge("F32", rows, weights, out)
    return out


def test_one_liar_of_eight_moves_the_mean_and_no_robust_rule() -> None:
    rng = np.random.default_rng(0)
    rows = [(1 + 0.2 * rng.standard_normal(1000)).astype(np.float32) for _ in range(8)]
    honest = np.mean(rows[1:], axis=0)
    rows[0] *= np.float32(-10)
    assert np.abs(reduced(swarm.mean(), rows) - honest).mean() > 1.2
    for rule in ROBUST:
        assert rule.bears(8) >= 1
        assert np.abs(reduced(rule, rows) - honest).mean() < 0.2, rule


def test_this_machine_folds_as_all_others_do() -> None:
    golden.self_check()
    assert golden.golden_digests() == golden.GOLDEN


def test_the_check_takes_a_few_milliseconds() -> None:
    golden.self_check()
    spent = []
    for _ in range(20):
        began = thread_time()
        golden.self_check()
        spent.append(thread_time() - began)
    assert min(spent) < 0.02  # 5 ms on a machine of 2020


def test_flush_to_zero_is_found() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no flush-to-zero mode")
    try:
        with pytest.raises(LocalError, match="flush"):
            golden.self_check()
    finally:
        torch.set_flush_denormal(False)
    golden.self_check()


def test_a_fold_that_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden, "GOLDEN", {**golden.GOLDEN, "yogi": "0" * 64})
    with pytest.raises(LocalError, match="the golden yogi gave"):
        golden.self_check()


@pytest.mark.parametrize(
    "disabled", ["X86_V4 AVX512_ICL AVX512_SPR", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"]
)
def test_older_processors_give_the_same_bits(disabled: str) -> None:
    """numpy chooses its loops at start by what the processor has; here it is told it has less."""
    code = "from swarm.learning.folds.golden import golden_digests as g; print(*g().values())"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NPY_DISABLE_CPU_FEATURES": disabled},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == list(golden.GOLDEN.values())


def test_the_page_of_methods_tells_what_the_rules_say_of_themselves() -> None:
    page = (ROOT / "docs" / "methods.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    told = {row[0].strip("| `").partition("(")[0]: row for row in rows}
    public = {kind.name for kind in (*REDUCES, *STEPS)} - {"sum", "maximum"}
    assert set(told) - {"shared", "local", "frozen", "gathered"} == public
    for rule in (swarm.mean(), swarm.median(), swarm.trimmed(0.1), *ROBUST):
        verify = told[rule.name][4]
        assert verify == ("any" if len(rule.verify_levels) == 3 else "full"), rule
        if "f" not in told[rule.name][3]:
            assert told[rule.name][3].split()[0] == str(rule.least), rule
