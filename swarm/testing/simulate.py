"""Many seeded days of rounds and consensus together, from the command line.

    python -m swarm.testing.simulate --seeds 1000 --nodes 4
    python -m swarm.testing.simulate --nodes 4 --seed 17 --story

Prints what was covered and how fast; exits with 1 and the story of the first seed that breaks a
promise. Every third seed has a lying member, where the number of nodes allows one (a third of them
at most); `--liars` fixes it. The same seed gives the same day, on every machine.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from swarm.errors import SwarmError
from swarm.testing.joint import JointWorld, Trouble
from swarm.testing.simnet import Violation

STORY_LINES = 80
LEAST_HEIGHTS, LEAST_ROUNDS = 20, 5


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
    virtual_s: float = 0.0
    healed_in_s: float = 0.0
    story: tuple[str, ...] = ()


def liars_for(seed: int, nodes: int) -> int:
    """Every third seed has liars, below a third of the nodes."""
    return (nodes - 1) // 3 if seed % 3 == 2 else 0


def live(job: Job) -> Outcome:
    """Simulate one day. The story is kept where a promise was broken."""
    world = JointWorld(job.nodes, job.seed, Trouble(liars=job.liars), evm=job.evm)
    fault, healed_in_s = None, 0.0
    try:
        healed_in_s = world.run_through()
        rounds, heights = world.final_round(), max(world.at_height)
        if rounds < LEAST_ROUNDS or heights < LEAST_HEIGHTS:
            raise Violation(f"only {rounds} rounds and {heights} heights came to pass")
    except (Violation, SwarmError) as violation:
        fault = f"{type(violation).__name__}: {violation}"
    counted = world.counted + world.consensus.counted
    counted["heights"] = max(world.at_height)
    counted["view changes"] = sum(n for r, n in world.consensus.rounds.items() if r > 0)
    counted["seeds with liars"] = job.liars > 0
    return Outcome(
        job, fault, counted, world.net.now_s, healed_in_s, tuple(world.trace) if fault else ()
    )


def live_all(jobs: list[Job], processes: int) -> Iterator[Outcome]:
    """Simulate all of them, as many at a time as there are processes; in order."""
    if processes <= 1:
        yield from map(live, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(live, jobs, chunksize=4)


def tell(world: JointWorld, fault: str | None) -> str:
    """A whole day as a story."""
    return "\n".join([*world.trace, f"  *** {fault}" if fault else "  all went well"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m swarm.testing.simulate",
        description="Simulate rounds and consensus together, with everything going wrong.",
    )
    made.add_argument("--seeds", type=int, default=100, help="how many days (default: 100)")
    made.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    made.add_argument("--nodes", type=int, default=4, help="members (default: 4)")
    made.add_argument("--liars", type=int, help="Byzantine members (default: in every third seed)")
    made.add_argument("--seed", type=int, help="this seed only")
    made.add_argument("--story", action="store_true", help="tell all that happened")
    made.add_argument("--evm", action="store_true", help="the real contract, on an EVM: slower")
    made.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = parser().parse_args(arguments)
    seeds = range(given.first, given.first + given.seeds) if given.seed is None else [given.seed]
    jobs = [
        Job(seed, given.nodes, liars_for(seed, given.nodes) if given.liars is None else given.liars)
        for seed in seeds
    ]
    if given.evm:
        jobs = [Job(job.seed, job.nodes, job.liars, True) for job in jobs]
    if given.story:
        return _story(jobs[0])
    counted: Counter[str] = Counter()
    virtual_s = slowest_s = 0.0
    began, done = time.monotonic(), 0
    for outcome in live_all(jobs, given.jobs):
        if outcome.fault is not None:
            print("\n".join(outcome.story[-STORY_LINES:]))
            command = f"--nodes {given.nodes} --liars {outcome.job.liars} --seed {outcome.job.seed}"
            print(f"seed {outcome.job.seed}: {outcome.fault}\nall of it: {command} --story")
            return 1
        done += 1
        counted += outcome.counted
        virtual_s += outcome.virtual_s
        slowest_s = max(slowest_s, outcome.healed_in_s)
    spent_s = time.monotonic() - began
    for what, number in sorted(counted.items()):
        print(f"{number:10,}  {what}")
    print(
        f"{done} seeds with {given.nodes} nodes, no promise broken; {done / spent_s:.1f} seeds/s, "
        f"{virtual_s / 3600 / spent_s:.3f} simulated hours/s; after the last trouble the plan "
        f"ended within {slowest_s:.0f} s"
    )
    return 0


def _story(job: Job) -> int:
    """Tell one day as it happens to be; a second run of the same seed, so nothing is kept."""
    world = JointWorld(job.nodes, job.seed, Trouble(liars=job.liars), evm=job.evm)
    try:
        world.run_through()
    except (Violation, SwarmError) as violation:
        print(tell(world, str(violation)))
        return 1
    print(tell(world, None))
    return 0


if __name__ == "__main__":
    sys.exit(main())
