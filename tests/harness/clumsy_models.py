"""Plans whose models, data or methods are odd in one way each, on made-up rows."""

from __future__ import annotations

import textwrap
from pathlib import Path

HEAD = """\
import copy
import sys

import numpy as np
import torch
from torch import nn

import swarm


def rows(n=33, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, (x[:, 0] > 0).float()


class Base(swarm.Plan):
    rounds = 2
    epochs = 2
    batch_size = 16

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    def data(self, site):
        x, y = rows(seed=len(site.name))
        return swarm.Data((x, y), (x[:5], y[:5]), (x[5:15], y[5:15]))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)


"""


def odd_model(lines: str, forward: str = "super().forward(x)") -> str:
    """A plan whose model is a linear layer with these lines in its constructor, and this forward
    pass."""
    return (
        "class Model(nn.Sequential):\n    def __init__(self):\n"
        f"        super().__init__(nn.Linear(4, 1))\n{textwrap.indent(lines, ' ' * 8)}\n\n"
        f"    def forward(self, x):\n        return {forward}\n\n\n"
        "class Odd(Base):\n    def model(self):\n        return Model()\n"
    )


def odd_plan(body: str) -> str:
    """A plan that differs from the sound one by the methods in `body`."""
    return "class Odd(Base):\n" + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"


def write_plan(folder: Path, code: str) -> Path:
    """Write a plan of this code to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.py").write_text(HEAD + code)
    return folder
