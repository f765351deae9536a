"""How a testnet's run ends when it cannot go on: with one sentence, soon, and by whose fault."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from harness.plans import write_tiny_plan

from swarm.errors import LocalError, PlanError
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.training.loop import LocalTraining
from swarm.testnet import run
from swarm.testnet.layout import TestnetFile, TestnetNode
from swarm.testnet.plot import write_plot
from swarm.testnet.references import Evaluation
from swarm.testnet.run import Testnet, follow
from swarm.testnet.screen import print_report

PLAN = {
    "id": 1,
    "status": "running",
    "rounds": 3,
    "round": 2,
    "title": "round 2",
    "attempt": 1,
    "phase": "closed",
    "submitted": ["north", "south"],
    "training": None,
    "model": "0x03",
    "model_held": True,
    "best": None,
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


UNKNOWN = {"value": None, "low": None, "high": None, "rows": 4}
KNOWN = {"value": 0.5, "low": 0.25, "high": 0.75, "rows": 4}


SCORED = {"round": 3, "number": 3, "model": "0x03", "metrics": {"test": {}}, "joint": {}}


def test_a_plan_that_is_complete_and_scored_everywhere_ends_the_run(tmp_path: Path) -> None:
    record = SCORED | {"metrics": {"test": {"auc": 1.0}}}
    done = {"status": "completed", "records": [record]}
    assert watch(told(tmp_path, {}, done))["status"] == "completed"


def test_what_the_plans_code_raises_is_named_with_its_site(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"^north: plan\.py:3 in loss: boom$"):
        watch(told(tmp_path, {}, {"halted": "plan.py:3 in loss: boom"}))


def test_tensors_that_do_not_fit_together_end_the_run_and_name_the_site(tmp_path: Path) -> None:
    report = {"last_report": "only 1 of 2 updates can be merged; left out: south (wrong schema)"}
    with pytest.raises(PlanError, match=r"round 2 .* south \(wrong schema\)"):
        watch(told(tmp_path, report, report | {"attempt": 2}, report | {"attempt": 3}))


def test_sites_that_do_not_fit_together_end_the_run_as_soon_as_it_is_known(tmp_path: Path) -> None:
    check: Future[Evaluation] = Future()
    check.set_exception(PlanError("the sites' statistics differ: 'n' is …"))
    with pytest.raises(PlanError, match="statistics differ"):
        follow(told(tmp_path, {}, {}), lambda doing, statuses: None, check=check)
    poor: Future[Evaluation] = Future()
    poor.set_exception(LocalError("is there enough memory?"))  # which the nodes may have
    scored = {
        "status": "completed",
        "records": [SCORED],
    }
    follow(told(tmp_path, {}, scored), lambda doing, statuses: None, check=poor)


def test_a_training_that_lives_is_waited_for_and_an_idle_round_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STALLED_S", 0.0)
    scored = {
        "status": "completed",
        "records": [SCORED],
    }
    trains = {"training": {"fraction": 0.0, "epoch": 0, "loss": None}}
    follow(told(tmp_path, *[trains] * 5, scored), lambda doing, statuses: None, 0.001)
    with pytest.raises(LocalError, match="nothing has moved"):
        follow(told(tmp_path, {}, {}, {}), lambda doing, statuses: None, 0.001)


def test_a_report_with_gaps_is_printed_and_drawn_with_dashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {
        "round": 1,
        "number": 1,
        "title": "round 1",
        "total_s": 1.0,
        "bytes_sent": 5,
        "metrics": {"auc": None},
    }
    site = {"name": "north", "samples": {"train": 9}, "local": {}, "swarm": {}}
    report = {
        "plan": "Tiny",
        "seed": 0,
        "sites": [site],
        "swarm": {"auc": None},
        "joint": {
            "auc": {"figures": {"auc": UNKNOWN, "auprc": KNOWN}, "sites": {"north": UNKNOWN}}
        },
        "pooled": None,
        "references": {"alone": {"epochs": 2}, "pooled": {}},
        "test_looks": 2,
        "rounds": [record],
        "wall_s": 1.0,
        "notes": ["north cannot be trained alone: plan.py:3 in loss: boom"],
        "final_model": {"path": "m", "digest": "0x00"},
    }
    assert write_plot(report, tmp_path / "metric.png") == tmp_path / "metric.png"
    assert write_plot(report | {"swarm": {}}, tmp_path / "none.png") is None
    print_report(report, None, None)
    told = capsys.readouterr().out
    assert "–" in told
    assert "2 models were scored on these rows, each once" in told
    assert "alone with epochs 2" in told
    assert "plan.py:3 in loss: boom" in told


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
