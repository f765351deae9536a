"""msgspec reads a type's annotations when it is first decoded, and a thread that decodes the same
type meanwhile meets a half-read one: that has ended a node (msgspec 0.22, a segmentation fault). So
what threads may decode has a decoder that was made when its module was imported, in one thread."""

from __future__ import annotations

import ast
from pathlib import Path

import swarm

PACKAGE = Path(swarm.__file__).parent
BEFORE_ANY_THREAD = {
    "cli/plan.py",  # in a command, which has one thread
    "node/home/config.py",  # the first thing that a command does
    "chain/genesis.py",  # likewise, when it founds, joins or starts
    "learning/simulation/dealing.py",  # before a testnet is dealt
    "learning/plans/settings.py",  # in the trainer, whose replies hold these rules
    "learning/metrics/counts.py",  # in the trainer, where the plan's own thread counts
    "learning/simulation/references.py",  # in its own process, which has one thread
    "rounds/layouts.py",  # on trio's thread alone
    "node/outgoing/log.py",  # of a type that has a decoder since import
}


def typed_at_use(source: str) -> list[int]:
    """The lines in which `msgspec` itself decodes or converts to a type."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        is_typed = call.func.attr == "convert" or any(k.arg == "type" for k in call.keywords)
        if is_typed and ast.unparse(call.func).startswith("msgspec."):
            found.append(call.lineno)
    return found


def test_the_scan_sees_both_ways_and_lets_prepared_ones_pass() -> None:
    assert typed_at_use("msgspec.msgpack.decode(x, type=T)") == [1]
    assert typed_at_use("\nmsgspec.convert(x, T)") == [2]
    assert typed_at_use("msgspec.json.decode(x)\nprepared.decode(x)") == []


def test_what_threads_decode_was_prepared_at_import() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if typed_at_use(path.read_text())
    }
    assert found == BEFORE_ANY_THREAD


def caught_too_narrowly(source: str) -> list[int]:
    """The lines where what `decode` raises is caught by msgspec's own errors alone."""
    found = []
    for attempt in ast.walk(ast.parse(source)):
        if not isinstance(attempt, ast.Try):
            continue
        decodes = any(
            isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
            and call.func.attr == "decode"
            for statement in attempt.body for call in ast.walk(statement)
        )  # fmt: skip
        for handler in attempt.handlers:
            if decodes and handler.type is not None and "msgspec." in ast.unparse(handler.type):
                found.append(handler.lineno)
    return found


def test_the_scan_sees_an_error_that_text_which_is_no_utf8_would_pass() -> None:
    template = "try:\n    reader.decode(raw)\nexcept {}:\n    pass"
    assert caught_too_narrowly(template.format("msgspec.DecodeError")) == [3]
    assert caught_too_narrowly(template.format("(OSError, msgspec.MsgspecError)")) == [3]
    assert caught_too_narrowly(template.format("UNREADABLE")) == []


def test_whatever_bytes_hold_is_refused_and_not_only_what_msgspec_names() -> None:
    found = {
        str(path.relative_to(PACKAGE)): lines
        for path in PACKAGE.rglob("*.py")
        if (lines := caught_too_narrowly(path.read_text()))
    }
    assert found == {}
