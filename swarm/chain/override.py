"""The signed override: how a chain goes on that lost over a third of its validators for good.

No vote can help then, for there is no block that it could be in. So the operators who remain sign a
file, outside of the chain: at block `height`, on the block `parent`, these `validators` decide, and
the others do not. It counts when the node keys of more than half of the endorsed members have
signed it, as the contract knew them after `parent`. Every node, and every newcomer, is given it.

An override only takes validators away; the rest stays the contract's to say. From `height` on every
vote is signed over the override's own digest in the place of the genesis hash, so what was voted
under the old set neither counts in the new one nor contradicts it.

What it cannot know is whether those who are gone had already decided a block at `height`. If they
come back with one, there are two histories: see docs/operations.md before you sign.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from eth_hash.auto import keccak

from swarm.chain.messages import Keys
from swarm.errors import UNREADABLE, ConfigurationError, system_fault
from swarm.protocol.state import Member, majority
from swarm.types import Address, Digest, MemberId, to_address, to_digest, to_hex

DOMAIN = b"swarm/override/1"
FOLDER, SIGNED_FOLDER = "overrides", "signed-overrides"
MAX_FILE_BYTES = 256 * 1024
MAX_OVERRIDES = 64
MAX_VALIDATORS = 256
SIGNATURE_BYTES = 65


@dataclass(frozen=True)
class Override:
    """From block `height` on, which follows the block `parent`, only these of the validators."""

    genesis: Digest
    height: int
    parent: Digest
    validators: tuple[Address, ...]

    @property
    def digest(self) -> Digest:
        """What is signed, and what votes are signed over from then on."""
        height = self.height.to_bytes(8, "big")
        content = DOMAIN + self.genesis + height + self.parent + b"".join(self.validators)
        return Digest(keccak(content))

    def lost(self, before: Collection[Address]) -> frozenset[Address]:
        """Whom it takes away from the validators that would have decided `height`.

        Raises ConfigurationError if it is not for these validators, or takes nobody away.
        """
        if not self.validators or not set(self.validators) < set(before):
            raise ConfigurationError(
                f"the override at block {self.height} must name some, but not all, of the "
                f"validators of that block: {', '.join(map(to_hex, before))}"
            )
        return frozenset(before) - frozenset(self.validators)


@dataclass(frozen=True)
class SignedOverride:
    """An override with signatures of its digest; unchecked until `require` was called."""

    override: Override
    signatures: tuple[bytes, ...]

    def signers(self, keys: Keys) -> frozenset[Address]:
        """Whoever they are; what is no signature is nobody's."""
        digest = self.override.digest
        found = (keys.recover(digest, signature) for signature in self.signatures)
        return frozenset(address for address in found if address is not None)

    def signed_by(self, keys: Keys) -> SignedOverride:
        """The same with our signature, once."""
        mine = keys.sign(self.override.digest)
        return SignedOverride(self.override, tuple(dict.fromkeys((*self.signatures, mine))))

    def require(self, members: Iterable[Member], keys: Keys) -> None:
        """Raise ConfigurationError unless more than half of the endorsed members signed."""
        voters = {m.node: m.name for m in members if m.present and m.endorsed}
        signed = self.signers(keys) & voters.keys()
        needed = majority(len(voters))
        if len(signed) < needed:
            names = ", ".join(sorted(voters[node] for node in signed)) or "nobody"
            raise ConfigurationError(
                f"the override at block {self.override.height} is signed by {names}: {needed} of "
                f"the {len(voters)} endorsed members must sign it (`swarm chain override sign`)"
            )


# Files.


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    genesis: str
    height: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    parent: str
    validators: Annotated[list[str], msgspec.Meta(max_length=MAX_VALIDATORS)]
    signatures: Annotated[list[str], msgspec.Meta(max_length=MAX_VALIDATORS)]


_decoder = msgspec.json.Decoder(_Document)


def read_override(path: Path) -> SignedOverride:
    """Read an override's file. Raises ConfigurationError; the signatures are not checked yet."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise ConfigurationError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        document = _decoder.decode(content)
        override = Override(
            to_digest(document.genesis),
            document.height,
            to_digest(document.parent),
            tuple(map(to_address, document.validators)),
        )
        signatures = tuple(bytes.fromhex(each.removeprefix("0x")) for each in document.signatures)
    except OSError as error:
        raise ConfigurationError(f"cannot read {system_fault(error)}") from None
    except (*UNREADABLE, ValueError) as error:
        raise ConfigurationError(f"{path} is no override: {error}") from None
    if any(len(signature) != SIGNATURE_BYTES for signature in signatures):
        raise ConfigurationError(f"{path}: a signature has {SIGNATURE_BYTES} bytes")
    return SignedOverride(override, signatures)


def write_override(path: Path, signed: SignedOverride) -> None:
    """Write an override's file, whole or not at all. Raises ConfigurationError."""
    override = signed.override
    document = _Document(
        genesis=to_hex(override.genesis),
        height=override.height,
        parent=to_hex(override.parent),
        validators=[to_hex(node) for node in override.validators],
        signatures=[to_hex(signature) for signature in signed.signatures],
    )
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {system_fault(error)}") from None


def place_of(directory: Path, override: Override) -> Path:
    """Where the node in `directory` keeps it."""
    return directory / FOLDER / f"{override.height}.json"


def read_applied(directory: Path) -> tuple[SignedOverride, ...]:
    """The overrides that the node in `directory` was given, oldest first."""
    paths = sorted((directory / FOLDER).glob("*.json"))[:MAX_OVERRIDES]
    return tuple(sorted(map(read_override, paths), key=lambda each: each.override.height))


def remember_signed(directory: Path, signed: SignedOverride) -> None:
    """Keep what the node in `directory` has signed: another one for that height contradicts it.

    Raises ConfigurationError if it cannot be kept; then it must not be signed.
    """
    folder = directory / SIGNED_FOLDER
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make {system_fault(error)}") from None
    override = signed.override
    write_override(folder / f"{override.height}-{override.digest.hex()[:16]}.json", signed)


def contradicting(directory: Path, override: Override) -> tuple[SignedOverride, ...]:
    """What the node in `directory` has signed or was given that says something else of this chain
    at this height, oldest file first."""
    folders = (directory / FOLDER, directory / SIGNED_FOLDER)
    paths = [path for folder in folders for path in sorted(folder.glob(f"{override.height}*.json"))]
    known = {read.override: read for read in map(read_override, paths[:MAX_OVERRIDES])}
    place = (override.genesis, override.height)
    return tuple(
        signed
        for other, signed in known.items()
        if (other.genesis, other.height) == place and other != override
    )


class Overrides:
    """Those that a chain was given, as the engine asks them about validators and votes."""

    def __init__(self, given: Sequence[SignedOverride], genesis: Digest, keys: Keys) -> None:
        for signed in given:
            if signed.override.genesis != genesis:
                raise ConfigurationError(
                    f"the override at block {signed.override.height} is for the chain that begins "
                    f"with {to_hex(signed.override.genesis)}, not {to_hex(genesis)}"
                )
        self._genesis = genesis
        self._keys = keys
        self._given = {signed.override.height: signed for signed in given}
        self._lost: dict[int, frozenset[Address]] = {}

    def heights(self) -> tuple[int, ...]:
        return tuple(sorted(self._given))

    def adopt(
        self,
        height: int,
        parent: Digest,
        validators: Sequence[Address],
        members: Mapping[MemberId, Member],
    ) -> None:
        """The chain has reached the block before `height`: check the override there, if any.

        Raises ConfigurationError if it does not belong on this block, or was not signed by enough.
        """
        signed = self._given.get(height)
        if signed is None or height in self._lost:
            return
        if signed.override.parent != parent:
            raise ConfigurationError(
                f"the override at block {height} follows {to_hex(signed.override.parent)}, but "
                f"this chain has {to_hex(parent)} there: remove it, and compare with the others"
            )
        signed.require(members.values(), self._keys)
        self._lost[height] = signed.override.lost(validators)

    def validators(self, height: int, said: Sequence[Address]) -> tuple[Address, ...]:
        """Who decides `height`, where the contract has said these."""
        lost = {node for at, gone in self._lost.items() if at <= height for node in gone}
        return tuple(node for node in said if node not in lost) or tuple(said)

    def vote_domain(self, height: int) -> Digest:
        """What votes at `height` are signed over."""
        adopted = [at for at in self._lost if at <= height]
        return self._given[max(adopted)].override.digest if adopted else self._genesis
