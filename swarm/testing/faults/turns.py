"""Two consortia on one machine, by turns: what a round of one costs beside a round of the other.

A machine's speed drifts by more than a tenth within minutes, so runs that follow each other cannot
tell a tenth. Here each runs for a few seconds while all processes of the other are stopped
(SIGSTOP), so that whatever the machine does, it does to both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

TURN_S = 6.0
WAKING_S = 0.5
"""How long after it was woken what a consortium tells may be from before it was stopped."""
LOOK_S = 0.1


class Side(Protocol):
    """A consortium that can be stopped as a whole, all processes of it at once."""

    @property
    def final_at(self) -> Mapping[int, float]:
        """When each round's model was first seen to be final (monotonic seconds)."""

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...

    def is_over(self) -> bool:
        """Whether its last round is final, or it has failed."""


@dataclass
class Tally:
    """What one consortium did in its turns.

    A turn counts from its first model on, since the round that was under way pays for having been
    stopped in the middle; but one without any model counts whole, so that nothing which takes as
    long as a turn goes unseen.
    """

    awake_s: float = 0.0
    """The seconds that count."""
    rounds: float = 0.0
    """The rounds in them; the one that a turn's end cuts off is half of one, on average."""
    whole_s: list[float] = field(default_factory=list)
    """The seconds of each round that both began and ended in one turn."""

    def add(self, final_at: Mapping[int, float], began: float, ended: float) -> None:
        """A turn that lasted from `began` to `ended`."""
        finals = sorted(at for at in final_at.values() if began + WAKING_S <= at <= ended)
        self.awake_s += ended - min(finals, default=began)
        self.rounds += max(len(finals) - 1, 0) + 0.5
        self.whole_s += [after - before for before, after in pairwise(finals)]


def take_turns(one: Side, other: Side) -> tuple[Tally, Tally]:
    """Let them run in turn until one is over. Both must be frozen, and are so at the end."""
    tallies = Tally(), Tally()
    order = [*zip((one, other), tallies, strict=True)]
    while not (one.is_over() or other.is_over()):
        for side, tally in order:
            began = time.monotonic()
            side.thaw()
            while time.monotonic() < began + TURN_S and not side.is_over():
                time.sleep(LOOK_S)
            side.freeze()
            tally.add(side.final_at, began, time.monotonic())
        order.reverse()  # whoever always came second would have the slower half of every drift
    return tallies


def slowdown(disturbed: Tally, undisturbed: Tally) -> list[float]:
    """How many times as long the disturbed ones took: a round in the median, and all in the mean.

    Nothing if one of them had no whole round.
    """
    if not (disturbed.whole_s and undisturbed.whole_s):
        return []
    medians = [statistics.median(tally.whole_s) for tally in (disturbed, undisturbed)]
    means = [tally.awake_s / tally.rounds for tally in (disturbed, undisturbed)]
    return [round(of[0] / of[1], 3) for of in (medians, means)]
