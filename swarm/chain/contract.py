"""The consortium contract as bytes: what to send it, and what its answers, errors and events mean.

Pure encoding and decoding by the committed artifact (`artifacts/Consortium.json`, built from
`contracts/`); no connection, no chain library. `client` sends and asks, tests and genesis encode
with the same functions, and views come back as the records of `swarm.protocol.state`, so that a
real chain and the executable specification are read alike.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from importlib import resources
from typing import Any, ParamSpec, Protocol, TypeVar

from eth_abi.codec import ABICodec
from eth_abi.decoding import StringDecoder
from eth_abi.exceptions import DecodingError, EncodingError, ParseError
from eth_abi.registry import registry
from eth_hash.auto import keccak

from swarm.errors import ChainError, ConfigurationError, ContractError
from swarm.protocol.follow import NO_HOLDER
from swarm.protocol.masking import Masking
from swarm.protocol.membership import Founder, Kind, Proposal, ProposalStatus
from swarm.protocol.state import (
    MAX_MEMBERS,
    Candidate,
    Consent,
    Member,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Submission,
    Terms,
    VerifyLevel,
    members_in,
)
from swarm.types import Address, Digest, MemberId, PlanId, to_address, to_hex

PROTOCOL_VERSIONS = frozenset({1})
"""The protocol versions that this release can follow."""

CONTRACT = "Consortium"
ADDRESS_BYTES = 20
MAX_REVERT_BYTES = 4096
MAX_TEXT_BYTES = 256
"""As much of a text is read; the contract's names have 64 at most."""
MEMBERS_A_PAGE = 32
"""With the longest contacts, a page takes half of what a view may."""
_PANICS = {
    0x01: "assertion failed",
    0x11: "arithmetic overflow",
    0x12: "division by zero",
    0x21: "value outside its enum",
    0x32: "index out of bounds",
}


class UnreadableAnswer(ChainError):
    """A plan or proposal with values that this release does not know, such as a status 200."""


class _Text(StringDecoder):
    """Text of any length that need not be UTF-8: an external chain, or one of an older contract,
    may hold what anybody wrote, and one such name must not keep the rest from being read."""

    @staticmethod
    def decoder_fn(data: bytes, handle_string_errors: str = "replace") -> str:
        text = data[:MAX_TEXT_BYTES].decode("utf-8", "replace")
        return text if len(data) <= MAX_TEXT_BYTES else text + "…"


_readers: Any = registry.copy()  # type: ignore[no-untyped-call]
_readers.unregister_decoder("string")
_readers.register_decoder("string", _Text, label="string")
_codec = ABICodec(_readers)


@dataclass(frozen=True)
class Artifact:
    """The committed build of the contract."""

    abi: list[dict[str, Any]]
    bytecode: bytes
    """The contract's creation code, with zeros where its libraries' addresses belong: `linked`."""
    libraries: dict[str, bytes]
    """Name → creation code of what runs on the contract's storage."""
    links: dict[str, tuple[int, ...]]
    """Library → where its address belongs in `bytecode`, in bytes."""
    runtime_bytes: dict[str, int]
    """How much of the end of each creation code, the contract's among them, is left to run."""
    source_digest: str

    def linked(self, libraries: Mapping[str, Address]) -> bytes:
        """The contract's creation code, to run with the libraries at these addresses."""
        code = bytearray(self.bytecode)
        for library, places in self.links.items():
            for place in places:
                code[place : place + ADDRESS_BYTES] = libraries[library]
        return bytes(code)


@dataclass(frozen=True)
class Entry:
    """One function, error or event of the ABI."""

    name: str
    selector: bytes
    """Four bytes; for an event, its 32-byte topic."""
    arguments: tuple[str, ...]
    types: tuple[str, ...]
    indexed: tuple[bool, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Interface:
    functions: dict[str, Entry]
    errors: dict[bytes, Entry]
    events: dict[bytes, Entry]


@dataclass(frozen=True)
class Event:
    """One event of the contract. `index` is the log's place in its block, `timestamp` the block's
    time, if the endpoint told it."""

    name: str
    arguments: dict[str, Any]
    height: int
    tx: Digest
    index: int
    timestamp: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """A plan and its current round, as of one block."""

    height: int
    timestamp: int
    members: int
    """Mask of the members of this moment."""
    plan: Plan
    since: int = 0
    """Of a masked plan: the block in which its current attempt was opened."""


class FounderCard(Protocol):
    """What the constructor is told of a founder."""

    @property
    def account(self) -> Address: ...
    @property
    def node(self) -> Address: ...
    @property
    def name(self) -> str: ...


@lru_cache(maxsize=1)
def artifact() -> Artifact:
    """The build that ships with this package."""
    text = resources.files("swarm.chain").joinpath("artifacts/Consortium.json").read_text()
    built = json.loads(text)
    codes = {n: bytes.fromhex(c.removeprefix("0x")) for n, c in built["bytecode"].items()}
    links = {library: tuple(places) for library, places in built["links"].items()}
    code, sizes = codes.pop(CONTRACT), built["runtime_sizes"]
    return Artifact(built["abi"], code, codes, links, sizes, built["source_digest"])


@lru_cache(maxsize=1)
def interface() -> Interface:
    """Every function by name, every error by selector, every event by topic."""
    found = Interface({}, {}, {})
    for item in artifact().abi:
        if item["type"] not in ("function", "error", "event"):
            continue
        inputs = item["inputs"]
        types = tuple(_type_of(each) for each in inputs)
        topic = keccak(f"{item['name']}({','.join(types)})".encode())
        entry = Entry(
            item["name"],
            topic if item["type"] == "event" else topic[:4],
            tuple(each["name"] for each in inputs),
            types,
            tuple(each.get("indexed", False) for each in inputs),
            tuple(_type_of(each) for each in item.get("outputs", ())),
        )
        if item["type"] == "function":
            found.functions[entry.name] = entry
        elif item["type"] == "error":
            found.errors[entry.selector] = entry
        else:
            found.events[entry.selector] = entry
    return found


# Sending.


def arguments_of(function: str, data: bytes) -> tuple[Any, ...] | None:
    """What a call of this function was given; None for calldata of another, or that is damaged."""
    entry = interface().functions[function]
    if data[:4] != entry.selector:
        return None
    try:
        return tuple(_codec.decode(entry.types, data[4:]))
    except (DecodingError, OverflowError, ValueError):
        return None


def look_through(data: bytes) -> tuple[int | None, bytes]:
    """The time after which this calldata does nothing, if it has one, and what it calls then."""
    dated = arguments_of("until", data)
    return (None, data) if dated is None else (int(dated[0]), bytes(dated[1]))


def function_of(data: bytes) -> str | None:
    """The name of the function that this calldata calls; None if the contract has no such."""
    return _functions().get(data[:4])


@lru_cache(maxsize=1)
def functions_of_plans() -> frozenset[str]:
    """The functions whose first argument is a plan's number."""
    functions = (item for item in artifact().abi if item["type"] == "function" and item["inputs"])
    return frozenset(item["name"] for item in functions if item["inputs"][0]["name"] == "plan")


@lru_cache(maxsize=1)
def _functions() -> dict[bytes, str]:
    return {entry.selector: name for name, entry in interface().functions.items()}


def creation_data(founders: Sequence[FounderCard], libraries: Mapping[str, Address]) -> bytes:
    """Creation bytecode with its constructor's argument. Founders are numbered as given; the
    libraries lie at these addresses already."""
    rows = [(founder.account, founder.node, founder.name) for founder in founders]
    return artifact().linked(libraries) + bytes(
        _codec.encode(["(address,address,string)[]"], [rows])
    )


def call_data(function: str, *arguments: object) -> bytes:
    """Selector and arguments. Enums, sets of members and bytes as they are; `Rules`,
    `Terms` and `Outcome` as the records.

    Raises ConfigurationError if the function is unknown or an argument does not fit its type.
    """
    entry = interface().functions.get(function)
    if entry is None:
        raise ConfigurationError(f"the consortium contract has no function {function!r}")
    values = [_plain(argument) for argument in arguments]
    try:
        return entry.selector + bytes(_codec.encode(entry.types, values))
    except (EncodingError, ParseError, ValueError) as error:
        given = ", ".join(map(repr, arguments))
        raise ConfigurationError(
            f"{function}({given}) does not fit the contract: {error}"
        ) from None


# Reading.


_UNREADABLE = (DecodingError, OverflowError, UnicodeDecodeError)
"""What eth-abi raises for bytes that are no encoding of the wanted types."""
P = ParamSpec("P")
R = TypeVar("R")


def _reading(read: Callable[P, R]) -> Callable[P, R]:
    """An answer whose values are none that the contract has, such as a status 200, is refused."""

    @wraps(read)
    def reading(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return read(*arguments, **named)
        except ValueError as error:
            raise UnreadableAnswer(
                f"the contract answered with what it cannot mean: {error}"
            ) from None

    return reading


def result(function: str, data: bytes) -> Any:
    """What a call returned: one value, or a tuple of them. Addresses are 20 bytes."""
    outputs = interface().functions[function].outputs
    try:
        values = _codec.decode(outputs, data)
    except _UNREADABLE as error:
        raise ChainError(
            f"the contract answered {function} with {len(data)} bytes, not with {outputs}: {error}"
        ) from None
    return values[0] if len(values) == 1 else values


def revert(data: bytes) -> ContractError:
    """The error that a reverted call's data names.

    Custom errors by their selector; `Error(string)` and `Panic(uint256)`, which the compiler
    makes, under those names; anything else as `Unknown`.
    """
    data = data[:MAX_REVERT_BYTES]
    selector, body = data[:4], data[4:]
    try:
        if selector == bytes.fromhex("08c379a0"):
            return ContractError("Error", {"message": _codec.decode(["string"], body)[0]})
        if selector == bytes.fromhex("4e487b71"):
            code = _codec.decode(["uint256"], body)[0]
            return ContractError("Panic", {"code": code, "meaning": _PANICS.get(code, "unknown")})
        entry = interface().errors.get(selector)
        if entry is not None:
            values = _codec.decode(entry.types, body)
            return ContractError(entry.name, _named(entry.arguments, entry.types, values))
    except _UNREADABLE:
        pass  # What the data claims to be, it is not: shown as it came.
    return ContractError("Unknown", {"data": data})


def event(topics: Sequence[bytes], data: bytes) -> tuple[str, dict[str, object]] | None:
    """Name and arguments of a log; None if it is no event of this contract."""
    entry = interface().events.get(bytes(topics[0])) if topics else None
    if entry is None or sum(entry.indexed) != len(topics) - 1:
        return None
    plain = [kind for kind, indexed in zip(entry.types, entry.indexed, strict=True) if not indexed]
    try:
        rest = iter(_codec.decode(plain, data))
        given = iter(topics[1:])
        values = [
            _codec.decode([kind], bytes(next(given)))[0] if indexed else next(rest)
            for kind, indexed in zip(entry.types, entry.indexed, strict=True)
        ]
    except _UNREADABLE:
        return None
    return entry.name, _named(entry.arguments, entry.types, values)


@_reading
def members(rows: Sequence[Sequence[Any]]) -> dict[MemberId, Member]:
    """A page of `getMembers`."""
    return {
        MemberId(row[0]): Member(
            id=MemberId(row[0]),
            account=to_address(row[1]),
            node=to_address(row[2]),
            name=row[3],
            present=row[4],
            endorsed=row[5],
            validator=row[6],
            seen_at=row[7],
            standby=to_address(row[8]),
            contact=row[9],
            contact_at=row[10],
        )
        for row in rows
    }


def all_members(read: Callable[[int, int], Sequence[Sequence[Any]]]) -> dict[MemberId, Member]:
    """Every member there ever was; `read(first, count)` reads a page of `getMembers`."""
    found: dict[MemberId, Member] = {}
    for first in range(0, MAX_MEMBERS, MEMBERS_A_PAGE):
        page = read(first, MEMBERS_A_PAGE)
        found |= members(page)
        if len(page) < MEMBERS_A_PAGE:
            break
    return found


def proposals(rows: Sequence[Sequence[Any]], first: int) -> dict[int, Proposal | UnreadableAnswer]:
    """`getProposals(first, …)`. Each is read on its own: one that cannot be hides no other."""
    found: dict[int, Proposal | UnreadableAnswer] = {}
    for number, row in enumerate(rows, first):
        try:
            found[number] = _proposal(row, number)
        except UnreadableAnswer as error:
            found[number] = error
    return found


@_reading
def _proposal(row: Sequence[Any], number: int) -> Proposal:
    kind, status, proposer, admitted, opened_at, target, height = row[:7]
    account, node, ayes, noes, name = row[7:]
    passed = ProposalStatus(status) is ProposalStatus.PASSED
    return Proposal(
        number,
        Kind(kind),
        MemberId(proposer),
        to_address(account),
        to_address(node),
        name,
        target,
        height,
        opened_at,
        ayes,
        noes,
        ProposalStatus(status),
        MemberId(admitted) if passed and Kind(kind) is Kind.ADMIT else None,
    )


@_reading
def plan(row: Sequence[Any], round_row: Sequence[Any] | None = None) -> Plan:
    """`getPlan(id)`, with the current round where `getRound(id)` is given too."""
    return Plan(
        id=PlanId(row[0]),
        proposer=MemberId(row[1]),
        name=row[2],
        digest=Digest(row[3]),
        program=Digest(row[4]),
        base=Digest(row[5]),
        rules=_rules(row[6]),
        status=PlanStatus(row[7]),
        participants=row[8],
        consents={MemberId(each[0]): _consent(each) for each in row[9]},
        invited=row[10],
        invited_only=row[11],
        declined=row[12],
        until=row[13],
        stop_votes=row[14],
        spoiled=row[15],
        outputs=tuple(map(Digest, row[16])),
        output_rounds=tuple(row[17]),
        stage=row[18],
        seed=Digest(row[19]),
        merge_s=row[20],
        round=None if round_row is None else round(round_row),
    )


@_reading
def round(row: Sequence[Any]) -> Round | None:
    """`getRound(plan)` or `getRoundAt(plan, number, attempt)`; None if there was no such round."""
    if RoundStatus(row[2]) is RoundStatus.NONE:
        return None
    return Round(
        number=row[0],
        attempt=row[1],
        status=RoundStatus(row[2]),
        opened_at=row[3],
        credit_from=row[4],
        base=Digest(row[5]),
        roster=row[6],
        stage=row[7],
        trainers=row[8],
        holder=None if row[9] == NO_HOLDER else MemberId(row[9]),
        epoch=row[10],
        left=row[11],
        submitted=row[12],
        revealed=row[13],
        reveals_xor=row[14],
        min_peers_at=row[15],
        closed_at=row[16],
        seed=Digest(row[17]),
        slot_s=row[18],
        eligible=tuple(members_in(row[19])),
        submissions={
            MemberId(each[0]): Submission(
                MemberId(each[0]), Digest(each[1]), each[2], Digest(each[3]), *each[4:]
            )
            for each in row[20]
        },
        candidates=[
            Candidate(MemberId(leader), outcome(said), attesters, posted_at, reasons)
            for leader, said, attesters, posted_at, reasons in row[21]
        ],
        masking=_masking(row),
        behind=row[22][4],
    )


def _masking(row: Sequence[Any]) -> Masking | None:
    """What a view has of a masked round from its close on; the rest is in its events
    (`follow.recalled`)."""
    colluders, _, began_at, contributors, _, total = row[22]
    if not contributors:
        return None
    return Masking(
        row[6], colluders, row[12], contributors, began_at, epoch=row[10], sum=Digest(total)
    )


def outcome(row: Sequence[Any]) -> Outcome:
    """What a merge, an attestation or a candidate names."""
    model, omitted, slot, following = row
    return Outcome(Digest(model), omitted, slot, following)


@_reading
def snapshot(answer: Sequence[Any]) -> Snapshot:
    """`getSnapshot(id)`."""
    height, timestamp, members, plan_row, round_row = answer
    return Snapshot(height, timestamp, members, plan(plan_row, round_row), since=round_row[22][1])


def _consent(row: Sequence[Any]) -> Consent:
    return Consent(
        member=MemberId(row[0]),
        duties=row[1],
        max_samples=row[2],
        commitment=Digest(row[3]),
        committed_round=row[4],
        committed_attempt=row[5],
        seen_at=row[6],
        until=row[7],
        permit=Digest(row[8]),
        receiving_key=Digest(row[9]),
        next_receiving_key=Digest(row[10]),
        meta=Digest(row[11]),
    )


def _rules(row: Sequence[Any]) -> Rules:
    rounds, min_peers, verify_level, *rest = row
    return Rules(rounds, min_peers, VerifyLevel(verify_level), *rest)


def _type_of(item: Mapping[str, Any]) -> str:
    kind: str = item["type"]
    if not kind.startswith("tuple"):
        return kind
    return (
        f"({','.join(_type_of(each) for each in item['components'])}){kind.removeprefix('tuple')}"
    )


def _plain(value: object) -> object:
    return dataclasses.astuple(value) if isinstance(value, Rules | Terms | Outcome) else value


def _named(
    names: Sequence[str], types: Sequence[str], values: Sequence[object]
) -> dict[str, object]:
    return {
        name: to_address(value) if kind == "address" and isinstance(value, str) else value
        for name, kind, value in zip(names, types, values, strict=True)
    }


__all__ = [
    "PROTOCOL_VERSIONS",
    "Artifact",
    "Event",
    "Founder",
    "Snapshot",
    "UnreadableAnswer",
    "artifact",
    "call_data",
    "creation_data",
    "event",
    "interface",
    "members",
    "plan",
    "proposals",
    "result",
    "revert",
    "round",
    "snapshot",
    "to_hex",
]
