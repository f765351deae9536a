"""Scores of models: exact ones of one site's rows, and counts that many sites add up.

`auc`, `accuracy` and `r2` are numbers of the rows at hand. Numbers cannot be merged: the mean of
four hospitals' AUCs is no AUC. So the other functions give *counts*: whole numbers of fixed and
bounded size whose sum over the sites is the count over all their rows, bit for bit. From the sum
come the figures of all sites together, with intervals.

    scores.py    exact scores of one site's rows
    counts.py    Counts, Figure, and what every measure is
    wire.py      counts as they travel, checked
    ranking.py  probabilities.py  classes.py  regression.py  survival.py  means.py    the measures
    coarse.py    counts of which no number tells of few rows
    rows.py  sums.py  intervals.py       what plans give; exact sums; confidence
"""

from swarm.learning.metrics.classes import confusion
from swarm.learning.metrics.counts import Counts, Figure, merge
from swarm.learning.metrics.means import average
from swarm.learning.metrics.probabilities import calibration
from swarm.learning.metrics.ranking import roc
from swarm.learning.metrics.regression import errors
from swarm.learning.metrics.scores import accuracy, auc, r2
from swarm.learning.metrics.survival import concordance

__all__ = [
    "Counts",
    "Figure",
    "accuracy",
    "auc",
    "average",
    "calibration",
    "concordance",
    "confusion",
    "errors",
    "merge",
    "r2",
    "roc",
]
