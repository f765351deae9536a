"""The geometric median (Pillutla et al., arXiv:1912.13445): the least distance to all updates."""

from task import Task

import swarm


class GeometricMedian(Task):
    tensors = {"*": swarm.shared(swarm.geometric_median())}
