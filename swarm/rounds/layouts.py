"""What the tensors of a plan look like on the wire, as its trainer describes them."""

from __future__ import annotations

import msgspec

from swarm.errors import PlanError
from swarm.learning.messages import Loaded, Tensor
from swarm.tensors import Layout, TensorSpec


def layout_of(described: Loaded) -> Layout:
    """The one layout of a plan's updates and merged models: of what travels in each round.

    Raises PlanError for tensors that cannot.
    """
    return _layout(described, described.tensors)


def initial_layout_of(described: Loaded) -> Layout:
    """The layout of model 0, which is whole and in the model's own types."""
    return _layout(described, described.initial or described.tensors)


def _layout(described: Loaded, of: tuple[Tensor, ...]) -> Layout:
    tensors = [{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in of]
    try:
        return Layout.from_specs(msgspec.convert(tensors, list[TensorSpec]))
    except (ValueError, msgspec.ValidationError) as error:
        raise PlanError(f"the model of {described.name} cannot be exchanged: {error}") from None
