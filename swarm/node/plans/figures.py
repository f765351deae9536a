"""The figures of each round for a tool that people know: a folder that TensorBoard shows.

The node writes it from what its trainers and the other sites have told, so no plan's code needs a
way out of its box for it.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import trio

from swarm.errors import ConfigurationError

log = logging.getLogger("swarm.node")

LOOK_EVERY_S = 2.0
RECENT_ROUNDS = 30
"""Looked at each time: later figures of a round, such as other sites' scores, come within these."""

Figure = tuple[str, int, str, float, float]
"""Plan, round, name, Unix time, value."""


class Board(Protocol):
    """Where figures go."""

    def write(self, figures: Iterable[Figure]) -> None:
        """Add figures, each of which was never written before. Blocks; raises OSError."""

    def close(self) -> None: ...


class Rounds(Protocol):
    """What is needed of a node's part in a plan (`rounds.participation.Participation`)."""

    @property
    def title(self) -> str:
        """The plan's number and name."""

    def rounds(self, newest: int) -> list[dict[str, Any]]: ...


@dataclass
class Figures:
    """Writes what is new of every plan, for as long as it runs."""

    board: Board
    parts: Callable[[], Iterable[Rounds]]
    _written: set[tuple[str, int, str]] = field(default_factory=set)
    _newest: int = 10**6
    """Rounds to look at: all of them the first time."""

    async def run(self) -> None:
        """Until cancelled. A board that cannot be written to is told of once, and tried again."""
        is_told = False
        try:
            while True:
                fresh = list(self._fresh())
                try:
                    await trio.to_thread.run_sync(self.board.write, fresh)
                except OSError as error:
                    if not is_told:
                        log.warning("the figures of rounds cannot be written: %s", error)
                    is_told = True
                else:
                    is_told, self._newest = False, RECENT_ROUNDS
                    self._written |= {(plan, number, name) for plan, number, name, *_ in fresh}
                await trio.sleep(LOOK_EVERY_S)
        finally:
            self.board.close()

    def _fresh(self) -> Iterator[Figure]:
        for part in self.parts():
            for record in part.rounds(self._newest):
                if record["final_at"]:
                    number, at = record["number"] or record["round"], record["final_at"]
                    for name, value in figures_of(record).items():
                        if (part.title, number, name) not in self._written:
                            yield part.title, number, name, at, value


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a round's record that there are, by name: scores of this site's own rows, of
    all sites' rows, seconds and megabytes."""
    found: dict[str, float | None] = {"loss": record["loss"]}
    for part, scores in record["metrics"].items():
        found |= {f"this site, {part}/{metric}": value for metric, value in scores.items()}
    for part, scores in record["joint"].items():
        for metric, score in scores.items():
            for figure, told in score["figures"].items():
                name = metric if figure == metric else f"{metric}, {figure}"
                found[f"all sites, {part}/{name}"] = told["value"]
    for key in ("train", "exchange", "merge", "chain", "total"):
        found[f"seconds/{key}"] = record[f"{key}_s"]
    for key in ("sent", "received"):
        found[f"megabytes/{key}"] = record[f"bytes_{key}"] / 1e6
    return {n: float(v) for n, v in found.items() if v is not None and math.isfinite(v)}


class TensorBoard:
    """Event files in `folder`, a run for each plan, made anew with each start of the node.

    Raises ConfigurationError if the package is not here, or the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.summary.writer import event_file_writer
        except ImportError:
            raise ConfigurationError(
                "`figures.tensorboard` needs the package tensorboard, which is not installed: "
                "pip install 'swarm[tensorboard]', or take the setting out"
            ) from None
        self._folder = folder
        self._open = event_file_writer.EventFileWriter
        self._runs: dict[str, Any] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for stale in folder.glob("plan-*/events.out.tfevents.*"):
                stale.unlink()
        except OSError as error:
            raise ConfigurationError(
                f"`figures.tensorboard`: cannot write to {folder}: {error.strerror}"
            ) from None

    def write(self, figures: Iterable[Figure]) -> None:
        """As `Board` says."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for plan, number, name, at, value in figures:
            said = Summary.Value(tag=name, simple_value=value)
            event = Event(wall_time=at, step=number, summary=Summary(value=[said]))
            self._run(plan).add_event(event)
        for run in self._runs.values():
            run.flush()

    def close(self) -> None:
        """Write what waits, and close the files."""
        for run in self._runs.values():
            run.close()

    def _run(self, plan: str) -> Any:
        if plan not in self._runs:
            name = re.sub(r"[^\w.-]+", "-", plan).strip("-")
            self._runs[plan] = self._open(str(self._folder / f"plan-{name}"))
        return self._runs[plan]
