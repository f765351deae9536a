"""Models that members publish for each other: signed by those who made them, served by peers.

Nothing is stored at a node but what its own people publish or pull. What others say of a model is
compared with the chain and with its signatures before anything of it is fetched, and every byte
with its digest.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import trio

from swarm.blobs.store import BlobStore, name_of
from swarm.errors import UNREADABLE, ConfigurationError, RemoteError
from swarm.learning.models.card import Card, CardSite, describe_plan
from swarm.learning.models.model_folder import MODEL, STATISTICS, check_free, write_folder
from swarm.node.consent.confirmations import sign, signer_of
from swarm.node.plans.library import Library
from swarm.node.plans.trainers import Trainers
from swarm.node.zoo.statements import (
    Entry,
    Statement,
    check_entry,
    contributors_of,
    decode_entry,
    files_of,
)
from swarm.protocol.state import Member, Plan, majority, members_in
from swarm.rounds.participation import Participation
from swarm.tensors import move_durably
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_address, to_digest, to_hex
from swarm.visible import with_names

log = logging.getLogger("swarm.node")

AGREED = re.compile(r"plan-([0-9]{1,18})-round-([0-9]{1,18})\.agreed")
SIGN, LIST = "zoo.sign", "zoo.list"
ASK_S = 60.0
PATIENCE_S = 30.0
MAX_ENTRIES = 64
"""Told to others in one answer; and kept here at most."""


class Pulls(Protocol):
    """What is needed of the exchange."""

    async def pull(self, root: Digest, peers: list[Address], *, patience_s: float) -> None: ...


class Requests(Protocol):
    async def request(
        self, peer: Address, method: str, payload: bytes, *, deadline_s: float
    ) -> bytes: ...


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    plan: int
    chain_round: int


_wanted = msgspec.msgpack.Decoder(_Wanted)
_lists = msgspec.msgpack.Decoder(list[bytes])


@dataclass
class Zoo:
    """One node's part. `plans` and `participations` fill while the node runs; `read_members` gives
    all members ever, as the chain has them now."""

    folder: Path
    key: bytes
    address: Address
    chain_id: int
    contract: Address
    network: Requests
    store: BlobStore
    exchange: Pulls
    library: Library
    trainers: Trainers
    plans: Mapping[PlanId, Plan]
    read_members: Callable[[], Mapping[MemberId, Member]]
    participations: Mapping[PlanId, Participation]
    signs: Literal["ask", "automatic"] = "ask"
    """Whether others get this node's signature before somebody here has agreed to give it."""
    entries: dict[Digest, Entry] = field(default_factory=dict)
    """Published or pulled here, by the digest of their statement."""
    _one_at_a_time: trio.Lock = field(default_factory=trio.Lock)
    _agreed: set[tuple[int, int]] = field(default_factory=set)
    """The models that this node may sign, by plan and round of the chain."""
    _made: dict[tuple[int, int], Statement] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in sorted(self.folder.glob("*.json"))[:MAX_ENTRIES]:
            try:
                entry = decode_entry(file.read_bytes())
            except (OSError, RemoteError) as error:
                log.warning("%s is left out: %s", file, error)
                continue
            self.entries[entry.statement.digest] = entry
        for file in self.folder.glob("*.agreed"):
            found = AGREED.fullmatch(file.name)
            if found is not None:
                self._agreed.add((int(found[1]), int(found[2])))

    @property
    def members(self) -> Mapping[MemberId, Member]:
        return self.read_members()

    def needed(self) -> set[Digest]:
        """The blobs that are kept, and that any member may read."""
        return {
            blob for e in tuple(self.entries.values()) for blob in files_of(e.statement).values()
        }

    # What others ask.

    async def serve_signature(self, sender: Address, payload: bytes) -> bytes:
        """Sign what this node finds itself, if it is a contributor and somebody here agreed."""
        try:
            wanted = _wanted.decode(payload)
        except UNREADABLE as error:
            raise RemoteError(f"a request to sign cannot be read: {error}") from None
        if self.signs == "ask" and (wanted.plan, wanted.chain_round) not in self._agreed:
            raise RemoteError(
                f"nobody there has agreed to sign that model of plan {wanted.plan} yet: ask for "
                f"`swarm model sign --plan {wanted.plan}`"
            )
        try:
            statement = await self._state(PlanId(wanted.plan), keep=False)
        except ConfigurationError as error:
            raise RemoteError(str(error)) from None
        if statement.chain_round != wanted.chain_round:
            raise RemoteError(f"the model here is of round {statement.chain_round}")
        return sign(statement.sentence, self.key).encode()

    async def serve_list(self, sender: Address, payload: bytes) -> bytes:
        """The entries that are here."""
        return msgspec.msgpack.encode([msgspec.json.encode(e) for e in self.entries.values()])

    # What people here ask.

    async def agree(self, plan: PlanId) -> Statement:
        """Have this node sign a plan's model (the best where it has chosen one, or the newest) for
        every member that publishes it, from now on. Returns what is signed. Raises
        ConfigurationError if there is none, or if no update of this node is in it."""
        statement = await self._state(plan, keep=False)
        if to_hex(self.address) not in statement.contributors:
            raise ConfigurationError(
                f"no update of this node is in the model of round {statement.round} of plan "
                f"{plan}: those whose are sign it"
            )
        key = (plan, statement.chain_round)
        mark = self.folder / f"plan-{key[0]}-round-{key[1]}.agreed"
        await trio.to_thread.run_sync(mark.touch)
        self._agreed.add(key)
        return statement

    async def publish(self, plan: PlanId) -> Entry:
        """Publish a plan's model, once more than half of its contributors have signed: the best
        where the plan has chosen one, or the newest.

        Raises ConfigurationError naming those who have not, and why.
        """
        statement = await self._state(plan, keep=True)
        signatures, faults = [], []
        for node in map(to_address, statement.contributors):
            try:
                signatures.append(await self._signature_of(node, statement))
            except RemoteError as error:
                faults.append(f"{self.name(node)}: {error}")
        needed = majority(len(statement.contributors))
        if len(signatures) < needed:
            raise ConfigurationError(
                f"{len(signatures)} of {len(statement.contributors)} contributors have signed, and "
                f"{needed} must: {'; '.join(faults)}. Try again once they are reached"
            )
        entry = Entry(statement, tuple(signatures))
        await trio.to_thread.run_sync(self._keep, entry)
        return entry

    async def find(self) -> tuple[dict[Digest, tuple[Entry, list[Address]]], list[str]]:
        """What is published, here and at peers, and who has it; and what was refused, and why."""
        found: dict[Digest, tuple[Entry, list[Address]]] = {}
        refused: list[str] = []
        for entry in self.entries.values():
            found[entry.statement.digest] = (entry, [self.address])
        for member in self._others():
            try:
                raw = await self.network.request(member.node, LIST, b"", deadline_s=ASK_S)
                told = _lists.decode(raw)[:MAX_ENTRIES]
            except (RemoteError, *UNREADABLE) as error:
                refused.append(with_names(f"{member.name} cannot be asked: {error}"))
                continue
            for each in told:
                try:
                    entry = decode_entry(each)
                    check_entry(entry, self.plans, self.members)
                except RemoteError as error:
                    refused.append(f"an entry of {member.name}: {error}")
                    continue
                found.setdefault(entry.statement.digest, (entry, []))[1].append(member.node)
        return found, refused

    async def pull(self, digest: Digest, out: Path, force: bool) -> Entry:
        """Fetch a published model from those who have it, and write its folder to `out`.

        Raises ConfigurationError if nobody has it, RemoteError naming the file that did not come.
        """
        await trio.to_thread.run_sync(check_free, out, force)
        found, refused = await self.find()
        if digest not in found:
            more = f" ({'; '.join(refused)})" if refused else ""
            raise ConfigurationError(
                f"nobody who is reached has published {to_hex(digest)}{more}: `swarm model find` "
                "tells what there is"
            )
        entry, holders = found[digest]
        told = entry.statement
        code = to_digest(told.plan)
        if not self.library.has(code):
            await self.library.fetch(code, self._nodes(), self.network)
        for name, blob in files_of(told).items():
            if not self.store.has(blob):
                try:
                    await self.exchange.pull(blob, holders, patience_s=PATIENCE_S)
                except RemoteError as error:
                    raise RemoteError(f"{name} did not come as it was published: {error}") from None
        await trio.to_thread.run_sync(self._write, told, out, force)
        await trio.to_thread.run_sync(self._keep, entry)
        return entry

    # Below: how.

    async def _state(self, plan_id: PlanId, keep: bool) -> Statement:
        """What this node says of a plan's model. Raises ConfigurationError if it cannot."""
        plan, part = self.plans.get(plan_id), self.participations.get(plan_id)
        if plan is None or part is None or part.plan is None:
            raise ConfigurationError(f"this node takes no part in plan {plan_id}")
        if not plan.model_round:
            raise ConfigurationError(f"plan {plan_id} has no final model yet")
        number = plan.model_round if plan.result == plan.model else part.made_in(plan.result)
        made = contributors_of(plan) if number == plan.model_round else None
        made = part.contributors_in(number) if made is None and number is not None else made
        if number is None or not made:
            raise ConfigurationError(
                f"this node does not know who contributed to the model of plan {plan_id}: it was "
                "made before the node came, so ask another member to publish it"
            )
        async with self._one_at_a_time:
            key = (plan_id, number)
            known = self._made.get(key)
            if known is not None and (not keep or self.store.has(to_digest(known.whole))):
                return known
            whole = await self._whole(part, plan, keep)
            code = await trio.to_thread.run_sync(self.library.read, plan.digest)
            loaded = await (await self.trainers.of(plan.digest)).describe()
            has_sums = plan.statistics != NO_DIGEST
            statement = Statement(
                chain_id=self.chain_id,
                contract=to_hex(self.contract),
                plan_id=plan.id,
                name=plan.name,
                about=describe_plan(code)[:2000],
                licence=loaded.licence[:2000],
                plan=to_hex(plan.digest),
                base=to_hex(plan.base),
                continues=self.parent_of(plan),
                model=to_hex(plan.result),
                whole=to_hex(whole),
                statistics=to_hex(plan.statistics) if has_sums else "",
                chain_round=number,
                round=part.program.number_of(number) or 0,
                rounds=part.program.training_rounds,
                contributors=tuple(to_hex(self.members[m].node) for m in members_in(made)),
            )
            self._made[key] = statement
            return statement

    async def _whole(self, part: Participation, plan: Plan, keep: bool) -> Digest:
        """The name of the whole model; with `keep`, it is in the store then."""
        out = self.store.scratch(f"zoo-{plan.id}")
        await trio.to_thread.run_sync(lambda: out.unlink(missing_ok=True))
        await part.export(plan.result, out, own_parts=False)
        if keep:
            return await trio.to_thread.run_sync(self.store.add, out)
        try:
            return await trio.to_thread.run_sync(name_of, out)
        finally:
            out.unlink(missing_ok=True)

    def parent_of(self, plan: Plan) -> int:
        """The plan whose model this one began with."""
        others = (p for p in self.plans.values() if p.id < plan.id and p.model_round)
        return next((p.id for p in others if plan.base in (p.model, p.result)), 0)

    async def _signature_of(self, node: Address, statement: Statement) -> str:
        if node == self.address:
            return sign(statement.sentence, self.key)
        wanted = msgspec.msgpack.encode(_Wanted(statement.plan_id, statement.chain_round))
        raw = await self.network.request(node, SIGN, wanted, deadline_s=ASK_S)
        signature = raw.decode("ascii", "replace")
        try:
            signer = signer_of(statement.sentence, signature)
        except ConfigurationError as error:
            raise RemoteError(f"it answered with no signature: {error}") from None
        if signer != node:
            raise RemoteError("it finds something else than this node does, and has signed that")
        return signature

    def _keep(self, entry: Entry) -> None:
        digest = entry.statement.digest
        if digest not in self.entries and len(self.entries) >= MAX_ENTRIES:
            raise ConfigurationError(
                f"{MAX_ENTRIES} published models are kept here already: delete one from "
                f"{self.folder}, and start the node again"
            )
        temporary = self.folder / f".{digest.hex()}.partial"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(entry), indent=2))
        move_durably(temporary, self.folder / f"{digest.hex()}.json")
        self.entries[digest] = entry

    def _write(self, told: Statement, out: Path, force: bool) -> None:
        files = files_of(told)
        by_node = {to_hex(m.node): m.name for m in self.members.values()}
        plan = self.plans[PlanId(told.plan_id)]
        rows = {to_hex(self.members[m].node): c.max_samples for m, c in plan.consents.items()}
        card = Card(
            name=told.name,
            about=told.about,
            licence=told.licence,
            chain_id=told.chain_id,
            contract=told.contract,
            plan_id=told.plan_id,
            plan=told.plan,
            base=told.base,
            model=told.model,
            statistics=told.statistics,
            chain_round=told.chain_round,
            round=told.round,
            rounds=told.rounds,
            sites=tuple(
                CardSite(by_node.get(node, node), count, node in told.contributors)
                for node, count in rows.items()
            ),
        )
        sums = self.store.path(files[STATISTICS]) if STATISTICS in files else None
        code = self.library.read(to_digest(told.plan))
        write_folder(out, self.store.path(files[MODEL]), sums, code, card, force)

    def _others(self) -> list[Member]:
        return [m for m in self.members.values() if m.present and m.node != self.address]

    def _nodes(self) -> list[Address]:
        return [member.node for member in self._others()]

    def name(self, node: Address) -> str:
        return next((m.name for m in self.members.values() if m.node == node), to_hex(node))
