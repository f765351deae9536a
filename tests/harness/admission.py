"""The admission of a site that takes part in everything, or by a policy."""

from __future__ import annotations

from pathlib import Path

from swarm.node.consent.admission import Admission
from swarm.node.consent.confirmations import Confirmations
from swarm.node.consent.policy import SitePolicy
from swarm.node.home.config import Policy
from swarm.privacy.charges import NO_BUDGET, Budget
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.private_rounds import DataSet
from swarm.types import Address

OWN = Address(b"\x0a" * 20)
CONTRACT = Address(b"\x0c" * 20)


def admission_by(
    policy: Policy | None = None, home: Path = Path("hospital"), budget: Budget = NO_BUDGET
) -> Admission:
    """Of the site "St. Mary", whose node has its directory in `home`."""
    policy = policy or Policy()
    kept = home / "confirmations"
    return Admission(
        SitePolicy(policy, home / "node.toml"),
        Confirmations(kept, policy.confirmers, OWN, "St. Mary", CONTRACT, 7),
        PrivacyLedger(home / "privacy.jsonl", budget),
        DataSet("data", lambda: ""),
    )
