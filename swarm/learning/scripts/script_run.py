"""One run of a script, in a thread of its own that takes turns with the trainer's.

A script is written as if it called the swarm; a trainer is asked, a request at a time. So the
script has a thread, and only one of the two ever runs: the script until it waits in
`session.rounds`, then the trainer until it has a round to be trained. So a round is repeatable: the
generators that are seeded when it begins are the script's alone.
"""

from __future__ import annotations

import builtins
import queue
import threading
from dataclasses import dataclass
from pathlib import Path

import torch

from swarm.errors import PlanError
from swarm.learning.plans.plan import Site
from swarm.learning.scripts.session import Ready, Session, Submitted, enter

END_S = 5.0
"""For a script to unwind; one that does not is left, and ends with the process."""


class _Over(BaseException):
    """Raised where the script waits, when nobody wants another round of it."""


@dataclass(frozen=True)
class _Ended:
    """The script has run to its end, having submitted this."""

    submitted: Submitted | None


@dataclass(frozen=True)
class _Raised:
    error: BaseException


class ScriptRun:
    """A run of the script at `file`, from its first line. It begins with `start`."""

    def __init__(self, source: bytes, file: Path, site: Site, device: torch.device) -> None:
        self.session = Session(site, device, self)
        self.is_over = False
        """Whether the script has ended or failed: there is no other round in it."""
        self._code = compile(source, str(file), "exec", dont_inherit=True)
        self._file = file
        self._to_script: queue.Queue[int | None] = queue.Queue(1)
        self._to_trainer: queue.Queue[Ready | Submitted | _Ended | _Raised] = queue.Queue(1)
        self._thread = threading.Thread(target=self._run, name="script", daemon=True)

    # What the trainer calls.

    def start(self) -> Ready:
        """Run the script until it waits for its first round. Raises what it raises, and PlanError
        if it ends before."""
        self._thread.start()
        told = self._wait()
        if not isinstance(told, Ready):
            raise PlanError(
                "the script ended without a round: it must reach `for round in "
                "session.rounds(model)`"
            )
        return told

    def train(self, number: int) -> Submitted:
        """Have the script train a round. Raises what it raises, and PlanError if it submits
        nothing."""
        self._to_script.put(number)
        told = self._wait()
        if not isinstance(told, Submitted):
            raise PlanError(
                f"the script ended in round {number} without session.submit(model, rows=…)"
            )
        return told

    def end(self) -> None:
        """Unwind the script where it waits."""
        if not self.is_over and self._thread.is_alive():
            self.is_over = True
            self._to_script.put(None)
            self._thread.join(END_S)

    def _wait(self) -> Ready | Submitted | None:
        told = self._to_trainer.get()
        if isinstance(told, _Raised):
            self.is_over = True
            raise told.error
        if isinstance(told, _Ended):
            self.is_over = True
            return told.submitted
        return told

    # What the script's thread calls.

    def next_round(self, told: Ready | Submitted) -> int:
        self._to_trainer.put(told)
        number = self._to_script.get()
        if number is None:
            raise _Over
        return number

    def _run(self) -> None:
        enter(self.session)
        torch.set_num_threads(torch.get_num_threads())  # OpenMP counts them for each thread
        names = {"__name__": "__main__", "__file__": str(self._file), "__builtins__": builtins}
        try:
            exec(self._code, names)
        except _Over:
            return
        except BaseException as error:  # noqa: BLE001 (the trainer raises it again)
            self._to_trainer.put(_Raised(error))
            return
        self._to_trainer.put(_Ended(self.session.submitted))
