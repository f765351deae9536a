"""What differential privacy costs agrees with what others compute, and is never told too low."""

from __future__ import annotations

import logging
from itertools import product

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from swarm.errors import PlanError
from swarm.privacy.accountant import ORDERS, epsilon_of, mechanism_for
from swarm.privacy.guarantee import Mechanism, dp

DELTA = 1e-5
GRID = list(product((0.01, 0.1, 0.3, 1.0), (0.7, 1.0, 3.0), (1, 20, 260)))
USEFUL = 10.0
"""Beyond, nobody should be told that it protects; dp-accounting finds no fractional orders there,
and tells more than ours."""


def event(noise: float, rate: float) -> dp_accounting.DpEvent:
    gaussian = dp_accounting.GaussianDpEvent(noise)
    return gaussian if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, gaussian)


def test_our_epsilon_is_that_of_dp_accounting_to_one_percent() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)
    compared = 0
    for rate, noise, steps in GRID:
        theirs = rdp.RdpAccountant(orders=ORDERS)
        theirs.compose(event(noise, rate), steps)
        expected = float(theirs.get_epsilon(DELTA))
        if expected > USEFUL:
            continue
        ours = epsilon_of([Mechanism(noise=noise, rate=rate, steps=steps)], DELTA)
        assert ours == pytest.approx(expected, rel=0.01), (rate, noise, steps)
        compared += 1
    assert compared > 20


def test_our_epsilon_is_never_less_than_the_tight_one() -> None:
    for rate, noise, steps in [(0.1, 1.0, 20), (0.05, 0.7, 260), (1.0, 5.0, 20), (0.3, 2.0, 260)]:
        tight = pld.PLDAccountant(value_discretization_interval=1e-3)
        tight.compose(event(noise, rate), steps)
        ours = epsilon_of([Mechanism(noise=noise, rate=rate, steps=steps)], DELTA)
        assert 0.99 * tight.get_epsilon(DELTA) < ours < 1.3 * tight.get_epsilon(DELTA)


def test_the_noise_of_a_plan_spends_its_epsilon_and_no_more() -> None:
    for epsilon, rows, rounds in product((1, 8), (40, 3000), (1, 20)):
        promised = dp(epsilon)
        each = mechanism_for(promised, rows=rows, batch_size=32, epochs=2, rounds=rounds)
        spent = epsilon_of([each] * rounds, promised.delta)
        assert 0.98 * epsilon < spent <= epsilon


def test_steps_of_different_plans_add_up_to_less_than_their_epsilons() -> None:
    one, two = Mechanism(noise=1.0, rate=0.1, steps=50), Mechanism(noise=2.0, rate=0.3, steps=20)
    alone = [epsilon_of([each], DELTA) for each in (one, two)]
    assert max(alone) < epsilon_of([one, two], DELTA) < sum(alone)
    assert epsilon_of([], DELTA) == 0


def test_a_site_with_fewer_rows_than_a_batch_takes_all_of_them_in_each_step() -> None:
    each = mechanism_for(dp(8), rows=20, batch_size=32, epochs=3, rounds=10)
    assert (each.rate, each.steps) == (1.0, 3)


def test_an_epsilon_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(PlanError, match="fewer rounds or epochs"):
        mechanism_for(dp(1e-4), rows=10, batch_size=10, epochs=1000, rounds=1000)


@pytest.mark.parametrize("wrong", [{"epsilon": 0}, {"epsilon": 8, "delta": 0.5}, {"epsilon": "8"}])
def test_numbers_that_promise_nothing_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(PlanError, match=r"swarm\.dp promises nothing so"):
        dp(**wrong)
