"""A small run of the fault runner: a leader, a proposer, and the network between two halves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.faults.wires import why_not
from harness.plans import write_tiny_plan

COMMAND = (sys.executable, "-m", "harness.faults")
FAULTS = """\
about = "A leader dies, a proposer dies, two halves are cut apart: six rounds all the same."
plan = "tiny"
rounds = 6
namespaces = true
deadline_s = 150

[[fault]]
do = "kill"
who = ["leader"]
when = { round = 1, phase = "closed" }
for_s = 0.5

[[fault]]
do = "kill"
who = ["proposer"]
when = { round = 3 }
for_s = 0.5

[[fault]]
do = "cut"
groups = [[0, 1], [2, 3]]
when = { round = 5 }
for_s = 4

[at_least]
kills = 2
proposer_kills = 1
restarts = 2
cuts = 1

[at_most]
moved_s = 20
"""


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_dead_leader_a_dead_proposer_and_a_split_cost_seconds_and_nothing_else(
    tmp_path: Path,
) -> None:
    write_tiny_plan(tmp_path / "tiny", ("epochs = 3", "epochs = 1"), sites=4)
    (tmp_path / "faults.toml").write_text(FAULTS)
    done = subprocess.run(
        [*COMMAND, *("--plan", tmp_path / "faults.toml", "--json", tmp_path / "outcome.json")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = json.loads((tmp_path / "outcome.json").read_text())
    assert_sound(outcome)


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_an_interrupted_fault_run_leaves_neither_processes_nor_namespaces(
    tmp_path: Path,
    processes_of: Callable[[Path], list[psutil.Process]],
    all_ended: Callable[[list[psutil.Process]], bool],
    wait_until: Callable[..., None],
) -> None:
    write_tiny_plan(tmp_path / "tiny", sites=2)
    text = FAULTS[: FAULTS.index("[[fault]]")]
    (tmp_path / "faults.toml").write_text(text)
    run = subprocess.Popen(
        [*COMMAND, "--plan", tmp_path / "faults.toml", "--keep", tmp_path / "kept"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("nodes are up", lambda: list((tmp_path / "kept").glob("**/running.json")))
    assert f"sw{run.pid}n0" in namespaces()
    started = [p for p in processes_of(tmp_path / "kept") if p.pid != run.pid]
    run.send_signal(signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in said
    assert all_ended(started)
    assert f"sw{run.pid}" not in namespaces()


def namespaces() -> str:
    """Names, one a line."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return done.stdout


def assert_sound(outcome: dict[str, Any]) -> None:
    assert outcome["ok"], outcome
    assert set(outcome["round_s"]) == {
        str(number) for number in range(2, 8)
    }  # statistics came first
    words = " ".join(check["what"] for check in outcome["checks"])
    for promise in ("one final model a round", "one block a height: 4 replicas", "4 nodes end"):
        assert promise in words
