"""One site of eight that sends ten times the opposite of what it learned."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from swarm.learning.simulation.whole_run import run_federated

PLAN = """\
import numpy as np
import torch
from torch import nn

import swarm


class Lied(swarm.Plan):
    rounds = 8
    epochs = 2
    learning_rate = 0.01
    min_peers = 8
    tensors = {{"*": swarm.shared({rule})}}

    def model(self):
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))

    def data(self, site):
        rows = np.load(site.path)
        x, y = rows[:, :-1], rows[:, -1]
        return swarm.Data(train=(x[:120], y[:120]), test=(x[120:], y[120:]))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)

    def train(self, model, data, context):
        optimizer = self.optimizer(model, context)
        x, y = data.train
        for _ in range(self.epochs):
            for rows in torch.randperm(len(y)).split(20):
                optimizer.zero_grad()
                self.loss(model, (x[rows], y[rows])).backward()
                optimizer.step()
        if {lies} and context.site.name == "site5":
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    was = context.base[name]
                    parameter.copy_(was - 10 * (parameter - was))

    def optimizer(self, model, context):
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)

    def metrics(self, model, data):
        x, y = data
        return {{"accuracy": ((model(x)[:, 0] > 0) == (y > 0.5)).float().mean().item()}}
"""


def accuracy(rule: str, lies: bool) -> float:
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        (Path(folder) / "plan.py").write_text(PLAN.format(rule=rule, lies=lies))
        weights = np.random.default_rng(0).standard_normal(12)
        for site in range(8):
            x = np.random.default_rng(site + 1).standard_normal((420, 12)).astype(np.float32)
            y = (x @ weights + 0.5 * np.abs(x[:, 0]) > 0).astype(np.float32)
            np.save(data / f"site{site}.npy", np.column_stack([x, y]))
        return float(run_federated(Path(folder)).score()["accuracy"] or 0)


@cache
def honest() -> float:
    return accuracy("swarm.mean()", lies=False)


def test_the_mean_fails() -> None:
    assert honest() > 0.9
    assert accuracy("swarm.mean()", lies=True) < 0.6


@pytest.mark.parametrize(
    "rule",
    [
        "swarm.median()",
        "swarm.trimmed(0.125)",
        "swarm.multi_krum(1, 5)",
        "swarm.geometric_median()",
    ],
)
def test_a_robust_rule_stays_near_what_no_liar_gives(rule: str) -> None:
    assert accuracy(rule, lies=True) > honest() - 0.01


def test_krum_which_follows_one_site_learns_as_much_as_without_a_liar() -> None:
    assert accuracy("swarm.krum(1)", lies=True) > accuracy("swarm.krum(1)", lies=False) - 0.01
