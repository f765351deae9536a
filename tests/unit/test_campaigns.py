"""The kept results of campaigns: what counts as fresh, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.campaigns import results  # noqa: E402

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    """A small repository with one file that a campaign covers and one that it does not."""

    def run(*arguments: str, day: int = 1) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
        dates = {
            f"GIT_{who}_DATE": f"2026-01-{day:02}T12:00:00Z" for who in ("AUTHOR", "COMMITTER")
        }
        told = subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True,
            env=os.environ | dates,
        )  # fmt: skip
        return told.stdout.strip()

    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    run("init", "-q")
    (tmp_path / "covered.py").write_text("1")
    (tmp_path / "other.py").write_text("1")
    run("add", "-A")
    run("commit", "-qm", "first")
    return run


CAMPAIGN = results.Campaign("days", "some days", "simulate", ("--seeds", "2"), ("covered.py",))


def tool(status: int) -> Callable[[str, list[str]], int]:
    def run(name: str, arguments: list[str]) -> int:
        assert (name, arguments[:3]) == ("simulate", ["--seeds", "2", "--json"])
        Path(arguments[3]).write_text('{"seeds": 2}')
        return status

    return run


def test_a_campaign_without_a_result_is_named(git: Git) -> None:
    assert results.fault_of(CAMPAIGN) == "there is no result"


def test_a_campaign_that_is_only_planned_says_why_until_there_is_a_result(git: Git) -> None:
    planned = replace(CAMPAIGN, planned="it takes ten hours")
    assert results.fault_of(planned) is None
    results.record(planned, tool(1))
    assert "did not hold" in str(results.fault_of(planned))


def test_a_campaign_of_a_path_that_has_moved_is_named(git: Git, tmp_path: Path) -> None:
    results.record(CAMPAIGN, tool(0))
    git("mv", "covered.py", "moved.py")
    assert results.fault_of(CAMPAIGN) == "it covers covered.py, which does not exist"


def test_a_result_of_fewer_days_than_the_campaign_has_is_no_result(git: Git) -> None:
    results.record(CAMPAIGN, tool(0))
    longer = replace(CAMPAIGN, arguments=("--seeds", "200"))
    assert "is of `python -m tests.campaigns simulate --seeds 2`" in str(results.fault_of(longer))


def test_a_result_of_no_campaign_is_named(git: Git) -> None:
    results.record(CAMPAIGN, tool(0))
    assert results.strays([CAMPAIGN]) == []
    assert results.strays([]) == ["days.json"]


def test_without_a_history_all_but_the_age_of_a_result_is_looked_at(
    git: Git, tmp_path: Path
) -> None:
    results.record(CAMPAIGN, tool(0))
    (tmp_path / ".git").rename(tmp_path / "git")
    assert results.fault_of(CAMPAIGN) is None
    assert "is of `" in str(results.fault_of(replace(CAMPAIGN, arguments=())))


def test_a_result_counts_until_a_week_after_what_it_covers_changed(
    git: Git, tmp_path: Path
) -> None:
    assert results.record(CAMPAIGN, tool(0))
    kept = json.loads((tmp_path / "results" / "days.json").read_text())
    assert kept["commit"] == git("rev-parse", "HEAD")
    assert kept["outcome"] == {"seeds": 2}
    assert results.fault_of(CAMPAIGN) is None
    (tmp_path / "other.py").write_text("2")
    git("commit", "-qam", "something else", day=20)
    assert results.fault_of(CAMPAIGN) is None
    (tmp_path / "covered.py").write_text("2")
    git("commit", "-qam", "what it covers", day=21)
    assert results.fault_of(CAMPAIGN) is None
    (tmp_path / "covered.py").write_text("3")
    git("commit", "-qam", "once more", day=27)
    assert results.fault_of(CAMPAIGN) is None
    (tmp_path / "other.py").write_text("3")
    git("commit", "-qam", "something else again", day=29)
    assert "changed covered.py 8 days ago" in str(results.fault_of(CAMPAIGN))


def test_of_a_tool_that_only_prints_the_end_is_kept(
    git: Git, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk(name: str, arguments: list[str]) -> int:
        print("\n".join(f"line {n}" for n in range(100)))
        return 0

    talking = results.Campaign("talk", "talks", "compose", (), ("covered.py",), "words")
    assert results.record(talking, talk)
    kept = json.loads((tmp_path / "results" / "talk.json").read_text())["outcome"]
    assert kept[-1] == "line 99"
    assert len(kept) == results.KEPT_LINES
    assert "line 0" in capsys.readouterr().out


def test_a_result_that_did_not_hold_is_no_result(git: Git) -> None:
    assert not results.record(CAMPAIGN, tool(1))
    assert "did not hold" in str(results.fault_of(CAMPAIGN))


def test_a_result_of_an_unknown_commit_is_no_result(git: Git, tmp_path: Path) -> None:
    results.record(CAMPAIGN, tool(0))
    path = tmp_path / "results" / "days.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0" * 40}))
    assert "not in this history" in str(results.fault_of(CAMPAIGN))


def test_what_is_not_committed_is_not_recorded(git: Git, tmp_path: Path) -> None:
    (tmp_path / "covered.py").write_text("2")
    with pytest.raises(SystemExit, match="commit first"):
        results.record(CAMPAIGN, tool(0))


def test_every_campaign_covers_paths_that_exist_and_runs_a_tool_that_exists() -> None:
    from tests.campaigns.__main__ import TOOLS

    for campaign in results.campaigns().values():
        assert campaign.tool in TOOLS
        for path in campaign.paths:
            assert (ROOT / path).exists(), f"{campaign.name} covers {path}, which does not exist"
