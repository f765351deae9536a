"""A network, clocks and disks that do not exist: virtual time, drawn from one seed.

A simulated node is any object with `receive(sender, message)` and `connected(peer)`. It reaches the
world through its `Port` alone: send, call later, read the clock, write the disk. So the same node
object runs a thousand different days in a few seconds, and a seed that failed can be run again to
the same trace.

    net = SimNet(seed=7, weather=Weather(loss=0.1))
    for name in range(4):
        net.add(name, lambda port: MyNode(port))
    net.at(10.0, lambda: net.cut({0, 1}, {2, 3}))
    net.at(20.0, net.heal)
    net.run(until_s=60.0)

What can go wrong: messages are delayed, lost, duplicated and reordered (`Weather`); links are cut
in both directions or one (`cut`); a node is killed at any instant (`crash`), with what it had not
synced to disk lost or kept; it is stopped and goes on later, as by SIGSTOP (`stop`); clocks run
apart by a constant (`add(skew_s=…)`); all machines sleep, and wake to a later time (`sleep`).
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

Name = Any
"""Whatever a simulation calls its nodes: hashable, and printed in the trace."""


class Violation(AssertionError):
    """A property that must hold at every instant does not."""


class SimNode(Protocol):
    """What the network asks of a node."""

    def receive(self, sender: Name, message: Any) -> None:
        """A message arrived."""

    def connected(self, peer: Name) -> None:
        """The link to this peer works, again or for the first time."""


@dataclass(frozen=True)
class Weather:
    """How links behave: probabilities per message, delays in seconds."""

    delay_s: tuple[float, float] = (0.005, 0.05)
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    """chance of an extra delay, up to ten times the longest"""


CALM = Weather()


@dataclass
class SimDisk:
    """A key-value store that remembers which writes were synced. `sync` makes all of them so."""

    synced: dict[str, Any] = field(default_factory=dict)
    unsynced: dict[str, Any] = field(default_factory=dict)

    def get(self, key: str) -> Any:
        """The newest value, or None."""
        return self.unsynced.get(key, self.synced.get(key))

    def put(self, key: str, value: Any) -> None:
        """Write; lost by a crash unless synced before."""
        self.unsynced[key] = value

    def sync(self) -> None:
        """Make everything written so far durable."""
        self.synced.update(self.unsynced)
        self.unsynced.clear()

    def crash(self) -> None:
        """Lose what was not synced."""
        self.unsynced.clear()


class Timer:
    """A call that is to come, in this life of a node; `cancel` prevents it."""

    __slots__ = ("_call", "_port", "cancelled")

    def __init__(self, port: Port, call: Callable[[], None]) -> None:
        self.cancelled = False
        self._port = port
        self._call = call

    def cancel(self) -> None:
        """Never make the call."""
        self.cancelled = True

    def fire(self) -> None:
        """Make the call, unless it was cancelled or the node killed; later, if it is stopped."""
        port = self._port
        if self.cancelled or not port.alive:
            return
        if port.is_stopped:
            port.put_off(self.fire)
        else:
            self._call()


class Port:
    """One life of one node: everything made through it ends when the node is killed."""

    def __init__(self, net: SimNet, name: Name, disk: SimDisk, skew_s: float) -> None:
        self._net = net
        self._skew_s = skew_s
        self.name = name
        self.disk = disk
        self.rng = net.rng
        """The simulation's source of chance."""
        self.alive = True
        self._stopped_until_s = 0.0

    @property
    def is_stopped(self) -> bool:
        """Whether the process exists, but does nothing for now."""
        return self._net.now_s < self._stopped_until_s

    def stop(self, for_s: float) -> None:
        """Do nothing for so long; what arrives meanwhile waits."""
        self._stopped_until_s = self._net.now_s + for_s

    def put_off(self, call: Callable[[], None]) -> None:
        """Make this call when the stopped node goes on."""
        self._net.at(self._stopped_until_s, call)

    @property
    def clock_s(self) -> float:
        """This node's wall clock, in seconds, which may be wrong."""
        return self._net.epoch_s + self._net.now_s + self._skew_s

    def send(self, to: Name, message: Any) -> None:
        """Send over the simulated link. A node may be killed while it does."""
        if self.alive:
            self._net.deliver(self.name, to, message)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        """Call in `delay_s` seconds, unless this life has ended by then."""
        timer = Timer(self, call)
        self._net.at(self._net.now_s + delay_s, timer.fire)
        return timer

    def log(self, text: str) -> None:
        """Add a line to the trace."""
        self._net.log(f"{self._net.label(self.name)}: {text}")

    def label(self, name: Name) -> str:
        """What this node is called in the trace."""
        return self._net.label(name)


@dataclass
class _Place:
    boot: Callable[[Port], SimNode]
    disk: SimDisk
    skew_s: float
    port: Port | None = None
    node: SimNode | None = None


class SimNet:
    """The simulated world. `run` advances the virtual time; everything else schedules."""

    def __init__(
        self,
        seed: int,
        weather: Weather = CALM,
        *,
        epoch_s: float = 1.8e9,
        label: Callable[[Name], str] = str,
    ) -> None:
        self.rng = random.Random(seed)
        self.weather = weather
        self.epoch_s = epoch_s
        self.label = label
        self.now_s = 0.0
        self.trace: list[str] = []
        self.counted: Counter[str] = Counter()
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = 0
        self._places: dict[Name, _Place] = {}
        self._cut: set[tuple[Name, Name]] = set()

    # Nodes.

    def add(
        self,
        name: Name,
        boot: Callable[[Port], SimNode],
        *,
        skew_s: float = 0.0,
        start: bool = True,
    ) -> None:
        """Add a node; `boot` is called at every start with a fresh port and the same disk."""
        self._places[name] = _Place(boot, SimDisk(), skew_s)
        if start:
            self.at(self.now_s, lambda: self.start(name))

    def start(self, name: Name) -> None:
        """Start a node that does not run."""
        place = self._places[name]
        if place.port is not None:
            return
        self.log(f"{self.label(name)} starts")
        place.port = Port(self, name, place.disk, place.skew_s)
        place.node = place.boot(place.port)
        for peer in self._places:
            self._connect_soon(name, peer)

    def crash(self, name: Name, *, lose_unsynced: bool = True) -> None:
        """Kill a node at this instant."""
        place = self._places[name]
        if place.port is None:
            return
        self.log(
            f"{self.label(name)} is killed" + (", unsynced writes lost" if lose_unsynced else "")
        )
        place.port.alive = False
        place.port = place.node = None
        if lose_unsynced:
            self.counted["crashes that lost unsynced writes"] += bool(place.disk.unsynced)
            place.disk.crash()
        else:
            place.disk.sync()

    def stop(self, name: Name, for_s: float) -> None:
        """Stop a running node for so long, as SIGSTOP does: it keeps its memory, and its links."""
        place = self._places[name]
        if place.port is not None:
            self.log(f"{self.label(name)} is stopped for {for_s:.1f} s")
            place.port.stop(for_s)

    def sleep(self, for_s: float) -> None:
        """All machines sleep and wake: every clock is later by so much, nothing else has moved."""
        self.log(f"all machines sleep for {for_s:.0f} s")
        self.epoch_s += for_s

    def node(self, name: Name) -> Any:
        """The running node of this name, or None while it is down."""
        return self._places[name].node

    def disk(self, name: Name) -> SimDisk:
        """The disk of this node, which outlives it."""
        return self._places[name].disk

    @property
    def names(self) -> list[Name]:
        """All nodes, running or not, in the order they were added."""
        return list(self._places)

    @property
    def running(self) -> list[Name]:
        """The nodes that run now."""
        return [name for name, place in self._places.items() if place.node is not None]

    # Links.

    def cut(self, senders: Iterable[Name], receivers: Iterable[Name], *, both: bool = True) -> None:
        """Drop everything from these to those, and (`both`) back."""
        one, other = list(senders), list(receivers)
        sides = [" ".join(map(self.label, side)) for side in (one, other)]
        self.log("cut " + (" | " if both else " → ").join(sides))
        for a in one:
            for b in other:
                self._cut.add((a, b))
                if both:
                    self._cut.add((b, a))

    def heal(self) -> None:
        """Mend all links."""
        self.log("all links heal")
        mended, self._cut = self._cut, set()
        for a, b in sorted({(min(pair), max(pair)) for pair in mended}):
            self._connect_soon(a, b)

    @property
    def is_cut(self) -> bool:
        """Whether any link is cut now."""
        return bool(self._cut)

    def linked(self, a: Name, b: Name) -> bool:
        """Whether a connection, which needs both directions, holds between two nodes."""
        return (a, b) not in self._cut and (b, a) not in self._cut

    def deliver(self, sender: Name, to: Name, message: Any) -> None:
        """Give a message to the weather."""
        weather, chance, counted = self.weather, self.rng.random, self.counted
        least_s, most_s = weather.delay_s
        counted["messages sent"] += 1
        copies = 1
        if weather.duplication > 0 and chance() < weather.duplication:
            counted["messages duplicated"] += 1
            copies = 2
        for _ in range(copies):
            if weather.loss > 0 and chance() < weather.loss:
                counted["messages lost"] += 1
                continue
            delay_s = least_s + (most_s - least_s) * chance()
            if weather.reordering > 0 and chance() < weather.reordering:
                counted["messages reordered"] += 1
                delay_s += 10 * most_s * chance()
            self.at(self.now_s + delay_s, partial(self._arrive, sender, to, message))

    def _arrive(self, sender: Name, to: Name, message: Any) -> None:
        place = self._places[to]
        if place.node is None or place.port is None:
            return
        if (sender, to) in self._cut:
            self.counted["messages cut off"] += 1
            return
        if place.port.is_stopped:
            place.port.put_off(partial(self._arrive, sender, to, message))
        else:
            place.node.receive(sender, message)

    def _connect_soon(self, a: Name, b: Name) -> None:
        if a != b:
            self.at(self.now_s + self.rng.uniform(0.05, 0.5), lambda: self._connect(a, b))

    def _connect(self, a: Name, b: Name) -> None:
        if {(a, b), (b, a)} & self._cut:
            return
        for here, there in ((a, b), (b, a)):
            place = self._places[here]
            if place.node is None or place.port is None or self._places[there].node is None:
                continue
            if place.port.is_stopped:
                place.port.put_off(partial(self._connect, a, b))
                return
            place.node.connected(there)

    # Time.

    def at(self, time_s: float, call: Callable[[], object]) -> None:
        """Make a call at this virtual time; calls of one instant run in the order they came."""
        self._order += 1
        heapq.heappush(self._queue, (time_s, self._order, call))

    def run(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Run to this time, or until `stop` says so after an event; returns whether it did."""
        queue, pop = self._queue, heapq.heappop
        while queue and queue[0][0] <= until_s:
            self.now_s, _, call = pop(queue)
            call()
            if stop():
                return True
        self.now_s = max(self.now_s, until_s)
        return stop()

    def log(self, text: str) -> None:
        """Add a line to the trace, with the virtual time."""
        self.trace.append(f"{self.now_s:9.3f} {text}")
