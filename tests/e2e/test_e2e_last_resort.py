"""What operators can do when a quorum is gone for good: the override, and `chain recover`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.faults.nodes import Nodes, open_nodes
from harness.faults.plan import FaultPlan
from harness.plans import slow, write_tiny_plan

from swarm.errors import SwarmError
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import ask
from swarm.testnet.run import begin_plan

ROUNDS = 8
STAYING = ("site0", "site1", "site2")
LOST = ("site3", "site4")
END_S = 20.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Five nodes in the first rounds of a plan."""
    folder = tmp_path_factory.mktemp("last-resort")
    plan = write_tiny_plan(folder / "plan", *slow(0.3), sites=5)
    faults = FaultPlan(about="", plan="", rounds=ROUNDS)
    with open_nodes(folder / "nodes", plan, deal(plan, 5), 0, None, faults) as opened:
        begin_plan(opened.testnet, ROUNDS)
        yield opened


def status(nodes: Nodes, name: str) -> dict[str, Any]:
    """What a node says; nothing while it starts or has ended."""
    try:
        return dict(ask(nodes.home(name), "status"))
    except SwarmError:
        return {"chain": {}, "plans": [], "height": -1}


def final_round(nodes: Nodes, name: str) -> int:
    plans = status(nodes, name)["plans"]
    return plans[0].get("model_round", 0) if plans else 0


def end(nodes: Nodes, name: str) -> None:
    """As an operator ends a node."""
    nodes.down.add(name)
    process = nodes.testnet.processes[name]
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_S) == 0


# These tests stand in order: each leaves the consortium as the next expects it.


def test_without_a_quorum_every_node_says_whom_it_waits_for(
    nodes: Nodes, wait_until: Callable[..., None]
) -> None:
    wait_until("two rounds", lambda: final_round(nodes, "site0") >= 2)
    for name in LOST:
        nodes.kill(name)
    for name in STAYING:
        wait_until(
            f"{name} misses the lost",
            lambda name=name: set(LOST) <= set(status(nodes, name)["chain"].get("waiting_for", ())),
        )
    wait_until("one head", lambda: len({status(nodes, n)["height"] for n in STAYING}) == 1)


def test_more_than_half_of_the_members_may_go_on_without_the_lost(
    nodes: Nodes, swarm: Any, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    before = final_round(nodes, "site0")
    for name in STAYING:
        end(nodes, name)
    file = tmp_path / "override.json"
    homes = [nodes.home(name) for name in STAYING]
    lost = [option for name in LOST for option in ("--without", name)]
    said = swarm("chain", "override", "sign", homes[0], file, *lost, "--yes").stdout
    assert "only site0, site1, site2 decide" in said
    assert "signed by 1 of 3 that are needed" in said
    swarm("chain", "override", "sign", homes[1], file, "--yes")

    refused = swarm("chain", "override", "apply", homes[0], file, status=2).stderr
    assert "3 of the 5 endorsed members must sign it" in " ".join(refused.split())
    assert not list(homes[0].glob("overrides/*"))

    swarm("chain", "override", "sign", homes[2], file, "--yes")
    for home in homes:
        assert "3 decide; start it now" in swarm("chain", "override", "apply", home, file).stdout
    for name in STAYING:
        nodes.start(name)
    wait_until("the next rounds", lambda: final_round(nodes, "site1") >= before + 2, 120)


def test_a_node_without_its_votes_and_without_a_quorum_waits_for_its_operators_word(
    nodes: Nodes, swarm: Any, wait_until: Callable[..., None]
) -> None:
    for name in ("site0", "site1"):
        nodes.kill(name)
    nodes.spoil("site0", "votes deleted")
    nodes.start("site0")
    wait_until(
        "it waits", lambda: "site1" in status(nodes, "site0")["chain"].get("waiting_for", ())
    )
    chain = status(nodes, "site0")["chain"]
    assert (chain["role"], chain["votes_from"]) == ("observer", None)
    end(nodes, "site0")
    said = swarm("chain", "recover", nodes.home("site0"), "--yes").stdout
    assert "it now" in said
    nodes.start("site0")
    wait_until("all rounds", lambda: final_round(nodes, "site2") == ROUNDS, 150)
    wait_until("all rounds here", lambda: final_round(nodes, "site0") == ROUNDS)
    models = {status(nodes, name)["plans"][0]["model"] for name in ("site0", "site2")}
    assert len(models) == 1
