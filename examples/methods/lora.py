"""LoRA (Hu et al., arXiv:2106.09685): weights that every site has already, known by their digest,
and beside them a change of low rank, which alone is trained and travels."""

from task import Task
from torch import nn

import swarm

SHA256 = "0" * 64  # of your file: `sha256sum trunk`


class Adapted(nn.Module):
    def __init__(self, layer, rank=4):
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)  # at the beginning nothing is changed

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


class LoRA(Task):
    tensors = {"body.layer.*": swarm.frozen(file="trunk", sha256=SHA256)}

    def model(self):
        model = super().model()
        model.body = Adapted(model.body)
        return model
