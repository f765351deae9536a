"""What this site consents to: `[policy]` of node.toml, held against a plan.

Each refusal is one sentence that names the value, the place and the remedy. They are looked for in
three steps, with what is known then:

    a proposal on the chain     who proposed it, how many rounds
    its code, read, not run     what it imports
    what the code says of itself, asked in its box     how large an update is

What a plan only shows while it runs, the length of a training and the size of statistics, is
bounded by its `site_limits` where it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.learning.code.import_reader import Import, is_allowed
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.node.home.config import NodeConfig, Policy
from swarm.protocol.state import Member, Plan
from swarm.rounds.layouts import update_layout_of
from swarm.rounds.site_limits import SiteLimits
from swarm.types import to_hex

MB = 10**6
MAX_NAMED = 5
"""Imports named in one refusal; a plan may have thousands."""


@dataclass(frozen=True)
class SitePolicy:
    """The policy of the node whose `node.toml` is `place`."""

    policy: Policy
    place: Path

    @property
    def limits_imports(self) -> bool:
        return self.policy.imports is not None

    def of_proposal(self, plan: Plan, proposer: Member | None) -> list[str]:
        """What of a plan as the chain has it is refused here."""
        refusals = []
        allowed, most = self.policy.proposers, self.policy.max_rounds
        known = () if proposer is None else (proposer.name, to_hex(proposer.account))
        if allowed is not None and not set(known) & set(allowed):
            who = f"member {plan.proposer}" if proposer is None else proposer.name
            refusals.append(
                f"plan {plan.id} was proposed by {who}, whom `policy.proposers` in {self.place} "
                f"does not name: add the name there and restart the node, or `swarm plan decline "
                f"{plan.id}`"
            )
        if most is not None and plan.rules.rounds > most:
            refusals.append(
                f"plan {plan.id} has {plan.rules.rounds} rounds, and `policy.max_rounds` in "
                f"{self.place} allows {most}: ask the proposer for fewer, or raise it"
            )
        return refusals

    def of_imports(self, imports: Sequence[Import]) -> list[str]:
        """Which of a plan's imports are refused here, in one sentence."""
        allowed = self.policy.imports
        if allowed is None:
            return []
        foreign = [each for each in imports if not is_allowed(each.module, each.names, allowed)]
        if not foreign:
            return []
        named = ", ".join(
            f"{each.module} ({each.file}:{each.line})" for each in foreign[:MAX_NAMED]
        )
        more = f" and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        return [
            f"the plan's code imports {named}{more}, which `policy.imports` in {self.place} does "
            "not name: read what it is for, and add it there, or ask the proposer to do without"
        ]

    def of_description(self, loaded: Loaded) -> list[str]:
        """What of a plan's own description is refused here."""
        most = self.policy.max_round_mb
        if most is None:
            return []
        size_bytes = update_layout_of(loaded).file_bytes
        if size_bytes <= most * MB:
            return []
        return [
            f"an update of {loaded.name} has {size_bytes} bytes, and `policy.max_round_mb` in "
            f"{self.place} allows {most:g} MB in a round: ask the proposer for a smaller model, or "
            "raise it"
        ]

    def of_rows(self, rows: int) -> list[str]:
        """Whether this site has too few training rows to train; with none, it only tests."""
        least = self.policy.min_rows
        if least is None or not 0 < rows < least:
            return []
        return [
            f"this site has {rows} training rows for the plan, and `policy.min_rows` in "
            f"{self.place} asks for {least}: an update of fewer tells too much of them"
        ]

    @property
    def site_limits(self) -> SiteLimits:
        """What is held while a plan runs."""
        policy = self.policy
        minutes, megabytes = policy.max_round_minutes, policy.max_round_mb
        return SiteLimits(
            train_s=None if minutes is None else 60 * minutes,
            round_bytes=None if megabytes is None else round(megabytes * MB),
            min_rows=policy.min_rows or 0,
            min_count=policy.min_count or 0,
            shares_scores=policy.share_scores,
        )


def site_policy(directory: Path, config: NodeConfig) -> SitePolicy:
    """The policy of the node in `directory`."""
    return SitePolicy(config.policy, directory / "node.toml")


def require(refusals: Sequence[str]) -> None:
    """Raise ConfigurationError with all of them, if there are any."""
    if refusals:
        raise ConfigurationError("; ".join(refusals))
