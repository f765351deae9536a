"""Four laboratories learn which proteins a blood cell carries from the genes it uses."""

import numpy as np
from torch import nn

import swarm

GENES = 1000
PROTEINS = ["CD3", "CD15", "CD16", "CD25", "CD56"]


class Proteins(swarm.Plan):
    rounds = 20
    min_peers = 3
    batch_size = 64
    epochs = 1
    weight_decay = 0.1
    hidden: int = 64
    rate: float = 1e-3  # chosen by ../tune.py, which reads training rows only

    licence = "CC-BY-4.0"

    def learning_rate(self, round):
        return self.rate * 0.9 ** (round - 1)

    def model(self):
        body = nn.Sequential(nn.Linear(GENES, self.hidden), nn.ReLU(), nn.Dropout(0.3))
        return nn.Sequential(body, nn.Linear(self.hidden, len(PROTEINS)))

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return file["rna"].astype(np.float32)

    def data(self, site):
        file = self.table(site.path)
        rna, protein = self.inputs(file), file["protein"]

        # The same cells are for the test whatever the seed.
        rest, test = swarm.split(np.zeros(len(rna)), [1 / 3], seed=0)
        train, validation = (rest[p] for p in swarm.split(np.zeros(len(rest)), [0.15], seed=0))
        return swarm.Data(*((rna[p], protein[p]) for p in (train, validation, test)))

    def statistics(self, data):
        return swarm.moments(np.hstack(data.train))

    def prepare(self, data, statistics):
        of_genes = {name: sums[:GENES] for name, sums in statistics.items()}
        self.of_proteins = {name: sums[GENES:] for name, sums in statistics.items()}

        def ready(rna, *protein):  # who predicts has no label
            x = swarm.standardise(rna, of_genes).clip(-5, 5)
            return x, *(swarm.standardise(p, self.of_proteins) for p in protein)

        return data.map(ready)

    def loss(self, model, batch):
        x, protein = batch
        return nn.functional.mse_loss(model(x), protein)

    def predict(self, model, x):
        counts = np.expm1(swarm.unstandardise(model(x), self.of_proteins))
        return dict(zip(PROTEINS, counts.T, strict=True))

    def metrics(self, model, data):
        x, protein = data
        predicted = model(x)
        of_each = {
            name: swarm.metrics.errors(protein[:, k], predicted[:, k])
            for k, name in enumerate(PROTEINS)
        }
        related = [counts.figures()["pearson"].value for counts in of_each.values()]
        return {"pearson": float(np.mean([r or 0.0 for r in related])), **of_each}
