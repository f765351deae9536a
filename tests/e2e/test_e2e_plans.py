"""Plans as people write them, run as `swarm testnet run` runs them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.patients import page_plans, write_patients
from harness.plans import write_tiny_plan

EXAMPLES = Path(__file__).parents[2] / "examples"

Swarm = Callable[..., subprocess.CompletedProcess[str]]


def run(swarm: Swarm, plan: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The report of a run, and what the person was told."""
    out = plan / "runs"
    done = swarm("testnet", "run", plan, "--out", out, "--json", out / "report.json", *options)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert Path(report["final_model"]["path"]).stat().st_size > 0
    return report, done.stdout


@pytest.mark.parametrize("name", page_plans())
def test_every_plan_on_the_page_runs_on_a_testnet(swarm: Swarm, tmp_path: Path, name: str) -> None:
    (tmp_path / name / "data").mkdir(parents=True)
    (tmp_path / name / "plan.py").write_text(page_plans()[name])
    for seed, site in enumerate(["north", "south", "west"]):
        write_patients(tmp_path / name / "data" / f"{site}.csv", seed)
    report, told = run(swarm, tmp_path / name, "--rounds", "2")
    assert [r["number"] for r in report["rounds"] if r["model"]][-1] == 2
    assert len(report["sites"]) == 3
    if name == "adapter":  # it holds no test rows back
        assert any("no site holds test rows" in note for note in report["notes"])
        assert "The models were not scored" in told
    else:
        assert report["notes"] == []
        assert 0 < report["swarm"]["auc"] <= 1


def test_a_plain_script_is_trained_by_real_nodes(swarm: Swarm, tmp_path: Path) -> None:
    """In the box, by its consented digest, to the bits of a run without a network."""
    (tmp_path / "data").symlink_to(EXAMPLES / "heart" / "data")
    (tmp_path / "plan.py").write_text((EXAMPLES / "scripts" / "plain.py").read_text())
    report, _ = run(swarm, tmp_path, "--rounds", "2", "--no-references")
    assert [len(r["contributors"]) for r in report["rounds"]] == [4, 4]
    told = report["rounds"][-1]["site_metrics"]
    assert len(told) == 4
    assert all(0 < scores["auc"] <= 1 for scores in told.values())
    simulated = json.loads(swarm("simulate", tmp_path, "--rounds", "2", "--json").stdout)
    assert simulated["final_model"]["digest"] == report["final_model"]["digest"]


def test_a_reference_that_fails_and_a_score_that_cannot_be_given_cost_no_model(
    swarm: Swarm, tmp_path: Path
) -> None:
    plan = write_tiny_plan(tmp_path / "plan", sites=3)
    (plan / "references.toml").write_text("[alone]\nlearning_rate = 1e30\n")
    rows = (plan / "data" / "site1.csv").read_text().splitlines()
    sick = [rows[0], *(line[:-1] + "1" for line in rows[1:])]
    (plan / "data" / "site1.csv").write_text("\n".join(sick))
    report, told = run(swarm, plan, "--rounds", "1")
    by_name = {site["name"]: site for site in report["sites"]}
    assert by_name["site1"]["swarm"] == {"auc": None}
    assert all(site["local"] == {} for site in report["sites"])
    assert report["pooled"]["auc"] > 0
    assert len(report["notes"]) == 3
    assert report["notes"][0].startswith("site0 cannot be trained alone: plan.py:")
    assert "site1 cannot be trained alone" in told
    assert "alone with learning_rate 1e+30" in told


def test_a_run_without_references_trains_and_compares_with_nothing(
    swarm: Swarm, tmp_path: Path
) -> None:
    plan = write_tiny_plan(tmp_path / "plan")
    report, told = run(swarm, plan, "--rounds", "1", "--no-references")
    assert (report["pooled"], report["test_looks"], report["notes"]) == (None, 1, [])
    assert 0 < report["swarm"]["auc"] <= 1
    assert "alone" not in told


def test_sites_whose_statistics_differ_are_named_at_once(swarm: Swarm, tmp_path: Path) -> None:
    by_value = (
        "return swarm.moments(data.train[0])",
        "return {f'a={v:.2f}': 1.0 for v in data.train[0][:3, 0]} | swarm.moments(data.train[0])",
    )
    plan = write_tiny_plan(tmp_path / "plan", by_value)
    done = swarm("testnet", "run", plan, "--out", tmp_path / "out", status=2)
    assert "the sites' statistics differ: 'a=" in done.stderr
    assert "[] at site0, absent at site1" in done.stderr
