"""What this site trains in a masked plan: it stays in a vault, and never enters the blob store.

An update is made once for a round and a base, and serves every attempt: of two updates from the
same base, the difference of two sums would tell. Its training is seeded from the system's entropy:
a seed that others know would let them test guesses of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swarm.privacy.vault import Vault
from swarm.protocol import machine as m
from swarm.rounds.masked_secrets import ABOUT_BYTES, KEY_BYTES, UPDATE, MaskedSecrets
from swarm.rounds.masked_work import MaskedWork
from swarm.types import Digest, PlanId


@dataclass(frozen=True)
class Kept:
    """What is told of an update: its samples, and the digest of its meta."""

    samples: int
    meta: Digest


@dataclass
class HiddenUpdates:
    """One plan's updates at one node."""

    plan: PlanId
    secrets: MaskedSecrets
    masked_work: MaskedWork

    async def recall(self, number: int, base: Digest) -> Kept | None:
        """What was trained for this round and base, if it was."""
        about = await self.secrets.in_turn(self._about, self._vault(number, base))
        if about is None:
            return None
        return Kept(int.from_bytes(about[:8], "big"), Digest(about[8:]))

    async def entropy_for(self, number: int, base: Digest) -> bytes:
        """What the training of this round is seeded with: drawn once, so that a training that was
        interrupted goes on."""
        return await self.secrets.in_turn(self._entropy, self._vault(number, base))

    async def keep(self, command: m.Train, out: Path, samples: int, meta: Digest) -> None:
        """Take the file of an update in, and remove it. Raises PlanError if it cannot be masked."""
        await self.masked_work.check(command.number, command.base, out)
        await self.secrets.in_turn(self._keep, command, out, samples, meta)

    def _keep(self, command: m.Train, out: Path, samples: int, meta: Digest) -> None:
        vault = self._vault(command.number, command.base)
        vault.put_file(UPDATE, samples.to_bytes(8, "big") + meta, out)
        out.unlink()

    @staticmethod
    def _about(vault: Vault) -> bytes | None:
        kept = vault.open(UPDATE)
        return None if kept is None else kept.read(0, ABOUT_BYTES)

    def _entropy(self, vault: Vault) -> bytes:
        found = vault.get("entropy")
        if found is None:
            found = self.secrets.entropy(KEY_BYTES)
            vault.put("entropy", found)
        return found

    def _vault(self, number: int, base: Digest) -> Vault:
        return self.secrets.update(self.plan, number, base)
