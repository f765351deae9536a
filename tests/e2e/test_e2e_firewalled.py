"""Members that cannot be dialled, in namespaces of their own: rounds go on as if they could.

`python -m tests.campaigns whole` prints what their rounds cost beside those of members that can
all be dialled.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from harness.faults.wires import why_not
from harness.plans import write_tiny_plan
from harness.whole import is_whole

COMMAND = (sys.executable, "-m", "harness.faults")
FAULTS = """\
about = "Firewalled: {firewalled}."
plan = "tiny"
rounds = {rounds}
namespaces = true
firewalled = {firewalled}
deadline_s = 120
"""


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_with_one_or_two_firewalled_members_every_round_is_final_and_nobody_is_left_out(
    tmp_path: Path,
) -> None:
    write_tiny_plan(tmp_path / "tiny", ("epochs = 3", "epochs = 1"), sites=4)
    open_s = 0.0
    for firewalled in ([], [1], [1, 3]) if is_whole() else ([1, 3],):
        file, result = tmp_path / "faults.toml", tmp_path / "outcome.json"
        file.write_text(FAULTS.format(firewalled=firewalled, rounds=6 if is_whole() else 3))
        done = subprocess.run(
            [*COMMAND, "--plan", file, "--json", result],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (outcome,) = json.loads(result.read_text())
        if firewalled:
            assert "nobody is left out of any round" in [c["what"] for c in outcome["checks"]]
        median_s = statistics.median(outcome["round_s"].values())
        open_s = open_s or median_s
        print(f"{len(firewalled)} firewalled: {median_s:.2f} s a round, × {median_s / open_s:.2f}")
