"""No secret of masked rounds follows from a public seed: shipped code that makes secrets names no
generator that anybody could repeat."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import swarm

ROOT = Path(swarm.__file__).parent
MAKES_SECRETS = sorted([*(ROOT / "privacy").glob("*.py"), *(ROOT / "rounds").glob("masked_*.py")])
REPEATABLE = {"random", "torch", "time", "derive_seed", "default_rng", "RandomState", "uuid"}
"""Modules and functions whose draws others can repeat."""


@pytest.mark.parametrize("file", MAKES_SECRETS, ids=lambda file: file.stem)
def test_what_makes_secrets_draws_from_the_system_or_its_caller_only(file: Path) -> None:
    tree = ast.parse(file.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(alias.name for alias in node.names)}
    assert not names & REPEATABLE
    # The plan's seed, the round's and the election's are public sooner or later.
    assert not names & {"secret_for", "election_secret", "round_seed"}


def test_the_entropy_of_a_node_is_the_systems() -> None:
    from swarm.rounds.masked_secrets import MaskedSecrets

    assert MaskedSecrets(Path("nowhere"), bytes(32)).entropy.__module__ == "secrets"
