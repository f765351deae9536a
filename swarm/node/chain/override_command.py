"""`swarm chain override`: making and taking the signed override, on a node that does not run.

What it is and what it risks is said in `swarm.chain.override`. Both steps open the node's own chain
and believe nothing else: who the members are, who validates, and which block comes last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from swarm.chain.engine import Engine
from swarm.chain.override import (
    Override,
    SignedOverride,
    contradicting,
    place_of,
    read_applied,
    read_override,
    remember_signed,
    write_override,
)
from swarm.chain.service import VOTE_KEY, recover_votes
from swarm.chain.signer import NodeKeys
from swarm.chain.startup import VoteRecord, decode_record
from swarm.chain.store import VoteStore
from swarm.errors import ConfigurationError
from swarm.node.chain.source import read_network
from swarm.node.home.config import load_config
from swarm.node.home.password import open_key
from swarm.protocol.state import Member, majority
from swarm.types import Address, MemberId, to_hex


@dataclass(frozen=True)
class Prepared:
    """An override that this node could sign, and what its operator should know first."""

    proposed: SignedOverride
    members: Mapping[MemberId, Member]
    warnings: Sequence[str]
    keys: NodeKeys
    file: Path
    directory: Path

    def sign(self) -> tuple[int, int]:
        """Write the file with our signature; how many members signed, and how many must."""
        signed = self.proposed.signed_by(self.keys)
        remember_signed(self.directory, signed)
        write_override(self.file, signed)
        voters = {m.node for m in self.members.values() if m.present and m.endorsed}
        return len(signed.signers(self.keys) & voters), majority(len(voters))


@contextmanager
def prepare_signature(
    directory: Path, file: Path, without: Sequence[str], password: str | None = None
) -> Iterator[Prepared]:
    """Begin the override in `file`, or read what another operator began there.

    Raises ConfigurationError if it is not for the next block of this node's chain.
    """
    config = load_config(directory)
    secret = open_key(directory, config, password)
    with _open_chain(directory) as engine, _open_votes(directory) as votes:
        members = engine.members()
        own = _beginning(engine, members, without) if without else None
        if file.exists():
            proposed = read_override(file)
            if own is not None and own != proposed.override:
                raise ConfigurationError(
                    f"{file} says something else: leave --without away to sign what it says, or "
                    "name another file"
                )
        elif own is not None:
            proposed = SignedOverride(own, ())
        else:
            raise ConfigurationError(f"{file} does not exist: name who is lost by --without")
        _require_next(engine, proposed.override)
        keys = NodeKeys(secret)
        warnings = [
            *_contradictions(directory, proposed, members, keys),
            *_warnings(engine, votes),
        ]
        yield Prepared(proposed, members, warnings, keys, file, directory)


def apply_override(directory: Path, file: Path) -> str:
    """Check the override in `file` and keep it for this node; one sentence for the operator.

    Raises ConfigurationError, and then nothing has changed.
    """
    signed = read_override(file)
    place = place_of(directory, signed.override)
    if place.exists():
        # Its votes since then must not be forgotten.
        raise ConfigurationError(f"{place} exists: this node has an override there already")
    height = signed.override.height
    with _open_votes(directory) as votes:
        with _open_chain(directory, signed) as engine:  # which checks it, if it is that far
            head = engine.head.height
        place.parent.mkdir(mode=0o700, exist_ok=True)
        write_override(place, signed)
        if head == height - 1:
            # Old votes of this height are void, by their signature: see swarm.chain.override.
            recover_votes(votes, head)
            return f"from block {height} on {len(signed.override.validators)} decide; start it now"
    return f"kept; it will be checked at block {height}, and this node is at {head}"


def describe(signed: SignedOverride, members: Mapping[MemberId, Member]) -> str:
    """What it says, with names."""
    names = {m.node: m.name for m in members.values()}
    override = signed.override
    staying = ", ".join(names.get(node, to_hex(node)) for node in override.validators)
    return f"from block {override.height}, on {to_hex(override.parent)}: only {staying} decide"


def _beginning(
    engine: Engine, members: Mapping[MemberId, Member], without: Sequence[str]
) -> Override:
    by_name = {m.name: m.node for m in members.values() if m.present}
    unknown = [name for name in without if name not in by_name]
    if unknown:
        raise ConfigurationError(
            f"no member is called {', '.join(unknown)}; there are: {', '.join(by_name)}"
        )
    lost: set[Address] = {by_name[name] for name in without}
    staying = tuple(node for node in engine.validators() if node not in lost)
    head = engine.head
    return Override(engine.genesis_hash, head.height + 1, head.hash, staying)


def _require_next(engine: Engine, override: Override) -> None:
    head = engine.head
    place = (engine.genesis_hash, head.height + 1, head.hash)
    if (override.genesis, override.height, override.parent) != place:
        raise ConfigurationError(
            f"the override is for block {override.height} on {to_hex(override.parent)}, but the "
            f"last block here is {head.height}, {to_hex(head.hash)}: let every remaining node "
            "catch up with the one that is farthest, and begin again"
        )
    override.lost(engine.validators())


def _contradictions(
    directory: Path, proposed: SignedOverride, members: Mapping[MemberId, Member], keys: NodeKeys
) -> list[str]:
    """Overrides that say something else at this height, with those who signed them by name."""
    names = {m.node: m.name for m in members.values()}
    warnings = []
    for other in contradicting(directory, proposed.override):
        theirs = other.signers(keys)
        who = ", ".join(sorted(names.get(node, to_hex(node)) for node in theirs)) or "nobody"
        both = theirs & proposed.signers(keys)
        words = (
            f"this contradicts another override, signed by {who}: {describe(other, members)}. If "
            "each is signed by enough, the chain splits in two: let everybody delete one of them"
        )
        if both:
            twice = ", ".join(sorted(names.get(node, to_hex(node)) for node in both))
            words += f"; {twice} signed both"
        warnings.append(words)
    return warnings


def _warnings(engine: Engine, votes: VoteStore) -> list[str]:
    raw = votes.get(VOTE_KEY)
    record = VoteRecord() if raw is None else decode_record(raw)
    if record.height == engine.head.height + 1 and record.commit is not None:
        return [
            f"this node voted to commit block {to_hex(record.commit.block_hash)} at height "
            f"{record.height}: those who are gone may have decided it"
        ]
    return []


@contextmanager
def _open_chain(directory: Path, *more: SignedOverride) -> Iterator[Engine]:
    genesis = read_network(directory, load_config(directory))
    if genesis is None:
        raise ConfigurationError(f"{directory} uses an external chain, which has no overrides")
    overrides = (*read_applied(directory), *more)
    with Engine.open(directory / "chain", genesis, overrides=overrides) as engine:
        yield engine


@contextmanager
def _open_votes(directory: Path) -> Iterator[VoteStore]:
    os.makedirs(directory / "chain", exist_ok=True)
    with closing(VoteStore(directory / "chain" / "votes.db")) as votes:
        yield votes
