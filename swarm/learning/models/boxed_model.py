"""Using a model's folder from outside of the plan's code: the plan runs in its box, as at a node.

Nothing of the plan, and no torch, is in this process: it hands a file in, and gets numbers back.
"""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import trio
from numpy.typing import NDArray

from swarm.box.description import Sandbox
from swarm.errors import ConfigurationError
from swarm.learning.models.model_folder import ModelFolder
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.learning.supervisor.trainer_messages import EvaluatedFile, GraphFormat, GraphMade
from swarm.tensors import open_file

Option = str | int | float | bool
T = TypeVar("T")
ATTEMPTS = 2
SITE = "here"


@dataclass(frozen=True)
class FilePredictions:
    """A column [rows] for each name, and the line of each row in its file.

    `remarks` name single values that are unlike all from which the model has learned.
    """

    lines: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    remarks: tuple[str, ...]


def predict_file(
    model: ModelFolder,
    file: Path,
    *,
    options: Mapping[str, Option] | None = None,
    sandbox: Sandbox = "auto",
    accept_units: bool = False,
) -> FilePredictions:
    """Predict for every row of a file.

    Raises PlanError, naming row and column, for what cannot be read, and ConfigurationError for a
    column that seems to be in another unit, unless `accept_units`.
    """

    async def ask(trainer: Trainer, folder: Path) -> FilePredictions:
        out = folder / "predictions"
        found = await trainer.predict(model.model, model.statistics, out)
        if found.other_units and not accept_units:
            raise ConfigurationError(
                f"{'; '.join(found.other_units)}. Nothing is predicted from that: correct the "
                "file, or say that it is meant so with --accept-units"
            )
        written = open_file(out)
        return FilePredictions(
            np.array(written["line"]),
            {name: np.array(written[str(i)]) for i, name in enumerate(found.columns)},
            (*found.other_units, *found.remarks),
        )

    return _with_trainer(model, file, options, sandbox, ask)


def evaluate_file(
    model: ModelFolder,
    file: Path,
    *,
    options: Mapping[str, Option] | None = None,
    sandbox: Sandbox = "auto",
) -> EvaluatedFile:
    """The plan's metrics on every row that its `data` finds in a file or folder."""

    async def ask(trainer: Trainer, folder: Path) -> EvaluatedFile:
        return await trainer.evaluate_file(model.model, model.statistics)

    return _with_trainer(model, file, options, sandbox, ask)


def make_graph_file(
    model: ModelFolder,
    rows: Path,
    to: GraphFormat,
    out: Path,
    *,
    options: Mapping[str, Option] | None = None,
    sandbox: Sandbox = "auto",
) -> GraphMade:
    """Write a model as a graph to the new file `out`, for rows like those of the file `rows`.

    Raises PlanError naming the layer that the format does not have.
    """

    async def ask(trainer: Trainer, folder: Path) -> GraphMade:
        return await trainer.make_graph(model.model, model.statistics, out, to)

    return _with_trainer(model, rows, options, sandbox, ask)


def _with_trainer(
    model: ModelFolder,
    file: Path,
    options: Mapping[str, Option] | None,
    sandbox: Sandbox,
    ask: Callable[[Trainer, Path], Awaitable[T]],
) -> T:
    """Ask the plan's process, whose only data is `file`, and end it."""
    if not file.exists():
        raise ConfigurationError(f"{file} does not exist: correct its name")

    async def run() -> T:
        with tempfile.TemporaryDirectory(prefix="swarm-model-") as folder:
            config = TrainerConfig(
                plan=model.plan,
                digest=model.plan_digest,
                site=SITE,
                workspace=Path(folder) / "plan",
                data=file,
                options=dict(options or {}),
                device="cpu",
                log=Path(folder) / "log",
                sandbox=sandbox,
                nice=0,
                attempts=ATTEMPTS,
            )
            async with open_trainer(config) as trainer:
                return await ask(trainer, Path(folder))

    return trio.run(run)
