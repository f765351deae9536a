"""Predictions without labels: the numbers of plain torch, and faults by row and column."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest
import safetensors.numpy
from harness.patients import page_plans, write_patients

import swarm
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.models.model_folder import ModelFolder
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.run_export import export_run
from swarm.learning.simulation.whole_run import run_federated
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.predicting import evaluate_rows

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = {"heart": ("num", "disease"), "stroke": ("poor6m", "HOSPNUM", "COUNTRY")}
TABLES = {"heart": "cleveland.csv", "stroke": "hospital_10.csv"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelFolder]:
    """An exported model of each example, trained for two rounds."""
    place = tmp_path_factory.mktemp("models")
    return {
        name: export_run(run_federated(EXAMPLES / name, rounds=2), place / name)
        for name in ("heart", "stroke", "tuberculosis")
    }


def without_labels(name: str) -> pandas.DataFrame:
    frame = pandas.read_csv(EXAMPLES / name / "data" / TABLES[name], dtype=str)
    return frame.drop(columns=list(LABELS[name])).fillna("")


def dense(weights: dict[str, Any], x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A network of two linear layers, in numpy and float64."""
    hidden = np.maximum(x @ weights["0.weight"].T.astype(float) + weights["0.bias"], 0)
    out = hidden @ weights["2.weight"].T.astype(float) + weights["2.bias"]
    risk: np.ndarray[Any, Any] = 1 / (1 + np.exp(-out[:, 0]))
    return risk


def standardised(values: np.ndarray[Any, Any], folder: ModelFolder) -> np.ndarray[Any, Any]:
    assert folder.statistics is not None
    sums = safetensors.numpy.load_file(folder.statistics)
    mean = sums["sum"] / sums["count"]
    deviation = np.sqrt(sums["squares"] / sums["count"] - mean**2)
    return np.nan_to_num((values - mean) / deviation)


def test_the_heart_models_predictions_are_those_computed_by_hand(
    folders: dict[str, ModelFolder], tmp_path: Path
) -> None:
    frame = without_labels("heart")
    frame.to_csv(tmp_path / "new.csv", index=False)
    found = swarm.load(folders["heart"].path).predict(tmp_path / "new.csv")["disease"]

    number = frame.replace("", "nan").astype(float)
    measured = number[["age", "trestbps", "chol", "thalach", "oldpeak", "ca"]].to_numpy()
    measured[:, 1:3][measured[:, 1:3] == 0] = np.nan
    codes = {
        "sex": 2, "cp": (1, 2, 3, 4), "fbs": 2, "restecg": 3, "exang": 2,
        "slope": (1, 2, 3), "thal": (3, 6, 7),
    }  # fmt: skip
    hot = [
        (number[name] == value).to_numpy(float)
        for name, values in codes.items()
        for value in (range(values) if isinstance(values, int) else values)
    ]
    x = np.column_stack([standardised(measured, folders["heart"]), np.isnan(measured), *hot])
    weights = safetensors.numpy.load_file(folders["heart"].model)
    assert np.abs(found - dense(weights, x)).max() < 1e-6


@pytest.mark.parametrize("name", ["heart", "stroke"])
def test_predictions_are_those_of_the_plain_module_for_files_and_frames(
    folders: dict[str, ModelFolder], name: str, tmp_path: Path
) -> None:
    frame = without_labels(name)
    frame.to_csv(tmp_path / "new.csv", index=False)
    model = swarm.load(folders[name].path)
    [(column, found)] = model.predict(tmp_path / "new.csv").items()
    (x,) = model.prepared(frame)
    plain = model.module(x)[:, 0].sigmoid().detach().numpy()
    assert len(found) == len(frame)
    assert np.abs(found - plain).max() < 1e-6
    typed = pandas.read_csv(tmp_path / "new.csv").iloc[3:9]
    told = model.predict(typed)
    assert told.index.equals(typed.index)
    assert np.abs(told[column].to_numpy() - found[3:9]).max() < 1e-6
    lines = (tmp_path / "new.csv").read_text().splitlines()
    (tmp_path / "some.csv").write_text("\n".join([lines[0], *lines[4:10]]) + "\n")
    also = model.predict(polars.read_csv(tmp_path / "some.csv"))
    assert also[column].to_list() == told[column].to_list()


def test_a_new_cohort_without_labels_is_standardised_on_its_own_samples(
    folders: dict[str, ModelFolder], tmp_path: Path
) -> None:
    file = next((EXAMPLES / "tuberculosis" / "data" / "brazil").glob("*.npz"))
    expression = np.load(file)["expression"].astype(np.float32)
    np.savez(tmp_path / "cohort.npz", expression=expression)
    found = swarm.load(folders["tuberculosis"].path).predict(tmp_path / "cohort.npz")["tb"]
    z = (expression - expression.mean(0)) / (expression.std(0) + 0.2)
    weights = safetensors.numpy.load_file(folders["tuberculosis"].model)
    out = z.astype(float) @ weights["weight"].T.astype(float) + weights["bias"]
    assert np.abs(found - 1 / (1 + np.exp(-out[:, 0]))).max() < 1e-6


def test_a_missing_column_and_an_unknown_code_are_named(
    folders: dict[str, ModelFolder], tmp_path: Path
) -> None:
    model = swarm.load(folders["heart"].path)
    with pytest.raises(PlanError, match=r"inputs: .*has no column 'chol'"):
        model.predict(without_labels("heart").drop(columns="chol"))
    frame = without_labels("heart")
    frame.loc[4, "thal"] = "9"
    frame.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(PlanError, match=r"new.csv:6: thal is '9', which is none of 3, 6, 7"):
        model.predict(tmp_path / "new.csv")


def test_a_column_in_another_unit_is_refused_and_a_single_odd_value_is_told(
    folders: dict[str, ModelFolder],
) -> None:
    model = swarm.load(folders["heart"].path)
    frame = without_labels("heart")
    frame["chol"] = (frame["chol"].astype(float) / 38.67).round(2)
    with pytest.raises(ConfigurationError, match=r"chol is 6\.\d+ on average here, .* row 0, with"):
        model.predict(frame)
    with pytest.warns(UserWarning, match="chol is 6"):
        assert len(model.predict(frame, accept_units=True)) == len(frame)
    frame = without_labels("heart")
    frame.loc[7, "trestbps"] = "1300"
    with pytest.warns(UserWarning, match="^row 7: trestbps is 1300, far from the 1"):
        model.predict(frame)


def test_what_is_no_probability_of_two_outcomes_has_no_calibration() -> None:
    folder = EXAMPLES / "solubility"
    file = folder / "data" / "source_b.npz"
    site = LocalTraining(load_plan(folder), swarm.Site("here", file), folder, device="cpu")
    sums = site.statistics() if site.has_statistics else None
    assert evaluate_rows(site, site.initial, sums).calibration == {}


def test_a_plan_that_cannot_predict_says_what_it_lacks(tmp_path: Path) -> None:
    data = tmp_path / "adapter" / "data"
    data.mkdir(parents=True)
    (tmp_path / "adapter" / "plan.py").write_text(page_plans()["adapter"])
    for seed, site in enumerate(["north", "south"]):
        write_patients(data / f"{site}.csv", seed)
    run = run_federated(tmp_path / "adapter", rounds=1)
    model = swarm.load(export_run(run, tmp_path / "model").path)
    with pytest.raises(PlanError, match="lacks `def inputs"):
        model.predict({"age": [50], "crp": [12]})


def test_the_plan_on_the_page_predicts(tmp_path: Path) -> None:
    folder = tmp_path / "sepsis"
    (folder / "data").mkdir(parents=True)
    (folder / "plan.py").write_text(page_plans()["sepsis"])
    for seed, site in enumerate(["north", "south"]):
        write_patients(folder / "data" / f"{site}.csv", seed)
    model = swarm.load(export_run(run_federated(folder), tmp_path / "model").path)
    shutil.rmtree(folder)
    died = model.predict({"age": [30, 90], "crp": [5, None], "ward": ["general", "icu"]})["died"]
    assert died[0] < 0.2 < 0.6 < died[1]
