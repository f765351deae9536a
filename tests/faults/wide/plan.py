"""A plan with a model of 20 MB and hardly any data, so that there are transfers to disturb."""

from torch import nn

import swarm


class Wide(swarm.Plan):
    rounds = 8
    epochs = 1
    batch_size = 8
    learning_rate = 0.05

    def model(self):
        return nn.Sequential(
            nn.Linear(2, 2000), nn.ReLU(), nn.Linear(2000, 2500), nn.ReLU(), nn.Linear(2500, 1)
        )

    def data(self, site):
        table = swarm.read_csv(site.path)
        x, y = table.numbers("a", "b"), table.numbers("y")[:, 0]
        train, test = swarm.split(y, [0.25], seed=site.seed)
        return swarm.Data(train=(x[train], y[train]), test=(x[test], y[test]))

    def statistics(self, data):
        return swarm.moments(data.train[0])

    def prepare(self, data, statistics):
        def ready(x, y):
            return swarm.standardise(x, statistics), y

        return swarm.Data(train=ready(*data.train), test=ready(*data.test))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)

    def metrics(self, model, data):
        x, y = data
        return {"auc": swarm.metrics.auc(y, model(x))}
