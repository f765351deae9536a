"""The two trainers of `swarm bench stream`: one asks and measures, the other answers what it is
asked. As real ones, they have torch, and sockets that their nodes handed to them.

`python -m` this module; the asking one prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import torch

from swarm.learning.parameters.named_tensors import State
from swarm.learning.training.answering import Tensors
from swarm.learning.training.asking import SocketLink
from swarm.learning.training.holding import Holding

ANSWER_S = 60.0
WARM_UP = 20


class Echo:
    """Answers small tensors with themselves, and large ones with nothing: they go one way."""

    def __init__(self, large_bytes: int) -> None:
        self._large_bytes = large_bytes

    def answer(self, asked: Tensors) -> Tensors:
        return () if asked[0].nbytes >= self._large_bytes else asked

    def state(self) -> State:
        return {}


def ask(link: SocketLink, small_bytes: int, large_bytes: int, trips: int, large: int) -> Any:
    """Round trips one after the other and eight under way, then large tensors four under way."""
    small, big = torch.randn(small_bytes // 4), torch.randn(large_bytes // 4)
    _pipelined(link, small, WARM_UP, 1)
    one_s, eight_s = (_pipelined(link, small, trips, under_way) for under_way in (1, 8))
    large_s = _pipelined(link, big, large, 4)
    return {
        "round_trips_per_s": round(trips / one_s, 1),
        "round_trips_per_s_eight_under_way": round(trips / eight_s, 1),
        "mb_per_s": round(large * large_bytes / large_s / 1e6, 1),
    }


def _pipelined(link: SocketLink, tensor: torch.Tensor, count: int, under_way: int) -> float:
    waiting: list[Callable[[], object]] = []
    began = time.perf_counter()
    for _ in range(count):
        if len(waiting) == under_way:
            waiting.pop(0)()
        waiting.append(link.ask((tensor,), None).answer)
    for answer in waiting:
        answer()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="one of the trainers of `swarm bench stream`")
    parser.add_argument("--stream", type=int, help="socket over which to ask")
    parser.add_argument("--door", type=int, help="socket by which streams come")
    parser.add_argument("--small", type=int, default=0)
    parser.add_argument("--large", type=int, required=True)
    parser.add_argument("--trips", type=int, default=0)
    parser.add_argument("--count", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.door is not None:
        answering: Any = Echo(given.large)
        Holding(answering).run(socket.socket(fileno=given.door))
        return
    link = SocketLink(socket.socket(fileno=given.stream), ANSWER_S, [])
    print(json.dumps(ask(link, given.small, given.large, given.trips, given.count)))


if __name__ == "__main__":
    main()
