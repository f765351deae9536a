"""Twenty-four hospitals learn how well stroke patients recover, in four degrees that have an order.

0 recovered, 1 not recovered but independent, 2 dependent, 3 dead. The model has one scale and three
thresholds on it, so that taking a 0 for a 3 costs more than taking it for a 1.
"""

import numpy as np
import torch
from torch import nn

import swarm

DEGREES = 4
MEASURED = ["RDELAY", "AGE", "RSBP"]  # hours since the stroke, years, systolic mmHg
CODED = {
    "SEX": "FM",
    "RCONSC": "FDU",  # fully alert, drowsy, unconscious
    "RSLEEP": "YN",  # noticed on waking
    "RATRIAL": "YN",  # atrial fibrillation
    "RCT": "YN",  # brain scan before randomisation
    "RVISINF": "YN",  # infarct visible on it
    **{f"RDEF{deficit}": "YNC" for deficit in range(1, 9)},  # yes, no, cannot be assessed
    "STYPE": ["TACS", "PACS", "LACS", "POCS", "OTH"],  # stroke syndrome
}


class Ordered(nn.Module):
    """The log odds of being worse than each degree but the last: one scale, and thresholds on it
    (CORAL: Cao et al., arXiv:1901.07884)."""

    def __init__(self, inputs, hidden):
        super().__init__()
        first = nn.Linear(inputs, hidden)
        self.scale = nn.Sequential(first, nn.ReLU(), nn.Linear(hidden, 1, bias=False))
        self.thresholds = nn.Parameter(torch.linspace(1, -1, DEGREES - 1))

    def forward(self, x):
        return self.scale(x) + self.thresholds


class Recovery(swarm.Plan):
    rounds = 20
    min_peers = 4
    batch_size = 32
    weight_decay = 0.1
    hidden: int = 8

    # Chosen by ../tune.py, which reads training rows only.
    epochs = 1
    learning_rate = 1e-2

    licence = "ODC-By-1.0"

    def model(self):
        inputs = len(MEASURED) + sum(len(values) for values in CODED.values())
        return Ordered(inputs, self.hidden)

    def inputs(self, table):
        coded = [table.one_hot(name, values) for name, values in CODED.items()]
        return table.numbers(*MEASURED), np.hstack(coded)

    def data(self, site):
        table = self.table(site.path)
        measured, coded = self.inputs(table)
        outcome = table.numbers("outcome")[:, 0].astype(np.int64)

        # The same patients are for the test whatever the seed.
        rest, test = swarm.split(outcome, [1 / 3], seed=0)
        train, validation = (rest[part] for part in swarm.split(outcome[rest], [0.15], seed=0))
        return swarm.Data(*((measured[p], coded[p], outcome[p]) for p in (train, validation, test)))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        def ready(measured, coded, *outcome):  # who predicts has no label
            return np.hstack([swarm.standardise(measured, statistics), coded]), *outcome

        return data.map(ready)

    def loss(self, model, batch):
        x, outcome = batch
        worse = (outcome[:, None] > torch.arange(DEGREES - 1, device=x.device)).float()
        return nn.functional.binary_cross_entropy_with_logits(model(x), worse)

    def predict(self, model, x):
        worse = model(x).sigmoid()
        return {"degree": (worse > 0.5).sum(dim=1), "dead": worse[:, -1]}

    def metrics(self, model, data):
        x, outcome = data
        degree = (model(x) > 0).sum(dim=1)
        counts = swarm.metrics.confusion(outcome, degree, DEGREES, weights="quadratic")
        kappa = counts.figures()["kappa"].value
        return {"kappa": 0.0 if kappa is None else kappa, "degree": counts}
