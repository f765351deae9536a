"""The rules of a plan's proposal: what its code says, as the contract enforces it."""

from __future__ import annotations

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.protocol.program import Program, parse
from swarm.protocol.state import DRAWN, NO_ROLE, PLAIN, Plan, Rules, VerifyLevel
from swarm.rounds.layouts import folding_of

FULL_BELOW_BYTES = 16 * 2**20
"""Models up to this size are recomputed by everyone, unless the plan says otherwise."""

SLOT_BYTES_PER_S = 25 * 10**6
"""How much of a model a leader is expected to have merged in each second of its first slot."""


MOST_MASKED = 64
"""Members of a secure plan: each masks with each other one."""


def chain_rules(loaded: Loaded, program: Program, members: int) -> Rules:
    """The rules of a plan with this program, to which so many are invited. Raises PlanError for a
    model that cannot travel, or folds that need more than its rules ask for."""
    colluders = _colluders(loaded, members)
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
        min_peers=max(said.min_peers, colluders + 2 if said.secure else 0),
        colluders=colluders,
        min_rows=said.min_rows,
        verify_level=levels[said.verify],
        holder=DRAWN if loaded.role else NO_ROLE,
        max_round_s=max_round_s,
        # A leader that is still pulling is not a dead one; recent merges widen the slots further.
        slot_s=min(max_round_s, Rules.slot_s + round(size_bytes / SLOT_BYTES_PER_S)),
    )


def _colluders(loaded: Loaded, members: int) -> int:
    """How many colluders a plan withstands among so many. Raises PlanError where it cannot."""
    said = loaded.rules
    if not said.secure:
        return PLAIN
    others = [t for t in loaded.tensors if t.dtype != "F32"]
    if others:
        raise PlanError(
            f"a secure plan masks float32 alone, and {others[0].name} is {others[0].dtype}: freeze "
            'it with `tensors`, or set wire_dtype = "fp32"'
        )
    colluders = max(1, (members - 1) // 3) if said.colluders is None else said.colluders
    if not colluders + 2 <= members <= MOST_MASKED:
        raise PlanError(
            f"a secure plan that withstands {colluders} colluders needs {colluders + 2} to "
            f"{MOST_MASKED} members, and {members} are invited: invite others, or set `colluders`"
        )
    return colluders


def check_rules(plan: Plan, loaded: Loaded) -> None:
    """Raise ConfigurationError if a proposal promises less than the plan's code asks for: whoever
    reads the code takes its rules for those that hold."""
    asked = chain_rules(loaded, parse(loaded.program), plan.invited.bit_count())
    if plan.rules.colluders != asked.colluders:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) was proposed {_secrecy(plan.rules.colluders)}, and its "
            f"code asks for it {_secrecy(asked.colluders)}. Do not join it: ask its proposer to "
            "propose it again"
        )
    promises = {
        "min_peers": (plan.rules.min_peers, asked.min_peers),
        "min_rows": (plan.rules.min_rows, asked.min_rows),
        "verify level": (plan.rules.verify_level, asked.verify_level),
    }
    if plan.rules.holder != asked.holder:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) was proposed with a role held otherwise than its code "
            "says. Do not join it, and ask its proposer to propose it again"
        )
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


def _secrecy(colluders: int) -> str:
    return "without masks" if colluders == PLAIN else f"masked against {colluders} colluders"


def _told(value: int) -> str:
    return value.name.lower() if isinstance(value, VerifyLevel) else str(value)
