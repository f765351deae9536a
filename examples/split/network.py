"""A network in three parts, so that it can be cut between them."""

from torch import nn


class Network(nn.Module):
    """`bottom` sees the rows, `top` does most of the work, `tail` gives the log odds."""

    def __init__(self, bottom, top, tail):
        super().__init__()
        self.bottom, self.top, self.tail = bottom, top, tail

    def forward(self, x):
        return self.tail(self.top(self.bottom(x)))

    def ends(self):
        """What a site keeps that keeps its labels, too."""
        return nn.ModuleList([self.bottom, self.tail])


def loss_of(logits, y):
    return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], y)
