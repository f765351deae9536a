"""Nine sources learn how well molecules dissolve in water, each from the molecules it measured."""

import numpy as np
from torch import nn

import swarm

BITS, DESCRIPTORS = 1024, 17


class Solubility(swarm.Plan):
    rounds = 20
    min_peers = 5
    batch_size = 64
    epochs = 1
    weight_decay = 0.01
    hidden: int = 128
    rate: float = 3e-3  # chosen by ../tune.py, which reads training rows only

    licence = "CC0-1.0"

    def learning_rate(self, round):
        return self.rate * 0.9 ** (round - 1)

    def model(self):
        inputs = nn.Sequential(nn.Linear(BITS + DESCRIPTORS, self.hidden), nn.ReLU())
        model = nn.Sequential(inputs, nn.Dropout(0.2), nn.Linear(self.hidden, 1))
        nn.init.constant_(model[-1].bias, -3.0)  # most molecules are near it
        return model

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        bits = np.unpackbits(file["bits"], axis=1)  # which groups of atoms there are
        return bits.astype(np.float32), np.arcsinh(file["descriptors"])  # some have long tails

    def data(self, site):
        file = self.table(site.path)
        bits, descriptors = self.inputs(file)
        log_s = file["solubility"]

        # The same molecules are for the test whatever the seed.
        strata = np.digitize(log_s, [-6, -4, -2, 0])
        rest, test = swarm.split(strata, [1 / 4], seed=0)
        train, validation = (rest[part] for part in swarm.split(strata[rest], [0.15], seed=0))
        return swarm.Data(*((bits[p], descriptors[p], log_s[p]) for p in (train, validation, test)))

    def statistics(self, data):
        return swarm.moments(data.train[1])

    def prepare(self, data, statistics):
        def ready(bits, descriptors, *log_s):  # who predicts has no label
            return np.hstack([bits, swarm.standardise(descriptors, statistics)]), *log_s

        return data.map(ready)

    def loss(self, model, batch):
        x, log_s = batch
        return nn.functional.mse_loss(model(x)[:, 0], log_s)

    def predict(self, model, x):
        return {"log_s": model(x)[:, 0]}

    def metrics(self, model, data):
        x, log_s = data
        return {"r2": swarm.metrics.errors(log_s, model(x)[:, 0])}
