"""Predictions of a model for rows whose labels nobody knows, and scores on new rows with labels.

The plan reads and prepares them as it did in training, and by the same sums; so a model is used
with the numbers that it has learned to expect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.data.batches import as_tensors, batches, concatenate, rows_in, take
from swarm.learning.data.tables import Table
from swarm.learning.data.unfamiliar_values import find_unusual, watch
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.probabilities import Calibration, calibration
from swarm.learning.parameters.named_tensors import State, set_state
from swarm.learning.plans.plan import Data, Plan
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.site_plan import PARTS, describe
from swarm.tensors import Layout, OpenFile, TensorSpec, create_file

ROWS_AT_ONCE = 4096
LINE = "line"
RESAMPLES = 200
"""For an interval: drawn with replacement (Efron and Tibshirani 1993)."""
INTERVAL_SEED = 20_260_101

SURE = 1e-9
"""Probabilities nearer to 0 or 1 count as this: in float32 there may be 1, whose odds are none."""

Sums = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Predictions:
    """A column [rows] of float64 for each name. `lines` are those of the file, from 1."""

    columns: dict[str, NDArray[np.float64]]
    lines: NDArray[np.int64]
    remarks: tuple[str, ...]
    other_units: tuple[str, ...]


def predict(site: LocalTraining, state: State, statistics: Sums | None, table: Any) -> Predictions:
    """Predict for every row of a table, as the plan's own `table` gives it.

    Raises PlanError with the place in the plan for a column that is missing, a cell that cannot be
    read, and for plans without `inputs`.
    """
    with watch() as noted:
        rows = prepare_inputs(site, statistics, table)
    places = _places(table, rows_in(rows))
    set_state(site.model, state, site.travels)
    columns = _columns(site, rows)
    unusual = find_unusual(noted, places)
    gaps = [
        f"{places[row]}: {name} cannot be given (NaN)"
        for name, values in columns.items()
        for row in np.flatnonzero(np.isnan(values))[:1]
    ]
    lines = table.lines() if isinstance(table, Table) else range(1, len(places) + 1)
    return Predictions(columns, np.array(lines, np.int64), (*gaps, *unusual.cells), unusual.columns)


def write_predictions(out: Path | OpenFile, found: Predictions) -> None:
    """Write the columns by their index, because their names may be any, and "line"."""
    arrays: dict[str, NDArray[Any]] = {
        str(index): values for index, values in enumerate(found.columns.values())
    }
    specs = [TensorSpec(name, "F64", values.shape) for name, values in arrays.items()]
    lines = TensorSpec(LINE, "I64", found.lines.shape)
    with create_file(out, Layout.from_specs([*specs, lines])) as file:
        for name, values in (arrays | {LINE: found.lines}).items():
            file[name][...] = values


def prepare_inputs(site: LocalTraining, statistics: Sums | None, table: Any) -> Any:
    """What the model sees of a table's rows, as tensors: a tuple, a dict, or a single one."""
    plan = site.plan
    if type(plan).inputs is Plan.inputs:
        raise PlanError(
            f"{type(plan).__name__} does not say what a prediction is made from: its plan.py lacks "
            "`def inputs(self, table)`, so its models cannot be used on rows without labels"
        )
    with site.deterministic("prepare"), site.faults("reading the rows", "inputs"):
        given = plan.inputs(table)
        found = rows_in(as_tensors(given, "inputs"))
        if isinstance(table, Table) and found != len(table):
            raise PlanError(
                f"inputs gives {found} rows for a table of {len(table)}: leave out or repeat rows "
                "in data, where labels are, and not in inputs"
            )
    with site.deterministic("prepare"), site.faults("preparing the rows", "prepare"):
        ready = plan.prepare(Data(test=given), statistics or {})
        if not isinstance(ready, Data):
            raise PlanError(f"prepare must return swarm.Data, not {describe(ready)}")
        prepared = as_tensors(ready.test, "test")
        if rows_in(prepared) != found:
            raise PlanError(f"prepare makes {rows_in(prepared)} rows of {found}: keep each row")
        return prepared


def _columns(site: LocalTraining, rows: Any) -> dict[str, NDArray[np.float64]]:
    pieces: dict[str, list[NDArray[np.float64]]] = {}
    order = range(rows_in(rows))
    was_training = site.model.training
    site.model.eval()
    try:
        with site.deterministic("predict"), site.faults("predicting", "predict"), torch.no_grad():
            for batch in batches(rows, ROWS_AT_ONCE, order, site.device):
                inputs = batch if isinstance(batch, tuple) else (batch,)
                found = _named(site.plan.predict(site.model, *inputs), rows_in(batch))
                for name, values in found.items():
                    pieces.setdefault(name, []).append(values)
    finally:
        site.model.train(was_training)
    return {name: np.concatenate(each) for name, each in pieces.items()}


def _named(output: Any, rows: int) -> dict[str, NDArray[np.float64]]:
    """The columns of what `predict` gave, each [rows]."""
    given = output if isinstance(output, Mapping) else {"prediction": output}
    columns: dict[str, NDArray[np.float64]] = {}
    for name, value in given.items():
        try:
            array = torch.as_tensor(value).detach().cpu().double().numpy()
        except (TypeError, ValueError, RuntimeError):
            raise PlanError(
                f"predict must return tensors, and {name!r} is {describe(value)}"
            ) from None
        if array.ndim == 0 or len(array) != rows or array.ndim > 2:
            raise PlanError(
                f"predict gives {name!r} the shape {list(array.shape)} for {rows} rows: give "
                "[rows] or [rows, columns]"
            )
        if array.ndim == 1 or array.shape[1] == 1:
            columns[str(name)] = array.reshape(-1)
        else:
            columns |= {f"{name}_{i}": column for i, column in enumerate(array.T)}
    if not columns:
        raise PlanError("predict returns nothing: give a tensor, or a dict of tensors by name")
    return columns


def _places(table: Any, rows: int) -> list[str]:
    """Where each row stands, for people."""
    return table.origins if isinstance(table, Table) else [f"row {i}" for i in range(rows)]


@dataclass(frozen=True)
class NewScores:
    """A plan's metrics on new rows, each as value, and the ends of its interval of 95 %; and by
    name, the counts for the calibration of its probabilities, if it gives any."""

    rows: int
    metrics: dict[str, tuple[float, float, float]]
    calibration: dict[str, Counts]


def evaluate_rows(site: LocalTraining, state: State, statistics: Sums | None) -> NewScores:
    """The plan's metrics on all rows that `data` finds at this site: none of them is trained on.

    Intervals are percentiles over resampled rows: they tell how much the score depends on which
    patients there happened to be.
    """
    prepared = site.prepared(statistics)
    rows = concatenate([getattr(prepared, part) for part in PARTS])
    count = rows_in(rows)
    if not count:
        raise ConfigurationError("the data has no rows to evaluate on: name a file that has")
    measured = site.measure(state, rows)
    metrics = measured.numbers
    generator = np.random.default_rng(INTERVAL_SEED)
    drawn: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(RESAMPLES):
        for name, value in site.score(
            state, take(rows, generator.integers(count, size=count))
        ).items():
            drawn.setdefault(name, []).append(value)
    calibrated = {
        name: counts
        for name, counts in measured.counts.items()
        if isinstance(counts.measure, Calibration)
    }
    return NewScores(
        count,
        {n: (v, *_interval(drawn[n])) for n, v in metrics.items()},
        calibrated or _calibration(site, state, rows),
    )


def _calibration(site: LocalTraining, state: State, rows: Any) -> dict[str, Counts]:
    """Of a plan that does not count it itself: of what `predict` gives of all arrays but the last,
    if that is one probability a row, and the last array is 0 or 1. Nothing for any other plan."""
    if not isinstance(rows, tuple) or len(rows) < 2 or type(site.plan).predict is Plan.predict:
        return {}
    *given, labels = rows
    if labels.numel() != len(labels) or not bool(((labels == 0) | (labels == 1)).all()):
        return {}
    set_state(site.model, state, site.travels)
    try:
        columns = _columns(site, tuple(given))
    except PlanError:
        return {}  # this plan's rows hold more than what it predicts from, and the label
    [(name, chances), *others] = columns.items()
    if others or not ((chances >= 0) & (chances <= 1)).all():
        return {}
    inside = np.clip(chances, SURE, 1 - SURE)
    return {name: calibration(labels.reshape(-1), np.log(inside / (1 - inside)))}


def _interval(values: list[float]) -> tuple[float, float]:
    known = [value for value in values if np.isfinite(value)]
    if not known:
        return float("nan"), float("nan")
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)
