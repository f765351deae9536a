"""The role of a plan: what one member does for the others within a round, by turns.

roles = {"head": swarm.elected()}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swarm.errors import PlanError

WORD = re.compile("[a-z][a-z0-9_]{0,31}")
MOST_S = 3600.0


@dataclass(frozen=True)
class Role:
    """Held by a member that is drawn at the opening of each round, from the chain's seed."""

    needs_rows: bool
    """Whether only sites with training rows hold it."""
    answer_s: float
    """How long a site waits for an answer."""


def elected(*, needs_rows: bool = False, answer_s: float = 60.0) -> Role:
    """A role whose holder is drawn anew for each round among the members that take part.

    A site waits `answer_s` seconds for each answer. With `needs_rows`, members that only test are
    not drawn. Raises PlanError for a time that is none.
    """
    if not isinstance(answer_s, (int, float)) or not 0 < answer_s <= MOST_S:
        raise PlanError(f"elected: answer_s is {answer_s!r:.40}: give up to {MOST_S:g} seconds")
    return Role(bool(needs_rows), float(answer_s))


def role_of(roles: Any, placed: set[str]) -> tuple[str, Role] | None:
    """The one role of a plan's `roles` by name, if there is one; `placed` are the roles at which
    tensors live. Raises PlanError if it cannot be."""
    if not isinstance(roles, Mapping) or not all(isinstance(r, Role) for r in roles.values()):
        raise PlanError(f'roles is {roles!r:.80}: write {{"head": swarm.elected()}}')
    for name in roles:
        if not isinstance(name, str) or not WORD.fullmatch(name):
            raise PlanError(f"roles: {name!r:.80} is no name: use small letters, digits and _")
    unknown = sorted(placed - roles.keys())
    if unknown:
        raise PlanError(
            f"tensors are to live at {unknown[0]!r}, which is no role of the plan: write "
            f'roles = {{"{unknown[0]}": swarm.elected()}}'
        )
    if not roles:
        return None
    if len(roles) > 1:
        raise PlanError(f"roles has {', '.join(map(str, roles))}: a plan may have one role")
    ((name, role),) = roles.items()
    return name, role
