"""Two consortia on one machine, by turns: what a round of one costs beside a round of the other.

A machine's speed drifts by more than a tenth within minutes, so runs that follow each other cannot
tell a tenth. Here each runs for a few seconds while all processes of the other are stopped
(SIGSTOP), so that whatever the machine does, it does to both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

TURN_S = 6.0
"""A turn ends with the first round that ends after so long, …"""
LONGEST_TURN_S = 120.0
"""… or here, and what that round has cost by then counts as one."""
LEAST_ROUNDS = 30
"""Fewer of either consortium tell nothing."""
LOOK_S = 0.02


class Side(Protocol):
    """A consortium that can be stopped as a whole, all processes of it at once."""

    @property
    def final_at(self) -> Mapping[int, float]:
        """When each round's model was first seen to be final (monotonic seconds)."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def is_over(self) -> bool:
        """Whether its last round is final, or it has failed."""


def take_turns(one: Side, other: Side) -> tuple[list[float], list[float]]:
    """Let them run in turn until one is over: the seconds of the rounds of each.

    Both must be frozen, and are so at the end. A turn ends with a round, so no round is cut, and
    one that stands for long is told with all its seconds. The first round of a turn is left out: it
    pays for the waking, when timers have run out and connections are seen to.
    """
    rounds: tuple[list[float], list[float]] = [], []
    order = [*zip((one, other), rounds, strict=True)]
    while not (one.is_over() or other.is_over()):
        for side, seconds in order:
            seconds += _take_turn(side)
        order.reverse()  # whoever always came second would have the slower half of every drift
    return rounds


def _take_turn(side: Side) -> list[float]:
    """The seconds of each round that both began and ended in this turn."""
    known, began = set(side.final_at), time.monotonic()
    side.thaw()
    while True:
        time.sleep(LOOK_S)
        now, final_at = time.monotonic(), dict(side.final_at)  # others add to it meanwhile
        finals = sorted(at for number, at in final_at.items() if number not in known)
        stands = now >= began + LONGEST_TURN_S
        if stands or side.is_over() or (finals and finals[-1] >= began + TURN_S):
            side.freeze()
            ends = [*(finals or [began]), now] if stands else finals
            return [after - before for before, after in pairwise(ends)]


def slowdown(disturbed: Sequence[float], undisturbed: Sequence[float]) -> list[float]:
    """How many times as long the disturbed rounds (in seconds) took, in the median and in the mean.

    Nothing if there are too few of either to tell.
    """
    if min(len(disturbed), len(undisturbed)) < LEAST_ROUNDS:
        return []
    return [
        round(of(disturbed) / of(undisturbed), 3) for of in (statistics.median, statistics.mean)
    ]
