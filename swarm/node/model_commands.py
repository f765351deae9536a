"""What people may ask about the rounds and models of the plans in which this node takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from swarm.blobs.store import BlobStore
from swarm.errors import ConfigurationError
from swarm.node.control import Handler
from swarm.rounds.participation import Participation
from swarm.types import NO_DIGEST, Digest, PlanId, to_hex


@dataclass(frozen=True)
class ModelCommands:
    """`participations` fills while the node runs."""

    participations: Mapping[PlanId, Participation]
    store: BlobStore

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "records": self.records,
            "models": self.models,
            "evaluate": self.evaluate,
            "export": self.export,
        }

    async def records(self, plan: int) -> object:
        return self._part_in(plan).rounds()

    async def models(self, plan: int) -> object:
        part = self._part_in(plan)
        statistics = NO_DIGEST if part.plan is None else part.plan.statistics
        return {
            "models": [
                {
                    "round": number,
                    "number": part.program.number_of(number),
                    "digest": to_hex(digest),
                    "path": str(self.store.path(digest)),
                    "bytes": self.store.manifest(digest).length_bytes,
                }
                for number, digest in part.models().items()
            ],
            "statistics": str(self.store.path(statistics)) if self.store.has(statistics) else None,
        }

    async def export(self, plan: int, round: int, path: str) -> object:
        part = self._part_in(plan)
        await part.export(_model(part, round), Path(path))
        return {}

    async def evaluate(self, plan: int, round: int) -> object:
        part = self._part_in(plan)
        model = _model(part, round)
        if part.plan is None:
            raise ConfigurationError(f"plan {plan} is not known here yet")
        return {"metrics": await part.evaluate(round, model, part.plan.statistics)}

    def _part_in(self, plan: int) -> Participation:
        part = self.participations.get(PlanId(plan))
        if part is None:
            known = ", ".join(map(str, self.participations)) or "none"
            raise ConfigurationError(
                f"this node takes no part in plan {plan}; it takes part in: {known}"
            )
        return part


def _model(part: Participation, round: int) -> Digest:
    model = part.models().get(round)
    if model is None:
        raise ConfigurationError(f"no model of round {round} is kept here")
    return model
