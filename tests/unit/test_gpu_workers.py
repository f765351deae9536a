"""How many workers share a GPU: a made-up device, whose memory each worker takes a part of."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from swarm.errors import LocalError
from swarm.learning.simulation.messages import (
    Begin,
    Free,
    FreeMemory,
    Opened,
    OpenPlan,
    Ready,
    Reply,
    Scored,
    ScoreModel,
    Summed,
    SumRows,
    TrainClient,
    Turn,
    Updated,
    decode_request,
    encode,
)
from swarm.testnet.gpu_workers import place_workers, share_gpus

GIB = 2**30
OPENING = OpenPlan(plan="plan", partition="sites", clients=0, seed=0)


@dataclass
class Machine:
    """GPUs with so many bytes free; a worker takes of the first what it is asked for."""

    free: list[int]
    context: int = GIB // 2
    of_training: int = GIB
    of_scoring: int = GIB // 2
    asked: list[str] = field(default_factory=list)
    living: int = 0

    def start(self) -> Worker:
        self.living += 1
        return Worker(self)


class Worker:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.taken = machine, 0

    def ask(self, raw: bytes) -> bytes:
        return encode(self._answer(raw))

    def _answer(self, raw: bytes) -> Reply:
        request, machine = decode_request(raw), self.machine
        machine.asked.append(type(request).__name__)
        match request:
            case FreeMemory():
                return Free(gpus=tuple(machine.free))
            case OpenPlan():
                self._take(machine.context)
                assert request.device == "cuda:0"
                turns = (Turn("statistics", "", 1, 1), Turn("train", "", 2, 1))
                return Opened(
                    name="P", digest=b"", licence="", min_peers=2, turns=turns, clients=4,
                    training_clients=(2, 3), rows=9, initial=b"model",
                )  # fmt: skip
            case SumRows(clients=(2,)):
                return Summed(statistics=(b"sums",))
            case Begin(model=b"model", statistics=b"sums"):
                return Ready()
            case TrainClient(client=2):
                self._take(machine.of_training)
                return Updated(client=2, update=b"", samples=1, loss=0.0, train_s=0.0)
            case ScoreModel():
                self._take(machine.of_scoring)
                return Scored(metrics={})
        raise AssertionError(request)

    def _take(self, size: int) -> None:
        self.taken += size
        self.machine.free[0] -= size

    def end(self) -> None:
        if self.taken:
            self.machine.free[0] += self.taken
        self.machine.living -= 1


def test_as_many_workers_share_a_gpu_as_find_room_for_what_one_took() -> None:
    machine = Machine([20 * GIB])
    assert share_gpus(64, machine.start, OPENING) == ["cuda:0"] * 8  # 2 GiB each, of 16
    assert machine.asked.count("TrainClient") == 1
    assert machine.living == 0
    assert share_gpus(3, machine.start, OPENING) == ["cuda:0"] * 3


def test_two_gpus_are_taken_in_turn_each_by_its_own_room() -> None:
    machine = Machine([5 * GIB, 10 * GIB])
    places = share_gpus(64, machine.start, OPENING)
    assert places == ["cuda:0", "cuda:1", "cuda:0", "cuda:1", "cuda:1", "cuda:1"]


def test_a_gpu_without_room_for_one_worker_is_refused_with_what_to_do() -> None:
    with pytest.raises(LocalError, match="give --device cpu"):
        share_gpus(4, Machine([GIB * 2]).start, OPENING)


def test_without_a_gpu_nothing_is_tried_and_all_workers_are_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine([])
    assert place_workers("cpu", 3, machine.start, OPENING) == ["cpu"] * 3
    monkeypatch.setattr("swarm.testnet.gpu_workers.gpus", tuple)
    assert place_workers("auto", 2, machine.start, OPENING) == ["cpu"] * 2
    assert machine.asked == []
    monkeypatch.setattr("swarm.testnet.gpu_workers.gpus", lambda: ("/dev/nvidia0",))
    assert place_workers("auto", 2, machine.start, OPENING) == ["cpu"] * 2  # torch sees none
    assert machine.asked == ["FreeMemory"]
