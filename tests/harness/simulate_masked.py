"""Many seeded days of masked rounds, from the command line.

    python -m tests.campaigns masked --seeds 1000 --nodes 4
    python -m tests.campaigns masked --nodes 4 --seed 17 --story
    python -m tests.campaigns masked --planted

Prints what was covered; exits with 1 and the story of the first seed that breaks a promise. Each
coalition of up to a third of the members is watched. `--planted` plants the known faults of
`harness.masked_planted`, one after another, and tells which seed finds each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from harness.masked_days import MaskedDay
from harness.masked_planted import MASKED_FAULTS, find_masked
from harness.simnet import Violation

STORY_LINES = 80
PLANTED_WITHIN = 1000
SPOKEN = ("locks", "masked rounds final", "days on which all disks were stolen")


def live(nodes: int, seed: int) -> tuple[int, str | None, Counter[str], list[str]]:
    """One day: its seed, what promise it breaks, what it covers, its story if it breaks one."""
    day, fault = MaskedDay(nodes, seed), None
    try:
        day.run()
    except Violation as violation:
        fault = str(violation)
    return seed, fault, day.counted, day.story() if fault else []


def live_all(
    nodes: int, seeds: range, processes: int
) -> Iterator[tuple[int, str | None, Counter[str], list[str]]]:
    """All of them, in order."""
    if processes <= 1:
        yield from map(partial(live, nodes), seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(partial(live, nodes), seeds, chunksize=4)


def simulate(nodes: int, seeds: range, processes: int, json: Path | None) -> int:
    """Live through all these days; 1 at the first that breaks a promise, or if nothing happened."""
    counted, began = Counter[str](), time.monotonic()
    for seed, fault, covered, story in live_all(nodes, seeds, processes):
        if fault is not None:
            print("\n".join([*story[:1], "…", *story[-STORY_LINES:]]))
            print(f"seed {seed}: {fault}\nall of it: --nodes {nodes} --seed {seed} --story")
            return 1
        counted += covered
    for what, number in sorted(counted.items()):
        print(f"{number:13,}  {what}")
    idle = [what for what in SPOKEN if not counted[what]]
    if idle:
        print(f"these days prove nothing, for want of {', '.join(idle)}: simulate more of them")
        return 1
    speed = len(seeds) / (time.monotonic() - began)
    print(f"{len(seeds)} days with {nodes} members, no promise broken; {speed:.1f} a second")
    if json is not None:
        told = {"nodes": nodes, "seeds": len(seeds), "counted": dict(sorted(counted.items()))}
        json.write_bytes(msgspec.json.encode(told))
    return 0


def simulate_planted(nodes: int, wanted: list[str], json: Path | None) -> int:
    """Plant the known faults, and print a table of what finds each; 1 if any goes unnoticed."""
    faults = [fault for fault in MASKED_FAULTS if not wanted or fault.name in wanted]
    told = dict[str, str]()
    for fault in faults:
        found = find_masked(fault, PLANTED_WITHIN, nodes)
        words = f"seed {found[0]}: {found[1]}" if found else "found by nothing"
        told[fault.name] = words
        print(f"{fault.name:26}{words}", flush=True)
    missed = sum(words == "found by nothing" for words in told.values())
    print(f"{len(faults) - missed} of {len(faults)} planted faults found")
    if json is not None:
        json.write_bytes(msgspec.json.encode(told))
    return 1 if missed else 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m tests.campaigns masked",
        description="Simulate masked rounds, with everything going wrong, and eavesdroppers.",
    )
    made.add_argument("--seeds", type=int, default=100, help="how many days (default: 100)")
    made.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    made.add_argument("--nodes", type=int, default=4, help="members (default: 4)")
    made.add_argument("--seed", type=int, help="this seed only")
    made.add_argument("--story", action="store_true", help="tell all that happened")
    made.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    made.add_argument("--json", type=Path, help="write what was covered here")
    made.add_argument(
        "--planted", nargs="*", metavar="FAULT", help="plant known faults: these, or all"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    given = parser().parse_args(arguments)
    if given.planted is not None:
        return simulate_planted(given.nodes, given.planted, given.json)
    if given.story:
        day, ending = MaskedDay(given.nodes, given.seed or 0), "all went well"
        try:
            day.run()
        except Violation as violation:
            ending = f"*** {violation}"
        print("\n".join([*day.story(), ending]))
        return int(ending.startswith("***"))
    one = given.seed
    seeds = range(given.first, given.first + given.seeds) if one is None else range(one, one + 1)
    return simulate(given.nodes, seeds, given.jobs, given.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
