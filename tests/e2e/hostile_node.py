"""A member's node that follows the protocol but hands in updates that nobody can use.

Started like a real one: `python hostile_node.py start DIRECTORY`. In round 1 its update holds a
NaN, in round 2 a tensor of another shape, and in round 3 it serves other bytes than it promised.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from swarm.node.node_process import start_node
from swarm.protocol import machine as m
from swarm.rounds.exchange import Exchange
from swarm.rounds.training import Training
from swarm.tensors import Layout, create_file, open_file
from swarm.types import Address, Digest

promised: set[Digest] = set()
train_honestly = Training._train
read_honestly = Exchange.read_chunk


async def train(self: Training, command: m.Train) -> m.Event:
    event = await train_honestly(self, command)
    assert isinstance(event, m.TrainingFinished)
    store = self.store
    honest = open_file(store.path(event.update))
    tensors: dict[str, Any] = {name: np.array(honest[name]) for name in honest}
    layout = Layout.read(store.path(event.update))
    if command.task == "statistics":
        return event
    if command.within == 1:
        tensors["0.weight"][0, 0] = np.nan
    elif command.within == 2:
        tensors["0.weight"] = np.zeros((9, 9), np.float32)
        wrong = [
            with_changes(spec, shape=(9, 9)) if spec.name == "0.weight" else spec
            for spec in layout.specs
        ]
        layout = Layout.from_specs(wrong)
    else:
        if command.within == 3:
            promised.add(event.update)
        return event
    out = store.scratch(f"hostile-{command.number}")
    with create_file(out, layout) as file:
        for name, values in tensors.items():
            file[name][...] = values
    update = store.add(out, store.manifest(event.update).origin)
    self.blobs.note(command.number, update)
    return dataclasses.replace(event, update=update)


def with_changes(spec: Any, **changes: Any) -> Any:
    return type(spec)(**{f: getattr(spec, f) for f in spec.__struct_fields__} | changes)


def read_chunk(self: Exchange, sender: Address, root: Digest, index: int) -> bytes:
    chunk = read_honestly(self, sender, root, index)
    return bytes(len(chunk)) if root in promised else chunk


Training._train = train  # type: ignore[method-assign]
Exchange.read_chunk = read_chunk  # type: ignore[method-assign]
start_node(Path(sys.argv[2]))
