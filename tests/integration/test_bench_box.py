"""`swarm bench box`: training in the box beside training without."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from harness.plans import write_tiny_plan

from swarm.cli import main


def test_a_plan_is_trained_in_the_box_and_without_and_the_figures_are_kept(tmp_path: Path) -> None:
    plan, told = write_tiny_plan(tmp_path / "plan"), tmp_path / "box.json"
    asked = ["bench", "box", str(plan), "--turns", "5", "--json", str(told)]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    [found] = json.loads(told.read_text())["results"]
    assert found["turns"] == 5
    assert 0 < found["ratio"]["least"] <= found["ratio"]["median"] <= found["ratio"]["most"]
    assert "a round in the box takes" in done.output


def test_a_plan_that_trains_otherwise_each_time_is_not_compared(tmp_path: Path) -> None:
    by_chance = ("x, y = batch", "import os; x, y = batch; x = x + os.urandom(1)[0]")
    plan = write_tiny_plan(tmp_path / "plan", by_chance)
    done = CliRunner().invoke(main, ["bench", "box", str(plan), "--turns", "5"])
    assert done.exit_code == 1
    assert "gave other bytes in a box than without" in done.output
