"""The program of a plan, as its code says it: what the chain keeps the digest of.

A plan without `stages` has those that it had before there were any: statistics, if it overrides
`statistics`, and as many rounds of training as its `rounds` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.errors import PlanError
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.secure import check_secure
from swarm.learning.plans.settings import place_of_setting, placement_in, role_in, rules_of
from swarm.learning.plans.stages import PERSONALISE, Planned, statistics, train
from swarm.protocol.program import MAX_STAGES, Program, build
from swarm.protocol.state import MODEL_SLOT, STATISTICS_SLOT


def program_of(plan: Plan) -> Program:
    """What the plan's rounds are for, by its code. Raises PlanError for stages that cannot be."""
    name = f"{place_of_setting(plan, 'stages')}{type(plan).__name__}"
    has_sums = type(plan).statistics is not Plan.statistics
    merge = placement_in(plan, rules_of(plan)).encode()
    planned = [statistics(), train()] if has_sums else [train()]
    if plan.stages:
        planned = _checked(plan.stages, name)
        _check_order(planned, name, has_sums)
    role = role_in(plan)
    if role is not None and any(each.task == PERSONALISE for each in planned):
        raise PlanError(
            f"{name}: in the stage `personal` nobody holds {role[0]!r}, which training asks: leave "
            "one of them out"
        )
    if plan.secure:
        check_secure(plan, planned)
    try:
        return build([_fields(each, plan, merge) for each in planned])
    except PlanError as error:
        raise PlanError(f"{name}: {error}: change it there") from None


def _checked(given: Any, name: str) -> list[Planned]:
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not all(isinstance(each, Planned) for each in given):
        raise PlanError(
            f"{name}: stages is {given!r:.80}: give a list such as "
            "[swarm.statistics(), swarm.train(rounds=20)]"
        )
    if len(given) > MAX_STAGES:
        raise PlanError(f"{name} has {len(given)} stages, and {MAX_STAGES} are the most")
    return list(given)


def _check_order(planned: Sequence[Planned], name: str, has_sums: bool) -> None:
    slots = [each.slot for each in planned]
    if MODEL_SLOT not in slots:
        raise PlanError(f"{name}: no stage trains a model: add swarm.train()")
    if has_sums != (STATISTICS_SLOT in slots):
        raise PlanError(
            f"{name} overrides statistics, and no stage asks for them: put swarm.statistics() first"
            if has_sums
            else f"{name} has a stage of statistics: write `def statistics(self, data)`"
        )
    if has_sums and slots.index(STATISTICS_SLOT) > slots.index(MODEL_SLOT):
        raise PlanError(f"{name}: training needs the statistics: put swarm.statistics() first")


def _fields(planned: Planned, plan: Plan, merge: str) -> dict[str, Any]:
    return {
        "name": planned.name,
        "task": planned.task,
        "merge": merge if planned.slot == MODEL_SLOT else "sum",
        "rounds": plan.rounds if planned.rounds is None else planned.rounds,
        "slot": planned.slot,
        "epochs": planned.epochs or 0,
        "clip": _clip_of(planned, plan),
    }


def _clip_of(planned: Planned, plan: Plan) -> float | None:
    if not plan.secure:
        return None
    return float(plan.statistics_bound if planned.slot == STATISTICS_SLOT else plan.clip)
