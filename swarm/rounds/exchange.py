"""Blobs between this node and the others: what it serves to whom, and how it pulls.

Serving follows the plans' rules (`swarm.protocol.blob_access`); whatever no plan vouches for is not
here as far as others can tell. Only the roster of a round that runs can tell by the time that a
refusal takes whether an update of it is here already.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from swarm.blobs.download import BlobSource, Spread
from swarm.blobs.fetch import Wish, fetch_wish, follow
from swarm.blobs.partial import Draft
from swarm.blobs.store import BlobStore
from swarm.errors import AskedTooEarly, ChunkPending, RemoteError
from swarm.rounds.outgoing import UNKNOWN, Leaving, OnLeaving, TellPurpose, ignore, unknown
from swarm.rounds.suspension import once_more_if_overslept
from swarm.types import Address, Digest, to_hex

Rule = Callable[[Address, Digest], bool]
OnFault = Callable[[Address, RemoteError], None]
SLOWEST_LINK_BYTES_PER_S = 64 * 1024
FOLLOW_STALL_S = 10.0


@dataclass
class Exchange:
    """One node's blobs and its peers'. `rules` say who may read what; any of them may allow it."""

    store: BlobStore
    source: BlobSource
    max_blob_bytes: int
    rules: list[Rule] = field(default_factory=list)
    soon: list[Rule] = field(default_factory=list)
    """What somebody may come to read who asks a moment too early: any of them is enough."""
    drafts: dict[Digest, Draft | None] = field(default_factory=dict)
    """Models in the making, here or at their leader, by the names that peers ask for; None for one
    that is about to be begun."""
    on_leaving: OnLeaving = ignore
    """Hears of everything before it is sent."""
    purposes: list[TellPurpose] = field(default_factory=list)
    """What a blob is, for those who keep a list; the first that knows."""
    busy_s: float = 0.0
    """Seconds in which at least one pull was under way, since the node started."""
    _on_its_way: dict[Digest, trio.Lock] = field(default_factory=dict)
    _news: trio.Event = field(default_factory=trio.Event)
    _pulling: int = 0
    _began: float = 0.0

    def allow(self, rule: Rule, soon: Rule | None = None, purpose: TellPurpose = unknown) -> None:
        """One more rule by which others may read, one by which they may wait to, and what the blobs
        are that it is about."""
        self.rules.append(rule)
        self.purposes.append(purpose)
        if soon is not None:
            self.soon.append(soon)

    def serve_draft(self, name: Digest, draft: Draft | None) -> None:
        self.drafts[name] = draft

    def drop_draft(self, name: Digest) -> Draft | None:
        """Serve a draft no longer; what was served under this name."""
        return self.drafts.pop(name, None)

    # What this node serves: called in worker threads.

    def manifest(self, sender: Address, root: Digest) -> bytes:
        news = self._news
        try:
            self._check(sender, root)
        except RemoteError as error:
            if any(rule(sender, root) for rule in self.soon):
                raise AskedTooEarly(str(error), news.wait) from None
            raise
        manifest = self.store.manifest(root).encode()
        self._tell_leaving(sender, root, None, len(manifest))
        return manifest

    def rules_changed(self) -> None:
        """What `rules` say may be otherwise now: this node has followed the chain."""
        self._news.set()
        self._news = trio.Event()

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes | memoryview:
        self._check(sender, root)
        chunk = self._chunk(root, index)
        self._tell_leaving(sender, root, index, len(chunk))
        return chunk

    def _chunk(self, root: Digest, index: int) -> bytes | memoryview:
        if root not in self.drafts:
            return self.store.view_chunk(root, index)
        draft = self.drafts[root]
        if draft is None or not draft.holds(index):
            wait = None if draft is None else partial(draft.wait_for, index)
            raise ChunkPending(f"chunk {index} of draft {to_hex(root)} is not here yet", wait)
        return draft.read_chunk(index)

    def _tell_leaving(self, to: Address, root: Digest, part: int | None, size_bytes: int) -> None:
        found = (purpose for tell in self.purposes if (purpose := tell(root)) is not None)
        self.on_leaving(Leaving(to, root, part, size_bytes, next(found, UNKNOWN)))

    def _check(self, sender: Address, root: Digest) -> None:
        if not any(rule(sender, root) for rule in self.rules):
            raise RemoteError(f"blob {to_hex(root)} is not here for you")

    # What this node pulls.

    async def pull(
        self,
        root: Digest,
        peers: Iterable[Address],
        *,
        patience_s: float,
        within_s: float = math.inf,
        wish: Wish | None = None,
        on_fault: OnFault | None = None,
    ) -> None:
        """Bring a blob here from these peers, in order of preference.

        `patience_s` is how long a peer may make no progress; the whole may take `within_s`, and no
        longer than the slowest link needs. A peer whose pace is far below that is given up. Peers
        whose time ran out while this process was stopped are asked once more. Who asks for a blob
        that is already on its way waits for it: its bytes travel once. `on_fault` hears of each
        peer's faults. Raises RemoteError (BlobError, PeerUnreachable) or LocalError.
        """
        on_its_way = self._on_its_way.setdefault(root, trio.Lock())
        try:
            async with on_its_way:
                asked, wanted = list(peers), wish or Wish(self.max_blob_bytes)
                await once_more_if_overslept(
                    partial(self._pull, root, asked, patience_s, within_s, wanted, on_fault)
                )
        finally:
            if not on_its_way.locked():
                self._on_its_way.pop(root, None)

    async def _pull(
        self,
        root: Digest,
        peers: list[Address],
        patience_s: float,
        within_s: float,
        wish: Wish,
        on_fault: OnFault | None,
    ) -> None:
        with self._busy():
            await fetch_wish(
                self.store,
                root,
                peers,
                self.source,
                wish,
                deadline_s=min(within_s, patience_s + wish.max_bytes / SLOWEST_LINK_BYTES_PER_S),
                stall_s=patience_s,
                on_fault=on_fault,
            )

    @contextmanager
    def _busy(self) -> Iterator[None]:
        """Counts the time in which something is being pulled, overlaps once."""
        if self._pulling == 0:
            self._began = time.monotonic()
        self._pulling += 1
        try:
            yield
        finally:
            self._pulling -= 1
            if self._pulling == 0:
                self.busy_s += time.monotonic() - self._began

    async def follow(
        self, name: Digest, draft: Draft, spread: Spread, is_patient: Callable[[], bool]
    ) -> None:
        """Collect a model while its leader computes it, under the name that its drafts have."""
        await follow(
            draft, name, spread, self.source, stall_s=FOLLOW_STALL_S, is_patient=is_patient
        )
