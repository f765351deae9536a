"""Folds beside the mean, and the mean beside a plain copy of the same bytes.

All read every update from memory once and work through it in steps of 1 MiB, as a node merges chunk
after chunk; with several threads, each has a stretch of its own. The copy writes what it reads, the
mean multiplies, adds, divides and rounds, and writes one model. Rules that choose by distance read
every update twice more before. A step reads and writes a model and its own state besides. Figures
are bytes of updates per second, so that the mean's ratio to the copy is what the arithmetic leaves
of the machine's memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from swarm.learning.folds import Fold
from swarm.learning.folds.formats import Array
from swarm.learning.folds.golden import self_check
from swarm.learning.folds.gram import Elements, add_gram, choose_shifts, products, reaches
from swarm.learning.folds.reduce import (
    MEAN,
    SUM,
    ByDistance,
    GeometricMedian,
    Krum,
    Maximum,
    Median,
    MultiKrum,
    Trimmed,
)
from swarm.learning.folds.step import Adam, Momentum, Nesterov, Yogi

UPDATES = 4
UPDATES_BY_DISTANCE = 5  # the fewest with which Krum bears a liar
SAMPLES = (303, 294, 123, 200, 311)
STEP_ELEMENTS = (1 << 20) // 4
WARM_UP = 1

FOLDS: Mapping[str, Fold] = {
    **{rule.name: Fold(rule) for rule in (MEAN, SUM, Maximum(), Median(), Trimmed(0.1))},
    **{rule.name: Fold(rule) for rule in (Krum(1), MultiKrum(1, 2), GeometricMedian())},
    **{step.name: Fold(MEAN, step) for step in (Momentum(), Nesterov(), Adam(), Yogi())},
}
"""Each with a mean where it is a step."""

Work = Callable[[slice], Any]
Run = Callable[[Work], list[Any]]
"""Does a work on all parts of the model, and gives what it found in each."""


def measure_merge(
    size_bytes: int, threads: Sequence[int], repeat: int, folds: Sequence[str] = ("mean",)
) -> list[dict[str, Any]]:
    """Fold float32 updates of this size; a result for each number of threads and each fold."""
    self_check()
    by_distance = any(isinstance(FOLDS[name].reduce, ByDistance) for name in folds)
    bench = _Bench(max(1, size_bytes // 4), UPDATES_BY_DISTANCE if by_distance else UPDATES)
    others = [name for name in folds if name != "mean"]
    results = []
    for count in threads:
        seconds: dict[str, list[float]] = {name: [] for name in ("copy", "mean", *others)}
        with ThreadPoolExecutor(count) as pool:
            run = partial(_run, pool, count, bench.elements)
            for _ in range(WARM_UP + repeat):
                for name, taken in seconds.items():
                    began = time.perf_counter()
                    if name == "copy":
                        run(bench.copy)
                    else:
                        bench.fold(FOLDS[name], run, name == "mean")
                    taken.append(time.perf_counter() - began)
        middle = {name: statistics.median(taken[WARM_UP:]) for name, taken in seconds.items()}
        read_bytes = len(bench.updates) * bench.model.nbytes
        results += [
            {
                "size_bytes": size_bytes,
                "updates": len(bench.updates),
                "fold": name,
                "threads": count,
                "repeat": repeat,
                "copy_gb_per_s": round(read_bytes / middle["copy"] / 1e9, 2),
                "merge_gb_per_s": round(read_bytes / middle[name] / 1e9, 3),
                "ratio": round(middle["copy"] / middle[name], 3),
                "of_mean": round(middle["mean"] / middle[name], 3),
            }
            for name in folds
        ]
    bench.check()
    return results


class _Bench:
    """What is folded, and where the results go."""

    def __init__(self, elements: int, updates: int) -> None:
        self.elements = elements
        self.updates = [
            np.random.default_rng(seed).standard_normal(elements, np.float32)
            for seed in range(updates)
        ]
        self._copies = [np.zeros_like(update) for update in self.updates]
        self._base = np.zeros_like(self.updates[0])
        self.model = np.zeros_like(self._base)
        """The mean, which is checked at the end."""
        self._other = np.zeros_like(self._base)
        self._state = [np.zeros_like(self._base) for _ in range(4)]  # from two slots to two

    def copy(self, part: slice) -> None:
        for update, target in zip(self.updates, self._copies, strict=True):
            np.copyto(target[part], update[part])

    def fold(self, fold: Fold, run: Run, is_mean: bool) -> None:
        """The whole of a fold: the pre-pass of some, the reduce, the step."""
        out = self.model if is_mean else self._other
        if isinstance(fold.reduce, ByDistance):
            weights: Sequence[int] = self._weigh(fold.reduce, run)
        else:
            weights = fold.weights(SAMPLES[: len(self.updates)])
        run(lambda part: self._fold_part(fold, weights, out, part))

    def _weigh(self, rule: ByDistance, run: Run) -> Sequence[int]:
        found = run(lambda part: reaches(self._part(part)))
        shifts = choose_shifts([max(reach) for reach in zip(*found, strict=True)])
        first, *rest = run(lambda part: products(self._part(part), shifts))
        for more in rest:
            add_gram(first, more)
        return rule.weigh(first)

    def _part(self, part: slice) -> Elements:
        return Elements("F32", self._base[part], [update[part] for update in self.updates])

    def _fold_part(self, fold: Fold, weights: Sequence[int], out: Array, part: slice) -> None:
        inputs = [update[part] for update in self.updates]
        fold.reduce.merge("F32", inputs, weights, out[part])
        if fold.step is not None:
            slots = len(fold.step.slots)
            state, after = self._state[:slots], self._state[2 : 2 + slots]
            fold.step.advance(
                "F32", self._base[part], out[part], [slot[part] for slot in state], 0,
                out[part], [slot[part] for slot in after],
            )  # fmt: skip

    def check(self) -> None:
        """What was timed must be the mean: an error would make any figure worthless."""
        some = slice(0, 1000)
        mean = np.zeros(len(self.model[some]))
        samples = SAMPLES[: len(self.updates)]
        for update, count in zip(self.updates, samples, strict=True):
            mean += update[some].astype(np.float64) * count
        if not np.array_equal(self.model[some], (mean / sum(samples)).astype(np.float32)):
            raise AssertionError("the merge that was measured did not give the weighted mean")


def _run(pool: ThreadPoolExecutor, threads: int, elements: int, work: Work) -> list[Any]:
    """Do a work step by step, each thread on its own stretch."""
    stretch = -(-elements // threads)

    def through(thread: int) -> list[Any]:
        stop = min(elements, (thread + 1) * stretch)
        starts = range(thread * stretch, stop, STEP_ELEMENTS)
        return [work(slice(start, min(start + STEP_ELEMENTS, stop))) for start in starts]

    return [found for part in pool.map(through, range(threads)) for found in part]
