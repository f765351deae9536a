"""`swarm predict`: use a model on rows whose labels nobody knows."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarm.cli.options import FILE, json_option, print_json, print_table
from swarm.visible import visible

if TYPE_CHECKING:
    from swarm.learning.models.boxed_model import FilePredictions

MODEL = click.Path(exists=True, file_okay=False, path_type=Path)
ROWS_FILE = click.Path(exists=True, path_type=Path)
SHOWN_ROWS = 20


@click.command("predict")
@click.argument("model", type=MODEL)
@click.argument("file", type=ROWS_FILE)
@click.option("--out", type=FILE, help="Write all of them here, as CSV.")
@click.option("--force", is_flag=True, help="Replace that file if it exists.")
@click.option(
    "--accept-units", is_flag=True, help="Predict though a column seems to be in another unit."
)
@json_option
def command(
    model: Path, file: Path, out: Path | None, force: bool, accept_units: bool, as_json: bool
) -> None:
    """Predict for every row of FILE with MODEL, a folder that `swarm model export` has made.

    The plan's code, which runs in its box, reads FILE as it read the members' files: the same
    columns, in the same units. Labels are not needed.

    \b
    swarm testnet run examples/heart
    swarm predict runs/heart/model patients.csv --out predictions.csv
    """
    from swarm.errors import ConfigurationError
    from swarm.learning.models.boxed_model import predict_file
    from swarm.learning.models.model_folder import read_folder

    if out is not None and out.exists() and not force:
        raise ConfigurationError(f"{out} exists: name another file, or give --force to replace it")
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigurationError(f"{out.parent} is no directory: make it first")
    found = predict_file(read_folder(model), file, accept_units=accept_units)
    for remark in found.remarks:
        click.echo(visible(f"Note: {remark}"), err=True)
    if out is not None:
        out.write_text(as_csv(found))
    if as_json:
        print_json({"model": str(model), "predictions": records(found), "notes": found.remarks})
    elif out is None:
        shown = records(found)[:SHOWN_ROWS]
        print_table(("line", *found.columns), [tuple(map(_shown, row.values())) for row in shown])
        if len(found.lines) > SHOWN_ROWS:
            click.echo(f"… {len(found.lines) - SHOWN_ROWS} more: --out FILE writes all of them")
    else:
        click.echo(f"{out}: {len(found.lines)} predictions ({', '.join(found.columns)})")


def records(found: FilePredictions) -> list[dict[str, float | int | None]]:
    """The predictions row by row; None where there is none."""
    return [
        {"line": int(line)}
        | {
            name: float(values[row]) if math.isfinite(values[row]) else None
            for name, values in found.columns.items()
        }
        for row, line in enumerate(found.lines)
    ]


def as_csv(found: FilePredictions) -> str:
    """The predictions as CSV, with the line of each row in its file."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["line", *found.columns])
    for record in records(found):
        writer.writerow(["" if value is None else value for value in record.values()])
    return written.getvalue()


def _shown(value: float | int | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"
