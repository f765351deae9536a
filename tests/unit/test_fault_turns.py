"""What two consortia that take turns on one machine are found to cost, and how a plan is judged."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarm.testing.faults import turns
from swarm.testing.faults.plan import FaultPlan
from swarm.testing.faults.turns import Tally, slowdown, take_turns
from swarm.testing.faults.verdict import Outcome, auc_gap, compare

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
        return 0.5 + (now - 100) / 100

    one = Side(machine, lambda now, number: 1.05 * pace(now, number))
    median, mean = slowdown(*take_turns(one, Side(machine, pace)))
    assert (median, mean) == (pytest.approx(1.05, abs=0.04), pytest.approx(1.05, abs=0.04))


def test_a_single_round_that_stands_for_long_is_seen_in_the_mean(machine: Machine) -> None:
    one = Side(machine, lambda now, number: 20.0 if number == 40 else 0.6)
    disturbed, undisturbed = take_turns(one, Side(machine, lambda now, number: 0.6))
    median, mean = slowdown(disturbed, undisturbed)
    assert median == pytest.approx(1.0, abs=0.02)
    assert mean > 1.1


def test_the_round_in_which_a_consortium_was_stopped_is_not_measured() -> None:
    tally = Tally()
    tally.add({1: 9.0, 2: 17.0, 3: 18.0, 4: 19.5, 5: 30.0}, began=13.0, ended=20.0)
    assert tally.whole_s == [1.0, 1.5]
    assert (tally.awake_s, tally.rounds) == (3.0, 2.5)


def test_one_that_ends_no_round_has_no_slowdown_and_holds_no_bound() -> None:
    stands = Tally()
    stands.add({1: 5.0}, began=13.0, ended=20.0)
    assert stands.awake_s == 7.0
    assert slowdown(stands, Tally(1.0, 1.0, [1.0])) == []
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
