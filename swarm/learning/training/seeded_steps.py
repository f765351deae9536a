"""The steps of a plan without privacy: through all rows, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from swarm.learning.data.batches import (
    batches,
    count_batches,
    rows_in,
    shuffled,
    split,
    take,
    to_device,
)
from swarm.learning.training.anchor import Anchor
from swarm.learning.training.together import Together


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


@dataclass
class SharedSteps:
    """The same steps, taken by several processes together, each of which has a part of a batch."""

    whole: SeededSteps
    model: torch.nn.Module
    together: Together
    _part: float = field(default=0.0, init=False)
    """Of the batch that was given last, which is this process's."""

    @property
    def in_epoch(self) -> int:
        return self.whole.in_epoch

    def chance(self, epoch: int) -> AbstractContextManager[None]:
        return self.whole.chance(epoch)

    def batches(self, epoch: int) -> Iterator[Any]:
        whole = self.whole
        order = shuffled(rows_in(whole.part), whole.seed_of(epoch))
        for rows in split(order, whole.size):
            own, self._part = self.together.share_of(rows)
            yield to_device(take(whole.part, own), whole.device)

    def take(self, loss: torch.Tensor) -> None:
        self.whole.optimizer.zero_grad(set_to_none=True)
        (self.whole.anchor.pulled(loss) * self._part).backward()  # type: ignore[no-untyped-call]
        self.together.add_up(self.model.parameters())
        self.whole.optimizer.step()
