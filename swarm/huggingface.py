"""A Hugging Face training as a member of a swarm: `Trainer(callbacks=[swarm.huggingface.Swarm()])`.

    session = swarm.join(rounds=20, min_peers=3)

stands above it, as in every script of one's own (docs/own-scripts.md). Needs `pip install
'swarm[huggingface]'`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import transformers

from swarm.errors import PlanError
from swarm.learning.scripts.session import current


class Swarm(transformers.TrainerCallback):  # type: ignore[misc]
    """Makes every epoch of a training one round: it begins with the swarm's model, and ends with a
    submission, whose metrics are those of the evaluation after it (`eval_strategy="epoch"`).

    `num_train_epochs` must be the plan's rounds. `rows` is the number of this site's training rows;
    by default, that of the training dataset.
    """

    def __init__(self, rows: int | None = None) -> None:
        self._session = current("swarm.huggingface.Swarm")
        self._rows = rows
        self._rounds: Iterator[int] | None = None

    def on_epoch_begin(
        self, args: Any, state: Any, control: Any, model: Any, train_dataloader: Any, **_: Any
    ) -> None:
        if self._rounds is None:
            self._rounds = self._session.rounds(model, rows=self._count(train_dataloader))
        next(self._rounds)

    def on_epoch_end(
        self, args: Any, state: Any, control: Any, model: Any, train_dataloader: Any, **_: Any
    ) -> None:
        self._session.submit(model, self._count(train_dataloader))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, float], model: Any,
        train_dataloader: Any = None, **_: Any,
    ) -> None:  # fmt: skip
        """After the epoch, and before it is handed over."""
        if self._session.submitted is not None:
            self._session.submit(model, self._session.submitted.rows, metrics)

    def _count(self, loader: Any) -> int:
        if self._rows is not None:
            return self._rows
        try:
            return len(loader.dataset)
        except (AttributeError, TypeError):
            raise PlanError(
                "the training dataset does not say how many rows it has: give "
                "swarm.huggingface.Swarm(rows=…)"
            ) from None
