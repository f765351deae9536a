"""Does what a fault plan says, at its moments, and measures what follows.

One loop in one thread, which others may only ask: whenever a node has said something, what is due
is undone, what may begin begins, and what was awaited is looked for. Every wait ends, at the plan's
deadline at the latest.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

from harness.faults.growth import Growth
from harness.faults.nodes import Nodes
from harness.faults.plan import GROWTH, Fault, FaultPlan, Target, faults_of
from harness.faults.release import NEWER
from harness.faults.watch import Place, Watch
from swarm.errors import LocalError
from swarm.learning.simulation.dealing import SiteFiles
from swarm.testnet.processes import last_line

TICK_S = 0.1
SETTLE_ROUNDS = 2
"""The round after a fault may still pay for it; the next may not."""
LAST_MEASURES_S = 60.0
"""How long measurements may go on when all rounds are final."""


@dataclass
class Kill:
    """One SIGKILL. Times are Unix seconds; `back_at` is 0 while the node is dead."""

    name: str
    place: Place
    leader: bool
    proposer: bool
    at: float
    back_at: float = 0.0
    for_good: bool = False
    final_s: float | None = None
    """From a leader's death to its round's model."""


@dataclass
class Awaited:
    """Something that is to happen; how long it took is noted under `measure`."""

    measure: str
    since: float
    happened: Callable[[], bool]


@dataclass
class Told:
    """One line of the run's story; seconds since the plan began."""

    at_s: float
    text: str


@dataclass
class Drive:
    """One run of one plan. `run` it once; the rest is what came of it."""

    plan: FaultPlan
    nodes: Nodes
    watch: Watch
    seed: int
    newcomers: list[SiteFiles]
    kills: list[Kill] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    measures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    story: list[Told] = field(default_factory=list)
    awaited: list[Awaited] = field(default_factory=list)
    last_fault_round: int = 0
    wrong_releases: list[str] = field(default_factory=list)
    """What was found amiss before each upgrade."""

    def __post_init__(self) -> None:
        self.pending = faults_of(self.plan, self.seed)
        self._draw = random.Random(self.seed)
        self._undo: list[tuple[float, Callable[[], None]]] = []
        self._began = time.monotonic()
        self._admitted_in = -1
        self._final_at_upgrade = 0
        self._joining: Future[str] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="newcomer")
        self._growth = Growth(self.nodes) if GROWTH & self.plan.at_most.keys() else None

    def run(self) -> str | None:
        """Drive until all rounds are final at all nodes. Returns why they are not, if so.

        Raises LocalError if somebody else sets `nodes.ending`.
        """
        self._began = time.monotonic()
        until, complete_at = self._began + self.plan.deadline_s, None
        try:
            while True:
                self.watch.wait(TICK_S)
                now = time.monotonic()
                dead = self.nodes.dead_by_themselves()
                if dead:
                    log = self.nodes.home(dead[0]) / "node.log"
                    return f"{dead[0]} ended by itself: {last_line(log)}"
                for undo in [u for at, u in self._undo if at <= now]:
                    undo()
                self._undo = [(at, u) for at, u in self._undo if at > now]
                self._begin_due(now)
                self._look(now)
                if self._is_complete():
                    complete_at = complete_at or now
                    if not self.awaited or now > complete_at + LAST_MEASURES_S:
                        return None
                if self.nodes.ending.is_set():
                    raise LocalError("the run was ended from outside")
                if now > until and complete_at is None:
                    return f"not complete within {self.plan.deadline_s:.0f} s: {self._where()}"
        finally:
            if self._growth is not None:
                self.measures.update(self._growth.measures())
            self.nodes.ending.set()
            self._pool.shutdown(cancel_futures=True)

    @property
    def settled_from(self) -> int:
        """The first round that must not pay for a fault any more, of those that came to pass."""
        return self.last_fault_round + SETTLE_ROUNDS

    def is_settled(self) -> bool:
        """Whether all faults are over, and such a round has begun."""
        is_calm = not (self.pending or self._undo or self.awaited)
        return is_calm and self.watch.place().round >= self.settled_from

    def tell(self, text: str) -> None:
        self.story.append(Told(round(time.monotonic() - self._began, 2), text))

    # What may begin now.

    def _begin_due(self, now: float) -> None:
        place = self.watch.place()
        self.watch.eager = any(f.when.phase and place.round >= f.when.round for f in self.pending)
        for fault in list(self.pending):
            opened_at = self.watch.opened_at.get(fault.when.round)
            if opened_at is None or now < opened_at + fault.when.after_s:
                continue
            if fault.when.phase in (None, place.phase) and self._begin(fault, place):
                # In this order: who asks from another thread whether all is settled sees both.
                self.last_fault_round = max(self.last_fault_round, place.round)
                self.pending.remove(fault)
                place = self.watch.place()

    def _begin(self, fault: Fault, place: Place) -> bool:
        """Begin a fault; False, and nothing done, if its targets cannot be had now."""
        match fault.do:
            case "cut":
                return self._cut(fault)
            case "admit":
                site = self.newcomers.pop(0)
                self._joining = self._pool.submit(self.nodes.admit, site, self._admitted)
                self.tell("a newcomer asks to be admitted")
                return True
        names = self._targets(fault.who)
        if names is None:
            return False
        if fault.do == "stop":
            self._stop(names, fault.for_s)
            return True
        if fault.do == "kill trainer":
            return self._kill_trainers(names, place)
        if fault.do == "upgrade":
            self._upgrade(names, fault.for_s or 0.0)
            return True
        if len(self.nodes.down) + len(names) > self.plan.at_most_down:
            return False
        self._kill(names, fault, place)
        return True

    def _targets(self, who: Iterable[Target]) -> list[str] | None:
        """Whom a plan means, at this moment; None if one of them is down or not known."""
        found: list[str | None] = []
        alive = self.nodes.answering
        for target in who:
            match target:
                case "leader":
                    found.append(self.watch.leader())
                case "holder":
                    found.append(self.watch.holder())
                case "proposer":
                    found.append(self.watch.proposer())
                case "anyone":
                    others = [name for name in alive if name not in found]
                    found.append(self._draw.choice(others) if others else None)
                case "liar":
                    liars = [name for name in self.nodes.running if name in self.nodes.liars]
                    found.append(self._draw.choice(liars) if liars else None)
                case "all":
                    found += alive
                case int():
                    found.append(self.nodes.names[target])
        names = [name for name in found if name is not None and name in self.nodes.running]
        return names if len(names) == len(found) > 0 else None

    # Death.

    def _kill(self, names: list[str], fault: Fault, place: Place) -> None:
        leader, proposer = self.watch.leader(), self.watch.proposer()
        killed = []
        for name in names:
            self.nodes.kill(name)
            kill = Kill(name, place, name == leader, name == proposer, time.time())
            kill.for_good = fault.for_s is None
            killed.append(kill)
        for name in names:
            self.watch.forget(name)
        self.kills += killed
        for kill in killed:
            what = [
                w for w, is_so in (("leads", kill.leader), ("proposes", kill.proposer)) if is_so
            ]
            role = f" ({' and '.join(what)})" if what else ""
            again = "for good" if fault.for_s is None else f"for {fault.for_s:.1f} s"
            self.tell(f"kill {kill.name}{role} in round {place.round}, {place.phase}, {again}")
            if fault.disk is not None:
                self.nodes.spoil(kill.name, fault.disk)
                self.tell(f"{kill.name}: {fault.disk}")
            if kill.leader:
                self._await_model(kill)
        if fault.for_s is not None:
            for kill in killed:
                self._later(fault.for_s, partial(self._restart, kill))

    def _kill_trainers(self, names: list[str], place: Place) -> bool:
        """SIGKILL to the processes that train there; False, and nothing done, if one does not."""
        sights = self.watch.fresh(0.5)
        busy = {name for name, sight in sights.items() if sight.plan and sight.plan["training"]}
        if not busy.issuperset(names):
            return False
        for name in names:
            with suppress(ProcessLookupError):  # it has ended by itself a moment ago
                os.kill(int(sights[name].status["trainer_pid"]), signal.SIGKILL)
            self.counts["trainer_kills"] += 1
            self.tell(f"kill the trainer of {name} in round {place.round}")
        return True

    def _await_model(self, kill: Kill) -> None:
        since, number = time.monotonic(), kill.place.round

        def is_final() -> bool:
            at = self.watch.final_at.get(number)
            if at is not None:
                kill.final_s = at - since
            return at is not None

        self.awaited.append(Awaited("", since, is_final))

    def _restart(self, kill: Kill) -> None:
        height = self.watch.highest
        kill.back_at = time.time()
        self.nodes.start(kill.name)
        self.counts["restarts"] += 1
        self.tell(f"start {kill.name}, at height {height} of the others")
        if kill.name not in self.nodes.liars:
            self._await_return(kill.name, height)

    def _await_return(self, name: str, height: int) -> None:
        def status() -> dict[str, object]:
            sight = self.watch.fresh().get(name)
            return {} if sight is None else sight.status

        def caught_up() -> bool:
            return int(str(status().get("height", -1))) >= height

        def votes() -> bool:
            chain = status().get("chain")
            return isinstance(chain, dict) and chain.get("role") == "validator"

        self._await("caught_up_s", caught_up)
        self._await("voting_s", votes)

    def _stop(self, names: list[str], for_s: float | None) -> None:
        for name in names:
            self.nodes.stop(name)
            self.counts["stops"] += 1
            self.tell(f"stop {name}")

        def resume() -> None:
            for name in names:
                height = self.watch.highest
                self.watch.forget(name)
                self.nodes.resume(name)
                self.tell(f"resume {name}, at height {height} of the others")
                self._await_return(name, height)

        if for_s is not None:
            self._later(for_s, resume)

    def _upgrade(self, names: list[str], for_s: float) -> None:
        for name in names:
            status = self.nodes.end(name)
            self.watch.forget(name)
            self.tell(f"end {name} for an upgrade: exit status {status}")
            if status != 0:
                raise LocalError(f"{name} did not end in order: exit status {status}")

        def begin() -> None:
            for name in names:
                self._count_mixed()
                height = self.watch.highest
                self.nodes.upgrade(name)
                self.counts["upgrades"] += 1
                self.tell(f"start {name} with the newer release, at height {height} of the others")
                self._await_return(name, height)

        self._later(for_s, begin)

    def _count_mixed(self) -> None:
        """Called before each upgrade: the rounds since the one before it were final at both."""
        final = len(self.watch.final_at)
        if self.nodes.upgraded:
            self.counts["mixed_rounds"] += final - self._final_at_upgrade
            self.wrong_releases += self.mistaken_releases()
        self._final_at_upgrade = final

    def mistaken_releases(self) -> list[str]:
        """Whom nodes that run take for a node of another release than it has."""
        running, upgraded = self.nodes.running, self.nodes.upgraded
        return [
            f"{name} takes {peer['name']} for {peer['release'] or 'nothing'}"
            for name, sight in self.watch.fresh().items()
            for peer in sight.status["peers"]
            if peer["name"] in running and (peer["release"] == NEWER) != (peer["name"] in upgraded)
        ]

    # Links.

    def _cut(self, fault: Fault) -> bool:
        names = self._targets(target for group in fault.groups for target in group)
        if names is None:
            return False
        numbers = iter([self.nodes.number(name) for name in names])
        groups = [{next(numbers) for _ in group} for group in fault.groups]
        pairs = [(a, b) for one, two in combinations(groups, 2) for a in one for b in two]
        assert self.nodes.wires is not None
        self.nodes.wires.cut(pairs)
        self.counts["cuts"] += 1
        self.tell(f"cut {' | '.join(' '.join(map(str, sorted(g))) for g in groups)}")
        final_before = len(self.watch.final_at)
        noticed = self._await("noticed_s", lambda: not any(map(self._connected, pairs)))

        def heal() -> None:
            assert self.nodes.wires is not None
            self.counts["rounds_in_cut"] += len(self.watch.final_at) - final_before
            height = self.watch.highest
            self.nodes.wires.heal(pairs)
            if noticed in self.awaited:
                self.awaited.remove(noticed)  # it was too short for that, and now never will be
            self.tell(f"heal, at height {height}")
            self._await("caught_up_s", lambda: self._all_at(height))
            self._await("moved_s", lambda: self._all_at(height + 1))

        if fault.for_s is not None:
            self._later(fault.for_s, heal)
        return True

    def _connected(self, pair: tuple[int, int]) -> bool:
        """Whether either end still counts the other as connected."""
        one, two = (self.nodes.names[number] for number in pair)
        sights = self.watch.fresh()
        return any(
            here in sights and there in sights[here].status["connected"]
            for here, there in ((one, two), (two, one))
        )

    def _all_at(self, height: int) -> bool:
        sights, alive = self.watch.fresh(), self.nodes.answering
        return all(n in sights and sights[n].status["height"] >= height for n in alive)

    # Time.

    def _later(self, delay_s: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + delay_s, undo))

    def _await(self, measure: str, happened: Callable[[], bool]) -> Awaited:
        awaited = Awaited(measure, time.monotonic(), happened)
        self.awaited.append(awaited)
        return awaited

    def _look(self, now: float) -> None:
        if self._growth is not None:
            self._growth.look(self.watch.fresh())
        for awaited in list(self.awaited):
            if awaited.happened():
                self.awaited.remove(awaited)
                if awaited.measure:
                    self.measures[awaited.measure].append(round(now - awaited.since, 2))
        if self._joining is not None and self._joining.done():
            name, self._joining = self._joining.result(), None
            self.watch.follow(name)
            self.tell(f"{name} has consented")
            first = self._admitted_in
            self.awaited.append(Awaited("", now, lambda: self._contributes(name, first)))

    def _admitted(self) -> None:
        self._admitted_in = self.watch.place().round
        self.tell(f"the newcomer is admitted in round {self._admitted_in}")

    def _contributes(self, name: str, first: int) -> bool:
        for sight in self.watch.fresh().values():
            for record in sight.plan["records"] if sight.plan else []:
                if record["model"] and name in record["contributors"]:
                    self.measures["contributes_after_rounds"].append(record["round"] - first)
                    return True
        return False

    def _is_complete(self) -> bool:
        if self._undo or self._joining is not None:
            return False
        sights = self.watch.fresh()
        plans = [sights[name].plan if name in sights else None for name in self.nodes.answering]
        return bool(plans) and all(
            p is not None and p["status"] == "completed" and p["model_held"] for p in plans
        )

    def _where(self) -> str:
        """Where each node stands, in one sentence."""
        said = []
        for name in self.nodes.names:
            sight = self.watch.fresh().get(name)
            if sight is None:
                said.append(f"{name} does not answer")
            elif sight.plan is None:
                said.append(f"{name} at height {sight.status['height']}")
            else:
                plan = sight.plan
                place = f"{plan['round']}/{plan['attempt']} {plan['phase']}"
                said.append(f"{name} at height {sight.status['height']}, round {place}")
        return "; ".join(said)


def logs_of(nodes: Nodes) -> dict[str, str]:
    """What each honest node and its trainer wrote, by file."""
    found: dict[str, str] = {}
    for name in [name for name in nodes.names if name not in nodes.liars]:
        for file in ("node.log", "trainer.log"):
            path: Path = nodes.home(name) / file
            if path.exists():
                found[f"{name}/{file}"] = path.read_text(errors="replace")
    return found
