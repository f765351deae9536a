"""Figures of sites as files that add up: what each tells of its own model, and what all come to.

For every score two numbers travel: on how many rows it was computed, and the score times these. A
site that does not tell its scores, or has none to tell, sends zeros under the same names, so that
the sums over all sites stay averages over those that told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from swarm.errors import PlanError
from swarm.tensors import Layout, TensorSpec, create_file, open_file

SITES = "sites"

Scores = Mapping[str, Mapping[str, float]]
"""By when, and by the plan's own name of a metric."""


def write_figures(out: Path, scores: Scores, rows: int) -> None:
    """Write one site's figures; `rows` is 0 for a site that tells none.

    Raises PlanError for names that cannot travel, LocalError where the file cannot be written.
    """
    values = {SITES: np.array([float(rows > 0)])}
    for when, each in scores.items():
        for name, score in each.items():
            told = float(rows) if math.isfinite(score) else 0.0
            values[f"{when}/{name}"] = np.array([told, told * score if told else 0.0])
    try:
        layout = Layout.from_specs([TensorSpec(n, "F64", v.shape) for n, v in values.items()])
    except ValueError as error:
        raise PlanError(f"the names of the plan's metrics cannot travel: {error}") from None
    with create_file(out, layout) as file:
        for name, value in values.items():
            file[name][...] = value


def read_figures(path: Path) -> dict[str, Any]:
    """The averages over all rows of the sites that told, and how many `sites` these were. A score
    that nobody told is None. Raises BlobError if the file is none of these."""
    file = open_file(path)
    found: dict[str, Any] = {}
    for spec in file.layout.specs:
        sums = np.asarray(file[spec.name], np.float64).reshape(-1)
        if spec.name == SITES:
            found[SITES] = int(sums[0])
        elif len(sums) == 2:
            when, _, name = spec.name.partition("/")
            found.setdefault(when, {})[name] = float(sums[1] / sums[0]) if sums[0] > 0 else None
    return found
