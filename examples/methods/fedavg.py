"""FedAvg (McMahan et al., arXiv:1602.05629): the sites' models are averaged by their rows."""

from task import Task


class FedAvg(Task):
    pass
