"""Fine-tuning (Yu et al., arXiv:2002.04758): when the shared model is done, each site goes on from
it for a while with its own rows. The copies stay where they are."""

from task import Task

import swarm


class FineTuned(Task):
    stages = [swarm.statistics(), swarm.train(), swarm.personalise(epochs=2)]
