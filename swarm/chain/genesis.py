"""The beginning of a consortium: who founds it, under which contract, and what follows from that.

Every founder writes a join card; from all cards, in whatever order they come, everyone computes
the same `Genesis`, hence the same block 0 and the same chain id. Block 0 already holds the contract
with the founders as members, so nobody has to deploy anything for the others, and block 1 has
validators. Cards and genesis are JSON files: `network.json` is all that a new node is given.

The digest covers what members must agree on. Network addresses are where to look first; they
change, and are not covered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec
import rlp
from eth.constants import BLANK_ROOT_HASH
from eth_abi.abi import encode as encode_abi
from eth_hash.auto import keccak

from swarm.chain.contract import artifact
from swarm.chain.evm import Context, Outcome, Overlay, State, create, genesis_outcome
from swarm.chain.rules import ChainRules
from swarm.errors import UNREADABLE, ConfigurationError, system_fault
from swarm.protocol.names import MAX_NAME_BYTES, find_bad_character, lookalike_key
from swarm.types import NO_ADDRESS, Address, Digest, to_address, to_digest, to_hex

CONTRACT_ADDRESS = Address(b"swarm".rjust(20, b"\0"))
"""Where the consortium contract lies, on every embedded chain."""


def library_address(name: str) -> Address:
    """Where a library of the contract lies, on every embedded chain."""
    return Address(f"swarm {name.lower()}".encode().rjust(20, b"\0"))


MAX_FOUNDERS = 256
_MAX_ADDRESSES, _MAX_ADDRESS_CHARS = 8, 256
_MAX_CODE_BYTES = 64 * 1024
_MAX_LIBRARIES = 8
_LIBRARY_NAME = re.compile("[A-Za-z]{1,13}")
_MAX_FILE_BYTES = 2 * 1024 * 1024
_MAX_TIMESTAMP = 2**40
_CONSTRUCTOR_GAS = 10**9  # nobody pays for it; 256 founders need about 10**8
_DOMAIN = b"swarm genesis"
_VERSION = 2
_CONSTRUCTOR_TYPES = ["(address,address,string)[]"]


class Founder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A join card: an institution's name, the account that governs, the key address that works.

    `addresses` are the multiaddrs under which its node can be reached.
    """

    name: str
    account: Address
    node: Address
    addresses: tuple[str, ...] = ()


class Library(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Code that runs on the contract's storage: its name, and its creation code."""

    name: str
    bytecode: bytes


class Genesis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a chain begins with. Build it with `make_genesis`, which checks and sorts.

    `bytecode` is the contract's creation code without constructor arguments, linked to the
    `libraries` at their fixed addresses.
    """

    version: int
    timestamp: int
    founders: tuple[Founder, ...]
    bytecode: bytes
    libraries: tuple[Library, ...] = ()

    @property
    def digest(self) -> Digest:
        """The name of this beginning; block 0 carries it as its extra data."""
        founders = [[f.name.encode(), f.account, f.node] for f in self.founders]
        libraries = [[library.name.encode(), library.bytecode] for library in self.libraries]
        content = [_DOMAIN, self.version, self.timestamp, founders, self.bytecode, libraries]
        return Digest(keccak(rlp.encode(content)))

    @property
    def chain_id(self) -> int:
        """Derived from the digest; below 2**51, since wallets compute 2 * id + 36 in doubles."""
        return 1 + int.from_bytes(self.digest[:8], "big") % (2**51 - 1)

    @property
    def creation_code(self) -> bytes:
        """The bytecode followed by the founders as the constructor's argument."""
        founders = [(f.account, f.node, f.name) for f in self.founders]
        return self.bytecode + encode_abi(_CONSTRUCTOR_TYPES, [founders])


def consortium_genesis(cards: Iterable[Founder], timestamp: int) -> Genesis:
    """The genesis with the contract of this release. Raises as `make_genesis`."""
    built = artifact()
    bytecode = built.linked({name: library_address(name) for name in built.libraries})
    libraries = (Library(name, code) for name, code in sorted(built.libraries.items()))
    return make_genesis(cards, bytecode, timestamp, libraries)


def make_genesis(
    cards: Iterable[Founder],
    bytecode: bytes,
    timestamp: int,
    libraries: Iterable[Library] = (),
) -> Genesis:
    """The genesis that follows from these cards, in whatever order they come.

    Members are numbered by name, then account. Raises ConfigurationError for cards that cannot
    found a consortium together.
    """
    founders = tuple(sorted(cards, key=lambda card: (card.name, card.account)))
    if not 1 <= len(founders) <= MAX_FOUNDERS:
        raise ConfigurationError(
            f"{len(founders)} founders: a consortium begins with 1 to {MAX_FOUNDERS}"
        )
    for founder in founders:
        _check_founder(founder)
    _refuse_repetition("the name", [founder.name for founder in founders])
    _refuse_lookalikes(founder.name for founder in founders)
    keys = [key for founder in founders for key in {founder.account, founder.node}]
    _refuse_repetition("the account or node", keys)
    libraries = tuple(libraries)
    if len(libraries) > _MAX_LIBRARIES:
        raise ConfigurationError(f"{len(libraries)} libraries: at most {_MAX_LIBRARIES}")
    _refuse_repetition("the library", [library.name for library in libraries])
    for what, code in [("contract", bytecode), *((x.name, x.bytecode) for x in libraries)]:
        if not 0 < len(code) <= _MAX_CODE_BYTES:
            raise ConfigurationError(
                f"the {what}'s creation code has {len(code)} bytes, not 1 to {_MAX_CODE_BYTES}"
            )
    for library in libraries:
        if not _LIBRARY_NAME.fullmatch(library.name):
            raise ConfigurationError(f"{library.name!r} is no library's name: 1 to 13 letters")
    if not 0 < timestamp < _MAX_TIMESTAMP:
        raise ConfigurationError(f"the genesis timestamp {timestamp} is not in seconds since 1970")
    return Genesis(_VERSION, timestamp, founders, bytecode, libraries)


def build_genesis_block(genesis: Genesis, rules: ChainRules) -> Outcome:
    """Block 0: the contract, created by its own constructor in an otherwise empty state.

    Raises ConfigurationError if the constructor fails.
    """
    stored: dict[bytes, bytes] = {}
    database = Overlay(stored.get)
    context = Context(
        height=0,
        timestamp=genesis.timestamp,
        proposer=NO_ADDRESS,
        chain_id=genesis.chain_id,
        gas=rules.block_gas,
    )
    state = context.state(database, BLANK_ROOT_HASH)
    # A library's constructor writes its own address into its code, so that whatever changes
    # something refuses to run anywhere but on the contract's storage.
    for library in genesis.libraries:
        _create(state, library_address(library.name), library.bytecode, library.name)
    _create(state, CONTRACT_ADDRESS, genesis.creation_code, "contract")
    return genesis_outcome(context, genesis.digest, database, state)


def _is_reserved(key: Address) -> bool:
    """Whether the contract or a library of it lies there, in this release or another."""
    return key.lstrip(b"\0").startswith(b"swarm")


def _create(state: State, address: Address, code: bytes, what: str) -> None:
    result = create(state, address, code, _CONSTRUCTOR_GAS)
    if result.failure is not None or not state.get_code(address):
        raise ConfigurationError(
            f"the consortium's {what} cannot be created: {result.failure or 'it has no code'} "
            f"{to_hex(result.revert_data or b'')}; check the founders and the bytecode"
        )


# Files


class _Card(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    account: str
    node: str
    addresses: list[str] = []


class _Network(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    chain_id: int
    digest: str
    timestamp: int
    founders: list[_Card]
    bytecode: str
    libraries: dict[str, str] = {}


def write_card(path: Path, card: Founder) -> None:
    """Write a join card for the other founders. Raises ConfigurationError."""
    _check_founder(card)
    _write(path, _to_card(card))


def read_card(path: Path) -> Founder:
    """Read a join card. Raises ConfigurationError naming the file and the field."""
    card = _to_founder(_read(path, _Card, "join card", "ask for its `card.json` again"), path)
    _check_founder(card)
    return card


def write_genesis(path: Path, genesis: Genesis) -> None:
    """Write `network.json`."""
    document = _Network(
        version=genesis.version,
        chain_id=genesis.chain_id,
        digest=to_hex(genesis.digest),
        timestamp=genesis.timestamp,
        founders=[_to_card(founder) for founder in genesis.founders],
        bytecode=to_hex(genesis.bytecode),
        libraries={library.name: to_hex(library.bytecode) for library in genesis.libraries},
    )
    _write(path, document)


def read_genesis(path: Path) -> Genesis:
    """Read `network.json` and check that it agrees with itself. Raises ConfigurationError."""
    document = _read(path, _Network, "network file", "copy `network.json` from any member")
    if document.version != _VERSION:
        raise ConfigurationError(
            f"{path}: version {document.version}, but this swarm reads version {_VERSION}: "
            "install the version of swarm that the consortium uses"
        )
    try:
        bytecode = bytes.fromhex(document.bytecode.removeprefix("0x"))
        libraries = [
            Library(name, bytes.fromhex(code.removeprefix("0x")))
            for name, code in document.libraries.items()
        ]
        digest = to_digest(document.digest)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    founders = [_to_founder(card, path) for card in document.founders]
    genesis = make_genesis(founders, bytecode, document.timestamp, libraries)
    if (genesis.digest, genesis.chain_id) != (digest, document.chain_id):
        raise ConfigurationError(
            f"{path}: its content has the digest {to_hex(genesis.digest)}, not {to_hex(digest)}: "
            "it was changed after it was made; ask for the file again"
        )
    return genesis


def _check_founder(founder: Founder) -> None:
    name = founder.name
    raw = name.encode("utf-8", "surrogatepass")
    if not 0 < len(raw) <= MAX_NAME_BYTES or find_bad_character(raw) is not None:
        raise ConfigurationError(
            f"the name {name!r} must have 1 to {MAX_NAME_BYTES} bytes, none of which is part of a "
            "character that cannot be seen"
        )
    if name != name.strip():
        raise ConfigurationError(f"the name {name!r} begins or ends with a space: remove it")
    for what, key in (("account", founder.account), ("node", founder.node)):
        if len(key) != 20 or key == NO_ADDRESS or _is_reserved(key):
            raise ConfigurationError(f"{name}: {to_hex(key)} cannot be a member's {what}")
    addresses = founder.addresses
    if len(addresses) > _MAX_ADDRESSES or any(len(a) > _MAX_ADDRESS_CHARS for a in addresses):
        raise ConfigurationError(
            f"{name}: at most {_MAX_ADDRESSES} addresses of {_MAX_ADDRESS_CHARS} characters each"
        )


T = TypeVar("T")


def _refuse_repetition(what: str, values: Iterable[T]) -> None:
    seen: set[T] = set()
    for value in values:
        if value in seen:
            raise ConfigurationError(
                f"{what} {to_hex(value) if isinstance(value, bytes) else value} is on two cards: "
                "each founder needs its own"
            )
        seen.add(value)


def _refuse_lookalikes(names: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(lookalike_key(name), name)
        if other != name:
            raise ConfigurationError(
                f"the names {other!a} and {name!a} look alike: one of the founders needs another"
            )


def _to_card(founder: Founder) -> _Card:
    return _Card(
        name=founder.name,
        account=to_hex(founder.account),
        node=to_hex(founder.node),
        addresses=list(founder.addresses),
    )


def _to_founder(card: _Card, path: Path) -> Founder:
    try:
        account, node = to_address(card.account), to_address(card.node)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {card.name}: {error}; ask for the file again") from None
    return Founder(card.name, account, node, tuple(card.addresses))


def _read(path: Path, kind: type[T], what: str, remedy: str) -> T:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read {system_fault(error)}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigurationError(
            f"{path} is no {what}: it has more than {_MAX_FILE_BYTES} bytes; {remedy}"
        )
    try:
        return msgspec.json.decode(content, type=kind)
    except UNREADABLE as error:
        raise ConfigurationError(f"{path} is no {what}: {error}; {remedy}") from None


def _write(path: Path, document: object) -> None:
    content = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {system_fault(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
