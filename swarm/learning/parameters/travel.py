"""What of a model travels in each round, and in which types.

The initial model travels once and whole, every tensor in the type that the plan's code gives it.
From then on only what training may change is sent, and of that what the plan's places let travel:
parameters that require gradients, and all buffers (BatchNorm's running statistics change in
training, though nothing is derived by them). A parameter that the plan's `model()` returns frozen,
or that the plan places as frozen, stays what it is in the initial model, on whose digest everybody
agreed; a model of a later round is completed from there.

A plan may ask for a narrower type on the way (`wire_dtype`). Parameters of float32 or float64 are
then rounded once, to nearest with ties to even, when an update is written, and the merge, computed
in float64 as ever, is rounded once to the same type. Training begins from the rounded values, in
the model's own types. Buffers and integers travel as they are: they are few, counts must be exact,
and a variance may exceed what float16 holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from swarm.errors import PlanError
from swarm.learning.parameters.named_tensors import State, first_non_finite, place_of
from swarm.learning.parameters.next_file import MEMBERS, ROW, is_added
from swarm.learning.parameters.placement import Frozen, Local, Placement, Shared

Types = Mapping[str, torch.dtype]
"""By name: the tensors that travel, and in which type."""

Rows = Mapping[str, Mapping[int, torch.Tensor]]
"""By name and member: gathered tensors."""

WIRE_TYPES: Mapping[str, torch.dtype | None] = {
    "fp32": None,  # each in its own type, which is float32 in nearly every model
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_WIDE = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Ways:
    """Where a model's tensors go after training, by name; frozen ones are in neither."""

    travels: Types
    stays: tuple[str, ...]
    """Those that training changes, each site for itself."""


def freeze(model: torch.nn.Module, placement: Placement) -> None:
    """Let training leave alone what the plan places as frozen."""
    for name, parameter in model.named_parameters():
        if isinstance(placement.place_of(name), Frozen):
            parameter.requires_grad_(False)


def ways_of(
    model: torch.nn.Module, state: State, wire_dtype: str, placement: Placement | None = None
) -> Ways:
    """What of `state` (of this model) travels each round, and what stays.

    Raises PlanError if nothing would be trained or nothing would travel, if there is no such wire
    type, and for places that do not fit the model.
    """
    if wire_dtype not in WIRE_TYPES:
        raise PlanError(f"wire_dtype is {wire_dtype!r}: choose one of {', '.join(WIRE_TYPES)}")
    narrow = WIRE_TYPES[wire_dtype]
    placement = placement or Placement()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not any(p.requires_grad for p in parameters.values()):
        raise PlanError("no parameter of the model requires gradients: there is nothing to train")
    _check_places(placement, state, parameters)
    # A trainable tensor may be tied to a frozen one, under whose name it is then known.
    trained = {place_of(p) for p in parameters.values() if p.requires_grad}
    types: dict[str, torch.dtype] = {}
    stays: list[str] = []
    for name, value in state.items():
        place, parameter = placement.place_of(name), parameters.get(name)
        is_fixed = parameter is not None and not (
            parameter.requires_grad or place_of(value) in trained
        )
        if is_fixed or isinstance(place, Frozen):
            continue
        if isinstance(place, Local):
            stays.append(name)
        elif parameter is not None and narrow is not None and value.dtype in _WIDE:
            types[name] = narrow
        else:
            types[name] = value.dtype
    if not types:
        raise PlanError("no tensor of the model travels, so the sites would learn nothing together")
    return Ways(types, tuple(stays))


def _check_places(
    placement: Placement, state: State, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    unmatched = placement.unmatched(state)
    if unmatched:
        raise PlanError(
            f"tensors: the pattern {unmatched[0]!r} comes to no tensor of the model, or to none "
            f"that an earlier pattern has not; the model has {', '.join(list(state)[:8])}"
            f"{', …' if len(state) > 8 else ''}"
        )
    for name, value in state.items():
        if is_added(name):
            raise PlanError(f"the model's tensor {name!r} begins with ~, which names of swarm do")
        place = placement.place_of(name)
        step = place.fold.step if isinstance(place, Shared) else None
        if step is not None and name not in parameters and value.is_floating_point():
            raise PlanError(
                f"tensors: {name!r} is a buffer, and {step.name} is for parameters: it could make "
                "a variance negative; give buffers a pattern of their own before that one, as in "
                f'"{name}": swarm.shared()'
            )


def to_wire(state: State, types: Types) -> State:
    """What travels of `state`, which is finite, in the types in which it does; not copied where
    they agree already.

    Raises PlanError naming a tensor with values that its wire type cannot hold.
    """
    rounded = {name: state[name].detach().to(dtype) for name, dtype in types.items()}
    unfit = first_non_finite(
        {name: value for name, value in rounded.items() if value.dtype != state[name].dtype}
    )
    if unfit is not None:
        raise PlanError(
            f"the tensor {unfit!r} has values beyond {types[unfit]} (or NaN): choose "
            'wire_dtype = "bf16" or "fp32", or a lower learning_rate'
        )
    return rounded


def rows_of(model: State) -> Rows:
    """The gathered rows in a model file, by tensor and member."""
    members = model[MEMBERS].tolist() if MEMBERS in model else []
    return {
        name.removeprefix(ROW): dict(zip(members, value, strict=True))
        for name, value in model.items()
        if name.startswith(ROW)
    }


def own_tensors(model: State) -> State:
    """What of a model file is the model's own."""
    return {name: value for name, value in model.items() if not is_added(name)}


def completed(model: State, initial: State) -> State:
    """A whole model: what `model` lacks, because it does not travel, is that of the initial one.
    What is in `model` beside the model's own tensors is left out.

    No tensor is copied. Raises PlanError naming one that the initial model does not have.
    """
    own = own_tensors(model)
    for name in own:
        if name not in initial:
            raise PlanError(
                f"the tensor {name!r} is not in the initial model: they belong to different plans"
            )
    return {**initial, **own}
