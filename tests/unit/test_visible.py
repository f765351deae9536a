"""Foreign text shows all of itself, wherever a person or a log reads it."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli import main
from swarm.network.peers import Peer
from swarm.network.wire import short
from swarm.types import Address
from swarm.visible import (
    VisibleFormatter,
    is_hidden,
    name_addresses,
    visible,
    visible_in,
    visible_json,
    visible_lines,
)

HOSTILE = "St. Mary [/] [red]x\x1b[2J\r\n\u202eKyoto\u200b\x07\x9b\u2028\x7f\u3164"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Charité, 東京 [/]", "Charité, 東京 [/]"),
        ("a\tb\nc\rd", r"a\x09b\x0ac\x0dd"),
        ("\x00\x1b[2J\x7f\x9b", r"\x00\x1b[2J\x7f\x9b"),
        ("\u202eab\u2066\u200d\ufeff\u00ad", r"\u202eab\u2066\u200d\ufeff\xad"),
        ("\u2028\u2029\x85\u00a0", r"\u2028\u2029\x85\xa0"),
        ("\U000e0041\ud800\ufe0f\u3164", r"\U000e0041\ud800\ufe0f\u3164"),
        (b"x", "b'x'"),
    ],
)
def test_what_does_not_show_itself_is_escaped(text: object, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_visible_text_is_one_printable_line_and_stays_as_it_is(text: str) -> None:
    shown = visible(text)
    assert not any(map(is_hidden, shown))
    assert shown.isprintable()
    assert visible(shown) == shown


@given(
    st.recursive(st.text() | st.integers(), lambda t: st.lists(t) | st.dictionaries(st.text(), t))
)
def test_json_that_is_made_visible_says_the_same(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    shown = visible_json(text)
    assert json.loads(shown) == json.loads(text)
    assert not any(is_hidden(c) for c in shown.replace("\n", ""))


def test_lines_of_code_are_those_of_an_editor() -> None:
    code = "x = 1\r\n\ty = 2\x0b\u2028z\rw = 3\n"
    assert visible_lines(code) == ["x = 1", "\ty = 2\\x0b\\u2028z\\x0dw = 3", ""]


def logged(log: Any) -> str:
    """What a node's log would hold."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(VisibleFormatter())
    logger = logging.getLogger("swarm.network")
    logger.addHandler(handler)
    try:
        log(logger)
    finally:
        logger.removeHandler(handler)
    return stream.getvalue()


FORGED = "x\n2026-11-29 09:00:00,000 INFO swarm.node: consented to plan 9"


def test_no_peer_can_write_a_log_line_of_its_own() -> None:
    text = logged(lambda _: Peer(Address(b"\1" * 20)).blame("unknown topic", FORGED))
    assert text.count("\n") == 1
    assert "unknown topic: x\\x0a2026" in text


def test_a_log_line_tells_an_address_with_the_name_of_its_member() -> None:
    address = "0x" + "ab" * 20
    name_addresses({address: HOSTILE})
    try:
        text = logged(lambda logger: logger.warning("lost %s, not %scd", address, address))
    finally:
        name_addresses({})
    assert f"lost {visible(HOSTILE)} ({address}), not {address}cd" in text
    assert text.count("\n") == 1


def test_a_log_line_begins_with_the_time_and_its_zone() -> None:
    first, second, *_ = logged(lambda logger: logger.warning("up")).split()
    assert datetime.fromisoformat(f"{first} {second}").tzinfo is not None


def test_an_exception_in_a_log_is_indented_below_its_line() -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError(FORGED)
        except ValueError:
            logger.exception("it failed", stack_info=True)

    first, *rest = logged(fail).splitlines()
    assert first.endswith("it failed")
    assert len(rest) > 3
    assert all(line.startswith("    ") for line in rest)


def test_a_peers_words_are_one_visible_line() -> None:
    assert short("\x1b[2J\x1b]0;owned\x07  no\n") == r"\x1b[2J\x1b]0;owned\x07 no"


def options(group: str, name: str) -> list[str]:
    commands = main.get_command(click.Context(main), group)
    assert isinstance(commands, click.Group)
    return [option for each in commands.commands[name].params for option in each.opts]


DIGEST = "0x" + "11" * 32
PLAN = {
    "id": 1,
    "name": HOSTILE,
    "status": HOSTILE,
    "model_round": 1,
    "rounds": 3,
    "undecided": [HOSTILE],
    "until": 1_790_000_000,
    "rules": {
        "rounds": 3,
        "min_peers": 2,
        "min_rows": 0,
        "verify_level": HOSTILE,
        "grace_s": 2,
        "liveness_s": 20,
        "max_round_s": 60,
        "window_s": 1,
    },
    "secrecy": [HOSTILE],
    "participants": [HOSTILE],
    "digest": DIGEST,
    "proposer": HOSTILE,
    "begins": HOSTILE,
    "began_with": HOSTILE,
    "program": HOSTILE,
    "stages": None,
    "before": None,
    "code": {HOSTILE: f"x = 1 # {HOSTILE}\n----- model.py\n"},
    "imports": [{"module": HOSTILE, "file": HOSTILE, "line": 1}],
    "policy": [HOSTILE],
    "privacy": HOSTILE,
}
SPENT = {"spent": 1.0, "epsilon": 10.0, "delta": 1e-5}
RECORD = {
    "round": 1,
    "title": HOSTILE,
    "number": 1,
    "leader": HOSTILE,
    "model": DIGEST,
    "metrics": {"validation": {HOSTILE: 0.5}},
    "joint": {},
    "figures": None,
    "total_s": 1.0,
}
FIGURE = {"value": 0.5, "low": 0.4, "high": 0.6, "rows": 3}
TABLE = {
    "metrics": {
        HOSTILE: {
            "models": [
                {
                    "model": HOSTILE,
                    "is_shared": False,
                    "sites": {HOSTILE: FIGURE},
                    "all": FIGURE,
                    "others": FIGURE,
                }
            ],
            "own": FIGURE,
        }
    },
    "silent": [HOSTILE],
}
PEER = {
    "name": HOSTILE,
    "connected": False,
    "failed_dials": {HOSTILE: HOSTILE},
    "notes": [HOSTILE],
}
PROPOSAL = {"id": 1, "what": HOSTILE, "status": "open", "ayes": 1, "noes": 0, "needed": 2}
MEMBER = {
    "id": 0,
    "name": HOSTILE,
    "account": "0x",
    "node": "0x",
    "validator": True,
    "standby": None,
}
ANSWERS: dict[tuple[str, ...], Any] = {
    ("plan", "list"): [PLAN, {"id": 2, "unreadable": HOSTILE}],
    ("plan", "show", "1"): PLAN,
    ("plan", "propose", "."): PLAN,
    ("plan", "consent", "1"): {"digest": DIGEST, "max_samples": 3},
    ("plan", "decline", "1"): PLAN | {"status": "proposed"},
    ("contract", "cancel", "1"): PROPOSAL,
    ("plan", "stop", "1"): {"status": HOSTILE},
    ("contract", "info"): {"members": [HOSTILE], "address": HOSTILE},
    ("contract", "members"): {
        "members": [MEMBER | {"present": True}],
        "proposals": [PROPOSAL, {"id": 2, "unreadable": HOSTILE}],
    },
    ("contract", "vote", "1"): PROPOSAL,
    ("node", "status"): {
        "name": HOSTILE,
        "height": 1,
        "chain": {"waiting_for": [HOSTILE], "round": 1},
        "connected": [],
        "members": [HOSTILE],
        "notes": [HOSTILE],
        "peers": [PEER],
        "standbys": {HOSTILE: True},
        "former": [HOSTILE],
        "asked": {"3": HOSTILE},
        "rpc_url": HOSTILE,
        "plans": [
            PLAN
            | {
                "halted": HOSTILE,
                "records": [RECORD],
                "waits_for": [HOSTILE],
                "waits_why": HOSTILE,
                "privacy": SPENT,
                "title": HOSTILE,
                "phase": HOSTILE,
            }
        ],
        "sandbox": {"stand": {}, "missing": {}, "reach": [HOSTILE]},
        "refused_plans": {"2": HOSTILE},
        "privacy": SPENT,
    },
    ("model", "table", "--plan", "1"): [RECORD | {"table": TABLE}],
    ("model", "list"): {
        "plan": 1,
        "name": HOSTILE,
        "models": [{"round": 1, "number": 1, "bytes": 2, "digest": HOSTILE}],
    },
}


TOLD = {("model", "table", "--plan", "1"): TABLE | {"plan": 1}}
"""What is told as JSON where it is not the node's whole answer."""


@pytest.mark.parametrize(
    ("command", "as_json"),
    [(command, False) for command in ANSWERS]
    + [(command, True) for command in ANSWERS if "--json" in options(*command[:2])],
)
def test_no_command_prints_what_does_not_show(
    command: tuple[str, ...], as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def ask(directory: Path, method: str, /, *_: object, **arguments: object) -> object:
        asked.append(method)
        return json.loads(json.dumps(ANSWERS[command]))

    monkeypatch.setattr("swarm.node.commands.control.ask", ask)
    result = CliRunner().invoke(main, [*command, *(["--json"] if as_json else [])])
    assert result.exit_code == 0, result.output
    assert len(asked) == 1
    printed = result.output.replace("\n", "")
    assert [c for c in printed if is_hidden(c)] == []
    if as_json:
        assert json.loads(result.output) == TOLD.get(command, ANSWERS[command])


def test_code_cannot_look_like_the_beginning_of_another_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("swarm.node.commands.control.ask", lambda *_, **__: dict(PLAN))
    lines = CliRunner().invoke(main, ["plan", "show", "1"]).output.splitlines()
    assert sum(line.startswith("-----") for line in lines) == 1
    assert "    3  ----- model.py" in lines


def test_a_value_is_made_visible_to_its_depths() -> None:
    hidden = {"\x1b": ["\r", ("\n", 1, None)]}
    assert visible_in(hidden) == {"\\x1b": ["\\x0d", ["\\x0a", 1, None]]}


def test_an_error_for_the_terminal_hides_nothing() -> None:
    result = CliRunner().invoke(main, ["plan", "list", "--node", "no\x1b[2Jwhere"])
    assert result.exit_code == 2
    assert "\x1b" not in result.output
    assert r"no\x1b[2Jwhere" in result.output
