"""What a user's script sees of the swarm: the session that `swarm.join()` gives it.

    session = swarm.join(rounds=10, min_peers=3)
    for round in session.rounds(model):
        train(model)
        session.submit(model, rows=len(rows), metrics={"auc": auc})

The script runs in a thread of the trainer process, and takes turns with the trainer's own: it works
while a round is trained here, and waits in `session.rounds` for the next one (`script_run`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.plans.plan import Site

if TYPE_CHECKING:
    import torch

MAX_METRICS = 100
Score = Callable[[Any], Mapping[str, Any]]
"""A model's metrics on rows that the script knows: numbers, or counts (`swarm.metrics`)."""


@dataclass(frozen=True)
class Ready:
    """The script has a model, and waits for its first round."""

    model: torch.nn.Module
    rows: int | None
    score: Score | None


@dataclass(frozen=True)
class Submitted:
    """What a script has made of a round: the model, on how many rows, and its own scores of it."""

    model: torch.nn.Module
    rows: int
    metrics: Mapping[str, float]


class Turns(Protocol):
    """The script's side of taking turns with the trainer."""

    def next_round(self, told: Ready | Submitted) -> int:
        """Hand over what the script has, and wait for the number of the next round."""


class Session:
    """This site's part in the plan that the script is. Made by `swarm.join`."""

    def __init__(self, site: Site, device: torch.device, turns: Turns) -> None:
        self.site = site
        """This site: its `name`, its `path` (a file or folder), its `options`, and the `seed`."""
        self.device = device
        """Where the model is trained. The model is there when the first round begins."""
        self._turns = turns
        self._began = False
        self.submitted: Submitted | None = None
        """What was submitted for the running round, until it is handed over."""

    def rounds(
        self,
        model: torch.nn.Module,
        *,
        rows: int | None = None,
        score: Score | None = None,
    ) -> Iterator[int]:
        """Each round's number, from when it begins here. `model` then holds the model that the
        round begins with, and the generators are seeded.

        `rows` is how many training rows this site has: what it consents to. Without it, a round is
        trained for the count alone, and thrown away. `score` tells each round's merged model's
        metrics on this site's validation rows; it is called between rounds, in evaluation mode.

        The loop does not end by itself: the process ends with the run. Raises PlanError if a round
        was not submitted.
        """
        if self._began:
            raise PlanError("session.rounds is called a second time: a script has one loop")
        self._began = True
        told: Ready | Submitted = Ready(model, None if rows is None else _count(rows), score)
        while True:
            number = self._turns.next_round(told)
            yield number
            if self.submitted is None:
                raise PlanError(
                    f"round {number} was not submitted: call session.submit(model, rows=…) in it"
                )
            told, self.submitted = self.submitted, None

    def submit(
        self, model: torch.nn.Module, rows: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Give this site's update: the model as it is trained now, on how many of this site's rows.

        `metrics` are numbers by name that this site's people see; they stay here. The last call in
        a round counts. Raises PlanError for what is no number.
        """
        if not self._began:
            raise PlanError("session.submit is called outside of a round of session.rounds(model)")
        self.submitted = Submitted(model, _count(rows), _numbers(metrics or {}))


_here: ContextVar[Session] = ContextVar("session of the script that runs here")


def enter(session: Session) -> None:
    """Have `join` give this session, to all that runs in this thread from now on."""
    _here.set(session)


def join(**settings: Any) -> Session:
    """This script's session, with the rules that members consent to: `rounds`, `min_peers` and
    others (docs/own-scripts.md). They are read from the source, and must be plain values.

    Raises ConfigurationError outside of a trainer.
    """
    return current("this script")


def current(who: str) -> Session:
    """The session of the script that calls. Raises ConfigurationError if there is none."""
    try:
        return _here.get()
    except LookupError:
        raise ConfigurationError(
            f"{who} runs outside of a node, where there are no rounds to join: try it with "
            "`swarm simulate FILE`, then have members consent to it with `swarm plan propose FILE`"
        ) from None


def _count(rows: Any) -> int:
    try:
        count = operator.index(rows)
    except TypeError:
        count = 0
    if not 0 < count < 2**44:
        raise PlanError(f"rows is {rows!r:.80}: give the number of this site's training rows")
    return count


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    if not isinstance(metrics, Mapping) or len(metrics) > MAX_METRICS:
        raise PlanError(f"metrics must be a dict of at most {MAX_METRICS} numbers by name")
    found = {}
    for name, value in metrics.items():
        try:
            found[str(name)] = float(value)
        except (TypeError, ValueError, RuntimeError):
            raise PlanError(
                f"metrics must be numbers by name, and {name!r} is a {type(value).__name__}"
            ) from None
    return found
