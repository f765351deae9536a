"""A Lightning training as a member of a swarm: `Trainer(callbacks=[swarm.lightning.Swarm()])`.

    session = swarm.join(rounds=20, min_peers=3)

stands above it, as in every script of one's own (docs/own-scripts.md). Needs `pip install
'swarm[lightning]'`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning

from swarm.errors import PlanError
from swarm.learning.scripts.session import current


class Swarm(lightning.Callback):  # type: ignore[misc]
    """Makes every `every_epochs` epochs of a fit one round: they begin with the swarm's model, and
    end with a submission, whose metrics are what the module has logged.

    `max_epochs` of the Trainer must be `every_epochs` times the plan's rounds. `rows` is the number
    of this site's training rows; by default, that of the training dataset.
    """

    def __init__(self, every_epochs: int = 1, rows: int | None = None) -> None:
        self._session = current("swarm.lightning.Swarm")
        self._every, self._rows = every_epochs, rows
        self._rounds: Iterator[int] | None = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch % self._every:
            return
        if self._rounds is None:
            self._rounds = self._session.rounds(pl_module, rows=self._count(trainer))
        next(self._rounds)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self._every == 0:
            self._session.submit(pl_module, self._count(trainer), trainer.callback_metrics)

    def _count(self, trainer: Any) -> int:
        if self._rows is not None:
            return self._rows
        try:
            return len(trainer.train_dataloader.dataset)
        except (AttributeError, TypeError):
            raise PlanError(
                "the training dataset does not say how many rows it has: give "
                "swarm.lightning.Swarm(rows=…)"
            ) from None
