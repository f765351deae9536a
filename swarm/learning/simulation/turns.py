"""Sites that train side by side in one process, one at a time: they take turns where they ask.

A round of a plan with a role is an exchange: were each site trained to its end before the next, the
role's holder would see one site's rows after the other's. So each site has a thread, and hands on
to the next whenever it has been answered. The order is always the same, and so is the result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from swarm.learning.parameters.named_tensors import State
from swarm.learning.plans.plan import Asked
from swarm.learning.training.answering import Answering, refuse_unlike

T = TypeVar("T")


class Turns:
    """Works that take turns."""

    def __init__(self, count: int) -> None:
        self._gates = [threading.Semaphore(0) for _ in range(count)]
        self._left = list(range(count))
        self._ended = threading.Event()

    def run(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """What each work returns. Raises what the first of them that failed has raised; the others
        are run to their ends all the same."""
        found: dict[int, T] = {}
        faults: dict[int, BaseException] = {}

        def work(number: int) -> None:
            self._gates[number].acquire()
            try:
                found[number] = works[number]()
            except BaseException as error:  # noqa: BLE001 (raised in the caller's thread)
                faults[number] = error
            following = self._following(number)
            self._left.remove(number)
            if self._left:
                self._gates[following].release()
            else:
                self._ended.set()

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in self._left]
        for thread in threads:
            thread.start()
        self._gates[0].release()
        self._ended.wait()
        for number in sorted(faults):
            raise faults[number]
        return [found[number] for number in sorted(found)]

    def hand_on(self, number: int) -> None:
        """Let the next one work, and wait for the turn."""
        self._gates[self._following(number)].release()
        self._gates[number].acquire()

    def _following(self, number: int) -> int:
        return self._left[(self._left.index(number) + 1) % len(self._left)]


@dataclass(frozen=True)
class Answered:
    """What was asked, with its answer."""

    tensors: tuple[torch.Tensor, ...]

    def answer(self) -> tuple[torch.Tensor, ...]:
        return self.tensors


@dataclass
class SimulatedLink:
    """A site's way to the role's holder in the same process. Bytes are counted both ways."""

    holder: Answering
    turns: Turns
    number: int
    sent_bytes: int = 0
    received_bytes: int = 0

    def ask(self, tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor] | None) -> Asked:
        given = self._exchange(tensors)
        self.received_bytes += size_of(given)
        return Answered(refuse_unlike(given, None if like is None else tuple(like)))

    def tell(self, tensors: Sequence[torch.Tensor]) -> None:
        self._exchange(tensors)

    def state(self) -> State:
        held = self.holder.state()
        self.received_bytes += size_of(tuple(held.values()))
        return held

    def _exchange(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        asked = tuple(each.detach().clone() for each in tensors)
        self.sent_bytes += size_of(asked)
        given = self.holder.answer(asked)
        self.turns.hand_on(self.number)
        return given


def size_of(tensors: Sequence[torch.Tensor]) -> int:
    """Their contents, in bytes."""
    return sum(each.numel() * each.element_size() for each in tensors)
