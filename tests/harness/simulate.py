"""Many seeded days of rounds and consensus together, from the command line.

    python -m tests.campaigns simulate --seeds 1000 --nodes 4
    python -m tests.campaigns simulate --nodes 4 --seed 17 --story
    python -m tests.campaigns simulate --planted

Prints what was covered and how fast; exits with 1 and the story of the first seed that breaks a
promise. A day of less than 20 blocks and 5 rounds proves little: that is an error, too. Lying
members are part of every day but each fourth, where the number of nodes allows it (less than a
third of them); on the others the faults that are tolerated are honest: lost votes, members that
leave. `--liars` fixes how many. The same seed gives the same day, on every machine.

`--planted` asks whether the simulator would notice: it plants the known faults of
`harness.planted`, one after another, and tells which seed finds each.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from harness.folds import merge_in_words
from harness.joint import JointWorld
from harness.mischief import joint_world
from harness.planted import FAULTS, find
from harness.simnet import Violation
from harness.trouble import Trouble
from swarm.errors import SwarmError

STORY_LINES = 80
LEAST_HEIGHTS, LEAST_ROUNDS = 20, 4
PLANTED_WITHIN = 1000
TOLD_EVERY_S = 60.0


@dataclass(frozen=True)
class Job:
    """One seed's day."""

    seed: int
    nodes: int
    liars: int
    evm: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    job: Job
    fault: str | None
    counted: Counter[str] = field(default_factory=Counter)
    heights: int = 0
    rounds: int = 0
    virtual_s: float = 0.0
    healed_in_s: float = 0.0
    story: tuple[str, ...] = ()


def liars_for(seed: int, nodes: int) -> int:
    """All seeds but each fourth have liars, below a third of the nodes; one, two, … as may be."""
    most = (nodes - 1) // 3
    return 1 + seed % most if seed % 4 and most else 0


def world_of(job: Job) -> JointWorld:
    """The world in which this day happens."""
    return joint_world(job.nodes, job.seed, Trouble(liars=job.liars), evm=job.evm)


def live(job: Job) -> Outcome:
    """Simulate one day. The story is kept where a promise was broken."""
    world = world_of(job)
    fault, healed_in_s = None, 0.0
    try:
        healed_in_s = world.run_through()
    except (Violation, SwarmError) as violation:
        fault = f"{type(violation).__name__}: {violation}"
    rounds, heights = max(world.finals, default=0), max(world.at_height)
    if fault is None and (rounds < LEAST_ROUNDS or heights < LEAST_HEIGHTS):
        fault = f"only {rounds} rounds and {heights} heights came to pass"
    counted = world.counted + world.net.counted
    counted["heights"] = heights
    counted["plans that a choice ended"] = rounds < world.program.rounds
    counted[f"days merged by {merge_in_words(world.program)}"] += 1
    counted["view changes"] = sum(n for r, n in world.consensus.rounds.items() if r > 0)
    counted["seeds with liars"] = job.liars > 0
    story = tuple(world.story()) if fault else ()
    return Outcome(job, fault, counted, heights, rounds, world.net.now_s, healed_in_s, story)


def live_all(jobs: list[Job], processes: int) -> Iterator[Outcome]:
    """Simulate all of them, as many at a time as there are processes; in order."""
    if processes <= 1:
        _collect_seldom()
        yield from map(live, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes, _collect_seldom) as pool:
        yield from pool.imap(live, jobs, chunksize=4)


def _collect_seldom() -> None:
    """A world is one big heap of short life: looking for garbage in it all the time is in vain."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@dataclass
class Tally:
    """What all days together have shown."""

    done: int = 0
    counted: Counter[str] = field(default_factory=Counter)
    virtual_s: float = 0.0
    slowest_s: float = 0.0
    least_heights: int = sys.maxsize
    least_rounds: int = sys.maxsize
    began: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """One day went well."""
        self.done += 1
        self.counted.update(outcome.counted)
        self.virtual_s += outcome.virtual_s
        self.slowest_s = max(self.slowest_s, outcome.healed_in_s)
        self.least_heights = min(self.least_heights, outcome.heights)
        self.least_rounds = min(self.least_rounds, outcome.rounds)

    def speed(self) -> str:
        """How fast it goes."""
        spent_s = time.monotonic() - self.began
        hours = self.virtual_s / 3600
        return f"{self.done / spent_s:.1f} seeds/s, {hours / spent_s:.3f} simulated hours/s"

    def summary(self, nodes: int) -> dict[str, object]:
        """The same for programs."""
        return {
            "nodes": nodes,
            "seeds": self.done,
            "least_heights": self.least_heights,
            "least_rounds": self.least_rounds,
            "healed_within_s": round(self.slowest_s, 1),
            "simulated_hours": round(self.virtual_s / 3600, 1),
            "counted": dict(sorted(self.counted.items())),
        }

    def tell(self, nodes: int) -> str:
        """What was covered."""
        lines = [f"{number:13,}  {what}" for what, number in sorted(self.counted.items())]
        lines.append(
            f"{self.done} seeds with {nodes} nodes, no promise broken; every seed at least "
            f"{self.least_heights} heights and {self.least_rounds} rounds; {self.speed()}; after "
            f"the last trouble all was done within {self.slowest_s:.0f} s"
        )
        return "\n".join(lines)


def tell(job: Job) -> int:
    """Live one day, and print it as a story."""
    world = world_of(job)
    ending, status = "all went well", 0
    try:
        world.run_through()
    except (Violation, SwarmError) as violation:
        ending, status = f"*** {violation}", 1
    print("\n".join([*world.story(), f"          {ending}"]))
    return status


def simulate(
    jobs: list[Job], processes: int, minutes: float | None = None, json: Path | None = None
) -> int:
    """Live all these days, or those that fit into so many minutes, and print what they cover; stop
    at the first that breaks a promise."""
    tally, told = Tally(), time.monotonic()
    for outcome in live_all(jobs, processes):
        job = outcome.job
        if outcome.fault is not None:
            print("\n".join([*outcome.story[:1], "…", *outcome.story[-STORY_LINES:]]))
            command = f"--nodes {job.nodes} --liars {job.liars} --seed {job.seed}"
            command += " --evm" * job.evm
            print(f"seed {job.seed}: {outcome.fault}\nall of it: {command} --story")
            return 1
        tally.add(outcome)
        if time.monotonic() > told + TOLD_EVERY_S:
            told = time.monotonic()
            print(f"{tally.done} of {len(jobs)} seeds, {tally.speed()}", file=sys.stderr)
        if minutes is not None and time.monotonic() > tally.began + 60 * minutes:
            break
    print(tally.tell(jobs[0].nodes))
    if json is not None:
        json.write_bytes(msgspec.json.encode(tally.summary(jobs[0].nodes)))
    return 0


def simulate_planted(wanted: list[str], json: Path | None = None) -> int:
    """Plant the known faults, and print a table of what finds each; 1 if any goes unnoticed."""
    faults = [f for f in FAULTS if not wanted or f.name in wanted]
    unnoticed, told = 0, dict[str, str]()
    print(f"{'fault':24}{'found by':10}{'s':>6}  what was noticed")
    for fault in faults:
        began = time.monotonic()
        found = find(fault, PLANTED_WITHIN)
        seed, said = found or ("nothing", f"not within {PLANTED_WITHIN} seeds")
        unnoticed += found is None
        label = f"seed {seed}" if found else seed
        told[fault.name] = f"{label}: {said}"
        print(f"{fault.name:24}{label:10}{time.monotonic() - began:6.1f}  {said}", flush=True)
    print(f"{len(faults) - unnoticed} of {len(faults)} planted faults found")
    if json is not None:
        json.write_bytes(msgspec.json.encode(told))
    return 1 if unnoticed else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.campaigns simulate",
        description="Simulate rounds and consensus together, with everything going wrong.",
    )
    made.add_argument("--seeds", type=int, default=100, help="how many days (default: 100)")
    made.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    made.add_argument("--nodes", type=int, default=4, help="founding members (default: 4)")
    made.add_argument(
        "--liars", type=int, help="Byzantine members (default: on three days of four)"
    )
    made.add_argument("--seed", type=int, help="this seed only")
    made.add_argument("--story", action="store_true", help="tell all that happened")
    made.add_argument("--evm", action="store_true", help="the real contract, on an EVM: slower")
    made.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    made.add_argument("--json", type=Path, help="write what was covered here")
    made.add_argument("--minutes", type=float, help="stop after so many minutes, and tell")
    made.add_argument(
        "--planted", nargs="*", metavar="FAULT", help="plant known faults: these, or all"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = parser().parse_args(arguments)
    if given.planted is not None:
        return simulate_planted(given.planted, given.json)
    seeds = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    jobs = [
        Job(
            seed,
            given.nodes,
            liars_for(seed, given.nodes) if given.liars is None else given.liars,
            given.evm,
        )
        for seed in seeds
    ]
    return tell(jobs[0]) if given.story else simulate(jobs, given.jobs, given.minutes, given.json)


if __name__ == "__main__":
    sys.exit(main())
