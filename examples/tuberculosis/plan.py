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

    def model(self):
        return nn.Linear(GENES, 1)  # logistic regression: a few hundred patients carry no more

    def data(self, site):
        files = sorted(site.path.glob("*.npz")) if site.path.is_dir() else [site.path]
        if not files:
            raise FileNotFoundError(f"{site.path} holds no .npz file: one for each cohort")
        cohorts = [np.load(file) for file in files]
        expression = np.concatenate([c["expression"] for c in cohorts]).astype(np.float32)
        tb = np.concatenate([c["tb"] for c in cohorts]).astype(np.float32)
        cohort = np.repeat(np.arange(len(cohorts)), [len(c["tb"]) for c in cohorts])

        # Each cohort's samples are split alike, also where a site holds several cohorts.
        names = np.concatenate([c["accession"] for c in cohorts])
        strata = np.char.add(names, np.where(tb == 1, "/tb", "/not"))
        rest, test = swarm.split(strata, [1 / 3], seed=site.seed)
        train, validation = (rest[part] for part in swarm.split(strata[rest], [0.15], site.seed))
        return swarm.Data(*((expression[p], cohort[p], tb[p]) for p in (train, validation, test)))

    def prepare(self, data, statistics):
        expression, cohort, _ = data.train
        known = {c: expression[cohort == c] for c in np.unique(cohort)}

        def ready(expression, cohort, tb):
            z = np.empty_like(expression)
            for c, train in known.items():
                # 0.2 keeps the noise of genes that hardly vary in a cohort from being blown up.
                z[cohort == c] = (expression[cohort == c] - train.mean(0)) / (train.std(0) + 0.2)
            return z, tb

        return swarm.Data(*(ready(*part) for part in (data.train, data.validation, data.test)))

    def loss(self, model, batch):
        x, tb = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], tb)

    def metrics(self, model, data):
        x, tb = data
        logits = model(x)[:, 0]
        return {
            "auc": swarm.metrics.auc(tb, logits),
            "accuracy": swarm.metrics.accuracy(tb, logits > 0),
            "loss": float(self.loss(model, data)),
        }
