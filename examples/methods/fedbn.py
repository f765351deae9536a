"""FedBN (Li et al., arXiv:2102.07623): to each site its own normalisation, all else is shared."""

from task import Task

import swarm


class FedBN(Task):
    tensors = {"norm.*": swarm.local()}
