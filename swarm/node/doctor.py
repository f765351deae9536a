"""What may be wrong with this machine and its node, each with its fix as a command.

What a running node says of itself is asked of it (`node.status`), and not found out anew: here are
only the findings that a person acts on. A node that does not run is looked at from outside.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec

from swarm.box import contents
from swarm.errors import ConfigurationError, LocalError
from swarm.network.tcp import parse_endpoint
from swarm.node.commands.control import ask, read_running
from swarm.node.home.config import NodeConfig, load_config, missing_data
from swarm.node.members.greetings import CLOCK_S

ASK_S = 10.0
FREE_BYTES = 2 << 30
"""Below it a round may fail: a model, its updates and the next one lie on the disk together."""

Result = Literal["good", "look", "wrong", "unknown"]


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at. `fix` is a command, or what to change; empty if all is well."""

    name: str
    result: Result
    found: str
    fix: str = ""


def examine(directory: Path) -> list[Check]:
    """Look at the node in `directory` and its machine. Blocks for `ASK_S` at most.

    Raises ConfigurationError if node.toml cannot be read: its sentence is the finding.
    """
    config = load_config(directory)
    home = shlex.quote(str(directory))
    checks = of_machine(directory, config)
    try:
        read_running(directory)
    except ConfigurationError:
        running = Check("node", "wrong", "no node runs here", f"swarm node start {home}")
        return [running, *_free_ports(directory, config), *checks]
    try:
        status = ask(directory, "status", ASK_S)
    except (ConfigurationError, LocalError) as error:
        fix = f"swarm node start {home} --log-level debug"
        return [Check("node", "wrong", str(error), fix), *checks]
    return [*of_status(status, home), *checks]


def of_machine(directory: Path, config: NodeConfig) -> list[Check]:
    """What can be seen without asking the node. Blocks on the disk."""
    return [_disk(directory), _gpu(directory, config), _data(directory, config)]


def of_status(status: Mapping[str, Any], home: str) -> list[Check]:
    """What a node's own status tells; `home` is its directory, as it is typed."""
    return [
        _node(status, home),
        _ports(status),
        _clock(status["peers"]),
        _peers(status, home),
        _chain(status),
        *_plans(status),
        _versions(status["peers"]),
        _box(status),
    ]


def _node(status: Mapping[str, Any], home: str) -> Check:
    notes = status["notes"]
    if notes:
        return Check("node", "look", "; ".join(notes), f"swarm node status {home}")
    return Check("node", "good", f"{status['name']} runs (process {status['pid']})")


def _ports(status: Mapping[str, Any]) -> Check:
    at = ", ".join(status["p2p"])
    peers = status["peers"]
    hidden = [p["name"] for p in peers if any("cannot be dialled" in note for note in p["notes"])]
    found = f"members dial {at}, programs {status['rpc_url']}"
    if hidden:
        found += f"; {', '.join(hidden)} cannot be dialled from here"
        return Check("ports", "look", found, "swarm node status --connected, at both institutions")
    return Check("ports", "good", found)


def _clock(peers: Sequence[Mapping[str, Any]]) -> Check:
    ahead = [peer["clock_s"] for peer in peers if peer["clock_s"] is not None]
    if not ahead:
        return Check("clock", "unknown", "no member has told the time yet")
    behind_s = statistics.median(ahead)
    if abs(behind_s) > CLOCK_S:
        way = "behind" if behind_s > 0 else "ahead of"
        found = f"this clock is {abs(behind_s):.1f} s {way} that of most members"
        return Check("clock", "wrong", found, "timedatectl set-ntp true")
    return Check("clock", "good", f"within {abs(behind_s):.1f} s of the members")


def _peers(status: Mapping[str, Any], home: str) -> Check:
    away = [peer["name"] for peer in status["peers"] if not peer["connected"]]
    found = f"{len(status['peers']) - len(away)} of {len(status['peers'])} connected"
    if away:
        found += f"; not connected: {', '.join(away)}"
        return Check("peers", "look", found, f"swarm node status {home} --connected")
    return Check("peers", "good", found)


def _chain(status: Mapping[str, Any]) -> Check:
    chain = status["chain"]
    found = f"block {status['height']}"
    if chain.get("waiting_for") and chain.get("round"):
        waits = ", ".join(chain["waiting_for"])
        fix = "have these members start their nodes: swarm node start"
        return Check("chain", "look", f"{found}; the next waits for {waits}", fix)
    return Check("chain", "good", found)


def _plans(status: Mapping[str, Any]) -> Iterator[Check]:
    said = False
    for number, name in status["asked"].items():
        said = True
        found = f"{name} waits for this institution"
        yield Check("plan", "look", found, f"swarm plan show {number}")
    for number, why in status["refused_plans"].items():
        said = True
        yield Check("plan", "wrong", f"plan {number}: {why}", f"swarm plan show {number}")
    for plan in status["plans"]:
        if plan.get("halted"):
            said = True
            found = f"plan {plan['id']} is not trained here any more: {plan['halted']}"
            yield Check("plan", "wrong", found, f"swarm plan show {plan['id']}")
    if not said:
        found = f"{len(status['plans'])} joined, none waits for this institution"
        yield Check("plan", "good", found)


def _versions(peers: Sequence[Mapping[str, Any]]) -> Check:
    own = version("swarm")
    others = {peer["name"]: peer["release"] for peer in peers if peer["release"]}
    different = [f"{n} has {r}" for n, r in others.items() if r != own]
    if different:
        found = f"this node has {own}, {', '.join(different)}"
        return Check("versions", "look", found, "pip install --upgrade swarm, where it is older")
    return Check("versions", "good", f"{own} here and at {len(others)} members")


def _box(status: Mapping[str, Any]) -> Check:
    reach = status["sandbox"]["reach"]
    if reach:
        found = f"plan code can reach {', and '.join(reach)}"
        return Check("box", "look", found, 'training.sandbox = "required" in node.toml')
    return Check("box", "good", "plan code reaches nothing but this site's data")


def _disk(directory: Path) -> Check:
    free = shutil.disk_usage(directory).free
    found = f"{free / 1e9:.1f} GB free in {directory}"
    if free < FREE_BYTES:
        fix = f"du -sh {shlex.quote(str(directory))}/*"
        return Check("disk", "wrong", f"{found}: a round may need more", fix)
    return Check("disk", "good", found)


def _gpu(directory: Path, config: NodeConfig) -> Check:
    device, found = config.training.device, contents.gpus()
    if found:
        return Check("gpu", "good", f"{', '.join(found[:3])}; training.device is {device!r}")
    if device in ("auto", "cpu"):
        return Check("gpu", "good", "none: plans are trained on the processor")
    fix = f'training.device = "auto" in {directory / "node.toml"}'
    return Check("gpu", "wrong", f"training.device is {device!r}, and this machine shows none", fix)


def _data(directory: Path, config: NodeConfig) -> Check:
    missing = missing_data(directory, config)
    if missing:
        return Check("data", "wrong", "; ".join(missing), f"ls -l {directory / 'node.toml'}")
    if config.data.path is None:
        return Check("data", "good", "none named: this site trains nothing")
    return Check("data", "good", f"{directory / config.data.path} is there")


def _free_ports(directory: Path, config: NodeConfig) -> Iterator[Check]:
    """Whether a node that does not run could listen where its node.toml says."""
    for where, host, port in _listened(config):
        if port == 0:  # any that is free
            continue
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except OSError as error:
                found = f"{where} in {directory / 'node.toml'}: {host}:{port}: {error.strerror}"
                yield Check("ports", "wrong", found, f"ss -ltnp 'sport = :{port}'")
            else:
                yield Check("ports", "good", f"{host}:{port} is free")


def _listened(config: NodeConfig) -> Iterator[tuple[str, str, int]]:
    for address in config.network.listen:
        endpoint = parse_endpoint(address)
        yield "network.listen", endpoint.host, endpoint.port
    host, _, port = config.http.listen.rpartition(":")
    yield "http.listen", host.strip("[]"), int(port)
