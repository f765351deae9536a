"""`swarm evaluate`: how good a model is on rows that it has not seen."""

from __future__ import annotations

import math
from pathlib import Path

import click

from swarm.cli.options import json_option, print_json, print_table
from swarm.cli.predict import MODEL, ROWS_FILE


@click.command("evaluate")
@click.argument("model", type=MODEL)
@click.option("--data", type=ROWS_FILE, required=True, help="A file or folder with labels.")
@json_option
def command(model: Path, data: Path, as_json: bool) -> None:
    """Score MODEL, a folder, on every row of new data that has labels.

    The plan reads the data as it read the members', and scores all of it by its own metrics.
    Intervals (95 %) say how much a score depends on which rows there happened to be.

    \b
    swarm evaluate runs/heart/model --data examples/heart/data/cleveland.csv
    """
    from swarm.learning.models.boxed_model import evaluate_file
    from swarm.learning.models.model_folder import read_folder

    found = evaluate_file(read_folder(model), data)
    if as_json:
        keys = ("value", "low", "high")
        told = {
            name: {k: v if math.isfinite(v) else None for k, v in zip(keys, values, strict=True)}
            for name, values in found.metrics.items()
        }
        print_json({"model": str(model), "rows": found.rows, "metrics": told})
        return
    shown = [
        (name, *(f"{v:.4f}" if math.isfinite(v) else "–" for v in values))
        for name, values in found.metrics.items()
    ]
    print_table((f"on {found.rows} rows", "value", "95 % from", "to"), shown)
