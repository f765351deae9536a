"""One target under attack: offer, time, count; and look whether anything stayed behind."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from harness.fuzz.mutations import Mutator, Shape

CHECK_EVERY = 100
SHOWN_BYTES = 2000
ACCEPTED = "accepted"

Offer = Callable[[bytes], Awaitable[str]]
"""Offers one input; `ACCEPTED`, or what refused it. What it raises is a finding."""


@dataclass
class Session:
    """A target that is open: valid inputs, a way to offer more, and an honest request."""

    samples: Callable[[], Sequence[bytes]]
    offer: Offer
    check: Callable[[], Awaitable[None]]
    """Raises unless an honest request is still answered."""


@dataclass(frozen=True)
class Target:
    """A place where bytes come in. `open` gets an empty directory; leaving it ends everything."""

    name: str
    shape: Shape
    open: Callable[[Path], AbstractAsyncContextManager[Session]]
    deadline_s: float = 3.0
    """For one answer, on a busy machine."""
    is_pure: bool = False
    """Whether it waits for nothing but its input."""


@dataclass
class Tally:
    """What became of the inputs."""

    name: str
    tried: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    grown_bytes: int = 0
    handles_left: int = 0
    tasks_left: int = 0

    @property
    def accepted(self) -> int:
        return self.verdicts[ACCEPTED]

    @property
    def refused(self) -> dict[str, int]:
        """By error, most frequent first."""
        return {name: n for name, n in self.verdicts.most_common() if name != ACCEPTED}


class TooSlow(AssertionError):
    """An input was answered after the target's deadline, or not at all."""


async def attack(
    target: Target,
    directory: Path,
    seed: int,
    *,
    inputs: int,
    seconds: float = float("inf"),
    settle_s: float = 10.0,
) -> Tally:
    """Offer up to `inputs` mutations for up to `seconds`; then wait up to `settle_s` for the end of
    what they began.

    What goes wrong is raised, with the seed, the input's number and its bytes as a note.
    """
    tally = Tally(target.name)
    until = trio.current_time() + seconds
    async with target.open(directory) as session, _told(target, seed) as told:
        mutator = Mutator(seed, session.samples, target.shape)
        await session.check()
        warm_up = min(CHECK_EVERY, inputs // 2)
        before = await _standing()
        while tally.tried < inputs and trio.current_time() < until:
            if tally.tried == warm_up:
                before = await _standing()
            data = mutator.next()
            told(tally.tried, data)
            await _offer(target, session, data, tally)
            if tally.tried % CHECK_EVERY == 0:
                # Trio forgets scopes between steps only, and what is pure makes none.
                await trio.lowlevel.checkpoint()
                await session.check()
        await session.check()
        await _settle(before, tally, settle_s)
    return tally


async def _offer(target: Target, session: Session, data: bytes, tally: Tally) -> None:
    began, began_s = trio.current_time(), time.process_time()
    verdict = "no answer"
    with trio.move_on_after(target.deadline_s) as patience:
        verdict = await session.offer(data)
    took_s = trio.current_time() - began
    # What never waits cannot be cancelled, so its work counts: a busy machine is no finding.
    if patience.cancelled_caught or time.process_time() - began_s > target.deadline_s:
        raise TooSlow(f"{target.name}: {verdict} after {took_s:.1f} s")
    tally.tried += 1
    tally.verdicts[verdict] += 1
    tally.longest_s = max(tally.longest_s, took_s)


@dataclass(frozen=True)
class _Standing:
    resident_bytes: int
    handles: int
    tasks: int


async def _standing() -> _Standing:
    await trio.lowlevel.checkpoint()
    gc.collect()
    tasks = trio.lowlevel.current_statistics().tasks_living
    return _Standing(_resident_bytes(), len(os.listdir("/proc/self/fd")), tasks)


def _resident_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def _settle(before: _Standing, tally: Tally, settle_s: float) -> None:
    """What is under way may end; then what is left was left behind."""
    deadline = trio.current_time() + settle_s
    while True:
        now = await _standing()
        tally.grown_bytes = now.resident_bytes - before.resident_bytes
        tally.handles_left = now.handles - before.handles
        tally.tasks_left = now.tasks - before.tasks
        if max(tally.handles_left, tally.tasks_left) <= 0 or trio.current_time() > deadline:
            return
        await trio.sleep(0.05)


@asynccontextmanager
async def _told(target: Target, seed: int) -> AsyncIterator[Callable[[int, bytes], None]]:
    """Notes on what escapes which input it followed; in live targets it may be an earlier one."""
    last: tuple[int, bytes] | None = None

    def told(number: int, data: bytes) -> None:
        nonlocal last
        last = (number, data)

    try:
        yield told
    except BaseException as error:
        if last is not None:
            shown = last[1].hex() if len(last[1]) <= SHOWN_BYTES else last[1][:SHOWN_BYTES].hex()
            error.add_note(f"{target.name}, seed {seed}, input {last[0]}: {shown}")
        raise
