"""How much of a long test is done: in CI a part of it, and all of it by a command of its own.

`python -m tests.campaigns whole` runs the tests that ask here, with SWARM_WHOLE set.
"""

from __future__ import annotations

import os
import subprocess
import sys

VARIABLE = "SWARM_WHOLE"
TESTS = (
    "tests/e2e/test_e2e_firewalled.py",
    "tests/e2e/test_e2e_new_user.py",
    "tests/integration/test_trainer_ranks.py",
    "tests/contracts/test_contract_stateful.py",
    "tests/simulation/test_rounds_joint.py",
    "tests/unit/test_heart_example.py",
    "tests/unit/test_stroke_plan.py",
    "tests/unit/test_tuberculosis_plan.py",
)


def is_whole() -> bool:
    """Whether all of it is wanted."""
    return os.environ.get(VARIABLE) == "1"


def main(arguments: list[str]) -> int:
    """The campaign: pytest's exit status. `arguments` are handed to pytest."""
    command = [sys.executable, "-m", "pytest", "-q", "-rP", "--durations=10", *TESTS, *arguments]
    everything = {**os.environ, VARIABLE: "1"}
    with subprocess.Popen(command, env=everything, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
    return tests.returncode
