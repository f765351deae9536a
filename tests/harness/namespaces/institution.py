"""An institution as its operator sees it: a machine, a directory, the commands of the docs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.compose.shell import Failed, run, try_to_run, wait_until
from harness.faults.wires import Wires

COMMAND_S, UP_S, STOP_S, SAID_S, LOOK_S = 120.0, 120.0, 60.0, 30.0, 0.5
WRONG_CLOCK = Path(__file__).parents[1] / "wrong_clock.py"
SETTINGS = os.environ | {"PYTHONPATH": "", "SWARM_NODE": ""}


class Institution:
    """`bin_` holds the programs of an environment in which swarm was installed."""

    def __init__(self, wires: Wires, machine: int, bin_: Path, home: Path, name: str) -> None:
        self.wires, self.machine, self.name = wires, machine, name
        self.home = home
        self._bin = bin_
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0

    @property
    def log(self) -> Path:
        return self.home.parent / f"{self.home.name}.log"

    # What its operator types.

    def swarm(self, *words: object, within_s: float = COMMAND_S) -> str:
        """What the command prints. Raises Failed."""
        return run(self._command(words), within_s, environment=SETTINGS, cwd=self.home.parent)

    def refused(self, *words: object) -> str:
        """What the command says that must not pass: one sentence. Raises Failed."""
        told = self._command(words)
        status, shown = try_to_run(
            told, COMMAND_S, environment=SETTINGS, cwd=self.home.parent
        )  # fmt: skip
        if status == 0 or "Traceback" in shown:
            raise Failed(f"{' '.join(told)} ended with {status}:\n{shown}")
        return shown

    def make(self, data: Path) -> None:
        listen = self.wires.listen(self.machine)
        self.swarm(
            "init", self.home, "--name", self.name, "--data", data, "--listen", listen,
            "--announce", listen, "--unattended", "--http", "127.0.0.1:8545",
        )  # fmt: skip

    def start(self, clock_ahead_s: float = 0.0) -> None:
        """As a supervisor does; what it logs goes to a file. Returns when the node answers."""
        words: list[object] = ["node", "start", self.home]
        program = [str(self._bin / "swarm")]
        if clock_ahead_s:
            program = [str(self._bin / "python"), "-P", str(WRONG_CLOCK), str(clock_ahead_s)]
        with self.log.open("ab") as log:
            self._read_from = log.tell()
            self._process = subprocess.Popen(
                [*self.wires.within(self.machine), *program, *map(str, words)], env=SETTINGS,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

        wait_until(f"{self.name}'s node answers", UP_S, self._answers, every_s=LOOK_S)

    def _answers(self) -> bool:
        words = self._command(["node", "status", self.home])
        return try_to_run(words, COMMAND_S, environment=SETTINGS)[0] == 0

    def stop(self) -> None:
        """SIGTERM; nothing if it does not run. Raises Failed unless it ends well and soon."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGTERM)
        try:
            status = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
            raise Failed(f"{self.name} has not ended within {STOP_S:.0f} s") from None
        if status not in (0, -signal.SIGTERM, 128 + signal.SIGTERM):
            raise Failed(f"{self.name} ended with {status}: see {self.log}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_S)
            self._process = None

    def edit(self, pattern: str, text: str) -> None:
        """Change its node.toml."""
        path = self.home / "node.toml"
        changed, count = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
        if count != 1:
            raise Failed(f"{path} has {count} places like {pattern!r}")
        path.write_text(changed)

    # What its operator sees.

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.swarm("node", "status", self.home, "--json"))
        return answer

    def read_from_here(self) -> None:
        """What was logged before does not count from now on."""
        self._read_from = self.log.stat().st_size if self.log.exists() else 0

    def told(self) -> str:
        """`swarm node status`, and what the node has logged since its start, or was read."""
        _, shown = try_to_run(
            self._command(["node", "status", self.home]), COMMAND_S, environment=SETTINGS
        )
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return shown + log.read().decode(errors="replace")

    def says(self, pattern: str, within_s: float = SAID_S) -> tuple[float, str]:
        """Until `told` has a line like `pattern`: the seconds that it took, and that line."""
        began = time.monotonic()
        while True:
            shown = self.told()
            for line in shown.splitlines():
                if re.search(pattern, line):
                    return time.monotonic() - began, line.strip()
            if time.monotonic() - began > within_s:
                raise Failed(
                    f"{self.name} says nothing like {pattern!r} within {within_s:.0f} s, but\n"
                    f"{shown[-4000:]}"
                )
            time.sleep(LOOK_S)

    def _command(self, words: object) -> list[str]:
        assert isinstance(words, list | tuple)
        program = str(self._bin / "swarm")
        return [*self.wires.within(self.machine), program, *map(str, words)]
