"""Whether this node takes part in a plan: the site's policy, and a second person's word where the
site asks for one. Asked when somebody consents, and again whenever the node starts to work on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarm.errors import PlanError
from swarm.learning.code.import_reader import Import
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.node.consent.confirmations import Confirmations
from swarm.node.consent.policy import SitePolicy, require
from swarm.protocol.program import Program
from swarm.protocol.state import Member, Plan, member_with_node
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.private_rounds import DataSet, round_mechanism
from swarm.rounds.site_limits import SiteLimits
from swarm.types import MemberId


@dataclass(frozen=True)
class Admission:
    """All methods that `require` raise ConfigurationError with what speaks against it."""

    policy: SitePolicy
    confirmations: Confirmations
    ledger: PrivacyLedger
    data_set: DataSet

    def against_proposal(self, plan: Plan, members: Mapping[MemberId, Member]) -> list[str]:
        """What speaks against a plan as the chain has it, one sentence each."""
        return self.policy.of_proposal(plan, members.get(plan.proposer))

    def against_imports(self, imports: Sequence[Import]) -> list[str]:
        """What speaks against what a plan's code imports."""
        return self.policy.of_imports(imports)

    def member_of(self, members: Mapping[MemberId, Member]) -> Member | None:
        """The member whose node this is."""
        return member_with_node(members, self.confirmations.own)

    def require_proposal(self, plan: Plan, members: Mapping[MemberId, Member]) -> None:
        """Before anything of the plan runs, or is asked of others."""
        require(self.against_proposal(plan, members) + self.confirmations.missing(plan))

    def require_description(self, loaded: Loaded) -> None:
        """Before the plan sees a row, given what its code says of itself."""
        require(self.policy.of_description(loaded))

    def require_privacy(self, loaded: Loaded, program: Program, rows: int) -> None:
        """Before the consent, given how many training rows this site declares: whether the budget
        of its rows' privacy allows all rounds. Blocks."""
        most, rules = self.ledger.budget.epsilon, loaded.rules
        if not rows:
            return
        if rules.privacy is None:
            refused = f"`privacy.epsilon` in {self.policy.place} allows {most:g}" if most else ""
            require([f"{loaded.name} has no differential privacy, so what its updates tell of a "
                     f"row has no bound, and {refused}: ask the proposer for `privacy = "
                     "swarm.dp(…)`, or take the limit out"] if refused else [])  # fmt: skip
            return
        try:
            mechanism = round_mechanism(rules, program, rows)
            assert mechanism is not None
            rounds = [mechanism] * program.training_rounds
            self.ledger.require(rounds, self.data_set.name, self.data_set.digest())
        except PlanError as error:
            require([str(error)])

    @property
    def site_limits(self) -> SiteLimits:
        """What is held while a plan runs."""
        return self.policy.site_limits

    def require_rows(self, rows: int) -> None:
        """Before the consent, given how many training rows the plan finds here."""
        require(self.policy.of_rows(rows))
