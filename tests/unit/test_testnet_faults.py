"""How a testnet's run ends when it cannot go on: with one sentence, soon, and by whose fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.plans import write_tiny_plan

from swarm.errors import LocalError, PlanError
from swarm.learning.loading import load_plan
from swarm.learning.loop import LocalTraining
from swarm.learning.plan import Site
from swarm.testnet.layout import TestnetFile, TestnetNode
from swarm.testnet.run import Testnet, follow

PLAN = {
    "id": 1,
    "status": "running",
    "rounds": 3,
    "round": 2,
    "attempt": 1,
    "phase": "closed",
    "submitted": ["north", "south"],
    "training": None,
    "model_held": True,
    "halted": None,
    "last_report": "",
    "records": [],
}


class Told(Testnet):
    """A testnet whose nodes say what a test makes them say."""

    __test__ = False
    said: list[dict[str, Any]]

    def statuses(self) -> list[dict[str, Any]]:
        return [{"name": "north", "plans": [self.said.pop(0)]}]


def told(tmp_path: Path, *said: dict[str, Any]) -> Told:
    node = TestnetNode("north", str(tmp_path), "", "0x00")
    testnet = Told(tmp_path, TestnetFile("plan", 0, [node], 1, plan_id=1))
    testnet.said = [PLAN | change for change in said]
    return testnet


def watch(testnet: Testnet) -> dict[str, Any]:
    return follow(testnet, lambda doing, statuses: None)


def test_a_plan_that_is_complete_and_scored_everywhere_ends_the_run(tmp_path: Path) -> None:
    scored = {"records": [{"round": 3, "metrics": {"test": {"auc": 1.0}}}]}
    assert watch(told(tmp_path, {}, {"status": "completed"} | scored))["status"] == "completed"


def test_what_the_plans_code_raises_is_named_with_its_site(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"^north: plan\.py:3 in loss: boom$"):
        watch(told(tmp_path, {}, {"halted": "plan.py:3 in loss: boom"}))


def test_tensors_that_do_not_fit_together_end_the_run_and_name_the_site(tmp_path: Path) -> None:
    report = {"last_report": "only 1 of 2 updates can be merged; left out: south (wrong schema)"}
    with pytest.raises(PlanError, match=r"round 2 .* south \(wrong schema\)"):
        watch(told(tmp_path, report, report | {"attempt": 2}, report | {"attempt": 3}))


def test_a_round_that_fails_again_and_again_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="round 2 was tried 2 times: south is gone"):
        watch(told(tmp_path, {"attempt": 3, "last_report": "south is gone"}))


def test_a_node_that_ends_is_named_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_text("Error: the disk is full\n")
    testnet = told(tmp_path, {}, {})
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    testnet.processes["north"] = ended
    with pytest.raises(LocalError, match="the node north ended: the disk is full"):
        watch(testnet)


def test_a_model_that_begins_as_nan_is_refused_before_anyone_trains(tmp_path: Path) -> None:
    broken = (
        "        return nn.Sequential(",
        "        def spoil(module):\n"
        "            for parameter in module.parameters():\n"
        "                nn.init.constant_(parameter, float('nan'))\n\n"
        "        return nn.Sequential(",
    )
    plan = write_tiny_plan(
        tmp_path, broken, ("nn.Linear(4, 1))", "nn.Linear(4, 1)).apply(spoil)"), sites=1
    )
    with pytest.raises(PlanError, match=r"tensor '0\.weight' is NaN or infinite"):
        LocalTraining(load_plan(plan), Site("site0"), plan, seed=0, device="cpu")
