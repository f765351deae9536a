"""A tiny plan on made-up rows, for tests of everything around training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TINY_PLAN = """\
import torch
from torch import nn

import swarm


class Tiny(swarm.Plan):
    rounds = 3
    epochs = 3
    batch_size = 8
    learning_rate = 0.05

    def model(self):
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))

    def data(self, site):
        table = swarm.read_csv(site.path)
        x, y = table.numbers("a", "b"), table.numbers("y")[:, 0]
        train, test = swarm.split(y, [0.25], seed=site.seed)
        return swarm.Data(train=(x[train], y[train]), test=(x[test], y[test]))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        def ready(x, y):
            return swarm.standardise(x, statistics), y

        return swarm.Data(train=ready(*data.train), test=ready(*data.test))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)

    def metrics(self, model, data):
        x, y = data
        return {"auc": swarm.metrics.auc(y, model(x))}
"""


MODEL = "nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)"
BATCHES_A_ROUND = 12
"""Of the 40 rows that each site has."""


def wide(width: int) -> tuple[str, str]:
    """The change that gives the model about `width`² parameters."""
    layers = f"nn.Linear(2, {width}), nn.ReLU(), nn.Linear({width}, {width}), nn.ReLU()"
    return MODEL, f"{layers}, nn.Linear({width}, 1)"


SECURE = (
    "    epochs = 3\n",
    "    epochs = 3\n    secure = True\n    statistics_bound = 1e6\n",
)
"""The change that has rounds masked; the model must have float32 alone, as `wide` makes it."""


def slow(training_s: float) -> tuple[tuple[str, str], ...]:
    """The changes that make each round's training sleep so long."""
    sleep = f"        time.sleep({training_s / BATCHES_A_ROUND})\n"
    loss = "    def loss(self, model, batch):\n"
    return ("import torch\n", "import time\n\nimport torch\n"), (loss, loss + sleep)


def write_tiny_plan(folder: Path, *changes: tuple[str, str], sites: int = 2) -> Path:
    """Write the plan and its sites' data to `folder`; each change replaces a text in the code."""
    code = TINY_PLAN
    for old, new in changes:
        if old not in code:
            raise ValueError(f"the tiny plan has no {old!r}")
        code = code.replace(old, new)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "plan.py").write_text(code)
    for site in range(sites):
        write_tiny_rows(folder / "data" / f"site{site}.csv", seed=site)
    return folder


COUNTED = (
    (
        "return swarm.Data(train=(x[train], y[train]), test=(x[test], y[test]))",
        "return swarm.Data((x[train], y[train]), (x[test], y[test]), (x[test], y[test]))",
    ),
    (
        "return swarm.Data(train=ready(*data.train), test=ready(*data.test))",
        "return data.map(ready)",
    ),
    ("swarm.metrics.auc(y, model(x))", "swarm.metrics.roc(y, model(x)[:, 0])"),
)


def plan_with(folder: Path, stages: str, *changes: tuple[str, str]) -> Path:
    """The tiny plan with these stages after statistics, validation rows, and an AUC that counts."""
    stages = f"    stages = [swarm.statistics(), {stages}]\n"
    return write_tiny_plan(folder, ("    rounds = 3\n", stages), *COUNTED, *changes)


METHODS = Path(__file__).parents[2] / "examples" / "methods"


def write_method_plan(folder: Path, method: str, sites: int, training_s: float = 0.0) -> Path:
    """One of examples/methods on made-up rows of people who move; each round's training sleeps so
    long."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    code = (METHODS / f"{method}.py").read_text()
    (folder / "plan.py").write_text(code + f"    min_peers = {max(2, sites - 1)}\n")
    task = (METHODS / "activity.py").read_text()
    loss = "    def loss(self, model, batch):\n"
    assert loss in task
    sleep = f"        time.sleep({training_s})\n"  # made-up rows are one batch
    task = task.replace("import numpy", "import time\n\nimport numpy", 1)
    (folder / "task.py").write_text(task.replace(loss, loss + sleep))
    for person in range(sites):
        r = np.random.default_rng(person)
        y = np.arange(40) % 6
        x = r.normal(0, 1, (40, 169)) + np.eye(169)[y] * 4 + r.normal(0, 0.5, 169)
        file = folder / "data" / f"person{person}.npz"
        np.savez(file, x=x, y=y, is_test=np.arange(40) >= 30)
    return folder


def write_tiny_rows(path: Path, seed: int = 0, rows: int = 40) -> Path:
    """Rows in which y is likelier where a + b/10 is large."""
    generator = np.random.default_rng(seed)
    a, b = generator.normal(seed, 1, rows), generator.normal(5, 10, rows)
    y = (a - seed + (b - 5) / 10 + generator.normal(0, 0.5, rows)) > 0
    lines = [f"{u:.6f},{v:.6f},{int(w)}" for u, v, w in zip(a, b, y, strict=True)]
    path.write_text("a,b,y\n" + "\n".join(lines) + "\n")
    return path
