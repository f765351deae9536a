"""The median of each element (Yin et al., arXiv:1803.01498)."""

from task import Task

import swarm


class Median(Task):
    tensors = {"*": swarm.shared(swarm.median())}
