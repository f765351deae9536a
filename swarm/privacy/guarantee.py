"""What is promised of a training row's privacy, and the steps that keep it. No numpy: what the main
process says to its trainers is written in these words, and must be quick to import."""

from __future__ import annotations

from typing import Annotated

import msgspec

from swarm.errors import UNREADABLE, PlanError


class Guarantee(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan promises to each training row of each site, over all its rounds together."""

    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1e3)]
    delta: Annotated[float, msgspec.Meta(gt=0, le=1e-2)]
    max_grad_norm: Annotated[float, msgspec.Meta(gt=0, le=1e6)] = 1.0
    """To which length each row's gradient is clipped."""


_guarantees = msgspec.json.Decoder(Guarantee)


class Mechanism(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Steps of DP-SGD that are alike."""

    noise: Annotated[float, msgspec.Meta(gt=0)]
    """σ, in units of the clipping length."""
    rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """With which probability a row is in a step."""
    steps: Annotated[int, msgspec.Meta(ge=1)]


def dp(epsilon: float, delta: float = 1e-5, max_grad_norm: float = 1.0) -> Guarantee:
    """Differential privacy per training row: `privacy = swarm.dp(epsilon=8)` in a plan.

    Whatever a site sends in all rounds of the plan together changes the odds of any statement
    about one row by at most a factor of e^epsilon, but for a probability of `delta`. Raises
    PlanError for numbers that promise nothing.
    """
    given = {"epsilon": epsilon, "delta": delta, "max_grad_norm": max_grad_norm}
    try:
        return _guarantees.decode(msgspec.json.encode(given))
    except (*UNREADABLE, TypeError) as error:
        raise PlanError(f"swarm.dp promises nothing so: {str(error).replace('$.', '')}") from None
