"""Each site's own copy of a model: fine-tuned on its own rows, and scored on those held back.

What fine-tuning brings differs from site to site, and nobody else can tell: so the scores before
and after are what a site may tell the others; the copy stays where it is (FedAvg and fine-tuning:
arXiv:2002.04758).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from swarm.learning.data.batches import rows_in
from swarm.learning.parameters.named_tensors import State
from swarm.learning.parameters.travel import Rows, completed
from swarm.learning.training.checkpoint import Workplace
from swarm.learning.training.loop import NO_ROWS, LocalTraining, Progress, Update, ignore


@dataclass(frozen=True)
class Personal:
    """A site's own model, but for what its update has kept, and the scores before and after on its
    validation rows: on its training rows, and `rows` is 0, if it has none."""

    model: State
    update: Update
    before: dict[str, float]
    after: dict[str, float]
    rows: int


def personalise(
    site: LocalTraining,
    round: int,
    base: Mapping[str, torch.Tensor],
    statistics: Mapping[str, NDArray[Any]] | None,
    *,
    epochs: int | None = None,
    base_digest: bytes = b"",
    workplace: Workplace | None = None,
    progress: Progress = ignore,
    round_in_all: int = 0,
    kept: State | None = None,
    gathered: Rows = NO_ROWS,
) -> Personal:
    """Fine-tune a copy of `base`, which is whole, at one site, with what it has `kept`. Raises as
    its `train`."""
    held = site.prepared(statistics)
    rows = rows_in(held.validation)
    part = "validation" if rows else "train"
    before = site.evaluate(base, statistics, (part,), kept)[part]
    update = site.train(
        round,
        base,
        statistics,
        base_digest=base_digest,
        workplace=workplace,
        progress=progress,
        round_in_all=round_in_all,
        epochs=epochs,
        kept=kept,
        rows=gathered,
    )
    model = completed(update.state, dict(base))
    after = site.evaluate(model, statistics, (part,), update.kept)[part]
    return Personal(model, update, before, after, rows)
