"""The task of people with phones: which of six activities, from 2.56 seconds at the waist.

Each site is one person. The first of a person's two recordings is for training, the second for the
test, so that nobody is tested on a window that overlaps one trained on.
"""

import numpy as np
import torch
from torch import nn

import swarm


class Network(nn.Module):
    """A body that finds features, a normalisation of them, and a head that names the activity."""

    def __init__(self, inputs=169, hidden=64, classes=6):
        super().__init__()
        self.body = nn.Linear(inputs, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


class Task(swarm.Plan):
    rounds = 20
    min_peers = 5
    learning_rate = 0.003

    def model(self):
        return Network()

    def data(self, site):
        x, y, is_test = self.read(site)
        return swarm.Data((x[~is_test], y[~is_test]), None, (x[is_test], y[is_test]))

    def read(self, site):
        file = np.load(site.path)
        return file["x"].astype(np.float32), file["y"].astype(np.int64), file["is_test"]

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        return data.map(lambda x, y: (swarm.standardise(x, statistics), y))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.cross_entropy(model(x), y)

    def metrics(self, model, data):
        x, y = data
        return {"accuracy": swarm.metrics.confusion(y, model(x), 6)}
