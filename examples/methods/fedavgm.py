"""FedAvgM (Hsu et al., arXiv:1909.06335): the average goes on in the direction of earlier rounds.

Running means and variances are averaged as they are: momentum could make a variance negative.
"""

from task import Task

import swarm


class FedAvgM(Task):
    tensors = {
        "*running*": swarm.shared(),
        "*": swarm.shared(step=swarm.momentum(lr=1.0, beta=0.5)),
    }
