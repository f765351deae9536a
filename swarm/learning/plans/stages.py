"""The stages that a plan writes: what its rounds are for, in order.

stages = [swarm.statistics(), swarm.train(rounds=20), swarm.personalise(epochs=2)]
"""

from __future__ import annotations

from dataclasses import dataclass

from swarm.errors import PlanError
from swarm.learning.parameters.placement import read_placement
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import GATHERED_SLOT, MODEL_SLOT, STATISTICS_SLOT

TRAIN, STATISTICS, PERSONALISE = "train", "statistics", "personalise"
TASKS = frozenset({STATISTICS, TRAIN, PERSONALISE})
"""What a trainer of this release can be asked for."""


@dataclass(frozen=True)
class Planned:
    """A stage as a plan writes it. None leaves a number to the plan's own settings."""

    name: str
    task: str
    slot: int
    rounds: int | None = 1
    epochs: int | None = None


def statistics() -> Planned:
    """One round in which what the plan's `statistics` returns is summed over all sites."""
    return Planned("statistics", STATISTICS, STATISTICS_SLOT)


def train(rounds: int | None = None) -> Planned:
    """Rounds in which each site trains the newest model, and the updates are merged: by default as
    many as the plan's `rounds` says."""
    return Planned("training", TRAIN, MODEL_SLOT, rounds)


def personalise(epochs: int | None = None) -> Planned:
    """One round in which each site fine-tunes a copy of the newest model for itself, in `epochs`
    passes (by default the plan's). The copies stay; scores before and after are averaged over the
    validation rows of the sites that tell theirs."""
    return Planned("personal", PERSONALISE, GATHERED_SLOT, epochs=epochs)


def check_known(program: Program) -> None:
    """Raise PlanError naming the task, the place or the fold that this release does not know."""
    for stage in program.stages:
        if stage.task not in TASKS:
            raise _not_known("the task", stage.task, stage)
        read_placement(stage.merge)


def _not_known(what: str, value: str, stage: Stage) -> PlanError:
    return PlanError(
        f"this release of swarm does not know {what} {value!r:.80} of the plan's stage "
        f"{stage.name!r}: update swarm before you consent"
    )
