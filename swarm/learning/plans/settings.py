"""Whether what a plan's class says is what Plan reads: a misspelt setting must not pass unnoticed.

Every public name of a plan is one that Plan has, a setting of its own, declared by its type
(`hidden: int = 16`), or a method of its own, with a name that nobody can take for one of Plan's.
"""

from __future__ import annotations

import inspect
import math
import re
from difflib import get_close_matches
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from swarm.errors import PlanError
from swarm.learning.code.method_signatures import PARAMETERS, fault_of_signature
from swarm.learning.parameters.placement import Placement, placement_of
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.private_plan import outside_privacy
from swarm.learning.plans.roles import Role, role_of
from swarm.learning.supervisor.trainer_messages import Rules

_KNOWN = [name for name in vars(Plan) if not name.startswith("_")]
_METHODS = [name for name in _KNOWN if inspect.isfunction(vars(Plan)[name])]
_SETTINGS = [name for name in _KNOWN if name not in _METHODS]

_SCHEDULES = ("learning_rate",)
"""Settings that may be methods: of the round's number."""

_FUNCTIONS = (FunctionType, staticmethod, classmethod)

# Of two names, the part of their letters that agree (difflib): "metric" is .92 of "metrics".
LIKE_A_SETTING = 0.6
LIKE_A_DECLARED_ONE = 0.9
LIKE_A_METHOD = 0.75


def check_names(plan: type[Plan]) -> None:
    """Raise PlanError naming a public attribute that Plan does not read, and the likely one."""
    for kind in plan.__mro__[: plan.__mro__.index(Plan)]:
        declared = inspect.get_annotations(kind)
        for name, value in vars(kind).items():
            if name.startswith("_"):
                continue
            where = f"{_place(kind, name)}{plan.__name__}.{name}"
            if name in _METHODS:
                if not isinstance(value, _FUNCTIONS):
                    raise PlanError(f"{where} must be a method: write `def {name}(self, …)`")
            elif name in _SETTINGS:
                if name in _SCHEDULES and isinstance(value, _FUNCTIONS):
                    continue
                if callable(value) or isinstance(value, property):
                    raise PlanError(f"{where} must be a value, not a method: {name} = …")
            elif callable(value) or isinstance(value, (property, *_FUNCTIONS)):
                _refuse_likeness(where, name, _KNOWN, LIKE_A_METHOD)
            elif name in declared:
                _refuse_likeness(where, name, _SETTINGS, LIKE_A_DECLARED_ONE)
            else:
                _refuse_likeness(where, name, _SETTINGS, LIKE_A_SETTING)
                raise PlanError(
                    f"{where} is no setting of swarm.Plan: if it is your own, declare it by its "
                    f"type: {name}: {type(value).__name__} = {value!r:.60}"
                )
        for name in declared:
            if not name.startswith("_") and name not in vars(kind) and name not in _KNOWN:
                where = f"{_place(kind, name)}{plan.__name__}.{name}"
                raise PlanError(f"{where} is declared without a value: give it one")


def rules_of(plan: Plan) -> Rules:
    """The plan's rules, checked. Raises PlanError naming the setting that cannot be."""
    values = {name: getattr(plan, name) for name in Rules.__struct_fields__}
    try:
        rules = msgspec.convert(values, Rules)
    except msgspec.ValidationError as error:
        named = re.search(r"\$\.(\w+)", str(error))
        place = place_of_setting(plan, named[1] if named else "")
        message = str(error).replace("$.", "")
        raise PlanError(f"{place}{type(plan).__name__}: {message}: change it there") from None
    if rules.privacy is not None:
        _check_private(plan)
    for name in ("learning_rate", "weight_decay", "proximal"):
        value: Any = getattr(plan, name)
        if name in _SCHEDULES and callable(value):
            continue  # looked at in each round
        is_list = name in _SCHEDULES and isinstance(value, (list, tuple)) and len(value) > 0
        if not all(_is_rate(each) for each in (value if is_list else [value])):
            raise PlanError(_no_rate(plan, name, value))
    return rules


def _check_private(plan: Plan) -> None:
    """Raise PlanError naming what of a plan lies outside of what its privacy accounts for."""
    fault = outside_privacy(plan)
    if fault is not None:
        name, why = fault
        place = place_of_setting(plan, name)
        raise PlanError(f"{place}{type(plan).__name__} has privacy, and {why}")


def learning_rate_in(plan: Plan, round: int) -> float:
    """The learning rate of a round of its stage, counted from 1 (0: outside of rounds), by the
    plan's schedule if it has one. Raises PlanError for what is no rate."""
    rate: Any = plan.learning_rate
    if callable(rate):
        rate = rate(max(round, 1))
        if not _is_rate(rate):
            raise PlanError(_no_rate(plan, "learning_rate", rate) + f" for round {round}")
    elif isinstance(rate, (list, tuple)):
        rate = rate[min(max(round, 1), len(rate)) - 1]
    return float(rate)


def check_signatures(plan: type[Plan]) -> None:
    """Raise PlanError naming a method that takes what nobody would give it, with its line."""
    for name in PARAMETERS:
        fault = fault_of_signature(plan, name)
        if fault is not None:
            kind = next(kind for kind in plan.__mro__ if name in vars(kind))
            raise PlanError(f"{_place(kind, name)}{plan.__name__}.{fault}")


def _is_rate(value: Any) -> bool:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value) and value >= 0


def _no_rate(plan: Plan, name: str, value: Any) -> str:
    return (
        f"{place_of_setting(plan, name)}{type(plan).__name__}: {name} is {value!r:.80}: give a "
        "number that is not negative"
    )


def placement_in(plan: Plan, rules: Rules) -> Placement:
    """The places of the plan's tensors. Raises PlanError with the plan's line if they cannot be, or
    if its rules ask for too little for them."""
    try:
        placement = placement_of(plan.tensors)
        placement.check(rules.min_peers, placement.level(rules.verify))
        return placement
    except PlanError as error:
        place = place_of_setting(plan, "tensors")
        raise PlanError(f"{place}{type(plan).__name__}: {error}") from None


def role_in(plan: Plan) -> tuple[str, Role] | None:
    """The plan's role by name, if it has one. Raises PlanError with the plan's line."""
    placed = placement_in(plan, rules_of(plan)).roles
    try:
        found = role_of(plan.roles, placed)
        for method, does in (("train", "asks it"), ("answer", "answers for it")):
            if found is not None and getattr(type(plan), method) is getattr(Plan, method):
                raise PlanError(
                    f"roles has {found[0]!r}, and no method {method} that {does}: write "
                    f"`def {method}`"
                )
        return found
    except PlanError as error:
        place = place_of_setting(plan, "roles") or place_of_setting(plan, "tensors")
        raise PlanError(f"{place}{type(plan).__name__}: {error}") from None


def place_of_setting(plan: Plan, name: str) -> str:
    """As `_place`, of the class from which the plan has a setting."""
    kinds = [kind for kind in type(plan).__mro__ if name in vars(kind)]
    return _place(kinds[0], name) if kinds and kinds[0] is not Plan else ""


def _place(kind: type, name: str) -> str:
    """ "plan.py:12: ", where a class says `name`; empty where there is no source."""
    try:
        lines, first = inspect.getsourcelines(kind)
        file = inspect.getfile(kind)
    except (OSError, TypeError):
        return ""
    said = re.compile(rf"\s+(def |async def |class )?{re.escape(name)}\b")
    found = (n for n, line in enumerate(lines, start=first) if said.match(line))
    return f"{Path(file).name}:{next(found, first)}: "


def _refuse_likeness(where: str, name: str, among: list[str], cutoff: float) -> None:
    likely = get_close_matches(name, among, n=1, cutoff=cutoff)
    if likely:
        raise PlanError(f"{where} is nothing that swarm.Plan reads: did you mean {likely[0]}?")
