"""Four groups learn to tell three kinds of acute leukaemia apart from the genes that are active.

Three of them have samples of one kind only, so none could learn the task alone.
"""

import numpy as np
import torch
from torch import nn

import swarm

KINDS = ["B-cell", "T-cell", "AML"]  # the first two are kinds of ALL
PROBES = 3000


class Leukaemia(swarm.Plan):
    rounds = 20
    min_peers = 3
    min_rows = 2

    # One step of plain gradient descent a round, on all rows of a site: the mean of such steps is
    # the step of all rows together, however unlike the sites are.
    epochs = 1
    batch_size = 1000
    learning_rate = 1e-3  # chosen by ../tune.py, which reads training rows only

    licence = "LGPL"

    def model(self):
        model = nn.Linear(PROBES, len(KINDS))  # 72 patients carry no more
        nn.init.zeros_(model.weight)
        return model

    def optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate)

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return file["expression"].astype(np.float32)

    def data(self, site):
        file = self.table(site.path)
        expression = self.inputs(file)
        kind = np.array([KINDS.index(name) for name in file["kind"]])

        rest, test = swarm.split(kind, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(kind[rest], [0.15], site.seed))
        return swarm.Data(*((expression[p], kind[p]) for p in (train, validation, test)))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        mean = (statistics["sum"] / statistics["count"]).astype(np.float32)

        # Not divided by the deviation: one is a doubling, and genes that hardly vary weigh less.
        def ready(expression, *kind):  # who predicts has no label
            return expression - mean, *kind

        return data.map(ready)

    def loss(self, model, batch):
        x, kind = batch
        return nn.functional.cross_entropy(model(x), kind)

    def predict(self, model, x):
        chances = model(x).softmax(dim=1)
        return {name: chances[:, k] for k, name in enumerate(KINDS)}

    def metrics(self, model, data):
        x, kind = data
        logits = model(x)
        aml = logits[:, 2] - torch.logsumexp(logits[:, :2], dim=1)
        return {
            "accuracy": swarm.metrics.confusion(kind == 2, aml > 0, 2),  # AML or ALL
            "lineage": swarm.metrics.confusion(kind, logits, 3),  # all three
            "loss": float(self.loss(model, data)),
        }
