"""FedProx (Li et al., arXiv:1812.06127): a site's model is held near the one that all share."""

from task import Task


class FedProx(Task):
    proximal = 0.01
