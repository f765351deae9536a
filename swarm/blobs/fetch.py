"""Fetching one blob from whoever has it: several peers at once, chunk by chunk, none trusted.

Each peer in use has a worker that claims the next chunks, asks for them, and checks and writes what
came. What a peer did not deliver goes back to the others; a worker with nothing left to claim takes
over chunks that another has owed for a while. So one honest, reachable peer is enough, a fast one
gives most, and a slow one delays nothing that another can give. A small blob is not worth that: it
is asked of one peer, and of the next when that one refuses or takes its time. (With eight members
of a small model, asking four at once made a thousand requests a round, and on a busy machine none
of them came in time.)

When many want at once what only its origin has, a merged model above all, they share the work by a
`Spread`: each is the first taker of every nth chunk, and the others get that chunk from it. The
origin then sends the blob about once, however many want it, and everybody else as much as it
receives. A peer that awaits a chunk itself makes the asker wait (`ChunkPending`), so what has just
arrived at one flows on to the next.

Whose fault a failure is decides what follows. Wrong bytes: that peer is not asked again. Silence, a
broken connection, "not here": it is asked again a few times, as long as the deadline allows. Chunks
at a pace at which the rest cannot be here by then: it is left. A manifest that is genuine but not
wanted (too long, other tensors): the blob itself is refused, no peer can help. What was verified
stays on disk, and the next fetch goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import trio

from swarm.blobs.download import BlobSource, Download, Spread
from swarm.blobs.manifest import Manifest, Origin
from swarm.blobs.partial import Draft, Partial
from swarm.blobs.store import BlobStore
from swarm.errors import BlobError, PeerUnreachable, RemoteError
from swarm.tensors import Layout
from swarm.types import Address, Digest


@dataclass(frozen=True)
class Fetched:
    """What came from whom, and what was wrong with the others (their last fault)."""

    manifest: Manifest
    bytes_from: Mapping[Address, int]
    faults: Mapping[Address, RemoteError]


@dataclass(frozen=True)
class Wish:
    """What is wanted of a blob, and how.

    layout   it must be a whole tensor file of that layout
    spread   who asks whom for which chunk; all sources are asked at once
    only     the chunks that are needed: the blob then stays in the making
    draft    what came of it before its name was known
    on_open  called when its chunks begin to come, or are here already
    origin   whose update a tensor file must be; None: nobody's
    """

    max_bytes: int
    layout: Layout | None = None
    spread: Spread | None = None
    only: Collection[int] | None = None
    draft: Draft | None = None
    on_open: Callable[[], None] = lambda: None
    origin: Origin | None = None


async def fetch(
    store: BlobStore,
    root: Digest,
    peers: Sequence[Address],
    source: BlobSource,
    *,
    deadline_s: float,
    max_bytes: int,
    stall_s: float = 10.0,
    layout: Layout | None = None,
    on_fault: Callable[[Address, RemoteError], None] | None = None,
) -> Fetched:
    """Bring a whole blob into the store: `fetch_wish` for the plain case."""
    wish = Wish(max_bytes, layout)
    return await fetch_wish(
        store, root, peers, source, wish, deadline_s=deadline_s, stall_s=stall_s, on_fault=on_fault
    )


async def fetch_wish(
    store: BlobStore,
    root: Digest,
    peers: Sequence[Address],
    source: BlobSource,
    wish: Wish,
    *,
    deadline_s: float,
    stall_s: float = 10.0,
    on_fault: Callable[[Address, RemoteError], None] | None = None,
) -> Fetched:
    """Bring a blob into the store. `peers` are asked in order, four at a time, or one after the
    other for a small blob.

    `on_fault` hears of every fault as it happens. Raises BlobError if the blob is not wanted, or
    was only ever given in wrong bytes, PeerUnreachable if it did not come in time, LocalError if it
    cannot be written.
    """
    download = Download(root, list(dict.fromkeys(peers)), source, stall_s, wish.spread, on_fault)
    return await _Fetch(store, download, wish).run(deadline_s)


async def follow(
    draft: Draft,
    name: Digest,
    spread: Spread,
    source: BlobSource,
    *,
    stall_s: float,
    is_patient: Callable[[], bool],
) -> None:
    """Fill a draft with what the origin makes under `name`, while it is making it.

    The others are asked from its first chunk on: they follow it, too. For as long as `is_patient`,
    who has nothing yet is asked again and again, and nobody's chunks are taken over. Returns when
    the draft is whole, or nobody is left to ask.
    """
    download = Download(name, spread.sources, source, stall_s, spread, None)
    download.is_patient = is_patient
    download.begin(draft, draft.missing)
    await download.work()


class _Fetch:
    """One fetch of a blob by its name: finds the manifest, and makes the blob held at the end."""

    def __init__(self, store: BlobStore, download: Download, wish: Wish) -> None:
        self.store, self.download, self.wish = store, download, wish
        self.root = download.root
        self.partial: Partial | None = None
        self.opening = trio.Lock()

    async def run(self, deadline_s: float) -> Fetched:
        download = self.download
        manifest = await trio.to_thread.run_sync(self._known_manifest)
        if manifest is not None:
            self._check(manifest)
            if self.store.has(self.root):
                self.wish.on_open()
                return Fetched(manifest, {}, {})
            await self._open_partial(manifest)
        download.find = self._fetch_manifest
        download.until = trio.current_time() + deadline_s
        try:
            with trio.move_on_after(deadline_s) as whole:
                await download.work()
        finally:
            # Two that know each other wait for the garbage collector, and keep the file open: one
            # that was deleted meanwhile would take its room for as long.
            download.find = None
        if download.verdict is not None:
            raise download.verdict
        if self.partial is None or not download.complete:
            raise download.failure(f" in {deadline_s:g} s" if whole.cancelled_caught else "")
        if not self.partial.missing:
            await trio.to_thread.run_sync(self.partial.finish)
        return Fetched(self.partial.manifest, dict(download.bytes_from), dict(self.download.faults))

    async def _fetch_manifest(self, peer: Address) -> None:
        download = self.download
        with trio.move_on_after(download.stall_s) as patience:
            encoded = await download.source.fetch_manifest(
                peer, self.root, deadline_s=download.stall_s
            )
        if patience.cancelled_caught:
            raise PeerUnreachable(f"no manifest within {download.stall_s:g} s")
        if self.partial is not None:  # another peer was faster
            return
        manifest = await trio.to_thread.run_sync(Manifest.decode, encoded, self.root)
        try:
            self._check(manifest)
        except BlobError as error:
            download.end(error)
            return
        await self._open_partial(manifest)

    def _check(self, manifest: Manifest) -> None:
        wish = self.wish
        manifest.require(max_bytes=wish.max_bytes, layout=wish.layout, origin=wish.origin)

    async def _open_partial(self, manifest: Manifest) -> None:
        wish = self.wish
        async with self.opening:
            if self.partial is not None:
                return
            partial = await trio.to_thread.run_sync(
                lambda: self.store.partial(
                    self.root, manifest, max_bytes=wish.max_bytes, draft=wish.draft
                )
            )
            needed = partial.missing
            if wish.only is not None:
                needed = sorted(set(needed) & set(wish.only))
            self.partial = partial
            self.download.begin(partial, needed)
        wish.on_open()

    def _known_manifest(self) -> Manifest | None:
        try:
            return self.store.manifest(self.root)
        except BlobError:
            return None
