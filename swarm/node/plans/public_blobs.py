"""The blobs that this node keeps for every member, whether or not it takes part in their plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from swarm.node.chain.seen import Seen
from swarm.protocol.state import BEST_SLOT, MODEL_SLOT
from swarm.rounds.outgoing import Purpose
from swarm.types import Address, Digest


@dataclass
class PublicBlobs:
    """Every plan's newest model and sums, and what was proposed or published here. All methods are
    called in worker threads, too."""

    seen: Seen
    published: Callable[[], set[Digest]] = set
    """The blobs of models that were published or pulled here."""
    proposed: set[Digest] = field(default_factory=set)
    """Initial models that were made here for plans of which the chain does not tell yet."""

    def all(self) -> set[Digest]:
        plans = tuple(self.seen.plans.values())
        of_plans = {digest for plan in plans for digest in (plan.base, *plan.outputs)}
        return of_plans | self.proposed | self.published()

    def may_read(self, sender: Address, blob: Digest) -> bool:
        """A rule of `Exchange`."""
        return self.seen.with_node(sender) is not None and blob in self.all()

    def purpose_of(self, blob: Digest) -> Purpose | None:
        """What such a blob is, for the list of what leaves."""
        for plan in tuple(self.seen.plans.values()):
            if blob == plan.base:
                return Purpose("model", plan.id, 0)
            if blob in plan.outputs:
                slot = plan.outputs.index(blob)
                kind = "model" if slot in (MODEL_SLOT, BEST_SLOT) else "sums"
                return Purpose(kind, plan.id, plan.output_rounds[slot])
        if blob in self.proposed:
            return Purpose("model", None, 0)
        return Purpose("published") if blob in self.published() else None
