"""Who learns what of a site in a plan, in sentences for whoever is to consent."""

from __future__ import annotations

from swarm.protocol.masking import shares_needed
from swarm.protocol.state import Plan


def secrecy_of(plan: Plan) -> list[str]:
    """What the plan protects against, with how many colluders among its members, and what not."""
    if not plan.is_masked:
        return [
            "NOT SECURE: members that merge or check a round read each site's update and statistics"
        ]
    colluders = plan.rules.colluders
    members = (plan.round.roster if plan.round is not None else plan.invited).bit_count()
    needed = shares_needed(members, colluders)
    hidden = f"more than {colluders} of the members put together what they know"
    alive = "all of them" if needed == members else f"{needed} of them"
    said = [
        "Secure: nobody reads one site's update or statistics; only sums of "
        f"{plan.rules.min_peers} sites or more come out.",
        f"Hidden unless {hidden}; a site whose shares somebody complains of counts among those.",
        f"Of {members} members, {alive} must be there to open a round's sum. One hostile member "
        "can spoil rounds, but learns nothing by it.",
        "Not hidden: the sums themselves, each site's number of rows, and the counts from which "
        "scores are added up. Code that was made to leak is not held back: read it.",
    ]
    if plan.rules.reopens:
        said.append(
            "It may open another sum over a model that an earlier plan opened one of: the "
            "difference of the two tells of the sites that are in one alone."
        )
    return said
