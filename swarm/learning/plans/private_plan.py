"""What a plan with `privacy` may not do: its noise is in the gradients of the default loop, and
whatever leaves by another way would make its epsilon false.
"""

from __future__ import annotations

from swarm.learning.plans.plan import Plan
from swarm.learning.plans.stages import TRAIN


def outside_privacy(plan: Plan) -> tuple[str, str] | None:
    """The first name of a plan that lies outside, and why with what to do; None if none does."""
    kind = type(plan)
    if plan.roles:
        return "roles", (
            "a role, whose holder is sent what rows have made without noise: leave it out"
        )
    if kind.train is not Plan.train:
        return "train", (
            "a `train` of its own, whose steps nobody clips or counts: use the default loop, with "
            "`loss` and `optimizer`"
        )
    if kind.statistics is not Plan.statistics:
        return "statistics", (
            "statistics, which leave as exact sums: scale in `prepare` with numbers that are "
            "public, such as age / 100, or each row by itself, or let the model begin with a "
            "LayerNorm"
        )
    if kind.state is not Plan.state:
        return "state", (
            "a `state` beside the model, which carries rows from step to step without noise (as "
            "SCAFFOLD does): leave it out, or use FedAvg or another outer step"
        )
    if plan.proximal:
        return "proximal", "proximal, which is not clipped: leave it 0; clipping holds sites near"
    if plan.precision != "fp32" or plan.compiled:
        name = "compiled" if plan.compiled else "precision"
        return name, f"`{name}`, with which each row's gradient is not told apart: leave it out"
    others = [each.name for each in plan.stages if getattr(each, "task", TRAIN) != TRAIN]
    if others:
        return "stages", (
            f"the stage {others[0]!r}, whose results leave without noise: keep swarm.train() alone"
        )
    return None
