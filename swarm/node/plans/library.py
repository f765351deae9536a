"""The plans' code at this node: `plans/<digest>/`, written once, compared with its digest at every
use. A plan is fetched when somebody here wants to read it; it runs only after they have consented.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Protocol

import trio

from swarm.errors import ConfigurationError, PeerUnreachable, RemoteError
from swarm.learning.code import bundle
from swarm.learning.code.bundle import Bundle
from swarm.types import Address, Digest, to_hex

METHOD = "plan.bundle"
FETCH_DEADLINE_S = 20.0


class Requests(Protocol):
    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes: ...


class Library:
    """Bundles on disk, and from peers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in directory.glob(".*.partial"):
            shutil.rmtree(stale)

    def path(self, digest: Digest) -> Path:
        return self.directory / digest.hex()

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_dir()

    def read(self, digest: Digest) -> Bundle:
        """The code with this digest. Raises ConfigurationError if it is not here or was changed."""
        path = self.path(digest)
        if not path.is_dir():
            raise ConfigurationError(
                f"the code of plan {to_hex(digest)} is not here yet: a node that has it must be "
                "reachable; or name your own copy of it"
            )
        found = bundle.read(path)
        if found.digest != digest:
            raise ConfigurationError(
                f"the plan code in {path} was changed: its digest is {to_hex(found.digest)}, but "
                f"{to_hex(digest)} was consented to; delete the folder, and it is fetched again"
            )
        return found

    def add(self, code: Bundle) -> Path:
        """Keep a bundle; the folder appears whole or not at all."""
        final = self.path(code.digest)
        if not final.exists():
            # A folder of its own for each writer: the operator's consent brings the code while the
            # node fetches it from a peer, each in its own thread. Whoever is second finds it there.
            partial = Path(tempfile.mkdtemp(".partial", ".", self.directory))
            code.write(partial)
            try:
                partial.rename(final)
            except OSError:
                shutil.rmtree(partial)
                if not final.is_dir():
                    raise
        return final

    async def serve(self, sender: Address, payload: bytes) -> bytes:
        """Answer a member's request for a bundle."""
        if len(payload) != 32 or not self.has(Digest(payload)):
            raise RemoteError("this plan's code is not here")
        code = await trio.to_thread.run_sync(self.read, Digest(payload))
        return code.pack()

    async def fetch(self, digest: Digest, peers: list[Address], network: Requests) -> None:
        """Get a bundle from the first of `peers` that has it. Raises PeerUnreachable if none."""
        faults = []
        for peer in peers:
            try:
                packed = await network.request(peer, METHOD, digest, deadline_s=FETCH_DEADLINE_S)
                code = bundle.unpack(packed)
            except RemoteError as error:
                faults.append(str(error))
                continue
            if code.digest == digest:
                await trio.to_thread.run_sync(self.add, code)
                return
            faults.append(f"{to_hex(peer)} sent code with the digest {to_hex(code.digest)}")
        raise PeerUnreachable(f"nobody sent the code of plan {to_hex(digest)}: {'; '.join(faults)}")
