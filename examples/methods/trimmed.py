"""The trimmed mean (Yin et al., arXiv:1803.01498): the largest and smallest values are left out."""

from task import Task

import swarm


class Trimmed(Task):
    tensors = {"*": swarm.shared(swarm.trimmed(0.15))}
