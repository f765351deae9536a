"""Whether a file is a script, and by which rules it is to be run: read from its source.

A script says its rules where it joins: `session = swarm.join(rounds=10, min_peers=3)`. They are
part of what members consent to, so they are plain values that a reader sees, and they are known
before a line of the script has run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.errors import PlanError
from swarm.learning.code import bundle

JOIN = "swarm.join"
NAME = "Script"
SETTINGS = (
    *("name", "rounds", "min_peers", "min_rows", "max_round_s", "seed", "threads", "verify"),
    *("wire_dtype", "secure", "colluders", "clip", "licence"),
)
"""What `swarm.join` takes: the name that members see, and those of a plan's settings that do not
belong to the default loop, which a script does not use."""


@dataclass(frozen=True)
class Said:
    """What a script says of itself."""

    name: str = NAME
    settings: Mapping[str, Any] = field(default_factory=dict)


def read_script(source: bytes, file: str) -> Said | None:
    """What the script in `source` says where it joins; None if it is no script.

    Raises PlanError, with file and line, for a second `swarm.join` and for a rule that `swarm.join`
    does not have or that is no plain value. What is no Python is no script.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None  # whoever imports it is told where
    calls = sorted(_joins(tree), key=lambda call: call.lineno)
    if not calls:
        return None
    if len(calls) > 1:
        raise PlanError(
            f"{file}:{calls[1].lineno}: {JOIN} is called a second time: a script joins once"
        )
    call = calls[0]
    if call.args:
        raise PlanError(f"{file}:{call.lineno}: name what {JOIN} is given: {JOIN}(rounds=10)")
    settings = {}
    for given in call.keywords:
        place = f"{file}:{given.value.lineno}"
        if given.arg not in SETTINGS:
            told = "**" if given.arg is None else given.arg
            raise PlanError(f"{place}: {JOIN} does not take {told}: it takes {', '.join(SETTINGS)}")
        try:
            settings[given.arg] = ast.literal_eval(given.value)
        except (ValueError, TypeError):
            raise PlanError(
                f"{place}: {given.arg} is computed: write the value itself, which members read and "
                "consent to"
            ) from None
    name = settings.pop("name", NAME)
    if not isinstance(name, str) or not name.isidentifier():
        raise PlanError(
            f"{file}:{call.lineno}: the name {name!r:.80} is none: write letters, digits and "
            "underscores, as a class is named"
        )
    return Said(name, settings)


def is_script(plan: Path) -> bool:
    """Whether the plan at `plan`, a folder or a file, is a script. Raises PlanError as reading it
    does."""
    return read_script(bundle.read(plan).files["plan.py"], plan.name) is not None


def _joins(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="swarm"), attr="join")):
                yield node
