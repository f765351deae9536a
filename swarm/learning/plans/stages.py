"""The stages that a plan writes: what its rounds are for, in order.

stages = [swarm.statistics(), swarm.train(20), swarm.personalise(epochs=2), swarm.cross_evaluate()]
stages = [swarm.statistics(), *swarm.train_and_select("auc", rounds=60, every=5, stop=True)]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from swarm.errors import PlanError
from swarm.learning.metrics.choice import Rule
from swarm.learning.parameters.placement import read_placement
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import BEST_SLOT, GATHERED_SLOT, MODEL_SLOT, STATISTICS_SLOT

TRAIN, STATISTICS, PERSONALISE, SELECT = "train", "statistics", "personalise", "select"
SEND_COPY, CROSS_EVALUATE = "send copy", "cross-evaluate"
TASKS = frozenset({STATISTICS, TRAIN, PERSONALISE, SELECT, SEND_COPY, CROSS_EVALUATE})
"""What a trainer of this release can be asked for."""


@dataclass(frozen=True)
class Planned:
    """A stage as a plan writes it. None leaves a number to the plan's own settings."""

    name: str
    task: str
    slot: int
    rounds: int | None = 1
    epochs: int | None = None
    merge: str | None = None
    """What becomes of what the sites send; None: what follows from the slot."""
    follows: int = 0
    ends: bool = False
    reads_rows: bool = False


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


def select(metric: str, *, lowest: bool = False) -> Planned:
    """One round in which every site counts `metric` of the newest model and of the best one before
    on its validation rows. The counts are added up, and the better of the two is the plan's best
    model from then on: the newest if it scores higher (`lowest`: lower), or is the first."""
    return Planned("select", SELECT, BEST_SLOT, merge=Rule(metric, lowest).written)


def cross_evaluate() -> Planned:
    """The last stage: every site scores every site's own model on its test rows, and all know the
    whole table. A site's own model is the copy that it has fine-tuned, or the shared model with
    what stays at the site. A round before sends these copies to all members; where no site has a
    model of its own, the shared model alone is scored, and no copy is sent."""
    return Planned(
        "cross-evaluation", CROSS_EVALUATE, GATHERED_SLOT, merge="gather", reads_rows=True
    )


def send_copy() -> Planned:
    """The round in which each site's own model is sent to all members, for `cross_evaluate`."""
    return Planned("copies", SEND_COPY, GATHERED_SLOT, merge="gather")


def train_and_select(
    metric: str, *, rounds: int, every: int, lowest: bool = False, stop: bool = False
) -> list[Planned]:
    """`rounds` of training, and after `every` of them, and the last, a `select`.

    With `stop` the plan is complete as soon as one finds no better model. Raises PlanError for
    numbers that cannot be.
    """
    if not 1 <= every <= rounds:
        raise PlanError(
            f"train_and_select has rounds={rounds!r} and every={every!r}: let every be from 1 to "
            "rounds"
        )
    found = []
    for done in range(0, rounds, every):
        more = min(every, rounds - done)
        chosen = select(metric, lowest=lowest)
        found += [
            replace(train(more), follows=done),
            replace(chosen, name=f"select after {done + more}", ends=stop),
        ]
    return found


def check_known(program: Program) -> None:
    """Raise PlanError naming the task, the place or the fold that this release does not know."""
    for stage in program.stages:
        if stage.task not in TASKS:
            raise _not_known("the task", stage.task, stage)
        if stage.task == SELECT:
            Rule.read(stage.merge)
        else:
            read_placement(stage.merge)


def _not_known(what: str, value: str, stage: Stage) -> PlanError:
    return PlanError(
        f"this release of swarm does not know {what} {value!r:.80} of the plan's stage "
        f"{stage.name!r}: update swarm before you consent"
    )
