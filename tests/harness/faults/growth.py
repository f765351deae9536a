"""Whether a long run grows: what each node holds, looked at from outside whenever a round is final.

Memory is what a node's two processes have for themselves (/proc/PID/status, RssAnon): files that
they map do not count. A single look may fall anywhere in a round. So of memory the medians over
many rounds are compared, and of what comes and goes in each round the fewest that there were: what
leaks never goes.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from harness.faults.nodes import Nodes
from harness.faults.watch import Sight
from swarm.bench.machine import read_process

SETTLED_ROUNDS = 50
"""What is there from then on ought to be all that there will be."""
COMPARED_ROUNDS = 50
"""How many rounds, after the settled ones and at the end, are compared."""


class Holding(NamedTuple):
    """What one node holds at one moment: bytes of memory, and counts of things."""

    main_bytes: int
    trainer_bytes: int
    handles: int
    threads: int
    tasks: int
    blobs: int
    chain_bytes: int


@dataclass
class Growth:
    """What was seen, by node and round."""

    nodes: Nodes
    seen: dict[str, dict[int, Holding]] = field(default_factory=lambda: defaultdict(dict))

    def look(self, sights: Mapping[str, Sight]) -> None:
        """Look at every node that has told of another final round."""
        for name, sight in sights.items():
            number = -1 if sight.plan is None else sight.plan["model_round"]
            if number > 0 and number not in self.seen[name]:
                with suppress(OSError):  # a process that has just ended
                    self.seen[name][number] = _holding(self.nodes.home(name), sight)

    def measures(self) -> dict[str, list[float]]:
        """By how much each node's holdings grew; nothing where the run was too short for that."""
        found: dict[str, list[float]] = defaultdict(list)
        for rounds in self.seen.values():
            settled = [rounds[n] for n in sorted(rounds) if n > SETTLED_ROUNDS]
            if len(settled) < 2 * COMPARED_ROUNDS:
                continue
            early, late = settled[:COMPARED_ROUNDS], settled[-COMPARED_ROUNDS:]
            for what, measure in (("main_bytes", "memory"), ("trainer_bytes", "trainer")):
                before, after = (_each(what, part, statistics.median) for part in (early, late))
                found[f"{measure}_growth"].append(after / before - 1)
            for what in ("handles", "threads", "tasks", "blobs"):
                before, after = (_each(what, part, min) for part in (early, late))
                found[f"{what}_growth"].append(after - before)
            first, last = min(rounds), max(rounds)
            grown = rounds[last].chain_bytes - rounds[first].chain_bytes
            found["chain_kb_a_round"].append(grown / (last - first) / 1000)
        return {what: [round(value, 4) for value in values] for what, values in found.items()}


def _holding(home: Path, sight: Sight) -> Holding:
    pid, trainer = sight.status["pid"], sight.status["trainer_pid"]
    main, other = read_process(pid), None if trainer is None else read_process(trainer)
    if main is None or other is None:
        raise OSError("a process is gone")
    return Holding(
        main.anonymous_bytes,
        other.anonymous_bytes,
        sum(len(list(Path(f"/proc/{p}/fd").iterdir())) for p in (pid, trainer)),
        len(list(Path(f"/proc/{pid}/task").iterdir())),
        sight.status["tasks"],
        len(list((home / "blobs").iterdir())),
        sum(file.stat().st_size for file in (home / "chain").iterdir()),
    )


def _each(what: str, part: list[Holding], of: Callable[[list[int]], float]) -> float:
    return of([getattr(holding, what) for holding in part])
