"""What a newcomer does first: a plan from the documentation, a mistake in it, Ctrl-C."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from harness.plans import write_tiny_plan

DOCS = Path(__file__).parents[2] / "docs"


def write_patients(path: Path, seed: int) -> None:
    """A table that no example knows: gaps, words, and a label."""
    draw = random.Random(seed)
    lines = ["age,crp,ward,died"]
    for _ in range(60):
        age, crp = draw.randint(18, 95), draw.choice([f"{draw.uniform(0, 80):.1f}", ""])
        ward = draw.choice(["general", "icu"])
        risk = age / 100 + float(crp or 20) / 80 + (ward == "icu") * 0.4
        lines.append(f"{age},{crp},{ward},{int(risk + draw.gauss(0, 0.2) > 1.1)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_a_plan_from_the_documentation_works_at_first_try(swarm: Any, tmp_path: Path) -> None:
    text = (DOCS / "plans.md").read_text()
    code = re.search(r"<!-- file: sepsis/plan\.py -->\n```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    plan = tmp_path / "sepsis"
    for seed, name in enumerate(("north", "south", "west")):
        write_patients(plan / "data" / f"{name}.csv", seed)
    (plan / "plan.py").write_text(code[1])
    report_file = tmp_path / "report.json"
    swarm("testnet", "run", plan, "--rounds", 3, "--out", tmp_path / "out", "--json", report_file)
    report = json.loads(report_file.read_text())
    assert report["plan"] == "Sepsis"
    assert [site["name"] for site in report["sites"]] == ["north", "south", "west"]
    assert len(report["rounds"]) == 4
    assert 0 <= report["swarm"]["auc"] <= 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("        return nn.Sequential(", "        raise ValueError('b')\n        return ("),
            "plan.py:14 in model",
        ),
        (('table.numbers("a", "b")', 'table.numbers("a", "z")'), "has no column 'z'"),
        (("    rounds = 3\n", "    rounds = 3\n    min_peers = 9\n"), "min_peers is 9"),
    ],
)
def test_a_plan_that_cannot_start_leaves_nothing_behind(
    swarm: Any,
    tmp_path: Path,
    processes_of: Callable[[Path], list[psutil.Process]],
    change: tuple[str, str],
    words: str,
) -> None:
    plan = write_tiny_plan(tmp_path / "tiny", change)
    done = swarm("testnet", "up", plan, "--dir", tmp_path / "net", status=2)
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert processes_of(tmp_path) == []
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_a_loss_that_is_nan_ends_the_run_with_one_sentence(swarm: Any, tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path / "tiny", ("return nn.func", "return float('nan') * nn.func"))
    done = swarm("testnet", "run", plan, "--out", tmp_path / "out", status=2)
    assert re.fullmatch(
        r"Error: site[01]: plan\.py:\d+ in loss: the loss is nan in round 1.*\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_nodes(
    tmp_path: Path,
    slow_plan: Path,
    processes_of: Callable[[Path], list[psutil.Process]],
    all_ended: Callable[[list[psutil.Process]], bool],
    wait_until: Callable[..., None],
    number: signal.Signals,
) -> None:
    nodes = tmp_path / "nodes"
    options = ["--keep", str(nodes), "--out", str(tmp_path / "out")]
    run = subprocess.Popen(
        [sys.executable, "-m", "swarm", "testnet", "run", str(slow_plan), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until("the nodes are up", lambda: len(list(nodes.glob("*/running.json"))) == 3)
    wait_until("a trainer is up", lambda: len(processes_of(nodes)) > 4)
    started = processes_of(nodes)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "Traceback" not in said
    wait_until("all have ended", lambda: all_ended(started), 10)
