"""What goes into the QBFT machine and what comes out: events and commands, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

from swarm.chain.block import Block
from swarm.chain.messages import Certificate, GetStatus, Status, Vote
from swarm.chain.startup import VoteRecord
from swarm.types import Address, Digest

# Events.


@dataclass(frozen=True)
class HeadAdvanced:
    """A block was committed, or the node started. `validators` are those of the next height.

    `sealed`: whether the certificate of this head, if it was imported, bears our own seal.
    `domain`: what votes of the next height are signed over, if not what they were before.
    `unfair`: who has left out for too long what waits here; see `censorship`.
    """

    head: Block
    validators: tuple[Address, ...]
    pending: bool
    sealed: bool = False
    domain: Digest | None = None
    unfair: frozenset[Address] = frozenset()


@dataclass(frozen=True)
class TransactionsPending:
    """A transaction waits, and was sent to every validator in reach."""


@dataclass(frozen=True)
class MessageReceived:
    """`sender` is who the transport says it is."""

    sender: Address
    message: Vote | GetStatus | Status


@dataclass(frozen=True)
class BlockBuilt:
    """The answer to BuildBlock; None when nothing was worth a block."""

    height: int
    round: int
    block: Block | None


@dataclass(frozen=True)
class BlockExecuted:
    """The answer to ExecuteBlock."""

    block_hash: Digest
    valid: bool


@dataclass(frozen=True)
class VoteStored:
    """The record of this StoreVote, and all before it, are durable."""

    token: int


@dataclass(frozen=True)
class TimerExpired:
    """`token` is the SetTimer's: a timer that was set again or cancelled is ignored."""

    name: str
    token: int


@dataclass(frozen=True)
class PeerConnected:
    """A connection to this peer was made."""

    peer: Address


@dataclass(frozen=True)
class KeyIsUnshared:
    """This node was restored from a backup, and no other machine uses its key."""


Event = (
    HeadAdvanced
    | TransactionsPending
    | MessageReceived
    | BlockBuilt
    | BlockExecuted
    | VoteStored
    | TimerExpired
    | PeerConnected
    | KeyIsUnshared
)

# Commands.


@dataclass(frozen=True)
class BuildBlock:
    """Build a block on the head; in a round above 0 even without a transaction."""

    height: int
    round: int
    timestamp: int


@dataclass(frozen=True)
class ExecuteBlock:
    """Check this block fully, on the head."""

    block: Block


@dataclass(frozen=True)
class StoreVote:
    """Replace the stored record, durably, in the order of the tokens."""

    token: int
    record: VoteRecord


@dataclass(frozen=True)
class Broadcast:
    """Send to every other validator of this height."""

    message: Vote | GetStatus


@dataclass(frozen=True)
class Send:
    """Send to one peer."""

    to: Address
    message: Vote | GetStatus | Status


@dataclass(frozen=True)
class CommitBlock:
    """This block is final: store it with its certificate, and answer HeadAdvanced."""

    block: Block
    certificate: Certificate


@dataclass(frozen=True)
class SetTimer:
    """Start, or start again, the timer of this name."""

    name: str
    token: int
    delay_s: float


@dataclass(frozen=True)
class CancelTimer:
    """Stop the timer of this name."""

    name: str


@dataclass(frozen=True)
class RequestBlocks:
    """This peer says that it has certified blocks up to `height`, and we lack the last of them: ask
    it when its turn comes (`sources`)."""

    peer: Address
    height: int


@dataclass(frozen=True)
class SendBlocks:
    """This peer is behind: hand it the certified blocks from `first` on."""

    to: Address
    first: int


@dataclass(frozen=True)
class Report:
    """Something that a person should read once: a refusal, an equivocation, a lost vote."""

    subject: Address
    text: str


Command = (
    BuildBlock
    | ExecuteBlock
    | StoreVote
    | Broadcast
    | Send
    | CommitBlock
    | SetTimer
    | CancelTimer
    | RequestBlocks
    | SendBlocks
    | Report
)
