"""What a masked round costs one member on top of a plain one, step by step, in one thread.

The yardstick is a copy of the same update, measured in the same run. Nothing here depends on the
chain or the network.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from swarm.privacy import canaries
from swarm.privacy.fixed_point import add, mean_grid
from swarm.privacy.masks import RandomWords, add_masks, sign_of
from swarm.privacy.shares import combine, deal, is_good, threshold

WARM_UP = 1
CLIP = 0.1


def measure_mask(size_bytes: int, members: int, repeat: int) -> dict[str, Any]:
    """Seconds for each step with a float32 update of this size, and so many members."""
    elements = max(1, size_bytes // 4)
    update = np.random.default_rng(0).normal(0.0, CLIP / 4, elements).astype(np.float32)
    grid, draw = mean_grid(CLIP, members), RandomWords(os.urandom(32))
    words = grid.encode(update, 1 / members, draw)
    total, copied = words.copy(), np.empty_like(update)
    pairs = [(os.urandom(32), sign_of(0, other)) for other in range(1, members)]
    needed = threshold(members, max(1, (members - 1) // 3))
    dealings = [deal(range(members), needed, os.urandom) for _ in range(members)]
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: np.copyto(copied, update),
        "quantise": lambda: grid.encode(update, 1 / members, draw),
        "one mask": lambda: add_masks(words, pairs[:1]),
        "all masks": lambda: add_masks(words, [*pairs, (os.urandom(32), 1)]),
        "add": lambda: add(total, words),
        "decode": lambda: grid.decode(total, 1.0),
        "clip bound": lambda: canaries.is_within_clip(grid, total, 1.0, members),
        "deal shares": lambda: deal(range(members), needed, os.urandom),
        "check shares": lambda: [is_good(d.shares[1], 1, d.commitments) for d in dealings],
        "combine": lambda: [combine(dict(list(d.shares.items())[:needed])) for d in dealings],
    }
    seconds = {name: _median(step, repeat) for name, step in steps.items()}
    return {"size_bytes": size_bytes, "members": members, "repeat": repeat, "seconds": seconds}


def _median(step: Callable[[], object], repeat: int) -> float:
    taken = []
    for _ in range(WARM_UP + repeat):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return round(statistics.median(taken[WARM_UP:]), 6)
