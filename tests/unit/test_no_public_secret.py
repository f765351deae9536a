"""No secret of masked rounds follows from a public seed: shipped code that makes secrets names no
generator that anybody could repeat."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import swarm

ROOT = Path(swarm.__file__).parent
MAKES_SECRETS = sorted(
    [
        *(ROOT / "privacy").glob("*.py"),
        *(ROOT / "rounds").glob("masked_*.py"),
        ROOT / "rounds" / "hidden_updates.py",
    ]
)
REPEATABLE = {"random", "torch", "time", "derive_seed", "default_rng", "RandomState", "uuid"}
"""Modules and functions whose draws others can repeat."""


PUBLIC = {"secret_for", "election_secret", "round_seed"}
"""The plan's seed, the round's and the election's are public sooner or later."""


def seeds_in(source: str) -> set[str]:
    """What this source names of that."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.ImportFrom):
            names |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    return names & (REPEATABLE | PUBLIC)


@pytest.mark.parametrize("file", MAKES_SECRETS, ids=lambda file: file.stem)
def test_what_makes_secrets_draws_from_the_system_or_its_caller_only(file: Path) -> None:
    assert not seeds_in(file.read_text())


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("import random", "random"),
        ("from numpy.random import default_rng", "default_rng"),
        ("import numpy as np\nseed = np.random.bytes(32)", "random"),
        ("key = derive(secret_for(b'', 1, 1), b'')", "secret_for"),
        ("from swarm.protocol.election import secret_for as f", "secret_for"),
        ("key = hash(round_seed)", "round_seed"),
    ],
)
def test_a_seed_that_others_know_is_found_where_it_is_planted(planted: str, found: str) -> None:
    source = (ROOT / "rounds" / "masked_secrets.py").read_text()
    assert found in seeds_in(f"{source}\n{planted}\n")


def test_the_entropy_of_a_node_is_the_systems() -> None:
    from swarm.rounds.masked_secrets import MaskedSecrets

    assert MaskedSecrets(Path("nowhere"), bytes(32)).entropy.__module__ == "secrets"
