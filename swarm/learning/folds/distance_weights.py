"""Integer weights for updates, from the distances between them: Krum and the geometric median.

All in exact integer arithmetic on the Gram matrix, so there is nothing that could be rounded
differently, and no contributor's place in the order matters.
"""

from __future__ import annotations

from math import isqrt

from swarm.learning.folds.gram import Gram

WEIGHT_BITS = 24
"""Weights below 2²⁹ let float32 be merged by the compiled loops."""


def choose_nearest(gram: Gram, liars: int, keep: int) -> tuple[int, ...]:
    """Krum (Blanchard et al. 2017): weight 1 for the `keep` updates of the lowest score, else 0.

    A score is the sum of the squared distances to the n − f − 2 nearest others. Updates that score
    the same as the last one kept are kept, too.
    """
    count = len(gram)
    scores = []
    for i in range(count):
        others = [_squared_distance(gram, i, j) for j in range(count) if j != i]
        scores.append(sum(sorted(others)[: count - liars - 2]))
    worst_kept = sorted(scores)[keep - 1]
    return tuple(int(score <= worst_kept) for score in scores)


def weigh_towards_centre(gram: Gram, steps: int) -> tuple[int, ...]:
    """Weiszfeld's iteration (1937) for the geometric median, `steps` times from a safe start.

    Every step takes the weighted mean z of the updates, and weighs each by 1 / |xᵢ − z|: the
    nearest by 2²⁴, the others in proportion, rounded down. Distances are at least one unit of the
    fixed-point differences (as smoothed by Pillutla et al. 2022), so an update on z divides nothing
    by zero.
    """
    weights = find_majority(gram)
    for _ in range(steps):
        distances = _distances_to_mean(gram, weights)
        nearest = min(distances)
        weights = [(nearest << WEIGHT_BITS) // distance for distance in distances]
    return tuple(weights)


def find_majority(gram: Gram) -> list[int]:
    """1 for the updates of the smallest ball around one of them that holds more than half, else 0.

    Their mean is a safe start: more than half are honest, so the ball is no larger than their
    spread, and one of them is in it. From the mean of all, a liar that is a million times as far
    off would still be felt after ten steps.
    """
    count = len(gram)
    rows = [[_squared_distance(gram, i, j) for j in range(count)] for i in range(count)]
    radii = [sorted(row)[count // 2] for row in rows]  # it is the first itself
    smallest = min(radii)
    balls = [row for row, radius in zip(rows, radii, strict=True) if radius == smallest]
    return [int(any(row[j] <= smallest for row in balls)) for j in range(count)]


def _squared_distance(gram: Gram, i: int, j: int) -> int:
    return gram[i][i] + gram[j][j] - 2 * gram[i][j]


def _distances_to_mean(gram: Gram, weights: list[int]) -> list[int]:
    """W·|xᵢ − Σ wⱼxⱼ / W| for W = Σ w: in whole numbers, rounded down, at least W."""
    total = sum(weights)
    to_sum = [sum(w * g for w, g in zip(weights, line, strict=True)) for line in gram]
    sum_squared = sum(w * g for w, g in zip(weights, to_sum, strict=True))
    return [
        max(total, isqrt(total * total * gram[i][i] - 2 * total * to_sum[i] + sum_squared))
        for i in range(len(gram))
    ]
