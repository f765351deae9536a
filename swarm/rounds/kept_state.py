"""What this site keeps of its own from round to round: a plan's local tensors, as files.

What a training has left is *pending* until its round is final. If this site's update is part of the
round's model, it becomes *current*, and the next round begins from it; otherwise it is dropped, and
the site goes on from what it had. So what is kept belongs to the model that everybody has, however
often a trainer or the node is killed in between: a training that is done again begins from the same
current file, and writes the same pending one.

Files lie in a folder of their own, outside the blob store: nobody can ask for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from swarm.blobs.partial import writing
from swarm.errors import LocalError
from swarm.protocol.state import MemberSet, Plan, Round, RoundStatus, winner
from swarm.tensors import move_durably
from swarm.types import Digest, MemberId, PlanId

log = logging.getLogger("swarm.plan")

_PENDING = re.compile(r"pending-(\d+)-([0-9a-f]{64})\.safetensors")


class PastRounds(Protocol):
    """What is needed of the chain here."""

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None: ...


@dataclass
class KeptState:
    """One plan's kept files at one node."""

    me: MemberId
    folder: Path
    chain: PastRounds

    @property
    def current(self) -> Path | None:
        """What this site goes on from; None if it goes on from the initial model."""
        path = self.folder / "current.safetensors"
        return path if path.exists() else None

    def scratch(self) -> Path:
        """Where a training is to write what it leaves."""
        with writing(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self.folder / "training.safetensors"
            path.unlink(missing_ok=True)
        return path

    def note(self, number: int, update: Digest) -> None:
        """What lies in `scratch` was left by the training of round `number` that made `update`."""
        with writing(self.folder):
            name = f"pending-{number}-{update.hex()}.safetensors"
            move_durably(self.folder / "training.safetensors", self.folder / name)

    def check_settled(self, number: int) -> None:
        """Raise LocalError if it is not known yet whether what was left before round `number`
        counts: no training may begin from what it would replace."""
        if any(pending < number for pending in self._pending()):
            raise LocalError("what this site keeps of an earlier round is not in its place yet")

    async def observe(self, plan: Plan, members: MemberSet, ended: Iterable[Round]) -> None:
        """Settle what is pending of rounds that are over. Raises ChainError.

        What the disk refuses now is tried again at the next look.
        """
        pending = self._pending()
        known = {round.number: round for round in ended}
        if plan.round is not None:
            known[plan.round.number] = plan.round
        for number in sorted(pending):
            round = known.get(number)
            if round is None and plan.round is not None and number < plan.round.number:
                round = await self._past_round(plan.id, number)
            if round is not None and round.status is RoundStatus.FINAL:
                counted = _counted(round, members, self.me)
                try:
                    await trio.to_thread.run_sync(self._settle, pending[number], counted)
                except LocalError as error:
                    log.warning("%s", error)

    async def _past_round(self, plan: PlanId, number: int) -> Round | None:
        """The last attempt of a round: the one that made it final."""
        found, attempt = None, 1
        while (round := await self.chain.past_round(plan, number, attempt)) is not None:
            found, attempt = round, attempt + 1
        return found

    def _pending(self) -> dict[int, dict[Digest, Path]]:
        """By round and update."""
        found: dict[int, dict[Digest, Path]] = {}
        for path in self.folder.glob("pending-*"):
            if match := _PENDING.fullmatch(path.name):
                update = Digest(bytes.fromhex(match[2]))
                found.setdefault(int(match[1]), {})[update] = path
        return found

    def _settle(self, pending: dict[Digest, Path], counted: Digest | None) -> None:
        with writing(self.folder):
            if counted is not None and counted in pending:
                move_durably(pending[counted], self.folder / "current.safetensors")
            for path in pending.values():
                path.unlink(missing_ok=True)


def _counted(round: Round, members: MemberSet, me: MemberId) -> Digest | None:
    """The update of this member that a final round's model contains."""
    won, mine = winner(round, members), round.submissions.get(me)
    if won is None or mine is None or won.omitted >> me & 1:
        return None
    return mine.update
