"""The program of a plan, as its code says it: what the chain keeps the digest of.

A plan without `stages` has those that it had before there were any: statistics, if it overrides
`statistics`, and as many rounds of training as its `rounds` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swarm.errors import PlanError
from swarm.learning.parameters.placement import Local, read_placement
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.secure import check_secure
from swarm.learning.plans.settings import place_of_setting, placement_in, role_in, rules_of
from swarm.learning.plans.stages import (
    CROSS_EVALUATE,
    PERSONALISE,
    SELECT,
    TRAIN,
    Planned,
    send_copy,
    statistics,
    train,
)
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
        _check_choices(planned, name, merge)
        _check_cross_evaluation(planned, name)
        planned = _with_copies(plan, planned, merge)
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


def _check_choices(planned: Sequence[Planned], name: str, merge: str) -> None:
    """A best model can be chosen of those before it alone, and must be one that all have."""
    tasks = [each.task for each in planned]
    if SELECT not in tasks:
        return
    if tasks.index(SELECT) < tasks.index(TRAIN):
        raise PlanError(f"{name}: nothing is trained before swarm.select(): put it after training")
    if any(isinstance(place, Local) for _, place in read_placement(merge).rows):
        raise PlanError(
            f"{name}: what stays at a site belongs to the newest model and fits no earlier one: "
            "leave out swarm.select(), or the local parts"
        )
    ends = next((n for n, each in enumerate(planned) if each.ends), len(planned))
    late = [each for each in planned[ends:] if each.task not in (TRAIN, SELECT)]
    if late:
        raise PlanError(
            f"{name}: the stage {late[0].name!r} comes after a training that may end the plan "
            "early: leave `stop` out, or put it into a plan that goes on from this one"
        )


def _check_cross_evaluation(planned: Sequence[Planned], name: str) -> None:
    """It looks at test rows, so nothing may come after it."""
    tasks = [each.task for each in planned]
    if CROSS_EVALUATE in tasks[:-1]:
        raise PlanError(
            f"{name}: swarm.cross_evaluate() looks at test rows, and a stage comes after it: put "
            "it last"
        )


def _with_copies(plan: Plan, planned: list[Planned], merge: str) -> list[Planned]:
    """The stages, with a round before a cross-evaluation in which sites send their own models, if
    they have any."""
    tasks = [each.task for each in planned]
    is_local = any(isinstance(place, Local) for _, place in read_placement(merge).rows)
    has_own = is_local or PERSONALISE in tasks or type(plan).state is not Plan.state
    if CROSS_EVALUATE not in tasks or not has_own:
        return planned
    return [*planned[:-1], send_copy(), planned[-1]]


def _fields(planned: Planned, plan: Plan, merge: str) -> dict[str, Any]:
    return {
        "name": planned.name,
        "task": planned.task,
        "merge": planned.merge or (merge if planned.slot == MODEL_SLOT else "sum"),
        "rounds": plan.rounds if planned.rounds is None else planned.rounds,
        "slot": planned.slot,
        "epochs": planned.epochs or 0,
        "follows": planned.follows,
        "ends": planned.ends,
        "reads_rows": planned.reads_rows,
        "clip": _clip_of(planned, plan),
    }


def _clip_of(planned: Planned, plan: Plan) -> float | None:
    if not plan.secure:
        return None
    return float(plan.statistics_bound if planned.slot == STATISTICS_SLOT else plan.clip)
