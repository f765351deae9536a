"""A user's own script, as the plan that a trainer, a simulation and a testnet know.

The script owns its loop, so it is a plan that overrides `train`. It reads its own rows, so `data`
tells how many there are, and no more; what only a plan's methods can say (statistics, privacy,
roles, predictions) it does not have.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from swarm.errors import PlanError
from swarm.learning.plans.plan import Context, Data, Plan, Site
from swarm.learning.scripts.reader import Said
from swarm.learning.scripts.script_run import ScriptRun
from swarm.learning.scripts.session import Ready, Submitted


class RowsOfScript(Dataset[Any]):
    """A site's training rows, of which only the script knows more than their number."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> Any:
        raise PlanError(
            "a script reads its rows itself, and nobody else does: they cannot be pooled, dealt "
            "anew or scored here"
        )


class Script(Plan):
    """A plan whose code is a script. Made by `script_plan`; it runs from `model` on.

    The script runs once, from its first line to the end of the run; for the initial model, and to
    count rows if it does not tell, it runs another time, as far as that takes.
    """

    source: bytes
    file: Path
    _run: ScriptRun | None = None
    _ready: Ready | None = None

    def open(self, site: Site, device: torch.device) -> None:
        """Say where the script is to run, before anything is asked of it."""
        self._site, self._device = site, device

    def model(self) -> torch.nn.Module:
        if self._ready is None:
            return self._go_on().model
        run = self._new_run()
        try:
            return run.start().model
        finally:
            run.end()

    def data(self, site: Site) -> Data:
        ready = self._ready or self._go_on()
        if ready.rows is not None:
            return Data(RowsOfScript(ready.rows))
        run = self._new_run()
        try:
            run.start()
            return Data(RowsOfScript(run.train(1).rows))
        finally:
            run.end()

    def train(self, model: torch.nn.Module, data: Any, context: Context) -> Submitted:  # type: ignore[override]
        ready = self._ready
        if ready is None or self._run is None or self._run.is_over:
            ready = self._go_on()
        assert self._run is not None
        if ready.model is not model:  # of a run that has taken the place of an ended one
            ready.model.to(self._device).load_state_dict(model.state_dict())
        submitted = self._run.train(context.round)
        if submitted.model is not model:
            model.load_state_dict(submitted.model.state_dict())
        return submitted

    def metrics(
        self, model: torch.nn.Module, data: Any, context: Context | None = None
    ) -> Mapping[str, Any]:
        score = None if self._ready is None else self._ready.score
        return {} if score is None else score(model)

    def _go_on(self) -> Ready:
        """Begin the run that trains, in the place of one that is over."""
        self._run = self._new_run()
        weakref.finalize(self, self._run.end).atexit = False
        self._ready = self._run.start()
        return self._ready

    def _new_run(self) -> ScriptRun:
        return ScriptRun(self.source, self.file, self._site, self._device)


def script_plan(said: Said, source: bytes, file: Path) -> Script:
    """The plan that the script in `file` is."""
    here = {"__module__": "a script", "source": source, "file": file}
    kind: type[Script] = type(said.name, (Script,), {**here, **said.settings})
    return kind()
