"""A lower bound on ε from one training run (Steinke, Nasr, Jagielski, arXiv:2305.08846).

Canaries are put in or left out by a coin each. An attacker sees the result, guesses for some of
them and abstains for the rest. If the training is (ε, δ)-private, the number of right guesses is
no larger than that of coins that fall right with probability e^ε / (1 + e^ε), but for δ (theorem
5.2); so many right guesses refute a small ε.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 1 - 1e-4
_HALVINGS = 40


def epsilon_refuted(
    right: int, guesses: int, canaries: int, delta: float, confidence: float
) -> float:
    """The largest ε that so many right guesses refute with this confidence; 0 if none.

    `canaries` were in or out; `guesses` of them were guessed.
    """

    def holds(epsilon: float) -> bool:
        return _chance(right, guesses, canaries, epsilon, delta) > 1 - confidence

    if holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while not holds(high):
        low, high = high, 2 * high
        if high > 100:
            return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low


def guess(
    scores: NDArray[np.float64], present: NDArray[np.bool_], share: float = 1 / 3
) -> tuple[int, int]:
    """Right guesses and guesses: the `share` of the highest scores are said to be in, that of the
    lowest to be out. Shapes [canaries]."""
    count = max(1, int(len(scores) * share))
    order = np.argsort(scores, kind="stable")
    right = int(present[order[-count:]].sum()) + int((~present[order[:count]]).sum())
    return right, 2 * count


def _chance(right: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """The most probable that so many guesses or more are right under (ε, δ)."""
    p = 1 / (1 + math.exp(-epsilon))
    mass = [_binomial(k, guesses, p) for k in range(guesses + 1)]
    tail = np.cumsum(mass[::-1])[::-1]
    beta = float(tail[right])
    # δ may make a few more guesses right: its largest effect over how many (theorem 5.2).
    gained, most = 0.0, 0.0
    for more in range(1, right + 1):
        gained += mass[right - more]
        most = max(most, gained / more)
    return min(1.0, beta + 2 * canaries * delta * most)


def _binomial(k: int, n: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log1p(-p))
