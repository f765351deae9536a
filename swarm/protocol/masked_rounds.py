"""Masked rounds: decided (docs/decisions/0013), and not built yet.

The functions have their signatures, so that what calls them and what reads their events need not
change when they do something. Until then no plan can be proposed that would have such rounds.
"""

from __future__ import annotations

from swarm.errors import ContractError
from swarm.protocol.state import MemberSet
from swarm.types import Address, Digest, PlanId


class MaskedRounds:
    """What happens between the close of a masked round and its end."""

    def masked(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        epoch: int,
        masked: Digest,
        macs: bytes,
    ) -> None:
        """A contributor posts the digest of its masked update."""
        raise ContractError("MaskedUnavailable")

    def good(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        dealers: MemberSet,
        complaints: MemberSet,
    ) -> None:
        """A roster member says whose shares for it are right, and whose are not."""
        raise ContractError("MaskedUnavailable")

    def answer(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        epoch: int,
        complainant: int,
        share: bytes,
    ) -> None:
        """A dealer publishes a share that was complained about."""
        raise ContractError("MaskedUnavailable")

    def next_epoch(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int
    ) -> None:
        """Mask afresh among those who posted in time."""
        raise ContractError("MaskedUnavailable")

    def unmask(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        owners: MemberSet,
        shares: bytes,
    ) -> None:
        """A holder of the locked sum reveals its shares of the contributors' self masks."""
        raise ContractError("MaskedUnavailable")

    def abandon(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int
    ) -> None:
        """A majority gives a locked round up."""
        raise ContractError("MaskedUnavailable")
