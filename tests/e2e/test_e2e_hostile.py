"""A member whose updates nobody can use: refused, named on the chain's record with the reason, and
every round goes on without it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.plans import write_tiny_plan

from swarm.chain.client import ConsortiumClient
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import ask
from swarm.protocol.state import Omission, winner
from swarm.testnet.layout import create_testnet, write_testnet
from swarm.testnet.processes import start_node, stop_nodes, wait_ready
from swarm.testnet.run import Testnet, begin_plan
from swarm.types import PlanId, to_address

HOSTILE = "site2"


@pytest.fixture
def testnet(tmp_path: Path) -> Any:
    plan = write_tiny_plan(tmp_path / "tiny", ("rounds = 3", "rounds = 4"), sites=3)
    directory = tmp_path / "net"
    testnet = Testnet(directory, create_testnet(directory, plan, deal(plan), 0))
    try:
        for node in testnet.file.nodes:
            if node.name != HOSTILE:
                testnet.processes[node.name] = start_node(node)
                continue
            script = Path(__file__).with_name("hostile_node.py")
            with (Path(node.directory) / "node.log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, str(script), "start", node.directory],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            node.pid = process.pid
            testnet.processes[node.name] = process
        write_testnet(directory, testnet.file)
        wait_ready(testnet.file, testnet.processes)
        yield testnet
    finally:
        stop_nodes(testnet.file, testnet.processes)


def test_an_update_that_cannot_be_used_is_left_out_and_named(
    testnet: Testnet, wait_until: Callable[..., None]
) -> None:
    begin_plan(testnet, None)
    home = testnet.home(0)

    def plan() -> dict[str, Any]:
        found: list[dict[str, Any]] = ask(home, "status")["plans"]
        return found[0] if found else {}

    wait_until("the plan is complete", lambda: plan().get("status") == "completed", 150)
    wait_until("the model is here", lambda: plan()["model_held"])
    refused = {r["round"]: r["omitted"] for r in plan()["records"]}
    assert refused == {
        1: {},  # the statistics
        2: {HOSTILE: "not finite"},
        3: {HOSTILE: "wrong schema"},
        4: {HOSTILE: "wrong digest"},
        5: {},
    }

    # The same, as anyone can read it from the chain.
    status = ask(home, "status")
    client = ConsortiumClient.connect(status["rpc_url"], to_address(status["contract"]))
    hostile = next(i for i, m in client.members().items() if m.name == HOSTILE)
    reasons = (Omission.NOT_FINITE, Omission.WRONG_SCHEMA, Omission.WRONG_DIGEST)
    attempts = {r["round"]: r["attempt"] for r in plan()["records"]}
    for number, reason in enumerate(reasons, start=2):
        round = client.past_round(PlanId(1), number, attempts[number])
        assert round is not None
        won = winner(round, client.present_members())
        assert won is not None
        assert won.omitted == 1 << hostile
        assert won.reasons == bytes([reason])
    for node in testnet.file.nodes:
        assert "Traceback" not in (Path(node.directory) / "node.log").read_text()
