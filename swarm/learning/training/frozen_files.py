"""Frozen tensors from files that every site has: pretrained weights.

A site's node.toml says by an option where its file lies; without one, it lies in the folder of the
site's data, under the option's name. Whether it is the file that all consented to, its SHA-256
says. Such tensors are in no model file and never travel.
"""

from __future__ import annotations

import torch

from swarm.errors import PlanError
from swarm.learning.parameters.foreign_weights import weights_of_option
from swarm.learning.parameters.named_tensors import State, first_non_finite
from swarm.learning.parameters.placement import Frozen, Placement
from swarm.learning.plans.plan import Site


def read_frozen(placement: Placement, state: State, site: Site) -> State:
    """The tensors of a model with this `state` that come from files, in the model's own types.

    Raises ConfigurationError for a file that this site lacks or has otherwise, PlanError for a
    tensor that the file lacks or has in another shape.
    """
    wanted: dict[Frozen, list[str]] = {}
    for name in state:
        place = placement.place_of(name)
        if isinstance(place, Frozen) and place.sha256:
            wanted.setdefault(place, []).append(name)
    found: State = {}
    for place, names in wanted.items():
        options = dict(site.options)
        if site.location is not None and site.location.is_dir():
            options.setdefault(place.option, str(site.location / place.option))
        file = weights_of_option(options, place.option, place.sha256)
        for name in names:
            found[name] = _fitting(file.get(name), name, state[name], place.option)
    unfit = first_non_finite(found)
    if unfit is not None:
        raise PlanError(f"tensors: {unfit!r} is NaN or infinite in its file: give another one")
    return found


def _fitting(value: torch.Tensor | None, name: str, own: torch.Tensor, option: str) -> torch.Tensor:
    if value is None:
        raise PlanError(f"tensors: the file {option!r} has no tensor {name!r}")
    if value.shape != own.shape or value.is_floating_point() != own.is_floating_point():
        raise PlanError(
            f"tensors: {name!r} is {value.dtype} {list(value.shape)} in the file {option!r}, and "
            f"{own.dtype} {list(own.shape)} in the model"
        )
    return value.to(own.dtype)
