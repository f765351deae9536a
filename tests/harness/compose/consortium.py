"""The consortium of compose.yaml as its reader sees it: the commands in its comments, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.compose.engine import BUILD_S, COMMAND_S, Engine
from harness.compose.shell import Failed, wait_until

HEALTHY_S, ROUNDS_S, CONSENT_WINDOW_S = 180, 300, 60
COMPILERS = "cc gcc c++ g++ clang rustc"


class Consortium:
    """The services of one compose.yaml under one engine."""

    def __init__(self, engine: Engine, say: Callable[[str], None]) -> None:
        self.engine, self.say = engine, say
        file = engine.project / "compose.yaml"
        declared = yaml.safe_load(file.read_text())
        self.sites = [name for name, s in declared["services"].items() if "healthcheck" in s]
        self.name, self.steps = declared["name"], commented_commands(file)
        self.user = int(re.search(r"--uid (\d+)", (file.parent / "Dockerfile").read_text())[1])  # type: ignore[index]

    def container(self, site: str) -> str:
        return f"{self.name}_{site}_1"

    def step(self, word: str, within_s: float = COMMAND_S) -> str:
        """Run the commented command that holds `word`; what it prints."""
        (command,) = (step for step in self.steps if word in step)
        self.say("$ " + command.replace("\n", "\n> "))
        return self.engine.as_docker(command, within_s)

    def swarm(self, site: str, *arguments: str) -> str:
        return self.engine.podman("exec", self.container(site), "swarm", *arguments)

    def status(self, site: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.swarm(site, "node", "status", "--json"))
        return answer

    def check(self, site: str) -> tuple[bool, str]:
        """Whether the service's own health check passes, and what `swarm` says to it."""
        status, _ = self.engine.try_podman("healthcheck", "run", self.container(site))
        command = ["exec", self.container(site), "swarm", "node", "status", "--connected"]
        return status == 0, self.engine.try_podman(*command)[1]

    def wait_healthy(self) -> None:
        for site in self.sites:
            wait_until(f"{site} is healthy", HEALTHY_S, lambda s=site: self.check(s)[0])  # type: ignore[misc]

    def wait_completed(self, site: str, plan: int) -> dict[str, Any]:
        """Wait for a plan's last round; the plan as `site` sees it then."""

        def found() -> dict[str, Any]:
            (plan_there,) = (p for p in self.status(site)["plans"] if p["id"] == plan)
            return dict(plan_there)

        wait_until(
            f"plan {plan} is completed", ROUNDS_S, lambda: found()["status"] == "completed", 3.0
        )
        return found()

    # What a reader of compose.yaml is promised.

    def build_and_start(self) -> None:
        """One build for five services; no compiler and no root in the image; all become healthy."""
        shown = self.step("up --build", BUILD_S)
        builds = len(re.findall(rf"\bCOMMIT \S*{self.name}\b", shown))
        if builds != 1:
            raise Failed(f"{builds} builds of one image:\n{shown[-2000:]}")
        inside = f"id -u; for c in {COMPILERS}; do command -v $c || true; done"
        found = self.engine.podman("run", "--rm", "--network=none", self.name, "sh", "-c", inside)
        if found.split() != [str(self.user)]:
            raise Failed(f"the image runs as, and holds the compilers: {found.split()}")
        self.wait_healthy()
        self.say(f"one build, no compiler, user {self.user}; healthy: {', '.join(self.sites)}")

    def train(self) -> None:
        """Propose, consent, all rounds, evaluate: as the comments say."""
        self.say(self.step("plan propose").strip())
        self.say(self.step("plan consent").strip())
        plan = self.wait_completed(self.sites[1], 1)
        self.say(f"plan 1: {plan['status']}, round {plan['round']} of {plan['rounds']}")
        self.step("node status")
        self.say(self.step("model evaluate").rstrip())

    def stop_each(self) -> None:
        """Whichever is stopped ends with status 0, is missed by name, and the others go on."""
        for number, site in enumerate(self.sites):
            self._stop(site)
            others = [other for other in self.sites if other != site]
            self._see_missed(site, others)
            # Whoever is invited is waited for, and the one that is stopped cannot answer.
            arguments = [word for other in others for word in ("--invite", other)]
            arguments += ["--rounds", "3"] if number == 0 else ["--rounds", "1"]
            self.swarm(others[0], "plan", "propose", "/examples/heart", *arguments)
            plan = number + 2
            if number == 0:
                for other in others:
                    self.swarm(other, "plan", "consent", str(plan))
                done = self.wait_completed(others[0], plan)
                self.say(f"without {site}: {done['round']} rounds of plan {plan}")
            else:
                self.say(f"without {site}: the chain took plan {plan}")
            self.engine.podman("start", self.container(site))
            self.wait_healthy()
        self.say("all are healthy again")

    def _stop(self, site: str) -> None:
        self.engine.podman("stop", "--time", "20", self.container(site))
        code = self.engine.podman(
            "inspect", "--format", "{{.State.ExitCode}}", self.container(site)
        )
        if code.strip() != "0":
            raise Failed(f"{site} ended with {code.strip()} on SIGTERM")

    def _see_missed(self, site: str, others: list[str]) -> None:
        for other in others:
            wait_until(f"{other} misses {site}", 60, lambda o=other: not self.check(o)[0])  # type: ignore[misc]
            said = self.check(other)[1]
            if f"not connected to {site} (" not in said:
                raise Failed(f"{other} does not name {site}: {said}")

    def down(self) -> None:
        """Nothing of the project is left."""
        self.step("down --volumes")
        for kind in (["ps", "--all"], ["volume", "ls"]):
            left = self.engine.podman(*kind, "--quiet").split()
            if left:
                raise Failed(f"left after down --volumes: {kind[0]} {left}")


def commented_commands(file: Path) -> list[str]:
    """The shell commands in the comment at the top of compose.yaml, one string each."""
    indented = re.findall(r"^#     (.+)$", file.read_text(), re.MULTILINE)
    commands: list[str] = []
    in_loop = False
    for line in indented:
        if in_loop:
            commands[-1] += "\n" + line
        else:
            commands.append(line)
        in_loop = (in_loop or line.startswith("for ")) and line != "done"
    return commands
