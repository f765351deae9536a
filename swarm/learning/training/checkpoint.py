"""What a trainer keeps on its own disk: the middle of an interrupted round, and optimiser state.

Checkpoints are safetensors files whose metadata is JSON: never pickle, which runs code on reading.
They never leave the site. Each is written to a temporary name, synced and renamed, so that a
SIGKILL at any instruction leaves the last complete one; one that cannot be read is ignored, since
all that it saves is time.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from swarm.errors import PlanError
from swarm.learning.parameters.named_tensors import State, copy_state
from swarm.tensors import move_durably
from swarm.types import Digest


@dataclass(frozen=True)
class Workplace:
    """Where a trainer keeps checkpoints, and of what they are."""

    folder: Path
    plan: Digest
    keep_optimizer: bool

    def round_file(self) -> Path:
        return self.folder / "round.checkpoint"

    def optimizer_file(self, round: int) -> Path:
        return self.folder / f"optimizer-{round:06d}.checkpoint"

    def last_optimizer(self, round: int) -> Path | None:
        """What the last round before this one left; those before it are forgotten."""
        files = self.folder.glob("optimizer-*.checkpoint")
        earlier = sorted(file for file in files if file < self.optimizer_file(round))
        for file in earlier[:-1]:
            file.unlink(missing_ok=True)
        return earlier[-1] if earlier else None


@dataclass(frozen=True)
class Checkpoint:
    """A model and an optimiser (or none: {}) after some epochs of one round."""

    model: State
    optimizer: dict[str, Any]
    epochs: int
    steps: int
    loss: float


def write(path: Path, checkpoint: Checkpoint, key: str) -> None:
    """Write a checkpoint that is valid for `key` (plan, seed, site, round, base) only.

    Raises PlanError if the optimiser's state holds anything but tensors and plain values.
    """
    # Contiguous: safetensors has no memory formats. What is read is copied into the model's own.
    tensors = {f"model/{n}": t.contiguous() for n, t in copy_state(checkpoint.model).items()}
    plain: dict[str, Any] = {}
    for index, values in checkpoint.optimizer.get("state", {}).items():
        for name, value in values.items():
            where = f"optimizer/{index}/{name}"
            if isinstance(value, torch.Tensor):
                tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            else:
                plain[where] = value
    head = {
        "key": key,
        "groups": checkpoint.optimizer.get("param_groups", []),
        "plain": plain,
        "epochs": checkpoint.epochs,
        "steps": checkpoint.steps,
        "loss": checkpoint.loss,
    }
    try:
        text = json.dumps(head, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PlanError(
            f"the optimiser's state cannot be written as plain values: {error}; "
            "give it numbers, not tensors, as settings"
        ) from error
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"swarm": text})
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    move_durably(temporary, path)


def read(path: Path, key: str) -> Checkpoint | None:
    """The checkpoint at `path`, if it is whole and was written for `key`; None otherwise."""
    try:
        with safe_open(path, framework="pt") as file:
            head = json.loads((file.metadata() or {})["swarm"])
            if head["key"] != key:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        states: dict[int, dict[str, Any]] = {}
        for where, value in {**tensors, **head["plain"]}.items():
            kind, _, rest = where.partition("/")
            if kind == "optimizer":
                index, _, name = rest.partition("/")
                states.setdefault(int(index), {})[name] = value
        return Checkpoint(
            model={n.removeprefix("model/"): t for n, t in tensors.items() if n[:6] == "model/"},
            optimizer={"state": states, "param_groups": head["groups"]},
            epochs=int(head["epochs"]),
            steps=int(head["steps"]),
            loss=float(head["loss"]),
        )
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
