"""Commands about models mean the newest plan, and say of which they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from swarm.errors import ConfigurationError
from swarm.node.commands.models import ModelCommands
from swarm.types import NO_DIGEST, Digest

DIGEST = Digest(b"\x02" * 32)


class Store:
    def path(self, digest: Digest) -> Path:
        return Path("blobs") / digest.hex()

    def has(self, digest: Digest) -> bool:
        return digest == DIGEST

    def manifest(self, digest: Digest) -> Any:
        return SimpleNamespace(length_bytes=7)


def part(number: int, *rounds: int) -> Any:
    """A part in a plan, of which the models of these rounds are kept; the chain counts one more."""
    return SimpleNamespace(
        id=number,
        plan=SimpleNamespace(name=f"heart {number}", statistics=NO_DIGEST),
        program=SimpleNamespace(number_of=lambda of_chain: of_chain - 1),
        kept_file=None,
        models=lambda: dict.fromkeys((r + 1 for r in rounds), DIGEST),
    )


def commands(*parts: Any) -> ModelCommands:
    nothing: Any = None
    return ModelCommands(
        {p.id: p for p in parts},
        Store(),
        nothing,
        nothing,
        nothing,  # type: ignore[arg-type]
    )


def run(of: ModelCommands, plan: int | None) -> Any:
    return trio.run(of.models, plan)


def test_the_newest_plan_is_meant_in_whatever_order_plans_were_joined() -> None:
    joined = commands(part(2, 1, 2), part(11, 1), part(1, 4))
    assert run(joined, None)["plan"] == 11
    assert run(joined, 1)["plan"] == 1


def test_a_plan_that_is_not_taken_part_in_is_refused_with_those_that_are_in_order() -> None:
    with pytest.raises(ConfigurationError, match=r"no part in plan 7; .* part in: 1, 2, 11$"):
        run(commands(part(2), part(11), part(1)), 7)
    with pytest.raises(ConfigurationError, match="takes part in no plan yet: `swarm plan list`"):
        run(commands(), None)
