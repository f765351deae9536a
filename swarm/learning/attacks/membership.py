"""Membership inference: whether a row was trained on, guessed from an update or from a model.

From an update: how well a row's gradient at the round's base agrees with the way that the site's
model went (Nasr, Shokri, Houmansadr, arXiv:1812.00910, in its simplest form). From a model: whether
the row's loss is small (Yeom et al., arXiv:1709.01604). Both are told as an AUC of rows that were
trained on against rows that were held back: .5 is a coin.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.learning.data.batches import concatenate, rows_in, take, to_device
from swarm.learning.training.loop import LocalTraining

State = Mapping[str, torch.Tensor]


def auc_of(members: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How often a member's score is above another row's; half of the ties. Shapes [n], [m]."""
    above = (members[:, None] > others[None, :]).mean()
    return float(above + (members[:, None] == others[None, :]).mean() / 2)


def from_update(site: LocalTraining, base: State, update: State) -> float | None:
    """AUC from one site's update of one round; None for a site with too few rows of either kind."""
    parts = _rows(site)
    if parts is None:
        return None
    moved = {name: base[name].cpu() - update[name].cpu() for name in update}
    site.put(base, None)
    members, others = (
        np.array([_agreement(site, part, row, moved) for row in range(rows_in(part))[:MOST_ROWS]])
        for part in parts
    )
    return auc_of(members, others)


def from_model(site: LocalTraining, model: State) -> float | None:
    """AUC from a model alone."""
    parts = _rows(site)
    if parts is None:
        return None
    return auc_of(*(-losses_of(site, model, part, MOST_ROWS) for part in parts))


def losses_of(
    site: LocalTraining, model: State, part: object, most: int | None = None
) -> NDArray[np.float64]:
    """The loss of each row by itself, of the first `most`. Shape [rows]."""
    site.put(model, None)
    rows = range(rows_in(part))[:most]
    with torch.no_grad():
        return np.array([float(_loss(site, part, row)) for row in rows])


MOST_ROWS = 200
LEAST_ROWS = 10


def _rows(site: LocalTraining) -> tuple[object, object] | None:
    """A site's training rows, and its held-back ones."""
    data = site.prepared(site.statistics_used or None)
    held = concatenate([data.validation, data.test])
    if min(rows_in(data.train), rows_in(held)) < LEAST_ROWS:
        return None
    return data.train, held


def _loss(site: LocalTraining, part: object, row: int) -> torch.Tensor:
    site.model.eval()
    batch = to_device(take(part, np.array([row])), site.device)
    loss: torch.Tensor = site.calls({}).loss(site.model, batch)
    return loss


def _agreement(
    site: LocalTraining, part: object, row: int, moved: Mapping[str, torch.Tensor]
) -> float:
    """The cosine of a row's gradient and the way back from the update."""
    trained = {n: p for n, p in site.model.named_parameters() if p.requires_grad and n in moved}
    gradients = torch.autograd.grad(
        _loss(site, part, row), list(trained.values()), allow_unused=True
    )
    pairs = [
        (gradient.cpu().flatten(), moved[name].flatten().float())
        for name, gradient in zip(trained, gradients, strict=True)
        if gradient is not None
    ]
    one, two = (torch.cat(vectors) for vectors in zip(*pairs, strict=True))
    return float(torch.nn.functional.cosine_similarity(one, two, dim=0))
