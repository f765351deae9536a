"""The rules of a plan's proposal: what its code says, as the contract enforces it."""

from __future__ import annotations

from swarm.errors import ConfigurationError
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.protocol.program import Program, parse
from swarm.protocol.state import Plan, Rules, VerifyLevel
from swarm.rounds.layouts import folding_of

FULL_BELOW_BYTES = 16 * 2**20
"""Models up to this size are recomputed by everyone, unless the plan says otherwise."""

SLOT_BYTES_PER_S = 25 * 10**6
"""How much of a model a leader is expected to have merged in each second of its first slot."""


def chain_rules(loaded: Loaded, program: Program) -> Rules:
    """The rules of a plan with this program. Raises PlanError for a model that cannot travel, or
    folds that need more than its rules ask for."""
    said = loaded.rules
    folding = folding_of(loaded, program)
    size_bytes = folding.down(1).file_bytes
    is_full = size_bytes <= FULL_BELOW_BYTES or folding.placement.needs_full
    levels = {
        "auto": VerifyLevel.FULL if is_full else VerifyLevel.HELD,
        "held": VerifyLevel.HELD,
        "shared": VerifyLevel.SHARED,
        "full": VerifyLevel.FULL,
    }
    folding.placement.check(said.min_peers, folding.placement.level(said.verify))
    max_round_s = max(10, round(said.max_round_s))
    return Rules(
        rounds=program.rounds,
        min_peers=said.min_peers,
        min_rows=said.min_rows,
        verify_level=levels[said.verify],
        max_round_s=max_round_s,
        # A leader that is still pulling is not a dead one; recent merges widen the slots further.
        slot_s=min(max_round_s, Rules.slot_s + round(size_bytes / SLOT_BYTES_PER_S)),
    )


def check_rules(plan: Plan, loaded: Loaded) -> None:
    """Raise ConfigurationError if a proposal promises less than the plan's code asks for: whoever
    reads the code takes its rules for those that hold."""
    asked = chain_rules(loaded, parse(loaded.program))
    promises = {
        "min_peers": (plan.rules.min_peers, asked.min_peers),
        "min_rows": (plan.rules.min_rows, asked.min_rows),
        "verify level": (plan.rules.verify_level, asked.verify_level),
    }
    weaker = [
        f"{name} {_told(given)} where its code asks for {_told(wanted)}"
        for name, (given, wanted) in promises.items()
        if given < wanted
    ]
    if weaker:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) was proposed with weaker rules than its code has: "
            f"{'; '.join(weaker)}. Do not join it, and ask its proposer to propose it again"
        )


def _told(value: int) -> str:
    return value.name.lower() if isinstance(value, VerifyLevel) else str(value)
