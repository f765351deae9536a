"""This node's secrets of masked rounds, on its disk: a vault for each attempt, each trained update
and each receiving key, and a record, never erased, of whose sums it has helped to open.

A folder for each plan, outside of the blob store: nobody can ask for what is in it. All methods
block, and raise LocalError where the disk does not do what it should.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from swarm.errors import LocalError
from swarm.privacy.derivation import public_key
from swarm.privacy.vault import Vault
from swarm.protocol.state import MemberSet
from swarm.types import Digest, PlanId

log = logging.getLogger("swarm.node")

KEY_BYTES = 32
UPDATE = "update"
"""Of what was trained: its samples, the digest of its meta, and its file."""
ABOUT_BYTES = 8 + 32
_SECRET = "secret"
Done = TypeVar("Done")


@dataclass
class MaskedSecrets:
    """Of all plans of a node. `node_secret` opens the vaults; `entropy` is the system's, but in
    tests."""

    folder: Path
    node_secret: bytes
    entropy: Callable[[int], bytes] = secrets.token_bytes
    _fresh: set[bytes] = field(default_factory=set)
    """Receiving keys that the chain may not have seen yet."""
    _turn: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))

    async def in_turn(self, work: Callable[..., Done], *arguments: object) -> Done:
        """Have blocking work done in a thread, one after the other: two must not both find a vault
        without a key, and make one. Raises LocalError for what the disk refuses."""

        def work_on_disk() -> Done:
            try:
                return work(*arguments)
            except OSError as error:
                raise LocalError(f"{error.filename}: {error.strerror}") from error

        return await trio.to_thread.run_sync(work_on_disk, limiter=self._turn)

    def new_receiving_key(self, plan: PlanId) -> bytes:
        """The public key for a consent: it stays until the chain has it."""
        public = self.draw_receiving_key(plan)
        self._fresh.add(public)
        return public

    def draw_receiving_key(self, plan: PlanId) -> bytes:
        """A public key to which shares for this site may be sealed, kept as long as `keep_only`
        says."""
        secret = self.entropy(KEY_BYTES)
        public = public_key(secret)
        self._receiving(plan, public).put(_SECRET, secret)
        return public

    def receiving_secret(self, plan: PlanId, public: bytes) -> bytes | None:
        """The secret of a receiving key; None once it was erased."""
        return self._receiving(plan, public).get(_SECRET)

    def attempt(self, plan: PlanId, number: int, attempt: int) -> Vault:
        """The vault of one attempt."""
        return self._vault(plan, f"attempt-{number}-{attempt}")

    def update(self, plan: PlanId, number: int, base: Digest) -> Vault:
        """What this site trained in a round from a base: once, for all attempts."""
        return self._vault(plan, f"update-{number}-{base.hex()}")

    def may_open(self, base: Digest, slot: int, owners: MemberSet, alone: PlanId | None) -> bool:
        """Write down whose sum is opened over a base (`alone`: for a plan that reopens); False if
        it was another set's before."""
        suffix = "" if alone is None else f"-plan-{alone}"
        record = self._at(self.folder / "opened")
        try:
            record.put(f"{base.hex()}-{slot}{suffix}", owners.to_bytes(32, "big"))
        except LocalError:
            return False
        return True

    def keep_only(
        self, plan: PlanId, attempt: tuple[int, int] | None, number: int, keys: Iterable[bytes]
    ) -> None:
        """Erase what is over of a plan: all but this attempt, updates of rounds from `number` on,
        and these receiving keys."""
        wanted = set(keys)
        self._fresh -= wanted
        wanted |= self._fresh
        for place in self._folder(plan).glob("*"):
            kind, *rest = place.name.split("-")
            if kind == "attempt":
                is_needed = attempt is not None and rest == [str(n) for n in attempt]
            elif kind == "update":
                is_needed = int(rest[0]) >= number
            else:
                is_needed = any(place.name == _key_name(key) for key in wanted)
            if not is_needed:
                self._at(place).erase()

    def hand_over(self, node_secret: bytes) -> None:
        """Have the node's next key open all that is here: a round under way goes on with it, and
        nothing is opened or masked twice. After a kill, give it again. A vault that opens with
        neither is left as it is, and told."""
        for place in (self.folder / "opened", *self.folder.glob("plan-*/*")):
            try:
                self._at(place).hand_over(node_secret)
            except LocalError as error:
                log.warning("%s", error)

    def _receiving(self, plan: PlanId, public: bytes) -> Vault:
        return self._vault(plan, _key_name(public))

    def _vault(self, plan: PlanId, name: str) -> Vault:
        return self._at(self._folder(plan) / name)

    def _at(self, place: Path) -> Vault:
        return Vault(place, self.node_secret, self.entropy)

    def _folder(self, plan: PlanId) -> Path:
        return self.folder / f"plan-{plan}"


def _key_name(public: bytes) -> str:
    return f"receiving-{public.hex()}"
