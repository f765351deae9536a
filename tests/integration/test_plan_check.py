"""A dry run in the box: what would leave is what a node sends, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from harness.plans import slow, write_tiny_plan

from swarm.errors import PlanError
from swarm.learning.supervisor.supervisor import TrainerConfig
from swarm.node.consent.dry_run import Findings, in_words, try_plan


def tried(
    folder: Path, *changes: tuple[str, str], within_s: float = 60.0, imports: tuple[str, ...] = ()
) -> Findings:
    plan = write_tiny_plan(folder / "plan", *changes)
    rows = plan / "data" / "site0.csv"
    config = TrainerConfig(plan, "here", folder, rows, imports=imports or None, device="cpu")

    async def scenario() -> Findings:
        with trio.fail_after(120):
            return await try_plan(config, within_s)

    return trio.run(scenario)


def test_a_dry_run_tells_what_leaves_with_shapes_and_bytes(tmp_path: Path) -> None:
    found = tried(tmp_path)
    assert {"torch", "swarm"} <= {each.module for each in found.imports}
    assert found.reads == [str(tmp_path / "plan" / "data" / "site0.csv")]
    assert found.samples.train == 30
    assert ("0.weight", "F32", (4, 2)) in [(s.name, s.dtype, s.shape) for s in found.update]
    assert [s.name for s in found.statistics] == ["count", "squares", "sum"]
    assert found.update_bytes > 0
    assert found.statistics_bytes > 0
    assert found.metrics == ["auc"]
    assert found.is_whole
    assert found.minutes > 0
    assert any("bytes" in line for line in in_words(found))
    assert [p.name for p in tmp_path.iterdir()] == ["plan"]


def test_of_a_long_round_the_minutes_are_worked_out_from_a_part(tmp_path: Path) -> None:
    found = tried(tmp_path, *slow(60.0), within_s=8.0)
    assert not found.is_whole
    assert 0.3 < found.minutes < 6


def test_a_plan_that_fails_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan\.py:\d+ in data"):
        tried(tmp_path, ("table = ", "raise ValueError('no')\n        table = "))
