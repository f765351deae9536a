"""Secure plans on real nodes: masked from the statistics to the last model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.faults.wires import why_not
from harness.plans import MODEL, write_tiny_plan

Swarm = Callable[..., subprocess.CompletedProcess[str]]

SECURE = (
    (MODEL, "nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)"),
    ("    epochs = 3\n", "    epochs = 1\n    secure = True\n    statistics_bound = 1e6\n"),
)
FAULTS = """\
about = "One of four dies once a masked sum is locked: its round ends without it."
plan = "tiny"
rounds = 3
deadline_s = 150

[[fault]]
do = "kill"
who = [2]
when = { round = 1, phase = "locked" }
for_s = 30

[at_least]
kills = 1
restarts = 1
"""


def test_a_secure_plan_runs_masked_and_leaves_no_secret_behind(
    swarm: Swarm, tmp_path: Path
) -> None:
    plan = write_tiny_plan(tmp_path / "plan", *SECURE, sites=4)
    report = tmp_path / "report.json"
    places = ("--keep", tmp_path / "nodes", "--out", tmp_path / "out", "--json", report)
    swarm("testnet", "run", plan, "--rounds", "2", "--no-references", *places)
    told = json.loads(report.read_text())
    assert [r["number"] for r in told["rounds"] if r["model"]][-1] == 2
    assert 0.5 < told["swarm"]["auc"] <= 1
    nodes = [f"site{n}" for n in range(4)]
    made = set()
    for name in nodes:
        folder = tmp_path / "nodes" / name
        assert not any(file.is_file() for file in (folder / "masked" / "plan-1").rglob("*"))
        records = (folder / "records" / "plan-1.jsonl").read_text().splitlines()
        models = {each["round"]: each["model"] for each in map(json.loads, records)}
        made.add(tuple(models[number] for number in (1, 2, 3)))
        listed = (folder / "outgoing").glob("*.jsonl")
        left = [json.loads(line) for file in listed for line in file.read_text().splitlines()]
        of_one = [e for e in left if e["kind"] in ("update", "statistics", "shares")]
        assert {entry["kind"] for entry in of_one} == {"update", "statistics", "shares"}
        assert all(entry.get("masked") for entry in of_one)
    assert len(made) == 1


def test_a_secure_plan_that_only_whole_updates_could_serve_is_refused(
    swarm: Swarm, tmp_path: Path
) -> None:
    plan = write_tiny_plan(tmp_path / "plan", SECURE[1], sites=4)
    done = swarm("testnet", "run", plan, "--out", tmp_path / "out", status=2)
    assert "a secure plan masks float32 alone, and 1.num_batches_tracked is I64" in done.stderr


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_member_that_dies_after_the_lock_does_not_keep_the_round_from_its_model(
    tmp_path: Path,
) -> None:
    write_tiny_plan(tmp_path / "tiny", *SECURE, sites=4)
    (tmp_path / "faults.toml").write_text(FAULTS)
    command = (sys.executable, "-m", "harness.faults")
    done = subprocess.run(
        [*command, *("--plan", tmp_path / "faults.toml", "--json", tmp_path / "outcome.json")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["ok"], outcome
    assert set(outcome["round_s"]) == {"2", "3", "4"}  # statistics came first
