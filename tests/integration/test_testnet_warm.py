"""What a testnet's nodes and trainers are forked from: a fork is what a process of its own is."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from harness.plans import write_tiny_plan

from swarm.box import process
from swarm.box.description import Report
from swarm.errors import LocalError
from swarm.learning.supervisor.supervisor import TrainerConfig, open_trainer
from swarm.testnet.warm import Fork, ForkedLaunching, ForkedProcess, WarmProcess, start_node

END_S = 60.0
Start = Callable[..., tuple[ForkedProcess, Path]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def started(*arguments: object) -> tuple[ForkedProcess, Path]:
        log = tmp_path / "log"
        with log.open("wb") as output:
            return start_node([str(a) for a in arguments], os.environ, output.fileno()), log

    return started


def held_open(pid: int) -> list[str]:
    return sorted(os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_a_fork_runs_the_command_and_tells_how_it_ended(start: Start, tmp_path: Path) -> None:
    ended, log = start("node", "status", tmp_path)
    assert ended.wait(END_S) == 2
    assert ended.poll() == 2
    assert f"no node runs in {tmp_path}" in log.read_text()
    help_, log = start("--help")
    assert help_.wait(END_S) == 0
    assert "Usage: swarm" in log.read_text()


@pytest.fixture
def waiting(start: Start, tmp_path: Path) -> Iterator[ForkedProcess]:
    """A fork that waits: for a reader of what it is to read."""
    os.mkfifo(tmp_path / "card")
    process, _ = start("network", "found", tmp_path / "card", "--time", 0)
    while b"found" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
        assert process.poll() is None
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait(END_S)


def test_a_fork_has_the_command_line_and_the_environment_of_a_process_of_its_own(
    waiting: ForkedProcess, tmp_path: Path
) -> None:
    found = Path(f"/proc/{waiting.pid}")
    line = (found / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert (
        line[1:]
        == b"-P -m swarm network found CARD --time 0".replace(
            b"CARD", os.fsencode(tmp_path / "card")
        ).split()
    )
    assert os.getsid(waiting.pid) == waiting.pid
    assert os.readlink(found / "cwd") == str(Path.cwd())


def test_a_fork_holds_nothing_open_of_the_process_that_it_came_from(
    waiting: ForkedProcess, tmp_path: Path
) -> None:
    *files, trainers = held_open(waiting.pid)
    assert files == ["/dev/null", str(tmp_path / "log"), str(tmp_path / "log")]
    assert trainers.startswith("socket:")


def test_a_signal_ends_a_fork_and_its_number_is_told(waiting: ForkedProcess) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.01)
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGKILL)
    assert waiting.wait(END_S) == -signal.SIGKILL


def test_a_fork_outlives_the_process_that_it_came_from(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "card")
    parent = WarmProcess("node")
    fork = Fork(("network", "found", str(tmp_path / "card"), "--time", "0"), "/", dict(os.environ))
    trainers, of_nobody = socket.socketpair()
    with (tmp_path / "log").open("wb") as output, trainers, of_nobody:
        forked = parent.asking.fork(fork, (output.fileno(), trainers.fileno()))
    parent.close()
    parent.wait()
    os.kill(forked.pid, signal.SIGKILL)
    with pytest.raises(LocalError, match="the process that it comes from ended"):
        parent.asking.fork(fork, ())


def test_what_is_forked_from_keeps_no_reader_of_the_command_waiting(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from swarm.testnet.warm import start_node\n"
        "with open(os.devnull, 'wb') as output:\n"
        "    forked = start_node(sys.argv[1:], os.environ, output.fileno())\n"
        "print(forked.pid)"
    )
    os.mkfifo(tmp_path / "card")
    done = subprocess.run(
        [sys.executable, "-c", script, "network", "found", str(tmp_path / "card"), "--time", "0"],
        check=True, capture_output=True, text=True, timeout=END_S,
    )  # fmt: skip
    assert done.stderr == ""
    os.kill(int(done.stdout), signal.SIGKILL)


LOOKING = """
        import json, os, pathlib, re, resource, sys, threading
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        told = ("Uid", "Gid", "Groups", "Sig", "Shd", "Cap", "NoNew", "Seccomp", "NSpid", "Umask")
        numbers = [n for n in dir(resource) if n.startswith("RLIMIT")]
        secret = re.compile(b"[c]orrect-[h]orse")
        memory, found = open("/proc/self/mem", "rb", 0), []
        for line in pathlib.Path("/proc/self/maps").read_text().splitlines():
            ends, rights, _, _, _, *name = line.split(maxsplit=5)
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in ends.split("-"))
                memory.seek(start)
                found += [name] if secret.search(memory.read(end - start)) else []
        memory.close()
        print("seen", json.dumps({
            "status": [line for line in status if line.startswith(told)],
            "limits": [resource.getrlimit(getattr(resource, n)) for n in numbers],
            # torch's compiler notes its folder there, whenever it is imported.
            "environment": sorted((name, value) for name, value in os.environ.items()
                                  if name != "TORCHINDUCTOR_CACHE_DIR"),
            "command": pathlib.Path("/proc/self/cmdline").read_text().rstrip(chr(0)).split(chr(0)),
            "open": sorted(re.sub(r"[0-9]+", "N", os.readlink(f"/proc/self/fd/{n}"))
                           for n in os.listdir("/proc/self/fd") if int(n) < 99 and
                           os.path.exists(f"/proc/self/fd/{n}")),
            "folder": os.getcwd(),
            "arguments": sys.argv[1:],
            "flags": str(sys.flags),
            "path": [folder for folder in sys.path if os.path.exists(folder)],
            "main": sys.modules["__main__"].__spec__.name,
            "threads": sorted(t.name for t in threading.enumerate()),
            "processes": sorted(n for n in os.listdir("/proc") if n.isdigit()),
            "dumpable": os.stat("/proc/self/fd").st_uid,
            "secret": found,
        }), flush=True)
"""


def seen_by_plan(folder: Path) -> tuple[dict[str, Any], Report]:
    """What a plan's code finds in its process, and which walls stand around it."""
    found: list[Report] = []

    async def run() -> None:
        async with open_trainer(settings) as trainer:
            assert (await trainer.count_samples()).train == 30
            assert trainer._process is not None
            found.append(trainer._process.boxed.report)

    folder.mkdir()
    plan = write_tiny_plan(folder / "plan", ("        table = ", LOOKING + "        table = "))
    settings = TrainerConfig(
        plan=plan,
        site="site0",
        workspace=folder / "trainer" / "digest",
        data=plan / "data" / "site0.csv",
        log=folder / "trainer.log",
    )
    trio.run(run)
    log = (folder / "trainer.log").read_text()
    line = next(line for line in log.splitlines() if line.startswith("seen "))
    return json.loads(line.removeprefix("seen ").replace(str(folder), "HOME")), found[0]


def test_a_forked_trainer_is_what_an_executed_one_is_behind_the_same_walls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_PASSWORD", "correct-horse")
    executed, walls = seen_by_plan(tmp_path / "executed")
    parent = WarmProcess("trainer")
    with parent.connect() as connection:
        monkeypatch.setattr(process, "launching", ForkedLaunching(connection))
        forked, others = seen_by_plan(tmp_path / "forked")
    parent.close()
    parent.wait()
    assert others.stand == walls.stand
    assert others.missing == walls.missing
    assert forked["secret"] == []
    # The numbers of descriptors and processes are whatever was free.
    for told in (executed, forked):
        told["command"] = [re.sub(r"=[0-9]+$", "=N", part) for part in told["command"]]
        told["arguments"] = [re.sub(r"=[0-9]+$", "=N", part) for part in told["arguments"]]
    assert forked == executed
