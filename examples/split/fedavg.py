"""FedAvg (McMahan et al., arXiv:1602.05629): what the splits are compared with."""

from task import Task


class FedAvg(Task):
    pass
