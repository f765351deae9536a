"""Eight hospitals with chest X-rays (../methods/xray.py is `hospital` here): has this child
pneumonia? The network is deeper than there, or there would be little to hand over."""

import numpy as np
from hospital import Task as Hospital
from network import Network
from torch import nn

import swarm


class Task(Hospital):
    rounds = 10

    def model(self):
        bottom = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU())
        top = nn.Sequential(
            *(nn.Conv2d(8, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.BatchNorm1d(288), nn.ReLU()),
        )
        return Network(bottom, top, nn.Linear(288, 1))

    def data(self, site):
        x, y, is_test = self.read(site)
        seen = np.flatnonzero(~is_test)
        train, validation = (seen[part] for part in swarm.split(y[seen], [0.15], site.seed))
        return swarm.Data(*((x[part], y[part]) for part in (train, validation, is_test)))

    def metrics(self, model, data):
        x, y = data
        logits = model(x)[:, 0]
        return {
            "auc": swarm.metrics.auc(y, logits),
            "accuracy": swarm.metrics.accuracy(y, logits > 0),
        }
