"""The holder's side of a plan's role: what the plan's `answer` is called with, and on which model.

A process of its own at a node, which has none of the site's rows; in a simulation, an object.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from swarm.errors import NoAnswer, PlanError
from swarm.learning.code.method_signatures import Calls
from swarm.learning.parameters.named_tensors import State, first_non_finite
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.site_plan import describe

Tensors = tuple[torch.Tensor, ...]


class Answering:
    """One round's holder. `answer` and `state` may be called in several threads.

    `training` is the plan at this site; its model becomes `base`, which is whole.
    """

    def __init__(
        self,
        training: LocalTraining,
        base: Mapping[str, torch.Tensor],
        round: int,
        round_in_all: int,
        statistics: Mapping[str, NDArray[Any]] | None,
    ) -> None:
        self._training = training
        self._answering = threading.Lock()
        whole = training.put(base, None)
        training.model.train()
        context = replace(
            training.context(whole, round, round_in_all), statistics=dict(statistics or {})
        )
        faults = training.faults("making the optimiser", "optimizer")
        with training.deterministic("answer", round), faults:
            optimizer = Calls(training.plan, context).optimizer(training.model)
        self._calls = Calls(training.plan, replace(context, optimizer=optimizer))

    def answer(self, asked: Tensors) -> Tensors:
        """The plan's answer. Raises PlanError for what its code raises, or what it returns that is
        no answer."""
        training = self._training
        with self._answering, training.faults("answering", "answer"):
            on_device = tuple(each.to(training.device) for each in asked)
            return _checked(self._calls.answer(training.model, on_device))

    def state(self) -> State:
        """The tensors that live at the role, as they are now."""
        with self._answering:
            return self._training.held()


def _checked(given: Any) -> Tensors:
    """What `answer` returned, as tensors in memory without a graph."""
    found = () if given is None else given if isinstance(given, (tuple, list)) else (given,)
    for each in found:
        if not isinstance(each, torch.Tensor):
            raise PlanError(f"answer must return tensors, not {describe(each)}")
    return tuple(each.detach().cpu() for each in found)


def refuse_unlike(answer: Tensors, like: Tensors | None) -> Tensors:
    """The answer, if it is finite and as it must be. Raises NoAnswer."""
    if like is not None:
        wanted = [(each.dtype, tuple(each.shape)) for each in like]
        found = [(each.dtype, tuple(each.shape)) for each in answer]
        if wanted != found:
            raise NoAnswer(f"the role's holder answered {_words(found)}, not {_words(wanted)}")
    broken = first_non_finite({str(n): each for n, each in enumerate(answer, 1)})
    if broken is not None:
        raise NoAnswer(f"tensor {broken} of what the role's holder answered is not finite")
    return answer


def _words(found: list[tuple[torch.dtype, tuple[int, ...]]]) -> str:
    told = [f"{str(kind).removeprefix('torch.')} {list(shape)}" for kind, shape in found[:4]]
    return ", ".join(told) or "nothing"
