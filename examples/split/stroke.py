"""The stroke patients of ../stroke (its plan is `hospital` here), in a network that can be cut."""

from hospital import CODED, MEASURED, Stroke
from network import Network
from torch import nn


class Task(Stroke):
    rounds = 20
    width: int = 64

    def model(self):
        inputs = len(MEASURED) + sum(len(values) for values in CODED.values())
        top = [nn.Linear(8, self.width), nn.ReLU(), nn.Linear(self.width, self.width), nn.ReLU()]
        bottom = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU())
        return Network(bottom, nn.Sequential(*top), nn.Linear(self.width, 1))
