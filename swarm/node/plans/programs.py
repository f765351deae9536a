"""The programs of plans at this node: `programs/<digest>`, from peers, and compared with the code.

The chain has only the digest of a plan's stages. Their text, the blob, is written here when a plan
is proposed or consented to, and sent to whoever asks. Before it consents, a node rebuilds the
program from the plan's code, in the box, and compares: then what the rounds are for is what people
have read. From then on the blob alone says it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

import trio

from swarm.errors import ConfigurationError, LocalError, PeerUnreachable, PlanError, RemoteError
from swarm.learning.plans.stages import check_known
from swarm.protocol.program import MAX_BLOB_BYTES, Program, digest_of, parse
from swarm.protocol.state import MODEL_SLOT, Plan
from swarm.tensors import move_durably
from swarm.types import Address, Digest, to_hex

METHOD = "plan.program"
FETCH_DEADLINE_S = 10.0


class Requests(Protocol):
    """What is needed of the network here."""

    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes: ...


class Programs:
    """Blobs on disk, and from peers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in directory.glob(".*.partial"):
            stale.unlink(missing_ok=True)

    def find(self, digest: Digest) -> Program | None:
        """The program with this digest, if it is here. Raises PlanError if it is of a release that
        writes other programs."""
        blob = self._blob(digest)
        return None if blob is None else parse(blob)

    def add(self, program: Program) -> None:
        """Keep a program; it survives a loss of power. Raises LocalError."""
        self._write(program.blob)

    async def serve(self, sender: Address, payload: bytes) -> bytes:
        """Answer a member's request for a blob."""
        blob = await trio.to_thread.run_sync(self._blob, Digest(payload))
        if blob is None:
            raise RemoteError("this plan's program is not here")
        return blob

    async def bring(self, digest: Digest, peers: list[Address], network: Requests) -> Program:
        """The program with this digest, from the first of `peers` that has it if it is not here.

        Raises PeerUnreachable if none has, PlanError if it is of a later release.
        """
        here = await trio.to_thread.run_sync(self.find, digest)
        if here is not None:
            return here
        faults = []
        for peer in peers:
            try:
                blob = await network.request(peer, METHOD, digest, deadline_s=FETCH_DEADLINE_S)
            except RemoteError as error:
                faults.append(str(error))
                continue
            if len(blob) <= MAX_BLOB_BYTES and digest_of(blob) == digest:
                await trio.to_thread.run_sync(self._write, blob)
                return parse(blob)
            faults.append(f"{to_hex(peer)} sent another program")
        raise PeerUnreachable(f"nobody sent the program {to_hex(digest)}: {'; '.join(faults)}")

    def _blob(self, digest: Digest) -> bytes | None:
        try:
            blob = (self.directory / digest.hex()).read_bytes()
        except OSError:
            return None
        return blob if digest_of(blob) == digest else None

    def _write(self, blob: bytes) -> None:
        final = self.directory / digest_of(blob).hex()
        try:
            descriptor, name = tempfile.mkstemp(".partial", ".", self.directory)
            with os.fdopen(descriptor, "wb") as file:
                file.write(blob)
                file.flush()
                os.fsync(file.fileno())
            move_durably(Path(name), final)
        except OSError as error:
            raise LocalError(f"cannot write {final}: {error.strerror}; free disk space") from error


def check_program(plan: Plan, proposed: Program, said: Program) -> None:
    """Raise ConfigurationError unless this is the proposal's program, and what its code says (but
    for the rounds of training, which a proposer may choose), and PlanError for one that this
    release cannot run."""
    check_known(proposed)
    models = [stage for stage in proposed.stages if stage.slot == MODEL_SLOT]
    expected = said
    if proposed != said and models:
        rounds = sum(stage.rounds for stage in models)
        try:
            expected = said.with_rounds(rounds, models[0].before)
        except PlanError:
            expected = said
    if proposed.digest != plan.program or proposed != expected:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) has stages other than its code says, or such as this "
            "release of swarm does not know: do not join it; ask its proposer which release it is "
            "for"
        )
    if plan.rules.rounds != proposed.rounds:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) may run {plan.rules.rounds} rounds, and its stages have "
            f"{proposed.rounds}: do not join it; ask its proposer to propose it again"
        )
