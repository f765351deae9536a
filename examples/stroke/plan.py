"""Twenty-four hospitals learn which stroke patients will be dead or dependent after six months.

The model sees what was known when the patient came in, and nothing else: not what was done, not
what became of the patient, and neither the hospital nor its country, so that it has to learn about
patients. The hospitals share sums for standardisation (once) and model parameters (every round).
"""

import numpy as np
from torch import nn

import swarm

MEASURED = ["RDELAY", "AGE", "RSBP"]  # hours since the stroke, years, systolic mmHg
CODED = {
    "SEX": "FM",
    "RCONSC": "FDU",  # fully alert, drowsy, unconscious
    "RSLEEP": "YN",  # noticed on waking
    "RATRIAL": "YN",  # atrial fibrillation; empty for the pilot phase's patients
    "RCT": "YN",  # brain scan before randomisation
    "RVISINF": "YN",  # infarct visible on it
    "RHEP24": "YN",  # heparin in the last 24 hours
    "RASP3": "YN",  # aspirin in the last 3 days
    **{f"RDEF{deficit}": "YNC" for deficit in range(1, 9)},  # yes, no, cannot be assessed
    "STYPE": ["TACS", "PACS", "LACS", "POCS", "OTH"],  # stroke syndrome
}


class Stroke(swarm.Plan):
    rounds = 20
    min_peers = 4

    # Chosen by ../tune.py, which reads training rows only.
    epochs = 1
    batch_size = 32
    learning_rate = 1e-2
    weight_decay = 0.1
    hidden: int = 8

    licence = "ODC-By-1.0"

    def model(self):
        inputs = len(MEASURED) + sum(len(values) for values in CODED.values())
        return nn.Sequential(nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    def inputs(self, table):
        coded = [table.one_hot(name, values) for name, values in CODED.items()]
        return table.numbers(*MEASURED), np.hstack(coded)

    def data(self, site):
        table = self.table(site.path)
        table = table.where([outcome != "-1" for outcome in table.text("poor6m")])  # not known
        measured, coded = self.inputs(table)
        poor, hospital = table.numbers("poor6m", "HOSPNUM").T

        # Each hospital's patients are split alike, also where a site holds several hospitals.
        strata = 2 * hospital + poor
        rest, test = swarm.split(strata, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(strata[rest], [0.15], site.seed))
        return swarm.Data(*((measured[p], coded[p], poor[p]) for p in (train, validation, test)))

    def statistics(self, data):
        measured, *_ = data.train
        return swarm.moments(measured)

    def prepare(self, data, statistics):
        def ready(measured, coded, *poor):  # who predicts has no label
            return np.hstack([swarm.standardise(measured, statistics), coded]), *poor

        return data.map(ready)

    def loss(self, model, batch):
        x, poor = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], poor)

    def predict(self, model, x):
        return {"poor6m": model(x)[:, 0].sigmoid()}

    def metrics(self, model, data):
        x, poor = data
        logits = model(x)[:, 0]
        return {
            "auc": swarm.metrics.auc(poor, logits),
            "accuracy": swarm.metrics.accuracy(poor, logits > 0),
            "loss": float(self.loss(model, data)),
        }
