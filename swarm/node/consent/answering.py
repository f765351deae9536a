"""What this node answers by itself to a plan that waits for its member's consent."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from swarm.errors import ConfigurationError, SwarmError
from swarm.node.chain.seen import Seen
from swarm.node.consent.admission import Admission
from swarm.protocol.state import Member, Plan, PlanStatus
from swarm.types import PlanId

log = logging.getLogger("swarm.node")

RETRY_S = 10.0

Consent = Callable[[PlanId, str | None], Awaitable[object]]


@dataclass
class Answering:
    """The site's policy says of each new plan what speaks against it, and may consent."""

    seen: Seen
    admission: Admission
    consent: Consent | None = None
    """How this node consents by itself, where its policy lets it."""
    against_policy: dict[PlanId, str] = field(default_factory=dict)
    """Proposed plans that this site's policy does not consent to, and why."""
    _considered: set[PlanId] = field(default_factory=set)

    def consider(self, plan: Plan, me: Member, nursery: trio.Nursery) -> None:
        """Hold a plan that this member has not joined against the site's policy."""
        if plan.status is not PlanStatus.PROPOSED or plan.declined >> me.id & 1:
            self.against_policy.pop(plan.id, None)
        elif plan.id not in self._considered:
            self._considered.add(plan.id)
            refusals = self.admission.against_proposal(plan, self.seen.members)
            if refusals:
                self.against_policy[plan.id] = "; ".join(refusals)
            elif self.consent is not None:
                nursery.start_soon(self._consent, self.consent, plan.id)

    async def _consent(self, consent: Consent, plan: PlanId) -> None:
        """Tried until the code is here and the chain takes it, or the policy or the plan itself
        speaks against it."""
        while self.seen.plans[plan].status is PlanStatus.PROPOSED:
            try:
                await consent(plan, None)
                log.info("consented to plan %d, as the policy of this site says", plan)
                return
            except ConfigurationError as error:
                log.warning("plan %d is not consented to: %s", plan, error)
                self.against_policy[plan] = str(error)
                return
            except SwarmError as error:
                log.info("plan %d cannot be consented to yet: %s", plan, error)
                await trio.sleep(RETRY_S)
