"""What `swarm doctor`, `swarm completion` and `swarm node status --watch` tell."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from swarm import __version__
from swarm.cli import main
from swarm.node import doctor
from swarm.node.commands import control
from swarm.node.home.setup import create_node

PEER = {
    "name": "Kyoto",
    "connected": True,
    "notes": [],
    "clock_s": 0.1,
    "release": __version__,
}
STATUS = {
    "name": "St. Mary",
    "pid": 7,
    "p2p": ["/ip4/10.0.0.1/tcp/4001"],
    "rpc_url": "http://127.0.0.1:8545",
    "height": 12,
    "chain": {"round": 0, "waiting_for": []},
    "peers": [PEER],
    "notes": [],
    "asked": {},
    "refused_plans": {},
    "plans": [],
    "sandbox": {"reach": []},
}


def told(**changes: Any) -> dict[str, tuple[str, str]]:
    """What the doctor finds in a status with these changes: the results and fixes by check."""
    checks = doctor.of_status({**STATUS, **changes}, "hospital")
    return {check.name: (check.result, check.fix) for check in checks}


def test_a_healthy_node_has_nothing_to_mend() -> None:
    found = told()
    assert set(found) == {"node", "ports", "clock", "peers", "chain", "plan", "versions", "box"}
    assert set(found.values()) == {("good", "")}


FAULTS = {
    "node": ({"notes": ["this node is no member yet"]}, "look", "swarm node status hospital"),
    "clock": ({"peers": [{**PEER, "clock_s": 9.0}]}, "wrong", "timedatectl"),
    "peers": ({"peers": [{**PEER, "connected": False}]}, "look", "--connected"),
    "ports": ({"peers": [{**PEER, "notes": ["it cannot be dialled (…)"]}]}, "look", "both"),
    "chain": ({"chain": {"round": 2, "waiting_for": ["Kyoto"]}}, "look", "swarm node start"),
    "plan": ({"asked": {"3": "Sepsis"}}, "look", "swarm plan show 3"),
    "versions": ({"peers": [{**PEER, "release": "9.9"}]}, "look", "pip install"),
    "box": ({"sandbox": {"reach": ["the network"]}}, "look", "training.sandbox"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_where_it_is_and_comes_with_its_fix(name: str) -> None:
    changes, result, fix = FAULTS[name]
    found = told(**changes)
    assert found.pop(name)[0] == result
    assert fix in told(**changes)[name][1]
    assert set(found.values()) == {("good", "")}


def test_a_clock_is_judged_by_most_members_and_not_by_one_of_them() -> None:
    clocks = [{**PEER, "clock_s": ahead} for ahead in (0.2, 3600.0, -0.1)]
    assert told(peers=clocks)["clock"][0] == "good"
    assert told(peers=[{**PEER, "clock_s": None}])["clock"][0] == "unknown"


def test_a_node_that_does_not_run_is_looked_at_from_outside(tmp_path: Path) -> None:
    home = tmp_path / "hospital"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        create_node(
            home,
            "St. Mary",
            data=tmp_path / "missing.csv",
            listen=f"/ip4/127.0.0.1/tcp/{port}",
            http="127.0.0.1:0",
            password=None,
        )
        done = CliRunner().invoke(main, ["doctor", str(home), "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    wrong = {check["name"]: check["fix"] for check in found if check["result"] == "wrong"}
    assert wrong["node"] == f"swarm node start {home}"
    assert wrong["ports"] == f"ss -ltnp 'sport = :{port}'"
    assert "missing.csv" in next(c["found"] for c in found if c["name"] == "data")
    assert {"disk", "gpu"} <= {check["name"] for check in found}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_what_completes_commands(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_SWARM_COMPLETE" in done.stdout


def test_watching_shows_the_status_again_until_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def ask(directory: Path, method: str) -> dict[str, int]:
        shown.append(method)
        if len(shown) == 3:
            raise KeyboardInterrupt
        return {"height": len(shown)}

    monkeypatch.setattr(control, "ask", ask)
    monkeypatch.setattr("swarm.cli.node.WATCH_EVERY_S", 0.0)
    done = CliRunner().invoke(main, ["node", "status", "--watch", "--json"])
    assert done.exit_code == 0
    assert done.stdout.count("height") == 2
    assert "\x1b" not in done.stdout
