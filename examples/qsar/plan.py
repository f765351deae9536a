"""Four companies learn how strongly molecules bind to three targets, each from its own chemistry.

They share the body of the model and its three outputs; a molecule that was measured on one target
teaches that output alone.
"""

import numpy as np
from torch import nn

import swarm

BITS = 1024
TARGETS = ["thrombin", "dopamine_d3", "histamine_h3"]


class Binding(swarm.Plan):
    rounds = 20
    min_peers = 3
    batch_size = 64
    epochs = 1
    weight_decay = 0.05
    hidden: int = 256
    rate: float = 3e-3  # chosen by ../tune.py, which reads training rows only

    licence = "CC-BY-SA-3.0"

    def learning_rate(self, round):
        return self.rate * 0.9 ** (round - 1)

    def model(self):
        body = nn.Sequential(nn.Linear(BITS, self.hidden), nn.ReLU(), nn.Dropout(0.3))
        heads = nn.Linear(self.hidden, len(TARGETS))
        nn.init.constant_(heads.bias, 7.0)  # most molecules are near it
        return nn.Sequential(body, heads)

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return np.unpackbits(file["bits"], axis=1).astype(np.float32)  # groups of atoms

    def data(self, site):
        file = self.table(site.path)
        bits, target, affinity = self.inputs(file), file["target"], file["affinity"]
        known, test = np.flatnonzero(~file["is_test"]), np.flatnonzero(file["is_test"])
        parts = swarm.split(target[known], [0.15], seed=0)
        rows = (*(known[part] for part in parts), test)
        return swarm.Data(*((bits[p], target[p].astype(np.int64), affinity[p]) for p in rows))

    def loss(self, model, batch):
        x, target, affinity = batch
        of_target = model(x).gather(1, target[:, None])[:, 0]
        return nn.functional.mse_loss(of_target, affinity)

    def predict(self, model, x):
        return dict(zip(TARGETS, model(x).T, strict=True))

    def metrics(self, model, data):
        x, target, affinity = data
        predicted = model(x)
        return {
            name: swarm.metrics.errors(affinity[target == k], predicted[target == k, k])
            for k, name in enumerate(TARGETS)
        }
