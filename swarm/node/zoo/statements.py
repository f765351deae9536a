"""What is published of a model: a statement, and who of its contributors has signed it.

The statement holds nothing but what every contributor finds on the chain, in the code and in its
own copy of the model, so each writes the same one by itself, and signs that and no words of others.
It counts once more than half of them have signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from swarm.errors import UNREADABLE, ConfigurationError, RemoteError
from swarm.node.consent.confirmations import signer_of
from swarm.protocol.state import (
    MAX_MEMBERS,
    Member,
    MemberSet,
    Plan,
    RoundStatus,
    contributors,
    majority,
    members_in,
)
from swarm.types import Address, Digest, MemberId, PlanId, to_address, to_digest, to_hex

MAX_ENTRY_BYTES = 128 * 1024
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Hex = Annotated[str, msgspec.Meta(pattern="^(0x[0-9a-f]{64})?$")]
Account = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{40}$")]
Signature = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{130}$")]
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Statement(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One final model. Digests are of blobs; of the plan, of its code."""

    format: Literal[1] = 1
    chain_id: Number
    contract: Account
    plan_id: Number
    name: Text
    about: Text
    licence: Text
    plan: Hex
    base: Hex
    continues: Number = 0
    """The plan whose final model this one began with; 0: none."""
    model: Hex
    """As the chain has it: what travels."""
    whole: Hex
    """With all that does not travel, in the types of the plan's own."""
    statistics: Hex
    chain_round: Number
    round: Number
    rounds: Number
    contributors: Annotated[tuple[Account, ...], msgspec.Meta(min_length=1, max_length=MAX_MEMBERS)]
    """The nodes whose updates are in it, in member order."""

    @property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest())

    @property
    def sentence(self) -> str:
        """What is signed."""
        return (
            f"Round {self.chain_round} of plan {self.plan_id} of the consortium {self.contract} on "
            f"chain {self.chain_id} has made the model {self.whole}, with my update in it. "
            f"Statement {to_hex(self.digest)}."
        )


class Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A statement and its signatures."""

    statement: Statement
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


_entries = msgspec.json.Decoder(Entry)


def decode_entry(raw: bytes) -> Entry:
    """Raises RemoteError for bytes that are none."""
    if len(raw) > MAX_ENTRY_BYTES:
        raise RemoteError(f"an entry of {len(raw)} bytes is more than {MAX_ENTRY_BYTES}")
    try:
        return _entries.decode(raw)
    except UNREADABLE as error:
        raise RemoteError(f"it is no entry: {error}") from None


def contributors_of(plan: Plan) -> MemberSet | None:
    """Whose updates are in the plan's newest model; None if the chain tells of a later round."""
    round = plan.round
    if round is None or round.number != plan.model_round or round.status is not RoundStatus.FINAL:
        return None
    winner = next((c for c in round.candidates if c.model == plan.model), None)
    return None if winner is None else contributors(round, winner.omitted)


def signers_of(entry: Entry) -> set[Address]:
    """The contributors that have signed it."""
    found = set()
    for signature in entry.signatures:
        try:
            found.add(signer_of(entry.statement.sentence, signature))
        except ConfigurationError:
            continue
    return found & {to_address(each) for each in entry.statement.contributors}


def check_entry(
    entry: Entry, plans: Mapping[PlanId, Plan], members: Mapping[MemberId, Member]
) -> None:
    """Compare an entry with the chain, and count its signatures. Raises RemoteError, in words."""
    told = entry.statement
    plan = plans.get(PlanId(told.plan_id))
    if plan is None:
        raise RemoteError(f"plan {told.plan_id} is not on this chain")
    if (told.plan, told.base) != (to_hex(plan.digest), to_hex(plan.base)):
        raise RemoteError(f"it is of another plan than plan {plan.id} of this chain")
    if told.chain_round == plan.model_round and told.model != to_hex(plan.model):
        raise RemoteError(f"round {told.chain_round} of plan {plan.id} has made another model")
    known = contributors_of(plan) if told.chain_round == plan.model_round else None
    may = known if known is not None else sum(1 << member for member in plan.consents)
    nodes = [to_hex(members[m].node) for m in members_in(may) if m in members]
    given = list(told.contributors)
    if (known is not None and given != nodes) or not set(given) <= set(nodes):
        raise RemoteError("it names other contributors than the chain does")
    signed, needed = len(signers_of(entry)), majority(len(given))
    if signed < needed:
        raise RemoteError(
            f"it is signed by {signed} of {len(given)} contributors, and {needed} must have"
        )


def files_of(statement: Statement) -> dict[str, Digest]:
    """The blobs of a model by the names that people know them by."""
    blobs = {"model.safetensors": statement.whole, "statistics.safetensors": statement.statistics}
    return {name: to_digest(digest) for name, digest in blobs.items() if digest}
