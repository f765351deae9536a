"""A testnet's directories: each node has its own key and its own data, and nothing half-made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness.plans import write_tiny_plan

from swarm.chain.genesis import read_genesis
from swarm.errors import ConfigurationError
from swarm.learning.simulation.dealing import deal
from swarm.node.home.config import data_path, load_config
from swarm.testnet.layout import create_testnet, delete_nodes, read_testnet
from swarm.testnet.processes import last_line, running_pid, status_of


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write_tiny_plan(tmp_path / "tiny", sites=3)


def test_every_node_has_its_own_data_and_nothing_of_the_others(tmp_path: Path, plan: Path) -> None:
    net = tmp_path / "net"
    made = create_testnet(net, plan, deal(plan), seed=7)
    assert read_testnet(net) == made
    assert Path(made.plan).is_absolute()
    for node in made.nodes:
        home = Path(node.directory)
        config = load_config(home)
        assert config.training.seed == 7
        data = data_path(home, config)
        assert data is not None
        assert data.read_bytes() == (plan / "data" / f"{node.name}.csv").read_bytes()
        assert [p.name for p in home.rglob("*.csv")] == [f"{node.name}.csv"]
    assert len({n.account for n in made.nodes}) == 3
    genesis = [read_genesis(Path(n.directory) / "network.json") for n in made.nodes]
    assert {g.chain_id for g in genesis} == {made.chain_id}
    assert [f.name for f in genesis[0].founders] == ["site0", "site1", "site2"]


def test_a_testnet_is_not_made_over_another(tmp_path: Path, plan: Path) -> None:
    net = tmp_path / "net"
    create_testnet(net, plan, deal(plan), seed=0)
    before = sorted(net.rglob("*"))
    with pytest.raises(ConfigurationError, match="holds a testnet already"):
        create_testnet(net, plan, deal(plan), seed=0)
    assert sorted(net.rglob("*")) == before


def test_what_lies_in_the_directory_already_is_neither_used_nor_deleted(
    tmp_path: Path, plan: Path
) -> None:
    net = tmp_path / "net"
    (net / "site1").mkdir(parents=True)
    (net / "site1" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="site1 exists already"):
        create_testnet(net, plan, deal(plan), seed=0)
    assert [p.name for p in net.rglob("*")] == ["site1", "letter.txt"]


def test_a_testnet_that_cannot_be_finished_leaves_nothing_behind(
    tmp_path: Path, plan: Path
) -> None:
    sites = deal(plan)
    (plan / "data" / "site2.csv").unlink()
    with pytest.raises(OSError, match=r"site2\.csv"):
        create_testnet(tmp_path / "net", plan, sites, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_deleting_a_testnet_spares_what_it_did_not_make(tmp_path: Path, plan: Path) -> None:
    net = tmp_path / "net"
    made = create_testnet(net, plan, deal(plan), seed=0)
    (net / "notes.txt").write_text("mine")
    delete_nodes(net, made.nodes)
    assert [p.name for p in net.iterdir()] == ["notes.txt"]
    with pytest.raises(ConfigurationError, match="swarm testnet up"):
        read_testnet(net)


def test_a_foreign_process_with_the_same_pid_is_not_taken_for_the_node(
    tmp_path: Path, plan: Path
) -> None:
    made = create_testnet(tmp_path / "net", plan, deal(plan), seed=0)
    node = made.nodes[0]
    node.pid = os.getpid()
    assert running_pid(node) is None
    status = status_of(node)
    assert status["alive"] is False
    assert {"name", "pid", "account", "dir"} <= set(status)


def test_the_last_line_of_a_log_is_the_reason(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    assert str(log) in last_line(log)
    log.write_text("2026 INFO swarm.node: up\nError: the port is taken\n\n")
    assert last_line(log) == "the port is taken"
