"""The task of hospitals with chest X-rays: has this child pneumonia?

Each site is one hospital of eight; the share of children who have it differs from one to the next.
"""

import numpy as np
import torch
from torch import nn

import swarm


class Network(nn.Module):
    """A body that finds features, a normalisation of them, and a head that gives the log odds."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten()),
        )
        self.norm = nn.BatchNorm1d(144)
        self.head = nn.Linear(144, 1)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


class Task(swarm.Plan):
    rounds = 10
    min_peers = 5
    learning_rate = 0.003

    def model(self):
        return Network()

    def data(self, site):
        x, y, is_test = self.read(site)
        return swarm.Data((x[~is_test], y[~is_test]), None, (x[is_test], y[is_test]))

    def read(self, site):
        file = np.load(site.path)
        return file["x"].astype(np.float32)[:, None], file["y"].astype(np.float32), file["is_test"]

    def statistics(self, data):
        return swarm.moments(data.train[0].reshape(-1, 1))  # of all pixels: how bright, how varied

    def prepare(self, data, statistics):
        def ready(x, y):
            return swarm.standardise(x.reshape(-1, 1), statistics).reshape(x.shape), y

        return data.map(ready)

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)

    def metrics(self, model, data):
        x, y = data
        return {"auc": swarm.metrics.roc(y, model(x)[:, 0])}
