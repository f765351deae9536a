"""The steps of a plan without privacy: through all rows, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from swarm.learning.data.batches import batches, count_batches, rows_in, shuffled
from swarm.learning.training.anchor import Anchor


class Steps(Protocol):
    """How a round goes through a site's rows, and what it does with each batch's loss."""

    @property
    def in_epoch(self) -> int:
        """How many there are in each epoch."""
        ...

    def chance(self, epoch: int) -> AbstractContextManager[None]:
        """Within which an epoch runs: it decides what all generators give."""
        ...

    def batches(self, epoch: int) -> Iterator[Any]:
        """The batches of an epoch; at most one for each step."""
        ...

    def take(self, loss: torch.Tensor) -> None:
        """Take a step down the loss of the batch that was given last."""
        ...


@dataclass(frozen=True)
class SeededSteps:
    """All rows once an epoch, in batches of at most `size`, in the order that `seed_of` decides."""

    part: Any
    size: int
    device: torch.device
    optimizer: torch.optim.Optimizer
    anchor: Anchor
    seed_of: Callable[[int], int]
    """By epoch."""
    chance: Callable[[int], AbstractContextManager[None]]

    @property
    def in_epoch(self) -> int:
        return count_batches(rows_in(self.part), self.size)

    def batches(self, epoch: int) -> Iterator[Any]:
        order = shuffled(rows_in(self.part), self.seed_of(epoch))
        return batches(self.part, self.size, order, self.device)

    def take(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.anchor.pulled(loss).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
