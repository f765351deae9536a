"""Two nodes on a chain that others keep: anvil, a real and foreign Ethereum client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.plans import write_tiny_plan
from web3 import HTTPProvider

from swarm.chain.client import deploy
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import ask
from swarm.node.home.setup import read_cards
from swarm.testnet.layout import create_testnet
from swarm.testnet.processes import start_node, stop_nodes, wait_ready
from swarm.testnet.run import Testnet, begin_plan
from swarm.types import to_hex

PRE_FUNDED = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""The first account of every anvil: its key is public."""


def write_external(home: Path, url: str, contract: str) -> None:
    """Point a node that was made for the embedded chain to another one."""
    config = (home / "node.toml").read_text()
    external = f'rpc_url = "{url}"\ncontract = "{contract}"'
    (home / "node.toml").write_text(config.replace('network = "network.json"', external))


def test_a_plan_is_trained_on_a_foreign_chain(
    anvil_url: str, swarm: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    plan = write_tiny_plan(tmp_path / "tiny", ("rounds = 3", "rounds = 2"))
    testnet = Testnet(tmp_path / "net", create_testnet(tmp_path / "net", plan, deal(plan), 0))
    homes = [testnet.home(0), testnet.home(1)]
    cards = read_cards(home / "card.json" for home in homes)
    provider = HTTPProvider(anvil_url)

    # No contract there yet: said at the start, and nothing is written.
    write_external(homes[0], anvil_url, "0x" + "aa" * 20)
    assert "there is no contract" in swarm("node", "start", homes[0], status=2).stderr
    assert not (homes[0] / "running.json").exists()

    contract = to_hex(deploy(provider, PRE_FUNDED, cards))
    for home, card in zip(homes, cards, strict=True):
        provider.make_request("anvil_setBalance", [to_hex(card.account), hex(10**20)])
        text = (home / "node.toml").read_text().replace("0x" + "aa" * 20, contract)
        (home / "node.toml").write_text(text)
        write_external(home, anvil_url, contract)
        with (home / "node.toml").open("a") as file:
            file.write("\n[network.peers]\n")
            for other in cards:
                if other.node != card.node:
                    file.write(f'{other.name} = ["{other.addresses[0]}"]\n')
    try:
        for node in testnet.file.nodes:
            testnet.processes[node.name] = start_node(node)
        wait_ready(testnet.file, testnet.processes)
        connected = lambda: ask(homes[0], "status")["connected"] == ["site1"]  # noqa: E731
        wait_until("the nodes are connected", connected, 60)
        begin_plan(testnet, None)

        def done() -> bool:
            plans = [ask(home, "status")["plans"] for home in homes]
            return all(p and p[0].get("status") == "completed" for p in plans)

        wait_until("the plan is complete", done, 120)
        wait_until("the model is here", lambda: ask(homes[0], "status")["plans"][0]["model_held"])
        status = ask(homes[0], "status")
        assert status["contract"] == contract
        assert status["chain_id"] == 31337
        assert {r["title"] for r in status["plans"][0]["records"]} == {
            "statistics",
            "round 1",
            "round 2",
        }
        assert not (homes[0] / "chain").exists()
    finally:
        stop_nodes(testnet.file, testnet.processes)
    for home in homes:
        assert "Traceback" not in (home / "node.log").read_text()
