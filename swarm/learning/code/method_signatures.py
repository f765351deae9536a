"""How a plan's methods are called: with a context, if they name one as their last parameter.

    def loss(self, model, batch)            def loss(self, model, batch, context)

Whether they do is looked up once for each class. Other parameters nobody would fill: such a method
is refused when the plan is loaded, with its line.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from swarm.errors import PlanError

CONTEXT = "context"
PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "loss": ("model", "batch"),
    "metrics": ("model", "data"),
    "optimizer": ("model",),
    "train": ("model", "data"),
    "answer": ("model", "asked"),
}
"""What each method is given before the context. `train` may take a number of the round instead."""
ROUND = "round"


def fault_of_signature(kind: type, name: str) -> str | None:
    """Why a method of a plan cannot be called, with the remedy; None if it can."""
    try:
        _last(kind, name)
    except PlanError as error:
        return str(error)
    return None


class Calls:
    """A plan's methods with a context; what is needed of a plan to compute its loss."""

    def __init__(self, plan: Any, context: Any, epochs: int | None = None) -> None:
        self._plan, self._context, self._epochs = plan, context, epochs

    @property
    def epochs(self) -> int:
        """Passes over the site's rows in this round."""
        return int(self._plan.epochs if self._epochs is None else self._epochs)

    @property
    def batch_size(self) -> int:
        """The most rows in a batch."""
        return int(self._plan.batch_size)

    def loss(self, model: Any, batch: Any) -> Any:
        """The plan's loss of a batch."""
        return self._call("loss", model, batch)

    def metrics(self, model: Any, data: Any) -> Any:
        """The plan's scores of a model."""
        return self._call("metrics", model, data)

    def optimizer(self, model: Any) -> Any:
        """The plan's new optimiser."""
        return self._call("optimizer", model)

    def train(self, model: Any, data: Any) -> Any:
        """The plan's own training of a round."""
        return self._call("train", model, data)

    def answer(self, model: Any, asked: Any) -> Any:
        """The plan's answer to a site, as the holder of its role."""
        return self._call("answer", model, asked)

    def _call(self, name: str, *given: Any) -> Any:
        kind: Any = type(self._plan)
        last = _last(kind, name)
        if last == CONTEXT:
            given = (*given, self._context)
        elif last == ROUND:
            given = (*given, self._context.round)
        return getattr(self._plan, name)(*given)


@cache
def _last(kind: Any, name: str) -> str | None:
    """What a method takes after its fixed parameters: CONTEXT, ROUND or nothing (None)."""
    fixed = PARAMETERS[name]
    found = inspect.getattr_static(kind, name)
    method = getattr(kind, name)
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return None  # compiled: it is called, and says itself what is wrong
    if not isinstance(found, (staticmethod, classmethod)):
        parameters = parameters[1:]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return ROUND if name == "train" else None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p for p in positional if p.default is p.empty]
    others = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    last = positional[len(fixed)].name if len(positional) > len(fixed) else None
    most = len(fixed) + (last == CONTEXT or name == "train")
    if others or len(positional) < len(fixed) or len(needed) > most:
        told = ", ".join(p.name for p in parameters) or "nothing"
        before = ", ".join(("self", *fixed))
        raise PlanError(
            f"{name} takes {told}: write `def {name}({before})`, or with a context "
            f"`def {name}({before}, {CONTEXT})`"
        )
    if last == CONTEXT:
        return CONTEXT
    return ROUND if name == "train" and last is not None else None
