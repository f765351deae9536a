"""What left a node is on its list: as many bytes as the wire carried, and others received."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.plans import write_tiny_plan

from swarm.blobs.store import BlobStore
from swarm.errors import LocalError
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import ask
from swarm.node.outgoing.log import OUTGOING, Entry, read_entries, verify
from swarm.tensors import open_file
from swarm.testnet.layout import create_testnet
from swarm.testnet.processes import start_node, stop_nodes, wait_ready
from swarm.testnet.run import Testnet, begin_plan, follow
from swarm.types import to_digest

SITES, ROWS = 3, 30


@pytest.fixture(scope="module")
def testnet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three nodes that have trained; the first lets no number leave that tells of 31 rows."""
    folder = tmp_path_factory.mktemp("outgoing")
    plan = write_tiny_plan(folder / "plan", sites=SITES)
    file = create_testnet(folder / "nodes", plan, deal(plan, SITES), 0, keep_models=1)
    with (Path(file.nodes[0].directory) / "node.toml").open("a") as config:
        config.write(f"\n[policy]\nmin_count = {ROWS + 1}\n")
    testnet = Testnet(folder / "nodes", file)
    try:
        for node in file.nodes:
            testnet.processes[node.name] = start_node(node)
        testnet.save()
        wait_ready(file, testnet.processes)
        begin_plan(testnet, None)
        follow(testnet, lambda doing, statuses: None)
        yield testnet
    finally:
        stop_nodes(file, testnet.processes)


def entries(home: Path) -> list[Entry]:
    return list(read_entries(home / OUTGOING))


def chunks_to(peer: str, listed: list[Entry]) -> int:
    return sum(e.bytes for e in listed if e.to == peer and e.part is not None)


def test_the_list_is_what_the_wire_carried_to_each_and_what_each_received(testnet: Testnet) -> None:
    names = [node.name for node in testnet.file.nodes]
    homes = {name: testnet.home(i) for i, name in enumerate(names)}
    told = {name: ask(home, "outgoing")["wire"] for name, home in homes.items()}
    for sender, home in homes.items():
        listed = entries(home)
        for receiver in set(names) - {sender}:
            in_all = Counter[str]()
            for entry in listed:
                in_all[entry.to] += entry.bytes
            # Blocks come on: it may say more by now than when the wire was read, never less.
            sent = told[sender][receiver]["sent_bytes"]
            assert sent <= in_all[receiver] <= sent + 100_000
            carried = chunks_to(receiver, listed)
            assert carried == told[receiver][sender]["received_chunk_bytes"]
            print(f"{sender} to {receiver}: {in_all[receiver]} bytes, {carried} of blobs")
        kinds = {entry.kind for entry in listed}
        assert {"statistics", "update", "chain", "control"} <= kinds
        assert verify(home / OUTGOING).fault == ""
        own = {e.of for e in listed if e.kind in ("update", "statistics") and e.part is not None}
        assert sender in own


def test_counts_below_the_minimum_never_left_though_the_statistics_did(testnet: Testnet) -> None:
    home, name = testnet.home(), testnet.file.nodes[0].name
    left = [e for e in entries(home) if e.kind == "statistics" and e.of == name]
    assert left  # a file did, with zeros in it
    status = testnet.statuses()[1]["plans"][0]
    store = BlobStore(testnet.home(1) / "blobs")
    found = store.path(to_digest(status["statistics"]))
    sums = {key: np.array(value) for key, value in open_file(found).items()}
    assert sums["count"].tolist() == [ROWS * (SITES - 1)] * 2


def test_a_killed_node_has_on_its_list_all_that_others_have_received(testnet: Testnet) -> None:
    victim, home = testnet.file.nodes[2].name, testnet.home(2)
    process = testnet.processes[victim]
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    listed = entries(home)
    for index in (0, 1):
        receiver = testnet.file.nodes[index].name
        received = ask(testnet.home(index), "outgoing")["wire"][victim]["received_chunk_bytes"]
        assert chunks_to(receiver, listed) >= received > 0
    assert verify(home / OUTGOING).fault == ""


def test_a_changed_list_is_named_by_the_command(testnet: Testnet, swarm: Any) -> None:
    home = testnet.home(2)  # it does not run any more
    assert "update" in swarm("node", "outgoing", home, "--kind", "update").stdout
    assert "lines, chain" in swarm("node", "outgoing", home, "--verify").stdout
    (path,) = (home / OUTGOING).glob("*.jsonl")
    content = path.read_bytes()
    at = content.index(b'"bytes":') + 8
    path.write_bytes(content[:at] + b"7" + content[at + 1 :])
    said = swarm("node", "outgoing", home, "--verify", status=LocalError.exit_status)
    assert f"byte {at} of the file is '7' and was" in said.stderr
