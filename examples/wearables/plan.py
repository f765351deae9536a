"""Thirty people with a phone at the waist learn to tell what they are doing, each in their own way.

They share the body of the model; its head stays on the phone. In the end each phone goes on alone
for a while.
"""

import numpy as np
import torch
from torch import nn

import swarm

FEATURES = 169
ACTIVITIES = ["walking", "upstairs", "downstairs", "sitting", "standing", "laying"]


class Network(nn.Module):
    def __init__(self, hidden=64):
        super().__init__()
        self.body = nn.Linear(FEATURES, hidden)
        self.head = nn.Linear(hidden, len(ACTIVITIES))

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


class Wearables(swarm.Plan):
    stages = [swarm.statistics(), swarm.train(), swarm.personalise(epochs=2)]  # noqa: RUF012
    tensors = {"head.*": swarm.local()}  # noqa: RUF012
    rounds = 20
    min_peers = 5
    learning_rate = 3e-3

    licence = "CC-BY-4.0"

    def model(self):
        return Network()

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return file["x"].astype(np.float32)

    def data(self, site):
        file = self.table(site.path)
        x, activity = self.inputs(file), file["y"].astype(np.int64)
        later = file["is_test"]  # the second recording of the person
        return swarm.Data((x[~later], activity[~later]), None, (x[later], activity[later]))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        def ready(x, *activity):  # who predicts has no label
            return swarm.standardise(x, statistics), *activity

        return data.map(ready)

    def loss(self, model, batch):
        x, activity = batch
        return nn.functional.cross_entropy(model(x), activity)

    def predict(self, model, x):
        return {"activity": model(x).argmax(dim=1)}

    def metrics(self, model, data):
        x, activity = data
        return {"accuracy": swarm.metrics.confusion(activity, model(x), len(ACTIVITIES))}
