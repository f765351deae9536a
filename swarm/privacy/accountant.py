"""What differential privacy costs: how much noise a guarantee needs, and what steps have spent.

A step of DP-SGD (Abadi et al., arXiv:1607.00133) takes each record with probability `rate`, clips
its gradient, and adds noise. Its Rényi divergence at order α, between sets that differ in one
record, is that of the subsampled Gaussian (Mironov, Talwar, Zhang, arXiv:1908.10530, section 3):

    log E[(1 - q + q · exp((2z - 1) / 2σ²))^α] / (α - 1),  z ~ N(0, σ²)

The expectation is integrated here as it stands, so orders need not be whole numbers. Divergences
of steps add up, whoever's plan they are of; the least ε over all orders holds at a given δ
(Canonne, Kamath, Steinke, arXiv:2004.00010, proposition 12).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.privacy.guarantee import Guarantee, Mechanism

ORDERS = np.array(
    [1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [80, 128, 256, 512, 1024]
)
MOST_NOISE = 1e4
"""More is not looked for: nothing would be learned."""
LEAST_NOISE = 0.2
"""With less, no bound is worth its name."""
STEPS_OF_SIGMA = 12
"""Points of the integral in each σ. It is smooth and falls off on both sides, so the sum over such
a grid errs by less than 1e-12 (Trefethen, Weideman, SIAM Review 56, 2014)."""
TAIL_SIGMAS = 14


def mechanism_for(
    guarantee: Guarantee, *, rows: int, batch_size: int, epochs: int, rounds: int
) -> Mechanism:
    """One round's steps at a site that declares so many training rows, with as much noise as keeps
    the guarantee over `rounds` of them.

    Only what is public goes in: the declared rows, and the plan. Raises PlanError if no noise is
    enough.
    """
    rate = min(1.0, batch_size / rows)
    steps = epochs * max(1, math.ceil(rows / batch_size))
    noise = _least_noise(guarantee.epsilon, guarantee.delta, rate, steps * rounds)
    return Mechanism(noise=noise, rate=rate, steps=steps)


def epsilon_of(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """What these have spent together, at this δ; 0 if there are none."""
    total = np.zeros(len(ORDERS))
    steps: Counter[tuple[float, float]] = Counter()
    for each in mechanisms:
        steps[each.noise, each.rate] += each.steps
    for (noise, rate), count in steps.items():
        total = total + count * _divergences(noise, rate)
    return _epsilon(total, delta) if steps else 0.0


@lru_cache(maxsize=64)
def _least_noise(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least σ, to a thousandth, with which so many steps spend no more than ε."""

    def spent(noise: float) -> float:
        return _epsilon(steps * _divergences(noise, rate), delta)

    low, high = LEAST_NOISE, MOST_NOISE
    if spent(high) > epsilon:
        raise PlanError(
            f"privacy: no noise keeps epsilon at {epsilon:g} over {steps} steps that take each row "
            f"with probability {rate:.3g}: ask for fewer rounds or epochs, or a larger epsilon"
        )
    if spent(low) <= epsilon:
        return low
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


@lru_cache(maxsize=4096)
def _divergences(noise: float, rate: float) -> NDArray[np.float64]:
    """Rényi divergences of one step, by order."""
    if rate == 0:
        return np.zeros(len(ORDERS))
    if rate == 1:
        return ORDERS / (2 * noise**2)
    step = noise / STEPS_OF_SIGMA
    found = np.empty(len(ORDERS))
    for index, order in enumerate(ORDERS):
        # The integrand has its weight at 0, at the order, or between them.
        z = np.arange(-TAIL_SIGMAS * noise, order + TAIL_SIGMAS * noise, step)
        density = -(z**2) / (2 * noise**2) - math.log(noise * math.sqrt(2 * math.pi))
        shift = (2 * z - 1) / (2 * noise**2)
        ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + shift)
        exponent = density + order * ratio
        highest = float(exponent.max())
        log_moment = highest + math.log(float(np.exp(exponent - highest).sum()) * step)
        found[index] = max(0.0, log_moment / (order - 1))
    return found


def _epsilon(divergences: NDArray[np.float64], delta: float) -> float:
    bounds = divergences + np.log1p(-1 / ORDERS) - np.log(delta * ORDERS) / (ORDERS - 1)
    return max(0.0, float(bounds.min()))
