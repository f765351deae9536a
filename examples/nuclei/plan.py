"""Four microscopes learn where the nuclei of cells are, pixel by pixel."""

import numpy as np
import torch
from torch import nn

import swarm


def layer(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU()
    )


class UNet(nn.Module):
    """Down to half the size and up again, with what was seen in full beside it (Ronneberger et al.,
    arXiv:1505.04597)."""

    def __init__(self, width):
        super().__init__()
        self.down = layer(1, width)
        self.below = nn.Sequential(nn.MaxPool2d(2), layer(width, 2 * width), nn.Upsample(None, 2))
        self.up = nn.Sequential(layer(3 * width, width), nn.Conv2d(width, 1, 1))

    def forward(self, x):
        seen = self.down(x)
        return self.up(torch.cat([seen, self.below(seen)], dim=1))


class Nuclei(swarm.Plan):
    rounds = 15
    min_peers = 3
    batch_size = 8
    epochs = 3
    width: int = 8
    learning_rate = 3e-3  # chosen by ../tune.py, which reads training rows only

    licence = "BSD-3-Clause"

    def model(self):
        return UNet(self.width)

    def table(self, path):
        return np.load(path)

    def inputs(self, file):
        return file["image"].astype(np.float32)[:, None] / 255

    def data(self, site):
        file = self.table(site.path)
        image, mask = self.inputs(file), file["mask"].astype(np.float32)[:, None]

        # The same tiles are for the test whatever the seed.
        rest, test = swarm.split(np.zeros(len(mask)), [1 / 3], seed=0)
        parts = swarm.split(np.zeros(len(rest)), [0.15], seed=0)
        rows = (*(rest[part] for part in parts), test)
        return swarm.Data(*((image[p], mask[p]) for p in rows))

    def prepare(self, data, statistics):
        # Each microscope scales by its own pixels. Who predicts has no training images.
        image, *_ = data.test if data.train is None else data.train
        own = swarm.moments(image.reshape(-1, 1))

        def ready(image, *mask):  # who predicts has no label
            return swarm.standardise(image.reshape(-1, 1), own).reshape(image.shape), *mask

        return data.map(ready)

    def loss(self, model, batch):
        image, mask = batch
        return nn.functional.binary_cross_entropy_with_logits(model(image), mask)

    def predict(self, model, image):
        return {"share_of_nuclei": (model(image) > 0).float().mean(dim=(1, 2, 3))}

    def metrics(self, model, data):
        image, mask = data
        found = (model(image) > 0).float()
        # 2 × what is in both, over what is in either, by tile; 1 where neither has any.
        both, sizes = ((a).sum(dim=(1, 2, 3)) for a in (found * mask, found + mask))
        dice = torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), 1.0)
        return {"dice": swarm.metrics.average(dice)}
