"""What a secure plan cannot have: whatever is not a sum of what sites make.

Each refusal names the setting, and what would do instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.errors import PlanError
from swarm.learning.folds.fold import Fold
from swarm.learning.parameters.placement import Frozen, Shared
from swarm.learning.plans.plan import Plan
from swarm.learning.plans.settings import place_of_setting, placement_in, rules_of
from swarm.learning.plans.stages import Planned
from swarm.protocol.state import BEST_SLOT, GATHERED_SLOT, STATISTICS_SLOT


def check_secure(plan: Plan, planned: Sequence[Planned]) -> None:
    """Raise PlanError, with the plan's line, for what only whole updates could give."""
    for setting, fault in _faults(plan, planned):
        where = f"{place_of_setting(plan, setting)}{type(plan).__name__}"
        raise PlanError(f"{where}: a secure plan {fault}")


def _faults(plan: Plan, planned: Sequence[Planned]) -> list[tuple[str, str]]:
    slots = [each.slot for each in planned]
    found = []
    if GATHERED_SLOT in slots:
        found.append(("stages", "has no stage in which each site tells figures of its own"))
    if BEST_SLOT in slots:
        found.append(("stages", "chooses by no figures that each site tells: leave out select"))
    if STATISTICS_SLOT in slots and not plan.statistics_bound > 0:
        found.append(
            (
                "statistics",
                "sums statistics without showing any site's: say the largest number that there "
                "may be in them at a site, as in `statistics_bound = 1e9`",
            )
        )
    for pattern, place in placement_in(plan, rules_of(plan)).rows:
        if isinstance(place, Shared) and place.fold == Fold():
            continue
        if not isinstance(place, Frozen):
            found.append(
                (
                    "tensors",
                    f"averages all tensors by their sites' rows, or freezes them, and {pattern!r} "
                    "is to be folded otherwise, gathered or local: choose secure or that",
                )
            )
    if plan.roles:
        found.append(("roles", "asks nobody else within a round: leave `roles` out"))
    if plan.privacy is not None:
        found.append(
            ("privacy", "adds no noise of its own yet: choose `secure` or `privacy` for now"),
        )
    if plan.optimizer_state != "reset":
        found.append(
            (
                "optimizer_state",
                'leaves nothing of a round\'s training behind: set `optimizer_state` to "reset"',
            )
        )
    if type(plan).state is not Plan.state:
        found.append(("state", "keeps nothing beside the model yet: remove `state`"))
    return found
