"""The weighted mean beside a plain copy of the same bytes.

Both read every update from memory once and work through it in steps of 1 MiB, as a node merges
chunk after chunk; with several threads, each has a stretch of its own. The copy writes what it
reads, the mean multiplies, adds, divides and rounds, and writes one model. Figures are bytes of
updates read per second, so that their ratio is what the arithmetic leaves of the machine's memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from swarm.learning.folds.formats import Array
from swarm.learning.folds.golden import self_check
from swarm.learning.folds.reduce import MEAN

UPDATES = 4
SAMPLES = (303, 294, 123, 200)
STEP_ELEMENTS = (1 << 20) // 4
WARM_UP = 1

Work = Callable[[slice], None]


def measure_merge(size_bytes: int, threads: Sequence[int], repeat: int) -> list[dict[str, Any]]:
    """Merge `UPDATES` float32 updates of this size; a result for each number of threads."""
    self_check()
    elements = max(1, size_bytes // 4)
    updates = [
        np.random.default_rng(seed).standard_normal(elements, np.float32) for seed in range(UPDATES)
    ]
    copies = [np.zeros_like(update) for update in updates]
    model = np.zeros_like(updates[0])

    def copy(part: slice) -> None:
        for update, target in zip(updates, copies, strict=True):
            np.copyto(target[part], update[part])

    def merge(part: slice) -> None:
        MEAN.merge("F32", [update[part] for update in updates], SAMPLES, model[part])

    results = []
    for count in threads:
        seconds: dict[str, list[float]] = {"copy": [], "merge": []}
        with ThreadPoolExecutor(count) as pool:
            for _ in range(WARM_UP + repeat):
                for name, work in (("copy", copy), ("merge", merge)):
                    seconds[name].append(_timed(work, elements, count, pool))
        copy_s, merge_s = (statistics.median(seconds[n][WARM_UP:]) for n in ("copy", "merge"))
        read_bytes = UPDATES * updates[0].nbytes
        results.append(
            {
                "size_bytes": size_bytes,
                "updates": UPDATES,
                "threads": count,
                "repeat": repeat,
                "copy_gb_per_s": round(read_bytes / copy_s / 1e9, 2),
                "merge_gb_per_s": round(read_bytes / merge_s / 1e9, 2),
                "ratio": round(copy_s / merge_s, 3),
            }
        )
    _check(updates, model)
    return results


def _timed(work: Work, elements: int, threads: int, pool: ThreadPoolExecutor) -> float:
    """Seconds for the whole, each thread working through its own stretch."""
    stretch = -(-elements // threads)

    def through(thread: int) -> None:
        stop = min(elements, (thread + 1) * stretch)
        for start in range(thread * stretch, stop, STEP_ELEMENTS):
            work(slice(start, min(start + STEP_ELEMENTS, stop)))

    began = time.perf_counter()
    list(pool.map(through, range(threads)))
    return time.perf_counter() - began


def _check(updates: Sequence[Array], model: Array) -> None:
    """What was timed must be the mean: an arithmetic error would make any figure worthless."""
    some = slice(0, 1000)
    mean = np.zeros(len(model[some]))
    for update, count in zip(updates, SAMPLES, strict=True):
        mean += update[some].astype(np.float64) * count
    if not np.array_equal(model[some], (mean / sum(SAMPLES)).astype(np.float32)):
        raise AssertionError("the merge that was measured did not give the weighted mean")
