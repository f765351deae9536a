"""What an audit found, as data.

`history` follows from the chain alone: two members that audit up to the same block get the same
digest, or one of them does not have what the other has. `here` is about this node's own files.
"""

from __future__ import annotations

from typing import Any

import msgspec
from eth_hash.auto import keccak

from swarm.types import to_hex


class Moment(msgspec.Struct, frozen=True):
    """A block, and its time in seconds since 1970."""

    height: int
    time: int


class Fault(msgspec.Struct, frozen=True):
    """Something that is not as it must be: where, and why."""

    place: str
    words: str


class MemberHistory(msgspec.Struct):
    """An institution: its keys, and how it came and went."""

    number: int
    name: str
    account: str
    node: str
    since: Moment
    until: Moment | None = None
    proposed_blocks: int = 0


class ProposalHistory(msgspec.Struct):
    """A vote of the members on one of them, or on the release."""

    number: int
    kind: str
    proposer: str
    subject: str
    at: Moment
    votes: dict[str, bool] = {}
    outcome: str = "open"


class ConsentHistory(msgspec.Struct):
    """What a member answered to a plan, and when. `answer` is "consented", "declined" or
    "withdrew"; `code` is what it consented to."""

    member: str
    answer: str
    at: Moment
    code: str = ""
    duties: tuple[str, ...] = ()
    max_samples: int = 0


class RoundHistory(msgspec.Struct):
    """One attempt at a round."""

    round: int
    attempt: int
    base: str
    opened: Moment
    roster: tuple[str, ...]
    trainers: tuple[str, ...]
    outcome: str = "open"
    """"final", "void" or "open"."""
    ended: Moment | None = None
    samples: dict[str, int] = {}
    """By each member that submitted: how many training rows it stated."""
    updates: dict[str, str] = {}
    leader: str = ""
    model: str = ""
    contributors: tuple[str, ...] = ()
    omitted: dict[str, str] = {}
    """Whose update the merge leaves out, and why, as its leader said."""
    attested: dict[str, str] = {}
    """By each member that attested the final merge: how much of it the member had checked."""


class PlanHistory(msgspec.Struct):
    """A plan from its proposal to its end."""

    number: int
    name: str
    proposer: str
    code: str
    program: str
    base: str
    at: Moment
    outcome: str = "open"
    model: str = ""
    consents: list[ConsentHistory] = []
    rounds: list[RoundHistory] = []


class History(msgspec.Struct):
    """What follows from the genesis and the blocks."""

    chain_id: int
    genesis: str
    head: Moment
    head_hash: str
    transactions: int = 0
    members: list[MemberHistory] = []
    proposals: list[ProposalHistory] = []
    plans: list[PlanHistory] = []

    @property
    def digest(self) -> str:
        """Keccak-256 of its JSON with sorted keys."""
        return to_hex(keccak(msgspec.json.encode(self, order="deterministic")))


class Holdings(msgspec.Struct):
    """What was compared of this node's own files."""

    blocks: int = 0
    seals: dict[str, int] = {}
    """Blocks whose seals, as this node has them, are also this member's. Two thirds are enough, so
    nodes keep different ones."""
    state_values: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    records: int = 0
    choices: int = 0
    """Choices of a best model that were made again."""


class Report(msgspec.Struct):
    """All that an audit says. There is no fault where `faults` is empty."""

    node: str
    release: str
    history: History
    digest: str
    here: Holdings
    faults: list[Fault]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built
