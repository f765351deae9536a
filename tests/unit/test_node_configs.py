"""The configuration files that are shipped: each one is loaded as a node would load it."""

from __future__ import annotations

import configparser
import re
import shutil
from pathlib import Path

import pytest

from swarm.errors import ConfigurationError
from swarm.network.tcp import parse_endpoint
from swarm.node.home.config import NodeConfig, load_config

FOLDER = Path(__file__).parents[2] / "node_configs"
FILES = sorted(FOLDER.rglob("*.toml"))


def load(file: Path, home: Path) -> NodeConfig:
    """Load a shipped file as the node.toml of a directory in which its data exist."""
    named = re.search(r'^path = "([^"]+)"', file.read_text(), re.MULTILINE)
    if named:
        data = home / named[1].removeprefix("/data/")
        data.parent.mkdir(parents=True, exist_ok=True)
        data.touch()
    text = file.read_text().replace("/data/patients.csv", str(home / "patients.csv"))
    (home / "node.toml").write_text(text)
    return load_config(home)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_configuration_loads_and_its_addresses_can_be_used(file, tmp_path):
    config = load(file, tmp_path)
    for address in (*config.network.listen, *sum(config.network.peers.values(), ())):
        parse_endpoint(address)


def test_the_hospital_file_shows_every_key_that_exists_for_the_embedded_chain():
    text = (FOLDER / "hospital.toml").read_text()
    elsewhere = {"rpc_url", "contract", "finality", "seed"}  # external-chain.toml; experiments
    for section in NodeConfig.__struct_fields__[1:]:
        fields = NodeConfig.__struct_fields__.index(section)
        kind = type(NodeConfig.__struct_defaults__[fields - 1])
        for key in kind.__struct_fields__:
            written = f"{key} = " in text or f"[{section}.{key}]" in text
            assert written or key in elsewhere, f"{section}.{key} is not in hospital.toml"


def test_a_spelling_mistake_in_a_shipped_file_would_be_refused_by_name(tmp_path):
    shutil.copy(FOLDER / "minimal.toml", tmp_path / "node.toml")
    with (tmp_path / "node.toml").open("a") as file:
        file.write("\n[network]\nlisten_on = []\n")
    with pytest.raises(ConfigurationError, match="listen_on"):
        load_config(tmp_path)


def test_no_shipped_file_holds_a_secret():
    for file in FILES:
        assert not re.search(r"^\s*(password|secret|private_key) *=", file.read_text(), re.M), file


def test_the_systemd_unit_takes_nothing_away_of_which_the_box_is_built():
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str
    unit.read(FOLDER / "swarm.service")
    service = dict(unit["Service"])
    assert service["ExecStart"].endswith("swarm node start /var/lib/swarm")
    assert service["ReadWritePaths"] == "/var/lib/swarm"
    assert not service.keys() & {
        *("RestrictNamespaces", "SystemCallFilter", "ProtectKernelTunables", "ProtectProc"),
        *("ProcSubset", "PrivateDevices", "PrivateUsers"),
    }
