"""FedPer (Arivazhagan et al., arXiv:1912.00818): a shared body, and to each site its own head."""

from task import Task

import swarm


class FedPer(Task):
    tensors = {"head.*": swarm.local()}
