"""DiLoCo (Douillard et al., arXiv:2311.08105): long trainings, few rounds, Nesterov between."""

from task import Task

import swarm


class DiLoCo(Task):
    rounds = 7
    epochs = 3
    tensors = {
        "*running*": swarm.shared(),
        "*": swarm.shared(step=swarm.nesterov(lr=0.7, momentum=0.5)),
    }
