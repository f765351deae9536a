"""Models in the making: what the leader computes flows to the others while it computes it.

A merged model gets its name, the root of its hash tree, only with its last chunk. So that nobody
waits for that, the leader serves the chunks that it has under a name made of the round and its own
number, and the others collect them from it and from each other. Nothing of a draft counts: once the
leader's merge is posted, its manifest says which chunks are right, and the draft becomes the begin
of an ordinary fetch, which asks for the others again. A leader or a peer that sends wrong chunks
costs their transfer once more, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import trio
from blake3 import blake3

from swarm.blobs.download import Spread
from swarm.blobs.partial import Draft
from swarm.blobs.store import BlobStore
from swarm.errors import SwarmError
from swarm.rounds.exchange import Exchange
from swarm.tensors import Layout
from swarm.types import Digest, MemberId, PlanId

MAX_FOLLOWED = 2
_NAME_DOMAIN = "swarm 2026 draft name v1"

Place = tuple[int, int, MemberId]
"""Round, attempt, and the leader whose merge it is."""


def draft_name(plan: PlanId, place: Place) -> Digest:
    """The name under which a leader's model is asked for before it has its own."""
    encoded = msgspec.msgpack.encode((plan, *place))
    return Digest(blake3(encoded, derive_key_context=_NAME_DOMAIN).digest())


@dataclass
class _Following:
    """A model of another leader that is being collected."""

    draft: Draft | None = None
    is_posted: bool = False
    ended: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


@dataclass
class Drafts:
    """One plan's drafts at one node: its own merges, and those of other leaders that it follows.

    The slot of a leader may end shortly before its merge is posted, so the one before the newest is
    followed on.
    """

    plan: PlanId
    store: BlobStore
    exchange: Exchange
    _named: dict[Place, Digest] = field(default_factory=dict)
    _merged: dict[Place, Digest] = field(default_factory=dict)
    _followed: dict[Place, _Following] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[Digest]:
        """The drafts that others may ask for, and what has become of them here."""
        return frozenset(self._named.values()) | frozenset(self._merged.values())

    def expect(self, place: Place) -> None:
        """This node will merge: who asks for its draft already is made to wait."""
        if place not in self._named:
            self._named[place] = draft_name(self.plan, place)
            self.exchange.serve_draft(self._named[place], None)

    async def begin(self, place: Place, layout: Layout) -> Draft:
        """A draft to merge into, served from now on; an earlier one of this place is dropped."""
        self.expect(place)
        name = self._named[place]
        draft = await trio.to_thread.run_sync(self.store.draft, name.hex(), layout)
        self.exchange.serve_draft(name, draft)
        return draft

    def finished(self, place: Place, model: Digest) -> None:
        """A draft of this node's own is whole, and has this name now. Others have seen it grow, so
        they may ask for it before its merge is in a block."""
        self._merged[place] = model

    async def follow(self, place: Place, layout: Layout, spread: Spread) -> None:
        """Collect a leader's model until it is whole, or `take` or `forget` ends it."""
        self._followed[place] = following = _Following()
        for _, old in list(self._followed.items())[:-MAX_FOLLOWED]:
            old.scope.cancel()
        try:
            with following.scope:
                following.draft = draft = await self.begin(place, layout)
                await self.exchange.follow(
                    self._named[place],
                    draft,
                    spread,
                    is_patient=lambda: not following.is_posted,
                )
        except SwarmError:
            pass  # what is missing is fetched when the model has its name
        finally:
            following.ended.set()

    async def take(self, place: Place, patience_s: float) -> Draft | None:
        """What was collected of a leader's model, now that it is posted; None if it was not
        followed. Waits for what is on its way, as long as `patience_s` at most."""
        following = self._followed.get(place)
        if following is None:
            return None
        following.is_posted = True
        with trio.move_on_after(patience_s):
            await following.ended.wait()
        following.scope.cancel()
        return following.draft

    async def forget(self, but: tuple[int, int]) -> None:
        """Drop all drafts but those of this round and attempt."""
        self._merged = {p: model for p, model in self._merged.items() if p[:2] == but}
        dropped = []
        for place in [p for p in self._named if p[:2] != but]:
            if place in self._followed:
                self._followed.pop(place).scope.cancel()
            dropped.append(self.exchange.drop_draft(self._named.pop(place)))
        for draft in dropped:
            if draft is not None:
                await trio.to_thread.run_sync(draft.discard)
