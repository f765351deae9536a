"""Plans that a member has joined, over parts that a test makes up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.admission import admission_by
from swarm.node.chain.seen import Seen
from swarm.node.plans.joined import JoinedPlans
from swarm.node.plans.sources import PlanSources

NOTHING: Any = SimpleNamespace()


def joined_plans(seen: Seen, trainer_of: Any = None, **parts: Any) -> JoinedPlans:
    """Of a node that has every plan's code, and asks `trainer_of` for its trainers; `parts` go into
    the place of those of `PlanSources`."""
    has_all: Any = SimpleNamespace(has=lambda digest: True, read=lambda digest: None)
    of: Any = SimpleNamespace(of=trainer_of)
    fields = {"library": has_all, "programs": NOTHING, "trainers": of, "network": NOTHING} | parts

    async def open_part(*_: object) -> Any:
        raise AssertionError("no part is opened here")

    return JoinedPlans(seen, PlanSources(**fields, seen=seen), admission_by(), open_part)
