"""A plan with a role on real nodes: its holder dies in the middle of a round, and all goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness.faults.wires import why_not
from harness.plans import write_tiny_plan
from harness.split_plan import CUT

FAULTS = """\
about = "The holder of the role dies in the middle of a round, and a second later starts again."
plan = "split"
rounds = 3
deadline_s = 200

[[fault]]
do = "kill"
who = ["holder"]
when = { round = 2, phase = "open", after_s = 3 }
for_s = 1

[at_least]
kills = 1
restarts = 1
"""
LOOP = "            for x, y in context.batches(data.train, epoch):\n"
SLOW = (LOOP, f"{LOOP}                time.sleep(0.3)\n")
TIME = ("import torch\n", "import time\n\nimport torch\n")


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_death_of_a_holder_costs_seconds_and_the_record_names_it(tmp_path: Path) -> None:
    write_tiny_plan(tmp_path / "split", CUT, SLOW, TIME, sites=3)
    (tmp_path / "faults.toml").write_text(FAULTS)
    options = ("--plan", "faults.toml", "--keep", "kept", "--json", "outcome.json")
    done = subprocess.run(
        [sys.executable, "-m", "harness.faults", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [
        {r["round"]: r for r in map(json.loads, file.read_text().splitlines())}
        for file in sorted((tmp_path / "kept").rglob("plan-1.jsonl"))
    ]
    assert all(each[number]["model"] for each in records for number in (2, 3, 4))
    faults = [t["fault"] for each in records for r in each.values() for t in r["talks"].values()]
    assert any(faults), "nobody noticed"
    told = [t for each in records for r in each.values() for t in r["talks"].values()]
    assert max(talk["questions"] for talk in told) == 13
