"""compose.yaml and what it starts, checked by what needs no container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from harness.compose.consortium import commented_commands

from swarm.cli import main as swarm_command
from swarm.network.tcp import parse_endpoint
from swarm.node.home.config import load_config, missing_data

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SITES = ("cleveland", "budapest", "zurich-basel", "long-beach")
SERVICES = COMPOSE["services"]


def parse(arguments: list[str]) -> None:
    """Have click parse a command line of swarm as far as its last command, and run nothing."""
    command: click.Command = swarm_command
    context = command.make_context("swarm", list(arguments), resilient_parsing=True)
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, context._protected_args + context.args)
        assert found is not None
        assert name is not None
        leaf = not isinstance(found, click.Group)
        context = found.make_context(name, rest, parent=context, resilient_parsing=leaf)
        command = found
    known = {option for p in command.params for option in p.opts}
    given = {a.split("=")[0] for a in arguments if a.startswith("--")}
    assert given <= known, f"{arguments}: {given - known}"


def mounts(service: str) -> dict[str, str]:
    """Source → place in the container."""
    return dict(entry.split(":")[:2] for entry in SERVICES[service]["volumes"])


def test_every_lasting_service_is_a_node_and_found_ends_before_they_start():
    assert set(SERVICES) == {"found", *SITES}
    for site in SITES:
        assert SERVICES[site]["command"][:3] == ["swarm", "node", "start"]
        after = SERVICES[site]["depends_on"]
        assert after == {"found": {"condition": "service_completed_successfully"}}
    assert "restart" not in SERVICES["found"]


def test_one_service_builds_the_image_and_the_others_take_it():
    assert [name for name, service in SERVICES.items() if "build" in service] == ["found"]
    assert {service["image"] for service in SERVICES.values()} == {"swarm"}
    assert all(SERVICES[site]["pull_policy"] == "never" for site in SITES)


def test_containers_leave_a_node_what_it_builds_the_box_of_and_no_capability():
    for service in SERVICES.values():
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert {"seccomp=unconfined", "systempaths=unconfined"} <= set(service["security_opt"])
        assert service["pids_limit"] > 2048


@pytest.mark.parametrize("site", SITES)
def test_a_service_name_is_a_host_name_that_the_nodes_can_dial(site):
    assert parse_endpoint(f"/dns4/{site}/tcp/4001").host == site


def test_a_nodes_health_check_fails_unless_every_other_member_is_connected():
    for site in SITES:
        check = SERVICES[site]["healthcheck"]["test"]
        assert check == ["CMD", "swarm", "node", "status", "/node", "--connected"]


def test_the_nodes_differ_in_nothing_but_their_own_directory_configuration_and_rows():
    def without_volumes(site):
        return {key: value for key, value in SERVICES[site].items() if key != "volumes"}

    assert all(without_volumes(site) == without_volumes(SITES[0]) for site in SITES)
    places = [sorted(mounts(site).values()) for site in SITES]
    assert all(place == places[0] for place in places)


@pytest.mark.parametrize("site", SITES)
def test_a_node_sees_its_own_volume_its_own_configuration_and_only_its_own_rows(site):
    assert set(mounts(site)) == {
        site,
        f"./node_configs/testnet/{site}.toml",
        f"./examples/heart/data/{site.replace('-', '_')}.csv",
    }
    for source in mounts(site):
        assert not source.startswith(".") or (ROOT / source).is_file(), source


def test_every_volume_is_declared_and_nothing_is_published_on_the_host():
    named = {source for s in SERVICES for source in mounts(s) if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    assert not any("ports" in service for service in SERVICES.values())


def test_every_swarm_command_of_compose_and_its_health_checks_is_one_that_exists():
    commands = [service["command"] for service in SERVICES.values()]
    commands += [s["healthcheck"]["test"][1:] for s in SERVICES.values() if "healthcheck" in s]
    commands += re.findall(r"swarm (?:plan|node|model) [^\n]+", (ROOT / "compose.yaml").read_text())
    for command in commands:
        words = command.split() if isinstance(command, str) else command
        if words[0] == "swarm":
            parse(words[1:])


def test_the_parser_of_these_tests_refuses_what_does_not_exist():
    with pytest.raises((click.UsageError, AssertionError)):
        parse(["node", "begin", "/node"])
    with pytest.raises(AssertionError):
        parse(["init", "/node", "--secret", "x"])


def test_the_campaign_that_really_runs_compose_finds_the_commands_of_its_comment():
    commands = commented_commands(ROOT / "compose.yaml")
    words = ("up --build", "plan propose", "plan consent", "node status", "evaluate", "down")
    assert len(commands) == len(words)
    assert all(word in command for word, command in zip(words, commands, strict=True))
    assert commands[2].splitlines()[0].startswith("for site in")
    assert commands[2].splitlines()[-1] == "done"


def test_what_the_dockerfile_copies_exists_and_is_let_through():
    text = (ROOT / "Dockerfile").read_text()
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    for sources in re.findall(r"^COPY (?!--from=)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in let_through
    assert "\nUSER swarm" in text
    for site in SITES:
        assert f"/nodes/{site}" in text
    assert "examples/*/data" in let_through


@pytest.mark.skipif(shutil.which("sh") is None, reason="found.sh is a script for sh")
def test_found_makes_four_nodes_of_one_network_and_changes_nothing_when_run_again(tmp_path):
    program = tmp_path / "bin"
    program.mkdir()
    (program / "swarm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m swarm "$@"\n')
    (program / "swarm").chmod(0o755)
    nodes = tmp_path / "nodes"
    environment = os.environ | {"NODES": str(nodes), "PATH": f"{program}:{os.environ['PATH']}"}

    def found() -> dict[str, bytes]:
        script = ROOT / "node_configs" / "found.sh"
        subprocess.run(
            ["sh", str(script)], env=environment, cwd=tmp_path, check=True, timeout=120,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return {str(p.relative_to(nodes)): p.read_bytes() for p in nodes.rglob("*") if p.is_file()}

    made = found()
    networks = {made[f"{site}/network.json"] for site in SITES}
    assert len(networks) == 1
    founders = json.loads(networks.pop())["founders"]
    assert {f["name"]: f["addresses"] for f in founders} == {
        site: [f"/dns4/{site}/tcp/4001"] for site in SITES
    }
    assert len({made[f"{site}/key.json"] for site in SITES}) == 4
    assert found() == made


def test_a_node_without_its_rows_says_what_it_misses(tmp_path):
    shutil.copy(ROOT / "node_configs/testnet/cleveland.toml", tmp_path / "node.toml")
    [missing] = missing_data(tmp_path, load_config(tmp_path))
    assert "does not exist" in missing
