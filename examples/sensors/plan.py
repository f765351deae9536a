"""A phone has one kind of sensor or two: what is its wearer doing?

What moves the phone is a picture of 2.56 s, three axes by 128 samples; what turns it, a record of
numbers. Some sites have both of the same people at the same moment, some have one.
"""

import numpy as np
import torch
from torch import nn

import swarm

KINDS = ["movement", "turning"]
AXES, SAMPLES, NUMBERS = 3, 128, 83
ACTIVITIES = ["walking", "upstairs", "downstairs", "sitting", "standing", "laying"]


class Network(nn.Module):
    """An encoder for each kind; a kind that is not there adds nothing to what the head sees."""

    def __init__(self, hidden=48):
        super().__init__()
        self.movement = nn.Sequential(
            nn.Conv1d(AXES, 24, 7, stride=2),
            nn.GroupNorm(4, 24),
            nn.ReLU(),
            nn.Conv1d(24, hidden, 5, stride=2),
            nn.ReLU(),
            nn.AdaptiveMaxPool1d(4),
            nn.Flatten(),
            nn.Linear(4 * hidden, hidden),
            nn.ReLU(),
        )
        self.turning = nn.Sequential(nn.Linear(NUMBERS, hidden), nn.ReLU())
        self.head = nn.Linear(2 * hidden, len(ACTIVITIES))

    def forward(self, movement, turning, has):
        encoded = [self.movement(movement), self.turning(turning)]
        return self.head(torch.cat([e * has[:, [k]] for k, e in enumerate(encoded)], dim=1))


class Sensors(swarm.Plan):
    rounds = 30
    min_peers = 5
    learning_rate = 3e-3
    looks_at: tuple = ("movement", "turning")
    """Of what a site has; one of them alone, to compare."""
    hide: float = 0.5
    """How often a window is learned from with one of its two kinds hidden."""

    licence = "CC-BY-4.0"

    def model(self):
        return Network()

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        here = [kind for kind in self.looks_at if kind in file]
        rows = len(file[here[0]])
        movement, turning = np.zeros((rows, AXES, SAMPLES)), np.full((rows, NUMBERS), np.nan)
        found = {"movement": movement, "turning": turning} | {kind: file[kind] for kind in here}
        found["has"] = np.tile([kind in here for kind in KINDS], (rows, 1))
        return {name: column.astype(np.float32) for name, column in found.items()}

    def data(self, site):
        file = self.table(site.path)
        rows = {**self.inputs(file), "activity": file["y"].astype(np.int64)}
        later = file["is_test"]  # the second recording of each person
        train = {name: column[~later] for name, column in rows.items()}
        test = {name: column[later] for name, column in rows.items()}
        return swarm.Data(train if len(train["activity"]) else None, None, test)

    def statistics(self, data):
        return swarm.moments(data.train["turning"])  # sites that have no turning add nothing

    def prepare(self, data, statistics):
        def ready(x):  # what is not there becomes 0, the mean
            return {**x, "turning": swarm.standardise(x["turning"], statistics)}

        return data.map(ready)

    def loss(self, model, batch):
        has = batch["has"]
        drawn = torch.rand(len(has), device=has.device)
        both = (has.sum(dim=1) == len(KINDS)) & (drawn < self.hide)
        hidden = nn.functional.one_hot((drawn * 1e6).long() % len(KINDS), len(KINDS))
        seen = has * (1 - both[:, None] * hidden)
        logits = model(batch["movement"], batch["turning"], seen)
        return nn.functional.cross_entropy(logits, batch["activity"])

    def predict(self, model, x):
        return {"activity": model(x["movement"], x["turning"], x["has"]).argmax(dim=1)}

    def metrics(self, model, data):
        logits = model(data["movement"], data["turning"], data["has"])
        return {"accuracy": swarm.metrics.confusion(data["activity"], logits, len(ACTIVITIES))}
