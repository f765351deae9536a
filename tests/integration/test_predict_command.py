"""`swarm predict`, `swarm evaluate`: the plan in its box, numbers or one sentence outside."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

import swarm
from swarm.learning.simulation.run_export import export_run
from swarm.learning.simulation.whole_run import run_federated

HEART = Path(__file__).parents[2] / "examples" / "heart"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "heart"
    return export_run(run_federated(HEART, rounds=3), folder).path


def ask(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "swarm", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def write_rows(path: Path, **changes: str) -> Path:
    """Cleveland's first patients without labels, one cell of the third row changed."""
    with (HEART / "data" / "cleveland.csv").open() as file:
        rows = [dict(row) for row in csv.DictReader(file)][:40]
    for row in rows:
        del row["disease"], row["num"]
    rows[2] |= changes
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_one_command_predicts_from_a_csv_without_labels(model: Path, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "new.csv"), tmp_path / "out.csv"
    done = ask("predict", model, rows, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["predictions"]
    known = swarm.load(model).predict(rows)["disease"]
    assert [row["line"] for row in told] == list(range(2, 42))
    assert [row["disease"] for row in told] == pytest.approx(list(known), abs=1e-6)
    with out.open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["disease"]) for row in written] == [row["disease"] for row in told]
    again = ask("predict", model, rows, "--out", out)
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_an_unknown_code_is_one_sentence_with_row_and_column(model: Path, tmp_path: Path) -> None:
    done = ask("predict", model, write_rows(tmp_path / "new.csv", cp="7"))
    assert done.returncode == 2
    assert "new.csv:4: cp is '7', which is none of 1, 2, 3, 4" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_whose_code_was_changed_is_not_run(model: Path, tmp_path: Path) -> None:
    code = model / "plan" / "plan.py"
    content = code.read_text()
    code.write_text(content + "print('hello')\n")
    try:
        done = ask("predict", model, write_rows(tmp_path / "new.csv"))
    finally:
        code.write_text(content)
    assert done.returncode == 2
    assert "plan was changed" in done.stderr


def test_a_model_is_scored_on_new_rows_with_intervals(model: Path) -> None:
    done = ask("evaluate", model, "--data", HEART / "data" / "long_beach.csv", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["rows"] == 199  # one patient stands twice
    auc = told["metrics"]["auc"]
    assert 0.5 < auc["low"] < auc["value"] < auc["high"] < 0.9


def test_a_model_becomes_a_file_for_other_programs_and_says_what_is_not_in_it(
    model: Path, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "new.csv"), tmp_path / "graph"
    done = ask("model", "convert", model, out, "--to", "onnx", "--rows", rows, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["largest_difference"] < 1e-6
    loaded = swarm.load(model)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    [found] = session.run(None, {"x": loaded.prepared(rows)[0].numpy()})
    assert found == pytest.approx(loaded.predict(rows)["disease"], abs=1e-6)
    said = (out / "README.md").read_text()
    assert "## What is not in it" in said
    assert loaded.card.plan in said
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "card.md", "model.onnx"]
    again = ask("model", "convert", model, out, "--to", "onnx", "--rows", rows)
    assert again.returncode == 2
    assert "graph exists" in again.stderr


def test_probabilities_are_held_against_what_became_of_the_patients(model: Path) -> None:
    file = HEART / "data" / "cleveland.csv"
    done = ask("evaluate", model, "--data", file, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["calibration"]["disease"]
    chances = swarm.load(model).predict(file)["disease"]
    with file.open() as rows:
        sick = [float(row["disease"]) for row in csv.DictReader(rows)]
    brier = sum((c - s) ** 2 for c, s in zip(chances, sick, strict=True)) / len(sick)
    figures = told["figures"]
    assert figures["brier"]["value"] == pytest.approx(brier, abs=1e-6)
    assert figures["observed to expected"]["value"] == pytest.approx(sum(sick) / sum(chances))
    for figure in figures.values():
        assert figure["low"] < figure["value"] < figure["high"]
    assert sum(group["rows"] for group in told["groups"]) == len(sick)
    assert sum(g["value"] * g["rows"] for g in told["groups"]) == pytest.approx(sum(sick))
    people = ask("evaluate", model, "--data", file).stdout
    assert "calibration of disease" in people
    assert f"{figures['slope']['value']:.4f}" in people
