"""95% confidence intervals from counts. Each takes rows as independent of each other."""

from __future__ import annotations

import math
from collections.abc import Callable

Z = 1.959963984540054
"""The normal quantile of 97.5%."""

Interval = tuple[float | None, float | None]
NONE: Interval = (None, None)


def of_part(count: float, rows: float) -> Interval:
    """Of a part of `rows` (Wilson, J Am Stat Assoc 22:209-212, 1927)."""
    if rows <= 0:
        return NONE
    part = min(max(count / rows, 0.0), 1.0)
    centre = part + Z * Z / (2 * rows)
    reach = Z * math.sqrt(part * (1 - part) / rows + Z * Z / (4 * rows * rows))
    scale = 1 + Z * Z / rows
    low, high = (centre - reach) / scale, (centre + reach) / scale
    return (0.0 if part == 0 else low), (1.0 if part == 1 else high)


def of_mean(value: float, variance: float) -> Interval:
    """Of a figure that is normal about its value, with this variance."""
    reach = Z * math.sqrt(max(variance, 0.0))
    return value - reach, value + reach


def of_log(value: float, variance: float) -> Interval:
    """Of a figure above 0, such as a mean square, whose logarithm is taken as normal."""
    if value <= 0:
        return NONE
    reach = Z * math.sqrt(max(variance, 0.0)) / value
    return value * math.exp(-reach), value * math.exp(min(reach, 700.0))


def of_odds(value: float, variance: float) -> Interval:
    """Of a figure between 0 and 1 whose log odds are taken as normal: better near 1, and never
    beyond it (Qin and Hotilovac, Stat Methods Med Res 17:207-221, 2008)."""
    if not 0 < value < 1:
        return NONE
    reach = Z * math.sqrt(max(variance, 0.0)) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    return _expit(centre - reach), _expit(centre + reach)


def of_correlation(value: float, rows: int) -> Interval:
    """Fisher's, of a correlation of so many pairs."""
    if rows <= 3 or not -1 < value < 1:
        return NONE
    reach = Z / math.sqrt(rows - 3)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def of_rank(value: float, positives: int, negatives: int) -> Interval:
    """Of an AUC, from the numbers of rows alone: Newcombe's method 5 (Stat Med 25:559-573, 2006),
    the values for which this one lies within the errors that Hanley and McNeil expect. It is there
    for an AUC of 0 or 1 too, where nothing varies from which to estimate a variance."""
    if positives < 1 or negatives < 1:
        return NONE
    usual = (positives + negatives) / 2 - 1

    def excess(at: float) -> float:
        spread = 1 + usual * ((1 - at) / (2 - at) + at / (1 + at))
        return abs(at - value) - Z * math.sqrt(at * (1 - at) * spread / (positives * negatives))

    low = 0.0 if value <= 0 else _root(excess, 0.0, value)
    high = 1.0 if value >= 1 else _root(excess, 1.0, value)
    return low, high


def _root(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Where `excess` turns from positive (towards `outside`) to negative, by halving."""
    for _ in range(60):
        middle = (outside + inside) / 2
        if excess(middle) > 0:
            outside = middle
        else:
            inside = middle
    return (outside + inside) / 2


def _expit(odds: float) -> float:
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else 1 - 1 / (1 + math.exp(odds))
