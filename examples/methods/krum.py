"""Krum (Blanchard et al., 2017) takes the whole update that is nearest to the others."""

from task import Task

import swarm


class Krum(Task):
    tensors = {"*": swarm.shared(swarm.krum(f=1))}
