"""FedAdam (Reddi et al., arXiv:2003.00295): the sites' average is a gradient, for Adam."""

from task import Task

import swarm


class FedAdam(Task):
    tensors = {"*running*": swarm.shared(), "*": swarm.shared(step=swarm.adam(lr=0.02))}
