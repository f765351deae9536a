"""What the nodes say of themselves, asked again and again; and when each thing was first seen.

One thread for each node asks for its status through the node's control socket: a file, which a
network namespace does not hide. A node that is dead or stopped is simply not heard of. Nothing here
looks inside a node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.faults.nodes import Nodes
from swarm.errors import SwarmError
from swarm.node.commands.control import ask
from swarm.testnet.run import plan_of

ANSWER_S = 5.0
PACE_S = 0.2
EAGER_S = 0.04
"""Between two questions to a node, where a moment is waited for that is soon over."""
FRESH_S = 3.0
MAX_NODES = 64


PHASES = ("none", "open", "closed", "masking", "locked", "void", "final")


class Place(NamedTuple):
    """How far a plan has come."""

    round: int = -1
    attempt: int = 0
    phase: str | None = None


@dataclass(frozen=True)
class Sight:
    """One answer of one node, and when it came (monotonic seconds)."""

    at: float
    status: dict[str, Any]
    plan: dict[str, Any] | None


class Watch:
    """All sights of a run; made by `open_watch`."""

    def __init__(self, nodes: Nodes, pool: ThreadPoolExecutor) -> None:
        self.nodes = nodes
        self.eager = False
        self.highest = 0
        """The greatest height that any node ever told: what it was final at cannot be lost."""
        self.sights: dict[str, Sight] = {}
        self.opened_at: dict[int, float] = {}
        """When each round was first seen, by number."""
        self.final_at: dict[int, float] = {}
        self.trained: set[int] = set()
        """The final rounds of training, as people count them: without that of the statistics."""
        self.models: dict[int, dict[str, set[str]]] = {}
        """Who ever said that which model was a round's final one."""
        self.contributors: dict[int, set[str]] = {}
        """Whose updates each final model is made of."""
        self.attempts = 0
        """How often a round was tried again."""
        self._changed = threading.Condition()
        self._ended = False
        self._pool = pool
        self._asking: list[Future[None]] = []
        self._tries: set[tuple[int, int]] = set()

    def wait(self, at_most_s: float) -> None:
        """Until a node has said something."""
        with self._changed:
            self._changed.wait(at_most_s)
        for asking in self._asking:
            if asking.done():
                asking.result()

    def follow(self, name: str) -> None:
        """Ask this node, too, from now on."""
        self._asking.append(self._pool.submit(self._ask, name))

    def fresh(self, within_s: float = FRESH_S) -> dict[str, Sight]:
        """The newest answers of those that ought to answer, by name."""
        now = time.monotonic()
        with self._changed:
            sights = dict(self.sights)
        return {
            name: sights[name]
            for name in self.nodes.answering
            if name in sights and now - sights[name].at <= within_s
        }

    def forget(self, name: str) -> None:
        """A node dies: what it said before does not count as news."""
        with self._changed:
            self.sights.pop(name, None)

    def place(self) -> Place:
        """The furthest that a live node tells; round -1 before the first."""
        plans = [s.plan for s in self.fresh().values() if s.plan and s.plan["round"] is not None]
        places = [Place(p["round"], p["attempt"], p["phase"]) for p in plans]
        return max(places, key=lambda p: (*p[:2], PHASES.index(p.phase or "none")), default=Place())

    def leader(self) -> str | None:
        """Who leads the merge of a round that is closed and not final, by the newest answer."""
        place = self.place()
        if place.phase != "closed":
            return None
        newest = sorted(self.fresh(0.5).values(), key=lambda s: -s.at)
        led = (s.plan["leader"] for s in newest if s.plan and s.plan["round"] == place.round)
        return next((name for name in led if name), None)

    def holder(self) -> str | None:
        """Who holds the plan's role in the round that is open, by the newest answer."""
        place = self.place()
        newest = sorted(self.fresh(0.5).values(), key=lambda s: -s.at)
        open_ = (s.plan for s in newest if s.plan and s.plan["phase"] == "open")
        held = (plan["holder"] for plan in open_ if plan["round"] == place.round)
        return next((name for name in held if name), None)

    def proposer(self) -> str | None:
        """Whose turn it is to propose a block, by the newest answer."""
        newest = sorted(self.fresh(1.0).values(), key=lambda s: -s.at)
        said = (s.status["chain"].get("proposer") for s in newest)
        return next((name for name in said if name in self.nodes.names), None)

    def _ask(self, name: str) -> None:
        home = self.nodes.home(name)
        while not self._ended:
            try:
                status = ask(home, "status", ANSWER_S)
            except SwarmError:
                time.sleep(PACE_S)
                continue
            with self._changed:
                self._note(name, status)
                self._changed.notify_all()
            time.sleep(EAGER_S if self.eager else PACE_S)

    def _note(self, name: str, status: dict[str, Any]) -> None:
        now = time.monotonic()
        plan = plan_of(status, self.nodes.testnet.file.plan_id)
        if name in self.nodes.down:
            return  # its last words, overtaken by its death
        self.sights[name] = Sight(now, status, plan)
        self.highest = max(self.highest, status["height"])
        if plan is None or plan["round"] is None:
            return
        for number in range(plan["round"] + 1):
            self.opened_at.setdefault(number, now)
        place = (plan["round"], plan["attempt"])
        if place not in self._tries:
            self._tries.add(place)
            self.attempts += plan["attempt"] > 1
        for record in plan["records"]:
            if record["model"]:
                self.final_at.setdefault(record["round"], now)
                if record["number"] is not None:
                    self.trained.add(record["number"])
                self.contributors[record["round"]] = set(record["contributors"])
                said = self.models.setdefault(record["round"], {})
                said.setdefault(record["model"], set()).add(name)


@contextmanager
def open_watch(nodes: Nodes) -> Iterator[Watch]:
    """Watch these nodes until the block ends, and whoever joins them."""
    with ThreadPoolExecutor(MAX_NODES, thread_name_prefix="watch") as pool:
        watch = Watch(nodes, pool)
        for name in nodes.names:
            watch.follow(name)
        try:
            yield watch
        finally:
            watch._ended = True
