"""Stages on real nodes: what a proposer changes is shown, and a plan goes on from another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.plans import plan_with, write_tiny_plan

from swarm import run_federated
from swarm.errors import ConfigurationError
from swarm.node.commands.control import ask
from swarm.testnet.processes import stop_nodes
from swarm.testnet.run import Testnet, begin_plan, bring_up

WaitUntil = Callable[..., None]


@pytest.fixture
def testnet(tmp_path: Path) -> Iterator[Testnet]:
    testnet = bring_up(tmp_path / "net", write_tiny_plan(tmp_path / "tiny"), 2, 0)
    try:
        yield testnet
    finally:
        stop_nodes(testnet.file, testnet.processes)


def plan_at(home: Path, number: int) -> dict[str, Any]:
    plans = ask(home, "status")["plans"]
    return next((p for p in plans if p["id"] == number and "status" in p), {})


def finish(testnet: Testnet, wait_until: WaitUntil, number: int) -> dict[str, Any]:
    """Wait until a plan is complete at both nodes, and its last model scored."""
    for index in range(2):
        home = testnet.home(index)
        wait_until(
            f"plan {number} is complete",
            lambda home=home: (
                plan_at(home, number).get("status") == "completed"
                and plan_at(home, number)["records"][-1]["metrics"]
            ),
            150,
        )
    return plan_at(testnet.home(), number)


def test_a_plan_that_has_ended_goes_on_from_its_model_and_counts_on(
    testnet: Testnet, swarm: Any, tmp_path: Path, wait_until: WaitUntil
) -> None:
    begin_plan(testnet, 2)
    home, other = testnet.home(0), testnet.home(1)
    shown = swarm("plan", "show", 1, "--node", other).stdout
    assert "stage 1  statistics: 1 round, task statistics\n         *: sum: adds" in shown
    assert "stage 2  training: 2 rounds, task train\n         *: mean: averages" in shown
    assert "asked for by the proposer: its code says 3 rounds" in shown
    with pytest.raises(ConfigurationError, match="it can be continued when it has ended"):
        ask(home, "continue_plan", plan=1, rounds=2, invite=[], within_s=None)
    ended = finish(testnet, wait_until, 1)

    swarm("plan", "continue", 1, "--rounds", 2, "--node", home)
    shown = swarm("plan", "show", 2, "--node", other).stdout
    assert "begins from the model of plan 1 (Tiny)" in shown
    assert "its code says 3 rounds; it continues after round 2" in shown
    for each in (home, other):
        swarm("plan", "consent", 2, "--node", each)
    further = finish(testnet, wait_until, 2)
    assert [r["title"] for r in further["records"]] == ["statistics", "round 3", "round 4"]
    assert further["model"] != ended["model"]

    # From a file, in another plan; what does not fit is refused by name.
    swarm("model", "export", tmp_path / "model", "--plan", 2, "--node", home)
    wide = write_tiny_plan(
        tmp_path / "wide",
        ("nn.Linear(2, 4)", "nn.Linear(2, 5)"),
        ("nn.BatchNorm1d(4)", "nn.BatchNorm1d(5)"),
        ("nn.Linear(4, 1)", "nn.Linear(5, 1)"),
    )
    base = str(tmp_path / "model" / "model.safetensors")
    what: dict[str, Any] = {"rounds": None, "invite": [], "within_s": None}
    with pytest.raises(
        ConfigurationError, match=r"cannot begin from .*: it has '0.bias' as .* \[4\]"
    ):
        ask(home, "propose_plan", path=str(wide), base=base, **what)
    with pytest.raises(ConfigurationError, match="takes no part in plan 9"):
        ask(home, "propose_plan", path=str(wide), base="plan 9", **what)
    fitting = write_tiny_plan(tmp_path / "fitting", ("epochs = 3", "epochs = 1"))
    proposed = ask(home, "propose_plan", path=str(fitting), base=base, **what)
    assert proposed["base"] == further["model"]


def test_training_stops_at_the_same_model_as_without_a_network(swarm: Any, tmp_path: Path) -> None:
    stages = "*swarm.train_and_select('auc', rounds=20, every=1, stop=True)"
    plan = plan_with(tmp_path / "tiny", stages)
    run, out = run_federated(plan), tmp_path / "out"
    swarm("testnet", "run", plan, "--out", out, "--no-references", "--json", out / "report.json")
    report = json.loads((out / "report.json").read_text())
    chosen = [r for r in report["rounds"] if r["choice"]]
    assert run.is_over
    assert len(chosen) == len(run.models) - 1 < 20
    last, before = chosen[-1], chosen[-2]
    assert last["choice"]["newest"] <= last["choice"]["best before"]
    assert last["model"] == before["model"] == report["final_model"]["digest"]
    assert report["joint"]["auc"]["figures"]["auc"]["value"] == float(run.result(run.best)["auc"])
    assert report["test_looks"] == 1


def test_each_site_has_a_model_of_its_own_and_all_see_how_it_does_at_every_site(
    swarm: Any, tmp_path: Path
) -> None:
    stages = "swarm.train(2), swarm.personalise(epochs=2), swarm.cross_evaluate()"
    plan = plan_with(tmp_path / "tiny", stages)
    nodes, out = tmp_path / "nodes", tmp_path / "out"
    swarm("testnet", "run", plan, "--keep", nodes, "--out", out, "--no-references",
          "--json", out / "report.json")  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert [r["title"] for r in report["rounds"]] == [
        "statistics",
        "round 1",
        "round 2",
        "personal",
        "copies",
        "cross-evaluation",
    ]
    assert report["rounds"][-1]["table"] == run_federated(plan).table()
    assert report["test_looks"] == 3
    figures = report["rounds"][3]["figures"]
    assert figures["sites"] == 2
    assert 0 < figures["before"]["auc"] <= figures["after"]["auc"] + 0.2
    own = sorted(nodes.rglob("own/plan-1.safetensors"))
    assert len(own) == 2
    assert own[0].read_bytes() != own[1].read_bytes()
    assert 0 < report["swarm"]["auc"] <= 1
