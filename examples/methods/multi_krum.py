"""Multi-Krum (Blanchard et al., 2017) averages the updates that are nearest to the others."""

from task import Task

import swarm


class MultiKrum(Task):
    min_peers = 8  # of m + f + 2
    tensors = {"*": swarm.shared(swarm.multi_krum(f=1, m=5))}
