"""Eight hospitals learn to see pneumonia in chest X-rays of children.

In some nearly every child that is X-rayed has pneumonia, in others half. A ninth hospital trains
nothing and tries the model on its own images.
"""

import numpy as np
from torch import nn

import swarm


class XRay(swarm.Plan):
    rounds = 10
    min_peers = 5
    batch_size = 32
    epochs = 1
    learning_rate = 3e-3  # chosen by ../tune.py, which reads training rows only

    licence = "CC-BY-4.0"

    def model(self):
        # GroupNorm norms each image by itself: there are no running means that differ by hospital.
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 5, stride=2), nn.GroupNorm(4, 16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2), nn.GroupNorm(4, 32), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(288, 1)),
        )

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return file["x"].astype(np.float32)[:, None] / 255

    def data(self, site):
        file = self.table(site.path)
        x, sick = self.inputs(file), file["y"].astype(np.float32)
        known, test = np.flatnonzero(~file["is_test"]), np.flatnonzero(file["is_test"])
        if not len(known):
            return swarm.Data(test=(x, sick))
        parts = swarm.split(sick[known], [0.15], seed=0)
        rows = (*(known[part] for part in parts), test)
        return swarm.Data(*((x[p], sick[p]) for p in rows))

    def statistics(self, data):
        return swarm.moments(data.train[0].reshape(-1, 1))  # of all pixels: how bright, how varied

    def prepare(self, data, statistics):
        def ready(x, *sick):  # who predicts has no label
            return swarm.standardise(x.reshape(-1, 1), statistics).reshape(x.shape), *sick

        return data.map(ready)

    def loss(self, model, batch):
        x, sick = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], sick)

    def predict(self, model, x):
        return {"pneumonia": model(x)[:, 0].sigmoid()}

    def metrics(self, model, data):
        x, sick = data
        return {"auc": swarm.metrics.roc(sick, model(x)[:, 0])}
