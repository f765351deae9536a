"""Ditto (Li et al., arXiv:2012.04221): beside the shared model, each site keeps one of its own,
which is held near the shared one and never leaves."""

from task import Task
from torch import nn

import swarm


class Pair(nn.Module):
    def __init__(self, shared, own):
        super().__init__()
        self.shared, self.own = shared, own
        self.own.load_state_dict(shared.state_dict())

    def forward(self, x):
        return self.own(x)


class Ditto(Task):
    tensors = {"own.*": swarm.local()}
    nearness: float = 1.0

    def model(self):
        return Pair(super().model(), super().model())

    def loss(self, model, batch):
        pairs = zip(model.own.parameters(), model.shared.parameters(), strict=True)
        apart = sum(((own - shared.detach()) ** 2).sum() for own, shared in pairs)
        losses = super().loss(model.own, batch) + super().loss(model.shared, batch)
        return losses + self.nearness / 2 * apart
