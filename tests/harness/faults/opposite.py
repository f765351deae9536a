"""A member's node that sends the opposite of what it has learnt, as a process.

    python -m harness.faults.opposite TIMES … DIRECTORY

It does everything else as it should: its updates are whole, in time, and of the right shape, so
that nothing but the rule by which updates are merged can keep them from doing harm. Whatever stands
between TIMES and DIRECTORY is the command of an honest node, in whose place it runs.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import trio

from harness.faults.liar import COUNTED, read_lies
from swarm.learning.parameters.named_tensors import State
from swarm.learning.supervisor.trainer_messages import Loaded, Trained
from swarm.node import node_process
from swarm.protocol import machine as m
from swarm.rounds.training import Training
from swarm.tensors import create_file, open_file

FLOATS = (np.float32, np.float64)


def turned(sent: State, base: State, times: float) -> State:
    """What a liar sends instead: from the base as many times as far, the other way."""
    return {
        name: base[name] - times * (value - base[name]) if value.is_floating_point() else value
        for name, value in sent.items()
    }


def turn_file(update: Path, base: Path, times: float) -> None:
    """The same in an update's file."""
    old, began = open_file(update), open_file(base)
    with create_file(update.with_suffix(".turned"), old.layout) as new:
        for name in (spec.name for spec in old.layout.specs):
            value = np.asarray(old[name])
            if value.dtype in FLOATS:
                start = np.asarray(began[name])
                value = start - value.dtype.type(times) * (value - start)
            new[name][...] = value
    update.with_suffix(".turned").replace(update)


def main(times: float, directory: Path) -> None:
    """Run one life, as `swarm node start` runs an honest node's."""
    honest, told = Training._trained, read_lies(directory)

    async def train_and_lie(self: Training, command: m.Train, out: Path, loaded: Loaded) -> Trained:
        trained = await honest(self, command, out, loaded)
        turn = partial(turn_file, out, self.store.path(command.base), times)
        await trio.to_thread.run_sync(turn)
        told["updates turned round"] += 1
        (directory / COUNTED).write_bytes(msgspec.json.encode(dict(told)))
        return trained

    Training._trained = train_and_lie  # type: ignore[method-assign]
    node_process.start_node(directory)


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[-1]))
