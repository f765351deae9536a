"""`swarm.connect`: a node's answers as frames and pictures, over a real control socket."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pandas
import pytest
import trio

import swarm
from swarm import notebook
from swarm.errors import ConfigurationError, LocalError
from swarm.node.commands.control import Running, open_control
from swarm.notebook import Connection, Picture, figure_rows
from swarm.rounds.records import JointFigure, JointScore, Records, RoundRecord
from swarm.types import MemberId

NAMES = {MemberId(0): "St. Mary", MemberId(1): "Kyoto $x$\x1b[2J"}
KYOTO = "Kyoto $x$\\x1b[2J"


def records(folder: Path) -> list[dict[str, Any]]:
    """Statistics, two final rounds and an open one, as a node tells them."""
    kept = Records(folder / "plan-3.jsonl")
    for number in range(1, 5):
        record = RoundRecord(number, 1, leader=0, contributors=[0, 1], total_s=2.0)
        if number < 4:
            record.model, record.final_at = "0x11", 1_800_000_000.0 + number
        if number in (2, 3):
            record.metrics = {"validation": {"auc": 0.5 + number / 10}}
            record.own_metrics = {"auc": 0.55}
            figures = {
                "auc": JointFigure(0.7, 0.6, 0.8, 90),
                "loss": JointFigure(None, None, None, 90),
            }
            sites = {0: JointFigure(0.75, None, None, 40), 1: JointFigure(0.6, None, None, 50)}
            record.joint = {"validation": {"auc": JointScore(figures, sites)}}
        kept.rounds[number] = record
    titles = ["statistics", "round 1", "round 2", "round 3"]
    return [
        told | {"title": title, "number": n or None, "figures": None}
        for n, (told, title) in enumerate(zip(kept.as_list(NAMES), titles, strict=True))
    ]


def plan(**changes: Any) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": 3,
        "name": "Sepsis",
        "status": "running",
        "rounds": 20,
        "title": "round 3",
        "phase": "open",
        "leader": None,
        "waits_for": [NAMES[MemberId(1)]],
        "trainers": list(NAMES.values()),
        "submitted": ["St. Mary"],
        "merged": [],
        "attested": [],
        "training": None,
        "model_round": 2,
        "halted": None,
        "last_report": "",
    }
    return said | changes


def status(*plans: dict[str, Any]) -> dict[str, Any]:
    peer = {"connected": True, "release": "0.1.0", "clock_s": 0.2, "notes": []}
    return {
        "name": "St. Mary",
        "account": "0xaa",
        "connected": [NAMES[MemberId(1)]],
        "peers": [{"name": NAMES[MemberId(1)], **peer}],
        "plans": list(plans),
    }


def member(number: int, **changes: Any) -> dict[str, Any]:
    said = {
        "id": number,
        "name": NAMES[MemberId(number)],
        "account": f"0xa{number}",
        "node": ("0xaa", "0xbb")[number],
        "present": True,
        "validator": True,
    }
    return said | changes


@pytest.fixture
def said() -> list[dict[str, Any]]:
    """What `watch` answers, one after the other; `status` gives the first."""
    return [
        status(plan(), {"id": 9}),
        status(plan(phase="closed")),
        status(plan(status="completed")),
    ]


@pytest.fixture
def home(tmp_path: Path, said: list[dict[str, Any]]) -> Iterator[Path]:
    """The directory of a node whose control socket gives these answers."""
    rounds, up, over = records(tmp_path), threading.Event(), trio.Event()
    token: list[trio.lowlevel.TrioToken] = []
    listed = {"id": 3, "name": "Sepsis", "status": "running", "model_round": 2, "rounds": 20}

    async def answer_status() -> object:
        return said[0]

    async def answer_watch(seen: str) -> object:
        number = min(int(seen or -1) + 1, len(said) - 1)
        return {"version": str(number), "status": said[number]}

    async def answer_records(plan: int) -> object:
        assert plan == 3
        return rounds

    async def answer_members() -> object:
        return {"members": [member(0), member(1), member(1, name="Basel", present=False)]}

    async def answer_plans() -> object:
        return [listed, {"id": 4, "unreadable": "of a later release"}]

    async def serve() -> None:
        token.append(trio.lowlevel.current_trio_token())
        handlers = {
            "status": answer_status,
            "watch": answer_watch,
            "records": answer_records,
            "members": answer_members,
            "plans": answer_plans,
        }
        async with open_control(tmp_path, handlers) as control:
            running = Running(os.getpid(), control, "http://127.0.0.1:1", ())
            (tmp_path / "running.json").write_bytes(msgspec.json.encode(running))
            up.set()
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert up.wait(10)
    yield tmp_path
    token[0].run_sync_soon(over.set)
    thread.join(10)


def test_rounds_are_a_row_each_with_a_column_for_each_score(home: Path) -> None:
    frame = swarm.connect(home).rounds()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["number"].fillna(0)) == [0, 1, 2]  # of the open one there is nothing to tell
    assert list(frame["validation.auc"].dropna()) == [0.7, 0.8]
    assert list(frame["own.auc"].dropna()) == [0.55, 0.55]
    assert frame["final_at"].iloc[0].isoformat() == "2027-01-15T08:00:01+00:00"
    assert list(frame["contributors"].iloc[0]) == ["St. Mary", KYOTO]


def test_figures_are_long_rows_of_all_sites_together_and_of_each(home: Path) -> None:
    frame = swarm.connect(home).figures(plan=3)
    together = frame[frame["site"].isna() & (frame["figure"] == "auc")]
    assert list(together["number"]) == [1, 2]
    assert list(together["low"]) == [0.6, 0.6]
    of_kyoto = frame[frame["site"] == KYOTO]
    assert list(of_kyoto["value"]) == [0.6, 0.6]
    assert list(of_kyoto["n"]) == [50, 50]


def test_members_say_whether_they_are_connected_and_which_is_here(home: Path) -> None:
    frame = swarm.connect(home).members().set_index("name")
    assert list(frame.index) == ["St. Mary", KYOTO]
    assert list(frame["here"]) == [True, False]
    assert list(frame["connected"]) == [True, True]
    assert frame["clock_s"][KYOTO] == 0.2
    plans = swarm.connect(home).plans()
    assert list(plans["id"]) == [3, 4]


def test_without_pandas_frames_are_lists_of_dicts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    rows = swarm.connect(home).rounds()
    assert rows[1]["validation.auc"] == 0.7
    assert rows[0]["title"] == "statistics"
    with pytest.raises(LocalError, match=r"picture\(\)\.save"):
        swarm.connect(home).live()


def test_a_live_picture_changes_with_the_node_and_ends_with_the_plan(home: Path) -> None:
    shown: list[Picture] = []
    swarm.connect(home).live(show=shown.append)
    assert len(shown) == 3
    assert len({picture.png for picture in shown}) == 3
    assert all(picture._repr_png_().startswith(b"\x89PNG") for picture in shown)
    shown[0].save(home / "now.png")
    assert (home / "now.png").stat().st_size > 5000


def test_an_interrupted_cell_ends_the_picture_and_not_the_notebook(home: Path) -> None:
    def show(picture: Picture) -> None:
        raise KeyboardInterrupt

    swarm.connect(home).live(show=show)


def test_a_plan_without_a_score_or_a_round_has_a_picture(
    home: Path, said: list[dict[str, Any]]
) -> None:
    said[0] = status(plan(phase=None, title=None, trainers=[], waits_for=[], status="proposed"))
    assert swarm.connect(home).picture().png
    assert list(figure_rows(3, [])) == []


def test_what_cannot_be_asked_is_named(
    home: Path, said: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="takes no part in plan 7; there are: 3"):
        swarm.connect(home).rounds(plan=7)
    said[0] = status()
    with pytest.raises(ConfigurationError, match="takes part in no plan yet"):
        swarm.connect(home).rounds()
    monkeypatch.setenv("SWARM_NODE", str(home / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"no node runs in .*nowhere"):
        swarm.connect()


def test_a_plan_that_runs_comes_before_one_that_ended_and_that_before_one_that_never_began(
    home: Path, said: list[dict[str, Any]]
) -> None:
    ended, never = plan(status="completed"), plan(id=5, status="proposed", model_round=0)
    said[0] = status(ended, never)
    assert swarm.connect(home).rounds()["plan"].unique() == [3]
    said[0] = status(plan(), plan(id=5, status="completed"))
    assert swarm.connect(home).rounds()["plan"].unique() == [3]


def test_a_connection_is_to_the_node_of_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_NODE", str(home))
    assert swarm.connect() == Connection(home)
