"""A model's folder opened in Python, for notebooks and programs: `swarm.load("model/")`.

The plan's code runs in this process, with all that this process may do: open a model whose code you
have read. `swarm predict` runs it in a box instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import ConfigurationError
from swarm.learning.data.arrays import frame_like, is_frame
from swarm.learning.data.tables import Table, as_table
from swarm.learning.models.card import Card
from swarm.learning.models.model_folder import ModelFolder, read_folder
from swarm.learning.parameters.named_tensors import read_arrays, read_model, set_state
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.predicting import predict, prepare_inputs


class LoadedModel:
    """A model that is ready to predict. Made by `load`."""

    def __init__(self, folder: ModelFolder, device: str = "cpu") -> None:
        self.card: Card = folder.card
        plan = load_plan(folder.plan, folder.plan_digest)
        self._site = LocalTraining(plan, Site("here"), folder.plan, device=device)
        self._state = read_model(folder.model)
        self._sums = None if folder.statistics is None else read_arrays(folder.statistics)
        set_state(self._site.model, self._state, self._site.travels)
        self._site.model.eval()

    @property
    def module(self) -> torch.nn.Module:
        """The trained torch module, in evaluation mode. It takes what `prepared` gives."""
        return self._site.model

    def prepared(self, rows: Any) -> tuple[Any, ...]:
        """What the module is called with for these rows: tensors, one or several."""
        found = prepare_inputs(self._site, self._sums, self._table(rows))
        return found if isinstance(found, tuple) else (found,)

    def predict(self, rows: Any, *, accept_units: bool = False) -> Any:
        """Predictions for a frame, a dict of columns, or a file; labels are not needed.

        Returns a frame of the same kind and index for a frame, else a dict of arrays [rows].
        Values far from all that the model has learned from are warned of. Raises PlanError naming
        row and column of what cannot be read, and ConfigurationError for a whole column that seems
        to be in another unit, unless `accept_units`.
        """
        found = predict(self._site, self._state, self._sums, self._table(rows))
        if found.other_units and not accept_units:
            raise ConfigurationError(
                f"{'; '.join(found.other_units)}. Correct it, or give accept_units=True"
            )
        for remark in (*found.other_units, *found.remarks):
            warnings.warn(remark, stacklevel=2)
        columns: dict[str, NDArray[np.float64]] = found.columns
        return frame_like(rows, columns) if is_frame(rows) else columns

    def _table(self, rows: Any) -> Any:
        if isinstance(rows, (str, Path)):
            with self._site.faults("reading the rows", "table"):
                return self._site.plan.table(Path(rows))
        if is_frame(rows) or isinstance(rows, Mapping):
            return as_table(rows)
        if isinstance(rows, Table):
            return rows
        raise ConfigurationError(
            f"{type(rows).__name__} holds no rows by column: give a frame, a dict of columns, or "
            "the path of a file"
        )


def load(folder: str | Path, device: str = "cpu") -> LoadedModel:
    """Open a model's folder, as `swarm model export` writes it.

    Runs the plan's code in this process. Raises ConfigurationError naming a file that was changed.
    """
    return LoadedModel(read_folder(Path(folder)), device)
