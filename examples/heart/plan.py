"""Four hospitals learn to tell which patients have coronary heart disease.

Each hospital reads its own table of patients. None of them sees another's: they only share sums for
standardisation (once) and model parameters (every round).
"""

import numpy as np
from torch import nn

import swarm

MEASURED = ["age", "trestbps", "chol", "thalach", "oldpeak", "ca"]
CODED = {
    "sex": [0, 1],
    "cp": [1, 2, 3, 4],
    "fbs": [0, 1],
    "restecg": [0, 1, 2],
    "exang": [0, 1],
    "slope": [1, 2, 3],
    "thal": [3, 6, 7],
}


class HeartDisease(swarm.Plan):
    rounds = 20
    min_peers = 3

    # Chosen by ../tune.py, which reads training rows only.
    epochs = 1
    batch_size = 16
    learning_rate = 3e-3
    weight_decay = 0.1
    hidden: int = 16

    licence = "CC-BY-4.0"

    def model(self):
        inputs = 2 * len(MEASURED) + sum(len(values) for values in CODED.values())
        return nn.Sequential(nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def inputs(self, table):
        measured = table.numbers(*MEASURED)
        for column in ("trestbps", "chol"):  # a pressure or cholesterol of 0 was not measured
            values = measured[:, MEASURED.index(column)]
            values[values == 0] = np.nan
        coded = np.hstack([table.one_hot(name, values) for name, values in CODED.items()])
        return measured, coded

    def data(self, site):
        table = self.table(site.path).distinct()
        measured, coded = self.inputs(table)
        sick = table.numbers("disease")[:, 0]

        rest, test = swarm.split(sick, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(sick[rest], [0.15], site.seed))
        return swarm.Data(*((measured[p], coded[p], sick[p]) for p in (train, validation, test)))

    def statistics(self, data):
        measured, *_ = data.train
        return swarm.moments(measured)

    def prepare(self, data, statistics):
        def ready(measured, coded, *sick):  # who predicts has no label
            missing = np.isnan(measured).astype(np.float32)
            return np.hstack([swarm.standardise(measured, statistics), missing, coded]), *sick

        return data.map(ready)

    def loss(self, model, batch):
        x, sick = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], sick)

    def predict(self, model, x):
        return {"disease": model(x)[:, 0].sigmoid()}

    def metrics(self, model, data):
        x, sick = data
        logits = model(x)[:, 0]
        return {
            "auc": swarm.metrics.roc(sick, logits),
            "accuracy": swarm.metrics.accuracy(sick, logits > 0),
            "loss": float(self.loss(model, data)),
        }
