"""What two consortia that take turns on one machine are found to cost, and how a plan is judged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from harness.faults import turns
from harness.faults.plan import FaultPlan
from harness.faults.turns import LEAST_ROUNDS, LONGEST_TURN_S, slowdown, take_turns
from harness.faults.verdict import Outcome, auc_gap, compare

ROUNDS = 100
TICK_S = 0.01
Pace = Callable[[float, int], float]


class Side:
    """A consortium on paper. `pace` gives the seconds of a round, by the time and its number."""

    def __init__(self, machine: Machine, pace: Pace) -> None:
        machine.sides.append(self)
        self.pace = pace
        self.is_awake = False
        self.final_at: dict[int, float] = {}
        self._done = 0.0

    def freeze(self) -> None:
        assert self.is_awake
        self.is_awake = False

    def thaw(self) -> None:
        assert not self.is_awake
        self.is_awake = True

    def is_over(self) -> bool:
        return len(self.final_at) >= ROUNDS

    def work(self, now: float, seconds: float) -> None:
        self._done += seconds / self.pace(now, len(self.final_at) + 1)
        if self._done >= 1:
            self._done -= 1
            self.final_at[len(self.final_at) + 1] = now


class Machine:
    """Time that passes only while somebody sleeps; it carries one consortium at a time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sides: list[Side] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        (awake,) = [side for side in self.sides if side.is_awake]
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            awake.work(self.now, TICK_S)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(turns, "time", made)
    return made


def test_a_machine_that_gets_slower_and_slower_does_so_for_both(machine: Machine) -> None:
    def pace(now: float, number: int) -> float:
        return 0.5 + (now - 100) / 400

    one = Side(machine, lambda now, number: 1.05 * pace(now, number))
    median, mean = slowdown(*take_turns(one, Side(machine, pace)))
    assert (median, mean) == (pytest.approx(1.05, abs=0.04), pytest.approx(1.05, abs=0.04))


@pytest.mark.parametrize("stands_s", [5.0, 9.0, 20.0])
def test_a_single_round_that_stands_for_long_is_in_the_mean_with_all_its_seconds(
    machine: Machine, stands_s: float
) -> None:
    one = Side(machine, lambda now, number: stands_s if number == 40 else 0.6)
    disturbed, undisturbed = take_turns(one, Side(machine, lambda now, number: 0.6))
    assert sum(disturbed) == pytest.approx(0.6 * (len(disturbed) - 1) + stands_s, rel=0.02)
    median, mean = slowdown(disturbed, undisturbed)
    assert median == pytest.approx(1.0, abs=0.02)
    assert mean == pytest.approx(1 + (stands_s / 0.6 - 1) / len(disturbed), rel=0.02)


def test_a_round_that_stands_for_longer_than_any_turn_is_told_too(machine: Machine) -> None:
    one = Side(machine, lambda now, number: 1000.0 if number == 40 else 0.6)
    disturbed, undisturbed = take_turns(one, Side(machine, lambda now, number: 0.6))
    assert max(disturbed) > 0.9 * LONGEST_TURN_S
    assert slowdown(disturbed, undisturbed)[1] > 3


def test_rounds_that_take_longer_now_and_then_are_not_told_as_fewer(machine: Machine) -> None:
    one = Side(machine, lambda now, number: 5.0 if number % 10 == 5 else 0.6)
    _, mean = slowdown(*take_turns(one, Side(machine, lambda now, number: 0.6)))
    assert mean == pytest.approx((9 * 0.6 + 5.0) / 10 / 0.6, rel=0.1)


def test_the_round_that_pays_for_the_waking_is_left_out(machine: Machine) -> None:
    one = Side(machine, lambda now, number: 0.6)
    disturbed, _ = take_turns(one, Side(machine, lambda now, number: 0.6))
    turns_taken = len(disturbed) // 9  # of ten rounds and a little more
    assert len(disturbed) == pytest.approx(len(one.final_at) - turns_taken, abs=2)
    assert set(np.round(disturbed, 2)) == {0.6}


def test_one_that_hardly_ends_a_round_has_no_slowdown_and_holds_no_bound() -> None:
    few, many = [0.6] * (LEAST_ROUNDS - 1), [0.6] * 100
    assert slowdown(few, many) == slowdown(many, few) == []
    assert not judged({"slowdown": 1.1}, {"slowdown": []}).ok


def outcome(auc: float | None = None) -> Outcome:
    return Outcome(
        plan="p", about="", seed=0, ok=True, checks=[], counts={}, measures={}, round_s={},
        downtime_s=0.0, wall_s=0.0, auc=auc, story=[],
    )  # fmt: skip


def judged(at_most: dict[str, float], measures: dict[str, list[float]]) -> Outcome:
    plan = FaultPlan(plan="x", about="", rounds=12, undisturbed_nodes=6, at_most=at_most)
    disturbed = outcome()
    compare(disturbed, plan, measures)
    return disturbed


@pytest.mark.parametrize(("worse", "ok"), [(1.09, True), (1.15, False)])
def test_both_the_median_and_the_mean_must_hold(worse: float, ok: bool) -> None:
    for measured in ([1.02, worse], [worse, 1.02]):
        assert judged({"slowdown": 1.1}, {"slowdown": measured}).ok is ok


@pytest.mark.parametrize(("auc", "gap"), [(0.79, [0.01]), (0.81, [0.01]), (None, [])])
def test_an_auc_is_compared_with_the_undisturbed_one_if_there_is_one(
    auc: float | None, gap: list[float]
) -> None:
    assert auc_gap(outcome(auc), outcome(0.8)) == gap
    assert judged({"auc_gap": 0.02}, {"auc_gap": gap}).ok is bool(gap)
