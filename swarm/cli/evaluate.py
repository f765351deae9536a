"""`swarm evaluate`: how good a model is on rows that it has not seen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from swarm.cli.options import json_option, print_json, print_table
from swarm.cli.predict import MODEL, ROWS_FILE
from swarm.visible import visible

if TYPE_CHECKING:
    from swarm.learning.metrics.counts import Counts, Figure


@click.command("evaluate")
@click.argument("model", type=MODEL)
@click.option("--data", type=ROWS_FILE, required=True, help="A file or folder with labels.")
@json_option
def command(model: Path, data: Path, as_json: bool) -> None:
    """Score MODEL, a folder, on every row of new data that has labels.

    The plan reads the data as it read the members', and scores all of it by its own metrics.
    Intervals (95 %) say how much a score depends on which rows there happened to be. Where the plan
    gives the probability of a label of 0 and 1, it is told whether that can be believed here.

    \b
    swarm evaluate runs/heart/model --data examples/heart/data/cleveland.csv
    """
    from swarm.learning.metrics.wire import decode_all
    from swarm.learning.models.boxed_model import evaluate_file
    from swarm.learning.models.model_folder import read_folder

    found = evaluate_file(read_folder(model), data)
    calibration = decode_all(found.calibration)
    if as_json:
        keys = ("value", "low", "high")
        told = {
            name: {k: v if math.isfinite(v) else None for k, v in zip(keys, values, strict=True)}
            for name, values in found.metrics.items()
        }
        shown = {name: _record(counts) for name, counts in calibration.items()}
        told_all = {"rows": found.rows, "metrics": told, "calibration": shown}
        print_json({"model": str(model), **told_all})
        return
    columns = ("value", "95 % from", "to")
    shown_scores = [
        (name, *(_shown(v if math.isfinite(v) else None) for v in values))
        for name, values in found.metrics.items()
    ]
    print_table((f"on {found.rows} rows", *columns), shown_scores)
    for name, counts in calibration.items():
        click.echo()
        figures = counts.figures().items()
        print_table(
            (f"calibration of {visible(name)}", *columns),
            [(what, *map(_shown, figure[:3])) for what, figure in figures],
        )
        click.echo()
        groups = [
            (_shown(said), *map(_shown, hit[:3]), str(hit.rows)) for said, hit in _groups(counts)
        ]
        print_table(("was told", "had it", "95 % from", "to", "rows"), groups)


def _record(counts: Counts) -> dict[str, Any]:
    """A calibration for programs."""
    figures = {name: _figure(figure) for name, figure in counts.figures().items()}
    groups = [{"told": said, **_figure(hit), "rows": hit.rows} for said, hit in _groups(counts)]
    return {"figures": figures, "groups": groups}


def _figure(figure: Figure) -> dict[str, float | None]:
    return {"value": figure.value, "low": figure.low, "high": figure.high}


def _groups(counts: Counts) -> list[tuple[float, Figure]]:
    """Groups of rows by the probability that they were told, and the part that had the outcome."""
    from swarm.learning.metrics.probabilities import Calibration

    measure = counts.measure
    return measure.table(counts.values) if isinstance(measure, Calibration) else []


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
