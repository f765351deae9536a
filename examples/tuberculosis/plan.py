"""Laboratories of seven countries learn to tell active tuberculosis from a blood transcriptome.

Their cohorts were measured by different machines, arrays and sequencers, so each standardises every
gene on its own training samples. That needs nobody else, so nothing but parameters is ever shared.
"""

import numpy as np
from torch import nn

import swarm

GENES = 3000


class Tuberculosis(swarm.Plan):
    rounds = 20
    min_peers = 4

    # Chosen by ../tune.py, which reads training rows only.
    epochs = 1
    batch_size = 16
    learning_rate = 1e-3
    weight_decay = 0.01

    licence = "MIT"

    def model(self):
        return nn.Linear(GENES, 1)  # logistic regression: a few hundred patients carry no more

    def table(self, path):
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise FileNotFoundError(f"{path} holds no .npz file: one for each cohort")
        return [np.load(file) for file in files]

    def inputs(self, cohorts):
        expression = np.concatenate([c["expression"] for c in cohorts]).astype(np.float32)
        cohort = np.repeat(np.arange(len(cohorts)), [len(c["expression"]) for c in cohorts])
        return expression, cohort

    def data(self, site):
        cohorts = self.table(site.path)
        expression, cohort = self.inputs(cohorts)
        tb = np.concatenate([c["tb"] for c in cohorts]).astype(np.float32)

        # Each cohort's samples are split alike, also where a site holds several cohorts.
        names = np.concatenate([c["accession"] for c in cohorts])
        strata = np.char.add(names, np.where(tb == 1, "/tb", "/not"))
        rest, test = swarm.split(strata, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(strata[rest], [0.15], site.seed))
        return swarm.Data(*((expression[p], cohort[p], tb[p]) for p in (train, validation, test)))

    def prepare(self, data, statistics):
        # Who predicts has new cohorts: each is standardised on all its samples.
        expression, cohort, *_ = data.test if data.train is None else data.train
        known = {c: expression[cohort == c] for c in np.unique(cohort)}

        def ready(expression, cohort, *tb):
            z = np.empty_like(expression)
            for c, train in known.items():
                # 0.2 keeps the noise of genes that hardly vary in a cohort from being blown up.
                z[cohort == c] = (expression[cohort == c] - train.mean(0)) / (train.std(0) + 0.2)
            return z, *tb

        return data.map(ready)

    def loss(self, model, batch):
        x, tb = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], tb)

    def predict(self, model, x):
        return {"tb": model(x)[:, 0].sigmoid()}

    def metrics(self, model, data):
        x, tb = data
        logits = model(x)[:, 0]
        return {
            "auc": swarm.metrics.auc(tb, logits),
            "accuracy": swarm.metrics.accuracy(tb, logits > 0),
            "loss": float(self.loss(model, data)),
        }
