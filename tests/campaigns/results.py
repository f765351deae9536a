"""The results that are kept: made by `record`, looked at by `check`."""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Campaign:
    """One entry of campaigns.toml."""

    name: str
    about: str
    tool: str
    arguments: tuple[str, ...]
    paths: tuple[str, ...]

    @property
    def result_path(self) -> Path:
        return RESULTS / f"{self.name}.json"


def campaigns() -> dict[str, Campaign]:
    """All that campaigns.toml lists."""
    listed = tomllib.loads((HERE / "campaigns.toml").read_text())
    return {
        name: Campaign(name, e["about"], e["tool"], tuple(e["arguments"]), tuple(e["paths"]))
        for name, e in listed.items()
    }


def record(campaign: Campaign, run: Callable[[str, list[str]], int]) -> bool:
    """Run a campaign and keep its result; whether it held. Raises SystemExit on a changed tree."""
    changed = _git("status", "--porcelain", "--", *campaign.paths)
    if changed:
        raise SystemExit(f"{campaign.name}: commit first what has changed:\n{changed}")
    commit, began = _git("rev-parse", "HEAD"), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "outcome.json"
        status = run(campaign.tool, [*campaign.arguments, "--json", str(told)])
        outcome: Any = json.loads(told.read_text()) if told.exists() else None
    result = {
        "campaign": campaign.name,
        "about": campaign.about,
        "command": " ".join(["python -m tests.campaigns", campaign.tool, *campaign.arguments]),
        "commit": commit,
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "seconds": round(time.monotonic() - began),
        "holds": status == 0 and outcome is not None,
        "outcome": outcome,
    }
    RESULTS.mkdir(exist_ok=True)
    campaign.result_path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return bool(result["holds"])


def fault_of(campaign: Campaign) -> str | None:
    """Why what is kept says nothing for this commit; None if it does."""
    if not campaign.result_path.exists():
        return "there is no result"
    result = json.loads(campaign.result_path.read_text())
    if not result["holds"]:
        return f"it did not hold at {result['commit'][:8]}"
    try:
        stale = _git("diff", "--name-only", result["commit"], "HEAD", "--", *campaign.paths)
    except subprocess.CalledProcessError:
        return f"its commit {result['commit'][:8]} is not in this history"
    if stale:
        first, *others = stale.splitlines()
        more = f" and {len(others)} more" if others else ""
        return f"{first}{more} changed since {result['commit'][:8]}"
    return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
