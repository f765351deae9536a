"""The recipes: each plan runs on a few rows of each site, scores, and predicts without labels."""

from __future__ import annotations

import gzip
import importlib
import math
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import swarm
from swarm.learning.data.batches import as_tensors
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.whole_run import open_sites, run_federated

EXAMPLES = Path(__file__).parents[2] / "examples"
SHIPPED = ["leukaemia", "survival", "solubility", "qsar", "recovery", "nuclei"]
WRITTEN = ["proteins", "xray", "wearables", "sensors"]
FEW = 24


def read(name: str) -> ModuleType:
    """A script of examples/, which imports its neighbours as when it is run."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


PREPARE, SCORE, TUNE = read("prepare"), read("score"), read("tune")


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Files with the form of the public ones that are too large for the repository."""
    r, folder = np.random.default_rng(0), tmp_path / "public"
    folder.mkdir()
    counts = r.poisson(0.3, (80, 1200)).astype(np.uint16) + np.eye(80, 1200, dtype=np.uint16)
    names = np.array(["CD14", *PREPARE.PROTEINS])
    np.savez(
        folder / "citeseq_pbmc.npz", shape=counts.shape, data=counts[counts > 0],
        indices=np.nonzero(counts)[1], indptr=np.r_[0, np.cumsum((counts > 0).sum(1))],
        adt=r.poisson(20, (80, 6)), proteins=names, genes=np.arange(1200).astype("U8"),
    )  # fmt: skip
    images = {}
    for part, rows in (("train", 240), ("val", 80), ("test", 160)):
        images[f"{part}_labels"] = np.arange(rows) % 2
        images[f"{part}_images"] = r.integers(0, 256, (rows, 28, 28), np.uint8)
    np.savez(folder / "xray_pneumonia_28.npz", **images)
    person = np.repeat(np.arange(1, 31), 16)
    recording = 2 * person + np.arange(480) // 8 % 2
    np.savez(
        folder / "har_windows.npz", subject=person, experiment=recording, y=np.arange(480) % 6,
        X=r.integers(-999, 999, (480, 6, 128), np.int16), scale=np.full(6, 1e-3),
    )  # fmt: skip
    names = [f"{'gx_' if n < 83 else 'ax_'}{n}" for n in range(169)]
    np.savez(
        folder / "har_features.npz", X=r.normal(size=(480, 169)), y=np.arange(480) % 6, names=names
    )
    return folder


def first(*columns: Any) -> Any:
    """The first rows of a part of a site's data."""
    if isinstance(columns[0], dict):
        return {name: column[:FEW] for name, column in columns[0].items()}
    return tuple(column[:FEW] for column in columns)


def few(plan: Plan) -> Plan:
    """The plan with the first rows of each part of a site's data."""

    class Few(type(plan)):  # type: ignore[misc]
        def data(self, site: swarm.Site) -> Data:
            return super().data(site).map(first)

    return Few()


def runs(folder: Path, metric: str) -> None:
    """One round at all sites moves the model, and what it predicts is finite."""
    plan = few(load_plan(folder))
    sites = open_sites(plan, folder, 0)
    done = run_federated(folder, plan=plan, sites=sites, rounds=1)
    before, after = done.models[0], done.models[-1]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    score = done.score()[metric]
    assert score is not None
    assert math.isfinite(score)
    site = sites[0]
    own = site.plan
    source = deal(folder)[0].sources[0]
    given = own.inputs(own.table(source))
    rows = given if isinstance(given, tuple) else (given,)
    test = own.prepare(Data(test=first(*rows)), done.statistics).test
    site.model.eval()
    with torch.no_grad():
        shown = as_tensors(test)
        told = own.predict(site.model, *(shown if isinstance(shown, tuple) else (shown,)))
    assert told
    for name, column in told.items():
        assert np.isfinite(np.asarray(column, dtype=float)).all(), name


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_runs_on_a_few_rows_of_each_site_and_predicts(name: str) -> None:
    runs(EXAMPLES / name, SCORE.RECIPES[name].metric)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_recipe_runs_on_what_is_written_of_public_files(
    name: str, public: Path, tmp_path: Path
) -> None:
    folder = tmp_path / name
    (folder / "data").mkdir(parents=True)
    (folder / "plan.py").write_text((EXAMPLES / name / "plan.py").read_text())
    PREPARE.RECIPES[name](public, folder / "data")
    runs(folder, SCORE.RECIPES[name].metric)


def test_the_hospital_that_does_not_train_has_test_images_of_all_the_others(
    public: Path, tmp_path: Path
) -> None:
    PREPARE.xray(public, tmp_path)
    visitor = np.load(tmp_path / PREPARE.VISITOR)
    others = [np.load(path) for path in tmp_path.glob("hospital*.npz")]
    assert len(others) == 8
    assert visitor["is_test"].all()
    assert len(visitor["y"]) + sum(len(file["y"]) for file in others) == 480
    images = {image.tobytes() for file in others for image in file["x"]}
    assert not images & {image.tobytes() for image in visitor["x"]}


def test_every_recipe_has_a_line_in_the_table_a_readme_and_a_search() -> None:
    for name in [*SHIPPED, *WRITTEN]:
        assert (EXAMPLES / name / "README.md").is_file(), name
        assert name in SCORE.RECIPES
        assert f"({name}/)" in (EXAMPLES / "README.md").read_text()
    plans = {path.parent.name for path in EXAMPLES.glob("*/plan.py")}
    scored = {recipe.folder or name for name, recipe in SCORE.RECIPES.items()}
    assert plans == scored - {"small_hospitals"}


@pytest.mark.parametrize("name", [n for n in TUNE.SEARCHES if n in SHIPPED + WRITTEN])
def test_what_a_plan_ships_and_what_references_have_was_among_the_settings_tried(name: str) -> None:
    grid, plan = TUNE.SEARCHES[name].grid, load_plan(EXAMPLES / name)
    assert all(getattr(plan, setting) in tried for setting, tried in grid.items())
    file = EXAMPLES / name / "references.toml"
    told = tomllib.loads(file.read_text()) if file.exists() else {}
    for settings in told.values():
        assert all(value in grid[setting] for setting, value in settings.items())


def test_small_hospitals_are_forty_that_no_large_one_is() -> None:
    small = {path.stem for path in (EXAMPLES / "stroke" / "small").glob("*.csv")}
    large = {path.stem for path in (EXAMPLES / "stroke" / "data").glob("*.csv")}
    assert len(small) == 40
    assert not small & large
    with SCORE.small_hospitals() as (folder, names):
        assert names == small
        assert {site.name for site in deal(folder)} == small | large


def test_hospitals_of_sixty_patients_are_not_small(tmp_path: Path) -> None:
    rows = [["HOSPNUM", "AGE", "OCCODE", "poor6m"]]
    rows += [[str(hospital), "70", "1", "1"] for hospital in (59, 60) for _ in range(hospital)]
    text = "\n".join(",".join(row) for row in rows)
    (tmp_path / "ist_stroke.csv.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "out").mkdir()
    PREPARE.small_hospitals(tmp_path, tmp_path / "out")
    (written,) = (tmp_path / "out").iterdir()
    lines = written.read_text().splitlines()
    assert (written.name, lines[0], len(lines)) == ("hospital_59.csv", "HOSPNUM,AGE,poor6m", 60)


def test_a_public_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"aqsoldb\.npz is not there: the recipe's README"):
        PREPARE.solubility(tmp_path, tmp_path)


def test_a_recipe_without_data_is_named_with_the_command_that_writes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(SCORE, "HERE", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"prepare\.py xray --from FOLDER"):
        SCORE.score("xray", 1)
