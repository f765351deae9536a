"""What of a model travels in each round, and in which types.

The initial model travels once and whole, every tensor in the type that the plan's code gives it.
From then on only what training may change is sent: parameters that require gradients, and all
buffers (BatchNorm's running statistics change in training, though nothing is derived by them). A
parameter that the plan's `model()` returns frozen stays what it is in the initial model, on whose
digest everybody agreed; a model of a later round is completed from there.

A plan may ask for a narrower type on the way (`wire_dtype`). Parameters of float32 or float64 are
then rounded once, to nearest with ties to even, when an update is written, and the merge, computed
in float64 as ever, is rounded once to the same type. Training begins from the rounded values, in
the model's own types. Buffers and integers travel as they are: they are few, counts must be exact,
and a variance may exceed what float16 holds.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from swarm.errors import PlanError
from swarm.learning.state import State, first_non_finite, place_of

Types = Mapping[str, torch.dtype]
"""By name: the tensors that travel, and in which type."""

WIRE_TYPES: Mapping[str, torch.dtype | None] = {
    "fp32": None,  # each in its own type, which is float32 in nearly every model
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_WIDE = (torch.float32, torch.float64)


def travelling(model: torch.nn.Module, state: State, wire_dtype: str) -> Types:
    """What of `state` (of this model) travels each round.

    Raises PlanError if no parameter requires gradients (there would be nothing to train), or if
    there is no such wire type.
    """
    if wire_dtype not in WIRE_TYPES:
        raise PlanError(f"wire_dtype is {wire_dtype!r}: choose one of {', '.join(WIRE_TYPES)}")
    narrow = WIRE_TYPES[wire_dtype]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if not any(p.requires_grad for p in parameters.values()):
        raise PlanError("no parameter of the model requires gradients: there is nothing to train")
    # A trainable tensor may be tied to a frozen one, under whose name it is then known.
    trained = {place_of(p) for p in parameters.values() if p.requires_grad}
    types: dict[str, torch.dtype] = {}
    for name, value in state.items():
        types[name] = value.dtype
        if name in parameters:
            if not (parameters[name].requires_grad or place_of(value) in trained):
                del types[name]
            elif narrow is not None and value.dtype in _WIDE:
                types[name] = narrow
    return types


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


def completed(model: State, initial: State) -> State:
    """A whole model: what `model` lacks, because it is frozen, is that of the initial one.

    No tensor is copied. Raises PlanError naming one that the initial model does not have.
    """
    for name in model:
        if name not in initial:
            raise PlanError(
                f"the tensor {name!r} is not in the initial model: they belong to different plans"
            )
    return {**initial, **model}
