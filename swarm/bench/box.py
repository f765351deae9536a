"""What the box costs: one plan's training at its first site, in a box and without one, in turns.

Two trainer processes of the same plan, data and seed live side by side. Each turn trains one round
in both, and the next turn in the other order, so that a machine that grows slower favours neither;
their updates must be the same bytes. A round trip is a question that needs no work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.bench.machine import summary
from swarm.box.description import Sandbox
from swarm.errors import TrainerError
from swarm.learning.simulation.dealing import deal
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.protocol.program import parse
from swarm.protocol.state import STATISTICS_SLOT

ORDER: tuple[Sandbox, Sandbox] = ("auto", "off")
ROUND_TRIPS = 200
MOST_S = 3600.0


@dataclass(frozen=True)
class Files:
    """What a trainer reads and writes."""

    base: Path
    sums: Path | None
    update: Path


def measure_box(plan: Path, turns: int, directory: Path) -> dict[str, Any]:
    """Train `turns` rounds in a box and without; one turn before them does not count.

    Raises PlanError, ConfigurationError, and TrainerError if the two differ in a single byte.
    """
    return trio.run(_measure, plan, turns, directory)


async def _measure(plan: Path, turns: int, directory: Path) -> dict[str, Any]:
    with trio.fail_after(MOST_S):
        first = deal(plan)[0]
        data = first.copy_to(directory / "data")
        started: dict[str, float] = {}
        async with (
            open_trainer(_config(plan, first.name, data, directory, "auto")) as boxed,
            open_trainer(_config(plan, first.name, data, directory, "off")) as bare,
        ):
            trainers = {"auto": boxed, "off": bare}
            files = {}
            for name, trainer in trainers.items():
                began = time.perf_counter()
                files[name] = await _prepare(trainer, directory / name)
                started[name] = time.perf_counter() - began
            rounds = await _train_in_turns(trainers, files, turns)
            trips = {name: await _round_trip(trainer) for name, trainer in trainers.items()}
    ratios = [one / other for one, other in zip(rounds["auto"], rounds["off"], strict=True)]
    return {
        "plan": plan.name,
        "site": first.name,
        "turns": turns,
        "start_s": started,
        "round_s": {name: summary(seconds) for name, seconds in rounds.items()},
        "ratio": summary(ratios),
        "round_trip_s": trips,
    }


def _config(plan: Path, site: str, data: Path, directory: Path, sandbox: Sandbox) -> TrainerConfig:
    folder = directory / sandbox
    folder.mkdir()
    return TrainerConfig(
        plan=plan,
        site=site,
        workspace=folder / "workspace",
        data=data,
        seed=0,
        log=folder / "trainer.log",
        sandbox=sandbox,
        nice=0,
    )


async def _prepare(trainer: Trainer, folder: Path) -> Files:
    base, sums = folder / "base", folder / "sums"
    told = await trainer.describe()
    await trainer.initialise(base)
    has_statistics = any(s.slot == STATISTICS_SLOT for s in parse(told.program).stages)
    if has_statistics:
        await trainer.compute_statistics(sums)
    return Files(base, sums if has_statistics else None, folder / "update")


async def _train_in_turns(
    trainers: Mapping[str, Trainer], files: Mapping[str, Files], turns: int
) -> dict[str, list[float]]:
    """Seconds of each round by trainer; the first turn is left out."""
    rounds: dict[str, list[float]] = {name: [] for name in trainers}
    for turn in range(turns + 1):
        for name in ORDER if turn % 2 else ORDER[::-1]:
            own, began = files[name], time.perf_counter()
            own.update.unlink(missing_ok=True)
            await trainers[name].train(turn + 1, own.base, own.update, statistics=own.sums)
            rounds[name].append(time.perf_counter() - began)
        one, other = (files[name].update.read_bytes() for name in ORDER)
        if one != other:
            raise TrainerError(
                f"round {turn + 1} gave other bytes in a box than without: does the plan compute "
                "with the time, with names of files or with random numbers of its own?"
            )
    return {name: seconds[1:] for name, seconds in rounds.items()}


async def _round_trip(trainer: Trainer) -> float:
    """Seconds of one question that needs no work: the median of many."""
    seconds = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        await trainer.count_samples()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
