"""What members' nodes tell each other of themselves, so that each can say what is wrong by name.

Every node greets every other when they are connected, and every ten seconds from then on: its
release, its clock, a random number of its process, the plans that it has halted. From that follow a
clock that is wrong, and a key that is used on two machines: a process that was followed by another
one comes back only then. Whoever notices the latter tells it in its answer. All of it is a peer's
word: shown to people, and nothing is decided by it.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Protocol

import msgspec
import trio

from swarm.errors import UNREADABLE, ProtocolViolation, SwarmError
from swarm.types import Address

METHOD = "node.greeting"
EVERY_S = 10.0
DEADLINE_S = 5.0
CLOCK_S = 2.0
"""Clocks that differ by more are worth a word: validators refuse blocks beyond it."""
TWICE_FOR_S = 60.0
SAID_FOR_S = 2.5 * EVERY_S
"""What a peer says with each greeting holds until it has not said it twice."""
ALONE_S = 30.0
"""Two machines with one key push each other off the same peers: within seconds a peer sees both."""
LOOK_EVERY_S = 1.0
MAX_PROCESSES = 16
MAX_HALTED = 64


class Greeting(msgspec.Struct, array_like=True, frozen=True):
    """`time` in Unix seconds; `process` is drawn at each start; `halted` are numbers of plans. What
    a later release says after that is passed over: members upgrade one after the other."""

    version: Annotated[str, msgspec.Meta(max_length=64)]
    time: float
    process: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    halted: Annotated[list[int], msgspec.Meta(max_length=MAX_HALTED)]
    your_key_is_elsewhere: bool = False
    you_cannot_be_dialled: bool = False


_decoder = msgspec.msgpack.Decoder(Greeting)


@dataclass
class Acquaintance:
    """What a peer has told of itself."""

    version: str = ""
    clock_s: float | None = None
    """How far its clock is ahead of ours."""
    halted: tuple[int, ...] = ()
    process: bytes = b""
    former: deque[bytes] = field(default_factory=lambda: deque(maxlen=MAX_PROCESSES))
    twice_at: float = -math.inf
    """When a process of it came back after another one."""
    says_twice_at: float = -math.inf
    """When it said that this node's key is used on another machine, too."""
    cannot_dial_us: bool = False
    """Whether it is connected only because this node has dialled it."""


class Requests(Protocol):
    """The network, as far as greetings need it."""

    @property
    def connected(self) -> frozenset[Address]: ...
    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes: ...


class Greetings:
    """`halted` gives the numbers of the plans that this node has halted, `is_one_way` whether a
    connected peer has dialled this node and cannot be dialled."""

    def __init__(
        self,
        version: str,
        halted: Callable[[], Iterable[int]],
        clock_s: Callable[[], float] = time.time,
        is_one_way: Callable[[Address], bool] = lambda peer: False,
    ) -> None:
        self.peers: dict[Address, Acquaintance] = {}
        self._version = version
        self._process = os.urandom(16)
        self._halted = halted
        self._clock_s = clock_s
        self._is_one_way = is_one_way
        self._due = trio.Event()
        self._greet_at: dict[Address, float] = {}

    def connected(self, peer: Address) -> None:
        """A connection to this member was made: it is greeted at once."""
        self._greet_at[peer] = -math.inf
        self._due.set()

    async def run(self, network: Requests) -> None:
        """Greet whoever is connected, for as long as the node runs."""
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                for peer in network.connected:
                    if self._greet_at.get(peer, -math.inf) <= now:
                        self._greet_at[peer] = now + EVERY_S
                        nursery.start_soon(partial(self._greet, network, peer))
                with trio.move_on_after(1.0):
                    await self._due.wait()
                self._due = trio.Event()

    async def _greet(self, network: Requests, peer: Address) -> None:
        began = self._clock_s()
        try:
            payload = msgspec.msgpack.encode(self._greeting(peer))
            answer = await network.request(peer, METHOD, payload, deadline_s=DEADLINE_S)
            said = self._read(answer)
        except (SwarmError, *UNREADABLE):
            return  # it is of another release, or gone: its connection tells that
        ended = self._clock_s()
        self._note(peer, said)
        # The answer was written somewhere between: what is certain of the difference is told.
        ahead_s = said.time - (began + ended) / 2
        self.peers[peer].clock_s = ahead_s if abs(ahead_s) > (ended - began) / 2 else 0.0

    async def answer(self, sender: Address, payload: bytes) -> bytes:
        """Answer METHOD."""
        self._note(sender, self._read(payload))
        return msgspec.msgpack.encode(self._greeting(sender))

    def _greeting(self, peer: Address) -> Greeting:
        halted = sorted(self._halted())[:MAX_HALTED]
        twice, one_way = self.is_twice(peer), self._is_one_way(peer)
        return Greeting(self._version, self._clock_s(), self._process, halted, twice, one_way)

    def _read(self, payload: bytes) -> Greeting:
        said = _decoder.decode(payload)
        if not math.isfinite(said.time):
            raise ProtocolViolation("a greeting whose time is no number")
        return said

    def _note(self, peer: Address, said: Greeting) -> None:
        known = self.peers.setdefault(peer, Acquaintance())
        known.version, known.halted = said.version, tuple(said.halted)
        known.cannot_dial_us = said.you_cannot_be_dialled
        now = trio.current_time()
        if known.process != said.process:
            if said.process in known.former:
                known.twice_at = now
            if known.process and known.process not in known.former:
                known.former.append(known.process)
            known.process = said.process
        if said.your_key_is_elsewhere:
            known.says_twice_at = now

    # What follows from it.

    def is_twice(self, peer: Address) -> bool:
        """Whether two processes that alternate have this peer's key."""
        known = self.peers.get(peer)
        return known is not None and trio.current_time() < known.twice_at + TWICE_FOR_S

    def say_twice(self) -> list[Address]:
        """The peers that say that another machine uses this node's key."""
        now = trio.current_time()
        return [p for p, known in self.peers.items() if now < known.says_twice_at + SAID_FOR_S]

    async def wait_alone(self, network: Requests) -> None:
        """Return once this node has been connected to others for ALONE_S, and none of them says
        that another machine uses its key."""
        alone_s = 0.0
        while alone_s < ALONE_S:
            await trio.sleep(LOOK_EVERY_S)
            if self.say_twice():
                alone_s = 0.0
            elif network.connected:
                alone_s += LOOK_EVERY_S

    def own_clock_s(self) -> float | None:
        """How far this machine's clock is ahead, if it differs from those of most of the others,
        two at least, to the same side: otherwise it is theirs that is wrong."""
        ahead = [-a.clock_s for a in self.peers.values() if a.clock_s is not None]
        for side in ([s for s in ahead if s > CLOCK_S], [s for s in ahead if s < -CLOCK_S]):
            if len(side) > 1 and 2 * len(side) > len(ahead):
                return statistics.median(side)
        return None

    def notes_about(self, peer: Address) -> list[str]:
        """What people should know of a peer, in sentences without its name."""
        known = self.peers.get(peer)
        if known is None:
            return []
        notes = []
        if known.clock_s is not None and abs(known.clock_s) > CLOCK_S and not self.own_clock_s():
            notes.append(f"its clock is {_seconds(known.clock_s)} this machine's")
        if self.is_twice(peer):
            notes.append("its key is used on two machines at once: one of them must be stopped")
        if known.version and known.version != self._version:
            notes.append(f"it runs release {known.version}, this node {self._version}")
        notes += [f"it has halted plan {number}" for number in known.halted]
        return notes

    def notes_about_self(self, names: Mapping[Address, str]) -> list[str]:
        """What the others' greetings say of this node."""
        notes = []
        ahead_s = self.own_clock_s()
        if ahead_s is not None:
            notes.append(
                f"this machine's clock is {_seconds(ahead_s)} the other members': set it, and keep "
                "it set by NTP"
            )
        outside = [p for p, known in self.peers.items() if known.cannot_dial_us]
        if outside:
            notes.append(
                f"{', '.join(names.get(p, 'another member') for p in outside)} cannot dial this "
                "node, which has dialled them: rounds go on, and two members that cannot dial each "
                "other get models from the others. Open the port of `network.listen` to them, or "
                "correct `network.announce`"
            )
        saying = [names.get(peer, "another member") for peer in self.say_twice()]
        if saying:
            notes.append(
                f"another machine uses this node's key at the same time, says {', '.join(saying)}: "
                "stop one of the two"
            )
        return notes


def _seconds(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"
