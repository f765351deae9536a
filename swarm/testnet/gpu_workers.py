"""How many of the simulator's workers share a GPU: as many as one, measured, finds room for.

A worker's memory is the driver's context, the libraries' work space, the model and a batch; none of
these can be told beforehand. So one worker trains a client and scores the model, while another,
which does nothing, sees how much less memory is free.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from swarm.box.contents import gpus
from swarm.errors import LocalError
from swarm.learning.simulation.messages import (
    Begin,
    Free,
    FreeMemory,
    Opened,
    OpenPlan,
    Ready,
    Request,
    Scored,
    ScoreModel,
    Summed,
    SumRows,
    TrainClient,
    Updated,
    encode,
)
from swarm.testnet.workers import Channel, R, checked

MARGIN = 0.2
"""Of the free memory, left for rows that come in other shapes, and for whoever else is there."""


def place_workers(
    device: str, most: int, start: Callable[[], Channel], opening: OpenPlan
) -> list[str]:
    """The device of each worker, `most` of them at most. Without a GPU, and unless `device` is
    "auto", all are on the CPU.

    Raises LocalError if not even one worker finds room on a GPU.
    """
    on_cpu = ["cpu"] * most
    return on_cpu if device == "cpu" or not gpus() else share_gpus(most, start, opening) or on_cpu


def share_gpus(most: int, start: Callable[[], Channel], opening: OpenPlan) -> list[str]:
    """The GPU of each worker, the GPUs taken in turn; none if torch sees no GPU."""
    watcher = start()
    try:
        before = _ask(watcher, FreeMemory(), Free).gpus
        if not before:
            return []
        tried = start()
        try:
            _work(tried, replace(opening, device="cuda:0"))
            after = _ask(watcher, FreeMemory(), Free).gpus
        finally:
            tried.end()
    finally:
        watcher.end()
    needed = max(before[0] - after[0], 1)
    room = [int(free * (1 - MARGIN) // needed) for free in before]
    if not any(room):
        raise LocalError(
            f"a worker takes {needed} bytes of a GPU, and {max(before)} are free, of which "
            f"{MARGIN:.0%} are left: give --device cpu, or lower the plan's batch_size"
        )
    turns = [(turn, gpu) for gpu, places in enumerate(room) for turn in range(places)]
    return [f"cuda:{gpu}" for _, gpu in sorted(turns)[:most]]


def _work(worker: Channel, opening: OpenPlan) -> None:
    """All of what takes memory: one client's training, and the scores of all rows."""
    opened = _ask(worker, opening, Opened)
    client = 0 if opened.training_clients is None else opened.training_clients[0]
    sums = None
    if opened.turns[0].task == "statistics":
        sums = _ask(worker, SumRows(clients=(client,)), Summed).statistics[0]
    _ask(worker, Begin(model=opened.initial, statistics=sums), Ready)
    _ask(worker, TrainClient(client=client, round=1, round_in_all=1), Updated)
    _ask(worker, ScoreModel(part="validation"), Scored)


def _ask(worker: Channel, request: Request, kind: type[R]) -> R:
    return checked(worker.ask(encode(request)), kind)
