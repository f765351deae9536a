"""Transactions that no command of ours would send, to real nodes: each node tells what it takes no
part in, and the plan of all goes on to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.plans import write_tiny_plan

from swarm.chain.client import ConsortiumClient
from swarm.errors import ConfigurationError
from swarm.node.commands.control import ask
from swarm.node.home.config import load_config
from swarm.node.home.password import open_key
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import MOST_SAMPLES, Duty, Rules, Terms, VerifyLevel
from swarm.testnet.processes import stop_nodes
from swarm.testnet.run import Testnet, begin_plan, bring_up
from swarm.types import Digest, PlanId, to_address, to_digest


@pytest.fixture
def testnet(tmp_path: Path) -> Iterator[Testnet]:
    plan = write_tiny_plan(tmp_path / "tiny", ("rounds = 3", "rounds = 2"), sites=3)
    testnet = bring_up(tmp_path / "net", plan, 3, 0)
    try:
        yield testnet
    finally:
        stop_nodes(testnet.file, testnet.processes)


def client_of(testnet: Testnet, index: int) -> ConsortiumClient:
    """Signs with a node's key what its people would not."""
    home = testnet.home(index)
    config, status = load_config(home), ask(home, "status")
    key = open_key(home, config)
    return ConsortiumClient.connect(status["rpc_url"], to_address(status["contract"]), key)


def test_plans_with_programs_that_nobody_has_end_no_node_and_the_others_complete(
    testnet: Testnet, wait_until: Callable[..., None]
) -> None:
    begin_plan(testnet, None)
    clients = [client_of(testnet, i) for i in range(3)]
    known = clients[2].plan(PlanId(1))
    weak = Rules(rounds=3, min_peers=1, verify_level=VerifyLevel.HELD)
    programs = (Digest(b"?" * 32), federated_averaging(100_000).digest)
    for program in programs:
        what = ("Odd", known.digest, program, to_digest("0x" + "21" * 32), weak, 0, 0)
        clients[2].transact("proposePlan", *what, deadline_s=60)
    with pytest.raises(ConfigurationError, match="stages other than its code says"):
        ask(testnet.home(0), "consent", plan=2, path=None)
    for number, _ in enumerate(programs, start=2):
        for client in clients:
            terms = Terms(Duty.TRAIN, MOST_SAMPLES)
            client.transact("consent", number, known.digest, terms, deadline_s=60)

    def status(index: int) -> dict[str, Any]:
        found: dict[str, Any] = ask(testnet.home(index), "status")
        return found

    for index in range(3):
        wait_until("the plans are refused", lambda i=index: len(status(i)["refused_plans"]) == 2)
        assert all("stages other" in why for why in status(index)["refused_plans"].values())
        names = [plan["name"] for plan in ask(testnet.home(index), "plans")]
        assert names == [known.name, "Odd", "Odd"]
    for index in range(3):
        wait_until(
            "the plan is complete",
            lambda i=index: status(i)["plans"][0].get("status") == "completed",
            150,
        )
    for node in testnet.file.nodes:
        assert testnet.processes[node.name].poll() is None
        assert "Traceback" not in (Path(node.directory) / "node.log").read_text()
