"""Folds: how many updates become one next model, the same on every machine.

    state' = step(state, reduce(updates, weights))

Anyone must be able to recompute a merge and get the same digest, so every operation is fixed, and
IEEE 754 fixes the rest. A plan names its folds by the functions here: `swarm.trimmed(0.1)`,
`swarm.nesterov(lr=0.7)`.

    reduce.py    the rules, and what each says of itself
    averages.py  ranks.py                their arithmetic, chunk by chunk
    gram.py  fused_gram.py  choice.py    weights from the distances between whole updates
    step.py      momentum and its kin, element by element
    fold.py  parts.py                    a reduce and a step together; how they are written
    golden.py  vectors.py                does this machine do it right?
    formats.py   number formats
"""

from swarm.learning.folds.fold import Fold, decode_fold
from swarm.learning.folds.reduce import (
    GeometricMedian,
    Krum,
    Maximum,
    Mean,
    Median,
    MultiKrum,
    Reduce,
    Sum,
    Trimmed,
)
from swarm.learning.folds.step import Adam, Momentum, Nesterov, Step, Yogi

mean = Mean
sum = Sum
maximum = Maximum
trimmed = Trimmed
median = Median
krum = Krum
multi_krum = MultiKrum
geometric_median = GeometricMedian

momentum = Momentum
nesterov = Nesterov
adam = Adam
yogi = Yogi

__all__ = [
    "Fold",
    "Reduce",
    "Step",
    "adam",
    "decode_fold",
    "geometric_median",
    "krum",
    "maximum",
    "mean",
    "median",
    "momentum",
    "multi_krum",
    "nesterov",
    "sum",
    "trimmed",
    "yogi",
]
