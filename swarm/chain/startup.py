"""Durable votes, and the check at every start that none of them was lost. Pure.

A validator that forgets how it voted can vote twice, and two such votes can decide two blocks. So
each vote is on disk before it is sent, as one `VoteRecord` that replaces the last; and since disks
are restored from old copies and files get deleted, a starting node believes its record only after
the others agree with it.

The argument, for a node A that may have forgotten. A voted at height h only after h-1 was decided,
which took the commits of a quorum q; at least q-1 of those are others. Any N-q+1 others include
one of them, so the highest height M that N-q+1 others voted at is at least h-1. From M+2 on, A
cannot contradict itself. Getting there takes a quorum without A, or an operator who accepts the
risk (`recovered`).

That wait is for a node whose votes are known to be lost: its record is missing although the chain
has begun, or a vote of its own turns up that the record lacks, as a seal in a certificate above
the record's height or in an answer of a peer. A node that was merely away is not made to wait:
if it were, one liar and one late-comer among four could halt the chain for good. Its record needs
q-1 answers at most; with N = 3 and one dead, one answer is all there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from swarm.chain.messages import (
    MAX_VALIDATORS,
    Commit,
    Counter,
    Hash,
    Payload,
    Prepare,
    RoundChange,
    Status,
)
from swarm.errors import UNREADABLE, LocalError
from swarm.protocol.state import two_thirds
from swarm.types import Address


class Lock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The last block that this node saw prepared at this height, with the proof."""

    round: Counter
    block: Payload
    prepares: tuple[Prepare, ...]


class VoteRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """All that this node must remember of its votes: those of its latest height and round.

    `resume` is the first height at which it may vote (0: no restriction). `recovered` says that an
    operator vouches for the record; the next vote clears it. `restored` says that the node comes
    from a backup: its votes since then are not known, and another machine may still vote with its
    key.
    """

    height: Counter = 0
    round: Counter = 0
    proposed: Hash | None = None
    prepare: Prepare | None = None
    commit: Commit | None = None
    round_change: RoundChange | None = None
    lock: Lock | None = None
    resume: Counter = 0
    recovered: bool = False
    restored: bool = False

    def lacks(self, vote: Prepare | Commit | RoundChange) -> bool:
        """Whether this vote, signed with our key, is later than or contradicts the record."""
        place, here = (vote.height, vote.round), (self.height, self.round)
        if place != here:
            return place > here
        match vote:
            case Prepare():
                return self.prepare is None or self.prepare.block_hash != vote.block_hash
            case Commit():
                return self.commit is None or self.commit.block_hash != vote.block_hash
            case RoundChange():
                return self.round_change is None


_decoder = msgspec.msgpack.Decoder(VoteRecord)


def encode_record(record: VoteRecord) -> bytes:
    """The record as it is stored."""
    return msgspec.msgpack.encode(record)


def decode_record(raw: bytes) -> VoteRecord:
    """Read a stored record. Raises LocalError if it is damaged."""
    try:
        return _decoder.decode(raw)
    except UNREADABLE as error:
        raise LocalError(
            f"the vote store is damaged ({error}); delete it: the node then asks the other "
            "validators when it may vote again"
        ) from None


def recovered_record(head_height: int) -> VoteRecord:
    """The record of a node whose operator orders it to vote at once after losing its votes.

    If the node did vote above `head_height` before, its two votes can contradict each other, and
    with a third of the validators in that state two blocks can be decided at one height.
    """
    return VoteRecord(height=head_height, resume=head_height + 1, recovered=True)


class StartupCheck:
    """Collects the others' answers until it is known from which height this node may vote.

    record: what is stored, None if nothing is. sealed_height: the highest height whose stored
    certificate bears this node's seal.
    """

    def __init__(self, address: Address, record: VoteRecord | None, sealed_height: int) -> None:
        self._address = address
        self._record = record or VoteRecord()
        self._missing = record is None
        self._lost = self._record.restored or sealed_height > self._record.height
        self.is_held = self._record.restored
        """Whether this node is not to vote, whatever the others have answered."""
        self._answers: dict[Address, Status] = {}

    @property
    def is_lost(self) -> bool:
        """Whether votes are known to be missing."""
        return self._lost

    def note_first_head(self, height: int) -> None:
        """The head at the start: a node that is new, at genesis, has no votes to miss."""
        self._lost = self._lost or (self._missing and height > 0)

    def release(self) -> None:
        """No other machine votes with this key any more. It may have until now, so what the others
        answered before does not count."""
        self.is_held = False
        self._answers.clear()

    def heard_from(self) -> frozenset[Address]:
        """Who has answered so far."""
        return frozenset(self._answers)

    def note_own_seal(self, height: int) -> None:
        """A certificate of this height, just imported, bears our own seal."""
        self._lost = self._lost or height > self._record.height

    def add(self, sender: Address, status: Status, *, vote_is_ours: bool) -> None:
        """Note an answer. `vote_is_ours`: whether `your_vote` bears our own signature."""
        if len(self._answers) < MAX_VALIDATORS or sender in self._answers:
            self._answers[sender] = status
        if vote_is_ours and status.your_vote is not None and self._record.lacks(status.your_vote):
            self._lost = True

    def resume_height(self, head_height: int, validators: Sequence[Address]) -> int | None:
        """The first height at which this node may vote, or None while answers are missing or it is
        held.

        An answer counts once our own chain has caught up with what it says: nobody can hold us
        back with an invented height.
        """
        if self.is_held:
            return None
        others = [v for v in validators if v != self._address]
        if not others or self._record.recovered:
            return self._record.resume
        n, q = len(validators), two_thirds(len(validators))
        answers = [self._answers[v] for v in others if v in self._answers]
        if not self._lost:
            caught_up = sum(a.head <= head_height for a in answers)
            return self._record.resume if caught_up >= max(1, min(n - q + 1, q - 1)) else None
        voted = [a.voted_height for a in answers if a.voted_height <= head_height + 1]
        if len(voted) < min(n - q + 1, len(others)):
            return None
        return max(self._record.resume, max(voted) + 2)
