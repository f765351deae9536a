"""Whom to ask for blocks that we lack, and for how long. Pure.

That a peer is ahead is only what it says: a claim is a reason to ask it, and nothing else. What
counts is the certified blocks that it then hands over (`sync`), which no liar can make up, so a
claim needs no proof of its own, however high it is; but it must not keep others from being asked.

One peer is asked at a time. Who was silent until its patience ran out, or handed over nothing that
is new, is asked after all who were not, and less and less often; among the others, who has been
quickest block for block goes first, so that one that drips is left as soon as there is another. An
answer that comes late still counts. Every other liar costs a node that is behind a patience, once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from swarm.types import Address

FIRST_PATIENCE_S = 2.0
PATIENCE_S = 10.0
"""For one whose last turn brought blocks: on a slow link, many of them take their time."""
LONGEST_PAUSE_S = 32.0


@dataclass
class _Source:
    height: int = 0
    """The highest block that it says it has."""
    failures: int = 0
    """Turns in a row that brought nothing."""
    block_s: float = 0.0
    """Seconds that a block took in its last good turn."""
    asked_s: float = float("-inf")
    owes: bool = False
    """Whether it was asked and has not answered since."""

    @property
    def rank(self) -> tuple[int, float]:
        return self.failures, self.block_s

    @property
    def patience_s(self) -> float:
        proved = self.block_s > 0 and not self.failures
        return PATIENCE_S if proved else FIRST_PATIENCE_S

    @property
    def next_turn_s(self) -> float:
        pause_s = min(2.0 ** min(self.failures, 10), LONGEST_PAUSE_S) if self.failures else 0.0
        return self.asked_s + pause_s


class Sources:
    """The peers that say they are ahead. Times are in seconds, of any clock that only goes forward.

    One entry for each member that ever made a claim: they are kept when it disconnects, so that
    connecting anew makes nobody trusted again.
    """

    def __init__(self) -> None:
        self._known: dict[Address, _Source] = {}
        self._asked: Address | None = None
        self._until_s = 0.0

    def claim(self, peer: Address, height: int) -> None:
        """This peer says that it has the blocks up to `height`."""
        self._known.setdefault(peer, _Source()).height = height

    def next(self, head: int, connected: Collection[Address], now_s: float) -> Address | None:
        """Whom to ask now for the blocks above `head`; None: nobody, or nobody yet."""
        self._give_up(head, connected, now_s)
        able = [p for p in self._able(head, connected) if self._known[p].next_turn_s <= now_s]
        if not able:
            return None
        peer = min(able, key=lambda p: (self._known[p].rank, self._known[p].asked_s, p))
        source = self._known[peer]
        if self._asked is not None and source.rank >= self._known[self._asked].rank:
            return None
        self._asked, self._until_s = peer, now_s + source.patience_s
        source.asked_s, source.owes = now_s, True
        return peer

    def answered(self, peer: Address, count: int, height: int, now_s: float) -> None:
        """This peer handed over blocks, of which `count` were new, and says how far it has come.

        Only who was asked gains by it: otherwise one could be silent when asked, and make up for it
        with a block now and then.
        """
        source = self._known.setdefault(peer, _Source())
        source.height = height
        if self._asked == peer:
            self._asked = None
        if not source.owes:
            return
        source.owes = False
        if count:
            source.failures = 0
            source.block_s = max(now_s - source.asked_s, 1e-6) / count
        else:
            source.failures += 1

    def due_s(self, head: int, connected: Collection[Address]) -> float:
        """When `next` may have something to say, without any news; infinity: never."""
        waiting = [self._known[p] for p in self._able(head, connected)]
        if self._asked is None:
            return min((source.next_turn_s for source in waiting), default=float("inf"))
        rank = self._known[self._asked].rank
        better = (source.next_turn_s for source in waiting if source.rank < rank)
        return min(self._until_s, min(better, default=self._until_s))

    def _able(self, head: int, connected: Collection[Address]) -> Iterator[Address]:
        """Those in reach that say they have more, but for the one that is being asked."""
        for peer, source in self._known.items():
            if source.height > head and peer != self._asked and peer in connected:
                yield peer

    def _give_up(self, head: int, connected: Collection[Address], now_s: float) -> None:
        """Wait no longer for one whose time is over, that is gone, or that has nothing more."""
        if self._asked is None:
            return
        source = self._known[self._asked]
        has_more = source.height > head
        if has_more and now_s < self._until_s and self._asked in connected:
            return
        source.failures += has_more
        self._asked = None
