"""`swarm node status` in words: plans in order, nothing that reads "None"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from test_visible import ANSWERS, PLAN

from swarm.cli import main
from swarm.cli.node import _heading


def test_a_plan_that_is_being_taken_up_is_said_to_be() -> None:
    assert _heading({"id": 3}) == "plan 3: this node takes it up"


def test_a_plan_before_its_first_round_has_none_and_says_no_none() -> None:
    plan = {"id": 3, "name": "heart", "status": "proposed", "title": None, "phase": None}
    heading = _heading(plan | {"rounds": 20})
    assert heading == "plan 3 heart: proposed, no round yet, 20 rounds in all"


def test_what_is_waited_for_is_said_with_and_without_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual: dict[str, Any] = {
        "halted": None,
        "records": [],
        "waits_for": ["Kyoto"],
        "waits_why": "the merge",
    }
    usual["privacy"] = None
    nameless = {"waits_for": [], "waits_why": "1 more that consents to train"}
    plan = (
        PLAN | {"name": "heart", "status": "running", "title": "round 1", "phase": "closed"} | usual
    )
    answer: dict[str, Any] = ANSWERS["node", "status"] | {"plans": [plan, plan | nameless]}

    def ask(directory: Path, method: str, /, **arguments: object) -> object:
        return answer

    monkeypatch.setattr("swarm.node.commands.control.ask", ask)
    told = CliRunner().invoke(main, ["node", "status"]).output
    assert "waits for Kyoto: the merge" in told
    assert "waits: 1 more that consents to train" in told
    assert "None" not in told
