"""The results that are kept: made by `record`, looked at by `check`.

A result covers the commit that it was made at. What changed since in the campaign's paths may go
without a new one for GRACE_DAYS, counted by the dates of commits: campaigns take hours, and are run
after changes have landed. A campaign that has no result yet must say why (`planned`); one that has
is judged by it, whatever it says.
"""

from __future__ import annotations

import io
import json
import platform
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results"
GRACE_DAYS = 7
KEPT_LINES = 40
"""Of what a tool prints."""


@dataclass(frozen=True)
class Campaign:
    """One entry of campaigns.toml."""

    name: str
    about: str
    tool: str
    arguments: tuple[str, ...]
    paths: tuple[str, ...]
    tells: Literal["json", "words"] = "json"
    """What is kept of it: the file that the tool writes, or the end of what it prints."""
    planned: str | None = None
    """Why there is no result yet."""

    @property
    def command(self) -> str:
        return " ".join(["python -m tests.campaigns", self.tool, *self.arguments])

    @property
    def result_path(self) -> Path:
        return RESULTS / f"{self.name}.json"


def campaigns() -> dict[str, Campaign]:
    """All that campaigns.toml lists."""
    listed = tomllib.loads((HERE / "campaigns.toml").read_text())
    return {
        name: Campaign(
            name,
            e["about"],
            e["tool"],
            tuple(e["arguments"]),
            tuple(e["paths"]),
            e.get("tells", "json"),
            e.get("planned"),
        )
        for name, e in listed.items()
    }


def record(campaign: Campaign, run: Callable[[str, list[str]], int]) -> bool:
    """Run a campaign and keep its result; whether it held. Raises SystemExit on a changed tree."""
    changed = _git("status", "--porcelain", "--", *campaign.paths)
    if changed:
        raise SystemExit(f"{campaign.name}: commit first what has changed:\n{changed}")
    commit, began = _git("rev-parse", "HEAD"), time.monotonic()
    status, outcome = _run(campaign, run)
    result = {
        "campaign": campaign.name,
        "about": campaign.about,
        "command": campaign.command,
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


def _run(campaign: Campaign, run: Callable[[str, list[str]], int]) -> tuple[int, Any]:
    """The tool's exit status, and what is kept of it."""
    if campaign.tells == "words":
        printed = _Tee()
        with redirect_stdout(printed):
            status = run(campaign.tool, list(campaign.arguments))
        return status, printed.text.splitlines()[-KEPT_LINES:]
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "outcome.json"
        status = run(campaign.tool, [*campaign.arguments, "--json", str(told)])
        return status, json.loads(told.read_text()) if told.exists() else None


class _Tee(io.TextIOBase):
    """Shows what is printed, and keeps it."""

    def __init__(self) -> None:
        self.text = ""
        self._shown = sys.stdout

    def write(self, text: str) -> int:
        self.text += text
        return self._shown.write(text)

    def flush(self) -> None:
        self._shown.flush()


def can_tell() -> bool:
    """Whether this is a repository with its whole history."""
    try:
        return _git("rev-parse", "--is-shallow-repository") == "false"
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False


def fault_of(campaign: Campaign, grace_days: float = GRACE_DAYS) -> str | None:
    """Why what is kept says nothing for this commit; None if it does. Without a history, all but
    its age is looked at."""
    for path in campaign.paths:
        if not (ROOT / path).exists():
            return f"it covers {path}, which does not exist"
    if not campaign.result_path.exists():
        return "there is no result" if campaign.planned is None else None
    result = json.loads(campaign.result_path.read_text())
    if not result["holds"]:
        return f"it did not hold at {result['commit'][:8]}"
    if result["command"] != campaign.command:
        return f"its result is of `{result['command']}`, not of `{campaign.command}`"
    return _age_of(campaign, result["commit"], grace_days) if can_tell() else None


def strays(listed: Iterable[Campaign]) -> list[str]:
    """Results that belong to no campaign."""
    wanted = {campaign.result_path for campaign in listed}
    return sorted(path.name for path in RESULTS.glob("*") if path not in wanted)


def _age_of(campaign: Campaign, commit: str, grace_days: float) -> str | None:
    try:
        # An object can be here that no clone gets: of a branch that was rebased, say.
        _git("merge-base", "--is-ancestor", commit, "HEAD")
        since = _git(
            "log", "--reverse", "--format=%h %ct", f"{commit}..HEAD", "--", *campaign.paths
        )
    except subprocess.CalledProcessError:
        return f"its commit {commit[:8]} is not in this history"
    if not since:
        return None
    name, changed_at = since.splitlines()[0].split()
    days = (int(_git("log", "-1", "--format=%ct")) - int(changed_at)) / 86400
    if days <= grace_days:
        return None
    paths = ", ".join(campaign.paths)
    return f"{name} changed {paths} {days:.0f} days ago; its result is of {commit[:8]}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
