"""What an attacker gets out of a plan, with and without differential privacy.

The attacks need torch, and so run in a process of their own (`swarm.learning.attacks.measure`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import UNREADABLE, LocalError, PlanError
from swarm.privacy.guarantee import Guarantee

LONGEST_S = 6 * 3600


def measure_privacy(
    folder: Path, seeds: Sequence[int], privacy: Guarantee | None
) -> list[dict[str, Any]]:
    """Attack the plan in a folder, on the rows that lie beside it. Raises PlanError, LocalError."""
    job = {"folder": str(folder.resolve()), "seeds": list(seeds), "privacy": privacy}
    command = [sys.executable, "-P", "-m", "swarm.learning.attacks.measure"]
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(job), capture_output=True, timeout=LONGEST_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"the attacks on {folder} were not carried out: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise PlanError(f"{folder} cannot be attacked: {lines[-1]}")
    try:
        found: list[dict[str, Any]] = msgspec.json.decode(done.stdout)
    except UNREADABLE as error:
        raise LocalError(f"the attacks on {folder} gave no figures: {error}") from error
    return found
