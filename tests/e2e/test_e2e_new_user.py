"""As somebody who was given a model would use it: a file without labels, one command; for each of
the examples whose data ship with them, beside plain torch and in an ONNX file."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from harness.whole import is_whole

import swarm
from swarm.learning.models.model_folder import ModelFolder, read_folder
from swarm.learning.parameters.named_tensors import read_arrays, read_model
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.run_export import export_run
from swarm.learning.simulation.whole_run import run_federated
from swarm.learning.training.graph import Graph, make_graph
from swarm.learning.training.loop import LocalTraining

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_ROWS = 40


@dataclass(frozen=True)
class Example:
    """Where rows lie, what of them nobody knows yet, and what is computed of the module's output,
    by name, in plain torch."""

    file: str
    labels: tuple[str, ...]
    expected: Callable[[torch.Tensor], dict[str, torch.Tensor]]


def of_classes(*names: str) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    return lambda z: dict(zip(names, z.softmax(dim=1).T, strict=True))


FOUND = {
    "heart": Example(
        "cleveland.csv", ("num", "disease"), lambda z: {"disease": torch.sigmoid(z[:, 0])}
    ),
    "stroke": Example(
        "hospital_10.csv",
        ("poor6m", "HOSPNUM", "COUNTRY"),
        lambda z: {"poor6m": torch.sigmoid(z[:, 0])},
    ),
    "tuberculosis": Example(
        "brazil", ("tb", "accession"), lambda z: {"tb": torch.sigmoid(z[:, 0])}
    ),
    "leukaemia": Example("ccg.npz", ("kind",), of_classes("B-cell", "T-cell", "AML")),
    "survival": Example("canada.csv", ("time_days", "event"), lambda z: {"risk": z[:, 0]}),
    "solubility": Example("source_b.npz", ("solubility",), lambda z: {"log_s": z[:, 0]}),
    "qsar": Example(
        "company_1.npz",
        ("affinity", "target", "is_test"),
        lambda z: dict(zip(("thrombin", "dopamine_d3", "histamine_h3"), z.T, strict=True)),
    ),
    "recovery": Example(
        "hospital_10.csv",
        ("outcome", "HOSPNUM", "COUNTRY"),
        lambda z: {
            "degree": (z.sigmoid() > 0.5).sum(dim=1),
            "dead": z[:, -1].sigmoid(),
        },
    ),
    "nuclei": Example(
        "dim.npz",
        ("mask",),
        lambda z: {"share_of_nuclei": (z > 0).float().mean(dim=(1, 2, 3))},
    ),
}


def write_without_labels(example: str, folder: Path, **changes: Any) -> Path:
    """The first rows of a site's file, without what nobody knows of a new patient. `changes` are
    to a CSV file's rows: a function of the old cell, or None to leave the column out."""
    told = FOUND[example]
    source = EXAMPLES / example / "data" / told.file
    source = next(source.glob("*.npz")) if source.is_dir() else source
    out = folder / f"new{source.suffix}"
    if source.suffix == ".npz":
        with np.load(source) as arrays:
            kept = {k: arrays[k] for k in arrays.files if k not in told.labels}
        np.savez(out, **{k: v[:MOST_ROWS] for k, v in kept.items()})
        return out
    with source.open() as file:
        rows = [dict(row) for row in csv.DictReader(file)][:MOST_ROWS]
    for row in rows:
        for label in told.labels:
            del row[label]
        for name, change in changes.items():
            if change is None:
                del row[name]
            elif row[name]:
                row[name] = change(row[name])
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return out


def ask(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarm", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The exported model of an example, after one round."""
    place = tmp_path_factory.mktemp("models")

    def made(example: str) -> Path:
        if not (place / example).exists():
            export_run(run_federated(EXAMPLES / example, rounds=1), place / example)
        return place / example

    return made


def graph_of(model: ModelFolder, rows: Path) -> Graph:
    """The model in ONNX, as `swarm model convert` makes it in the box."""
    site = LocalTraining(load_plan(model.plan), swarm.Site("here"), model.plan, device="cpu")
    sums = None if model.statistics is None else read_arrays(model.statistics)
    return make_graph(site, read_model(model.model), sums, site.plan.table(rows), "onnx")


@pytest.mark.parametrize("example", FOUND if is_whole() else ("heart", "solubility"))
def test_one_command_gives_the_numbers_of_plain_torch(
    example: str, models: Callable[[str], Path], tmp_path: Path
) -> None:
    model, rows = models(example), write_without_labels(example, tmp_path)
    done = ask("predict", model, rows, "--json", "--accept-units")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["predictions"]
    assert 0 < len(told) <= MOST_ROWS

    loaded = swarm.load(model)
    given = loaded.prepared(rows)
    with torch.no_grad():
        plain = FOUND[example].expected(loaded.module(*given))
    assert list(told[0])[1:] == list(plain)
    for name, values in plain.items():
        found = np.array([row[name] for row in told], np.float64)
        assert np.abs(found - values.double().numpy()).max() < 1e-6

    graph = graph_of(read_folder(model), rows)
    assert graph.difference < 1e-6
    assert list(graph.outputs) == list(plain)
    named = zip(graph.inputs, given, strict=True)
    session = onnxruntime.InferenceSession(graph.content)
    results = session.run(None, {name: tensor.numpy() for name, tensor in named})
    for found, values in zip(results, plain.values(), strict=True):
        np.testing.assert_allclose(found, values.numpy(), rtol=1e-6, atol=1e-6)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("heart", {"chol": None}, "has no column 'chol'"),
    ("heart", {"chol": lambda mg: f"{float(mg) / 38.67:.2f}"}, "chol is 6."),
    ("heart", {"thal": lambda _: "9"}, "thal is '9', which is none of 3, 6, 7"),
    ("stroke", {"AGE": None}, "has no column 'AGE'"),
    ("stroke", {"RSBP": lambda mm: f"{float(mm) / 7.5:.1f}"}, "RSBP is "),
    ("stroke", {"STYPE": lambda _: "XYZ"}, "STYPE is 'XYZ', which is none of TACS"),
    ("survival", {"age_at_index": None}, "has no column 'age_at_index'"),
    ("recovery", {"SEX": lambda _: "1"}, "SEX is '1', which is none of F, M"),
]


@pytest.mark.parametrize(
    ("example", "changes", "said"), [w for w in WRONG if is_whole() or w[0] == "heart"]
)
def test_what_is_wrong_with_a_file_is_named_in_one_sentence(
    example: str,
    changes: dict[str, Any],
    said: str,
    models: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    done = ask("predict", models(example), write_without_labels(example, tmp_path, **changes))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_file_without_an_array_that_the_plan_reads_is_named(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    np.savez(tmp_path / "new.npz", descriptors=np.zeros((3, 17), np.float32))
    done = ask("predict", models("solubility"), tmp_path / "new.npz")
    assert done.returncode == 2
    assert "bits" in done.stderr
    assert "plan.py:" in done.stderr
