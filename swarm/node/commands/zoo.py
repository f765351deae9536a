"""What people may ask about published models: sign, publish, find, pull."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from swarm.errors import ConfigurationError
from swarm.node.commands.control import Handler
from swarm.node.zoo.statements import Entry
from swarm.node.zoo.zoo import Zoo
from swarm.protocol.state import BEST_SLOT
from swarm.types import NO_DIGEST, PlanId, to_digest, to_hex


@dataclass(frozen=True)
class ZooCommands:
    """What a node is asked about its part in the zoo."""

    zoo: Zoo

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "sign_model": self.sign,
            "publish_model": self.publish,
            "find_models": self.find,
            "pull_model": self.pull,
        }

    async def sign(self, plan: int) -> object:
        statement = await self.zoo.agree(PlanId(plan))
        told: dict[str, object] = msgspec.to_builtins(statement)
        more = {"digest": to_hex(statement.digest), "sentence": statement.sentence}
        return told | more | {"is_chosen": self._is_chosen(plan)}

    async def publish(self, plan: int) -> object:
        told = _told(await self.zoo.publish(PlanId(plan)))
        return told | {"is_chosen": self._is_chosen(plan)}

    def _is_chosen(self, plan: int) -> bool:
        """Whether a plan has chosen its best model, and so hands out that one."""
        return self.zoo.plans[PlanId(plan)].outputs[BEST_SLOT] != NO_DIGEST

    async def find(self) -> object:
        found, refused = await self.zoo.find()
        return {
            "models": [
                _told(entry) | {"holders": [self.zoo.name(node) for node in holders]}
                for entry, holders in found.values()
            ],
            "refused": refused,
        }

    async def pull(self, digest: str, path: str, force: bool) -> object:
        try:
            wanted = to_digest(digest)
        except ValueError as error:
            raise ConfigurationError(f"{digest!r} names no model: {error}") from None
        return _told(await self.zoo.pull(wanted, Path(path), force))


def _told(entry: Entry) -> dict[str, object]:
    statement = entry.statement
    told: dict[str, object] = msgspec.to_builtins(statement)
    return told | {"digest": to_hex(statement.digest), "signatures": len(entry.signatures)}
