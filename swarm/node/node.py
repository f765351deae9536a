"""One institution's node: a nursery that wires the machines to the adapters.

    network ── blobs, messages ──┐
    chain ─── heads, transactions┼── node ── participations (one a plan) ── trainer process
    http, control ── people ─────┘

Everything is opened in order and closed in the opposite one; whatever fails for good ends the node
with one sentence, and starting it again goes on where the consortium is.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import trio

from swarm.blobs.store import BlobStore
from swarm.box.process import try_out
from swarm.chain.contract import outcome
from swarm.errors import (
    ChainError,
    ConfigurationError,
    LocalError,
    PlanError,
    RemoteError,
    SwarmError,
)
from swarm.learning.folds.golden import self_check
from swarm.learning.metrics.wire import read_told
from swarm.learning.plans.stages import check_known
from swarm.network.limits import NetworkLimits
from swarm.network.network import Network, open_network
from swarm.node.chain.link import UNDER_WAY, ChainLink, WaitingCall
from swarm.node.chain.source import TOPIC as CHAIN_TOPIC
from swarm.node.chain.source import OpenedChain, open_node_chain, read_network
from swarm.node.commands.common import NodeCommands
from swarm.node.commands.control import Handler, Running, only_node_in, open_control
from swarm.node.commands.members import MemberCommands
from swarm.node.commands.models import ModelCommands
from swarm.node.commands.plans import PlanCommands
from swarm.node.commands.proposing import ProposeCommands
from swarm.node.commands.zoo import ZooCommands
from swarm.node.consent.admission import Admission
from swarm.node.consent.confirmations import Confirmations
from swarm.node.consent.policy import site_policy
from swarm.node.home.backup import PRIVACY
from swarm.node.home.config import NodeConfig, data_path, load_config, missing_data
from swarm.node.home.data_set import data_set_in
from swarm.node.home.keys import address_of
from swarm.node.home.password import open_key
from swarm.node.home.rotation import next_address
from swarm.node.http_door import open_http
from swarm.node.members.contacts import addresses_of, contact_owed, dial_rules, is_stated
from swarm.node.members.greetings import ALONE_S, Greetings
from swarm.node.members.greetings import METHOD as GREETING_METHOD
from swarm.node.members.notes import ToldNotes
from swarm.node.members.standing import keep_up
from swarm.node.outgoing.log import OUTGOING, OutgoingLog
from swarm.node.outgoing.recorder import ListedScores, Outgoing
from swarm.node.plans.library import METHOD as BUNDLE_METHOD
from swarm.node.plans.library import Library
from swarm.node.plans.programs import METHOD as PROGRAM_METHOD
from swarm.node.plans.programs import Programs, check_program
from swarm.node.plans.stream_host import StreamsOfPlans
from swarm.node.plans.trainers import Trainers
from swarm.node.status import (
    NodeStatus,
    name_validators,
    names_of_keys,
    notes_of,
    peer_statuses,
    plan_status,
    privacy_status,
    sandbox_status,
)
from swarm.node.zoo.zoo import LIST as LIST_METHOD
from swarm.node.zoo.zoo import SIGN as SIGN_METHOD
from swarm.node.zoo.zoo import Zoo
from swarm.privacy.charges import Budget
from swarm.protocol.attestation import domain_of
from swarm.protocol.awaited_calls import Waiting, is_more_awaited
from swarm.protocol.machine import MergeAnnounced
from swarm.protocol.program import Program, parse
from swarm.protocol.state import (
    STATISTICS_SLOT,
    Member,
    Plan,
    PlanStatus,
    Round,
    member_set,
    member_with_node,
)
from swarm.rounds.exchange import Exchange
from swarm.rounds.joint_scores import METHOD as SCORES_METHOD
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.outgoing import Purpose
from swarm.rounds.participation import Participation, Stage, open_participation
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.records import Records
from swarm.rounds.retention import Retention
from swarm.types import NO_ADDRESS, Address, Digest, MemberId, PlanId, to_hex
from swarm.visible import name_addresses, with_names

log = logging.getLogger("swarm.node")

CODE_RETRY_S = 1.0
CHAIN_RETRY_S = 1.0
NOTES_EVERY_S = 2.0
CONSENT_RETRY_S = 10.0
NEWS_FOR_S = 86400.0
RUNNING = "running.json"

Consent = Callable[[PlanId, str | None], Awaitable[object]]


@dataclass
class Node:
    """A running node. Made by `open_node`."""

    directory: Path
    config: NodeConfig
    address: Address
    election_secret: bytes
    secrets: MaskedSecrets
    """Of masked rounds."""
    chain: ChainLink
    chain_status: Callable[[], dict[str, object]]
    network: Network
    store: BlobStore
    exchange: Exchange
    library: Library
    programs: Programs
    trainers: Trainers
    admission: Admission
    outgoing: Outgoing
    known_addresses: Mapping[Address, tuple[str, ...]]
    rpc_url: str = ""
    members: dict[MemberId, Member] = field(default_factory=dict)
    plans: dict[PlanId, Plan] = field(default_factory=dict)
    participations: dict[PlanId, Participation] = field(default_factory=dict)
    proposed: set[Digest] = field(default_factory=set)
    """Initial models that were made here for plans of which the chain does not tell yet."""
    published: Callable[[], set[Digest]] = set
    """The blobs of models that were published or pulled here."""
    height: int = -1
    refused: dict[PlanId, str] = field(default_factory=dict)
    """Plans that this member has joined and this node takes no part in, and why."""
    unreadable: dict[PlanId, str] = field(default_factory=dict)
    """Plans that this release cannot read as the chain has them now, and why."""
    against_policy: dict[PlanId, str] = field(default_factory=dict)
    """Proposed plans that this site's policy does not consent to, and why."""
    consent: Consent | None = None
    """How this node consents by itself, where its policy lets it."""
    _former_keys: dict[str, str] = field(default_factory=dict)
    _new_keys: dict[Address, tuple[str, float]] = field(default_factory=dict)
    """What is told of nodes whose key is new, and until when."""
    _joining: set[PlanId] = field(default_factory=set)
    _considered: set[PlanId] = field(default_factory=set)
    _stages: set[Stage | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.greetings = Greetings(version("swarm"), self._halted_plans)
        self._retention = Retention(self.store, self._knows_needs, self._take_needs)

    @property
    def me(self) -> Member | None:
        """This node's own membership, if it has one."""
        return member_with_node(self.members, self.address)

    def _saw_waiting(self, call: WaitingCall) -> None:
        leader = member_with_node(self.members, call.sender)
        if call.function == "merge" and leader is not None:
            plan, number, attempt, said, _ = call.arguments
            if plan in self.participations:
                announced = MergeAnnounced(number, attempt, leader.id, outcome(said))
                self.participations[plan].announce(announced)

    def _awaits_more(self, calls: list[WaitingCall]) -> bool | None:
        """Whether a round still waits for more than these: then a block of them can wait too."""
        waiting: dict[PlanId, list[Waiting]] = {}
        for call in calls:
            sender = member_with_node(self.members, call.sender)
            if sender is not None:
                plan, number, attempt, *rest = call.arguments
                found = Waiting(call.function, sender.id, number, attempt)
                if call.function != "submit":
                    found = found._replace(outcome=outcome(rest[0]))
                waiting.setdefault(plan, []).append(found)
        members = member_set(i for i, member in self.members.items() if member.present)
        answers = {
            is_more_awaited(self.plans[plan], members, of_plan, int(time.time()))
            for plan, of_plan in waiting.items()
            if plan in self.plans
        }
        return True if True in answers else False if answers == {False} else None

    @property
    def governs(self) -> bool:
        """Whether the node's key is, or was, its member's account, too."""
        return any(m.present and m.account == self.address for m in self.members.values())

    def _is_succeeded(self) -> bool:
        """Whether the chain has this node's next key in the place of the one that it uses."""
        if self.me is not None:
            return False
        successor = next_address(self.directory)
        return successor is not None and member_with_node(self.members, successor) is not None

    async def run(self) -> None:
        """Follow the chain, and take part in every plan that this member joined. Returns when the
        node is to go on with its next key."""
        self.chain.on_waiting = self._saw_waiting
        self.chain.awaits_more = self._awaits_more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_up, self.chain, self.address, self._contact_owed)
            nursery.start_soon(self._retention.run)
            nursery.start_soon(self.outgoing.keep)
            nursery.start_soon(self.greetings.run, self.network)
            nursery.start_soon(self._tell_notes)
            nursery.start_soon(self._trust_votes)
            nursery.start_soon(self.trainers.end_idle, self._is_trained)
            while True:
                try:
                    await self._observe(nursery)
                except ChainError as error:
                    log.warning("the chain cannot be read: %s", error)
                    await trio.sleep(CHAIN_RETRY_S)
                    continue
                if self._is_succeeded():
                    nursery.cancel_scope.cancel()
                    return
                await self.chain.wait_for_head(self.height)

    def _is_trained(self, code: Digest) -> bool:
        """Whether a plan with this code is under way with this member in it."""
        me = self.me
        return me is not None and any(
            plan.digest == code and plan.status in UNDER_WAY and plan.participants >> me.id & 1
            for plan in self.plans.values()
        )

    async def _trust_votes(self) -> None:
        """Let a node that was restored from a backup vote once its key is on this machine only."""
        if self.chain.trust_votes is None:
            return
        log.warning(
            "this node was restored from a backup: it does not vote before it has seen for %.0f s "
            "that no other machine uses its key",
            ALONE_S,
        )
        await self.greetings.wait_alone(self.network)
        self.chain.trust_votes()

    async def _observe(self, nursery: trio.Nursery) -> None:
        """Take in what the blocks since the last look have changed."""
        news = await self.chain.news(self.height, self.members, self.plans)
        if news.members is not None:
            self._note_new_keys(news.members, news.height)
            self.members = news.members
            self._admit_members()
        for number, why in news.unreadable.items():
            log.warning("plan %d cannot be read: %s", number, why)
            self.unreadable[number] = why
        for plan in news.plans.values():
            self.unreadable.pop(plan.id, None)
            await self._observe_plan(plan, news.ended.get(plan.id, []), nursery)
        self.height = news.height
        self.chain.on_observed()
        self.exchange.rules_changed()
        stages = {part.stage for part in self.participations.values()}
        if stages != self._stages:
            self._stages = stages
            self._retention.look_soon()

    async def _observe_plan(self, plan: Plan, ended: list[Round], nursery: trio.Nursery) -> None:
        plan_id = plan.id
        self.plans[plan_id] = plan
        if plan_id in self.participations:
            # If the chain does not answer, the whole look at it is repeated.
            with self._contain(plan_id, passing=(ChainError,)):
                await self.participations[plan_id].observe(plan, self.members, ended)
        elif plan_id not in self._joining and plan_id not in self.refused:
            me = self.me
            if me is not None and me.id in plan.consents:
                self._joining.add(plan_id)
                nursery.start_soon(self._participate, plan_id, me)
            elif me is not None:
                self._consider(plan, me, nursery)

    def _consider(self, plan: Plan, me: Member, nursery: trio.Nursery) -> None:
        """Hold a plan that waits for this member's answer against the site's policy."""
        if plan.status is not PlanStatus.PROPOSED or plan.declined >> me.id & 1:
            self.against_policy.pop(plan.id, None)
        elif plan.id not in self._considered:
            self._considered.add(plan.id)
            refusals = self.admission.against_proposal(plan, self.members)
            if refusals:
                self.against_policy[plan.id] = "; ".join(refusals)
            elif self.consent is not None:
                nursery.start_soon(self._consent, self.consent, plan.id)

    async def _consent(self, consent: Consent, plan_id: PlanId) -> None:
        """Consent by policy: tried until the code is here and the chain takes it, or the policy or
        the plan itself speaks against it."""
        while self.plans[plan_id].status is PlanStatus.PROPOSED:
            try:
                await consent(plan_id, None)
                log.info("consented to plan %d, as the policy of this site says", plan_id)
                return
            except ConfigurationError as error:
                log.warning("plan %d is not consented to: %s", plan_id, error)
                self.against_policy[plan_id] = str(error)
                return
            except SwarmError as error:
                log.info("plan %d cannot be consented to yet: %s", plan_id, error)
                await trio.sleep(CONSENT_RETRY_S)

    def _note_new_keys(self, members: Mapping[MemberId, Member], height: int) -> None:
        """Tell of members that another key works for from now on."""
        for before in self.members.values():
            after = members[before.id]
            if before.present and after.present and before.node != after.node:
                told = (
                    f"its node key is {to_hex(after.node)} since block {height}, in the place of "
                    f"{to_hex(before.node)}"
                )
                log.warning("%s: %s", after.name, told)
                self._former_keys[to_hex(before.node)] = f"{after.name}, by a former key"
                self._new_keys[after.node] = told, trio.current_time() + NEWS_FOR_S

    def _admit_members(self) -> None:
        present = [m for m in self.members.values() if m.present]
        configured, founding = self.config.network.peers, self.known_addresses
        name_addresses(self._former_keys | names_of_keys(self.members.values()))
        standbys = {m.standby for m in present if m.standby != NO_ADDRESS}
        self.network.set_members(
            dict.fromkeys(standbys, ())
            | {m.node: addresses_of(m, configured, founding) for m in present},
            stated={m.node for m in present if is_stated(m, configured, founding)},
            observers=standbys,
        )

    def _contact_owed(self, me: Member) -> bytes | None:
        return contact_owed(me, self.config.network.announce, self.known_addresses)

    async def bring_code(self, plan: Plan) -> None:
        """Get a plan's code unless it is here, from its proposer or from another who has it.

        Only where somebody here wants to read it, or this node takes part: others may propose as
        many plans as they like, and fill no disk but their own. Raises PeerUnreachable.
        """
        if not self.library.has(plan.digest):
            await self.library.fetch(plan.digest, self._who_know(plan), self.network)

    async def bring_program(self, plan: Plan) -> Program:
        """A plan's program: from here, or from another who has it, as `bring_code`.

        Raises PeerUnreachable, or PlanError if it is of a later release.
        """
        return await self.programs.bring(plan.program, self._who_know(plan), self.network)

    def _who_know(self, plan: Plan) -> list[Address]:
        """The others' nodes, those first that are likely to have a plan's code."""
        others = [m for m in self.members.values() if m.present and m.node != self.address]
        others.sort(key=lambda m: (m.id != plan.proposer, m.id not in plan.consents))
        return [member.node for member in others]

    async def _fetch_code(self, plan: Plan) -> None:
        """The code of a plan that this node takes part in; tried until somebody has it."""
        while not self.library.has(plan.digest):
            try:
                await self.bring_code(plan)
            except SwarmError as error:
                log.info("%s", error)
                await trio.sleep(CODE_RETRY_S)

    async def _participate(self, plan_id: PlanId, me: Member) -> None:
        """Take part in one plan for as long as the node runs, if it is one that this node can."""
        with self._contain(plan_id):
            await self._work_on(plan_id, me)

    @contextmanager
    def _contain(
        self, plan_id: PlanId, passing: tuple[type[SwarmError], ...] = ()
    ) -> Iterator[None]:
        """Whatever goes wrong inside one plan's work ends that work here, and nothing else; but for
        errors that are `passing`, which somebody else deals with."""
        try:
            yield
        except passing:
            raise
        except Exception as error:
            # A plan is what others proposed, computed from what others sent. All that can be wrong
            # with that is meant to be told by our own errors, and dealt with where it is met. A
            # case that nobody has thought of must not end the node with it, at each start anew:
            # it makes blocks for all, and has other plans. So everything is caught here, and the
            # traceback of what nobody has thought of goes to the log.
            unforeseen = None if isinstance(error, SwarmError) else error
            log.error("plan %d is halted here: %s", plan_id, error, exc_info=unforeseen)
            self._halt(plan_id, _in_words(error))

    def _halt(self, plan_id: PlanId, why: str) -> None:
        part = self.participations.get(plan_id)
        if part is not None:
            part.halt(why)
        else:
            self._joining.discard(plan_id)
        if part is None or part.plan is None:
            self.refused[plan_id] = why

    async def _work_on(self, plan_id: PlanId, me: Member) -> None:
        plan = self.plans[plan_id]
        await self._fetch_code(plan)
        self.library.read(plan.digest)  # changed code is for a person to mend, and not run
        try:
            self.admission.require_proposal(plan, self.members)
            program = await self._find_program(plan)
        except (ConfigurationError, PlanError) as error:
            log.warning("no part is taken in plan %d: %s", plan_id, error)
            self.refused[plan_id] = str(error)
            self._joining.discard(plan_id)
            return
        part = open_participation(
            plan.id,
            me.id,
            self.election_secret,
            program,
            chain=self.chain,
            store=self.store,
            exchange=self.exchange,
            requests=ListedScores(self.network, self.outgoing),
            carrier=self.network,
            trainer=await self.trainers.of(plan.digest),
            holder=await self.trainers.for_role(plan.digest),
            records=Records(self.directory / "records" / f"plan-{plan.id}.jsonl"),
            own_model=self.directory / "own" / f"plan-{plan.id}.safetensors",
            keep_models=self.config.storage.keep_models,
            kept_state=self.directory / "kept" / f"plan-{plan.id}",
            privacy=self.admission.ledger,
            data_set=self.admission.data_set,
            traffic=self._traffic,
            secrets=self.secrets,
            genesis=domain_of(self.chain.client.chain_id, self.chain.client.contract),
            limits=self.admission.site_limits,
        )
        self.participations[plan_id] = part
        await part.observe(self.plans[plan_id], self.members, [])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._recount, part, plan)
            await part.run()
            nursery.cancel_scope.cancel()

    async def _recount(self, part: Participation, plan: Plan) -> None:
        """Count what the chain shows that this site's rows have spent, also for plans that are
        over: before its next training, each plan does so for itself."""
        while True:
            try:
                loaded = await (await self.trainers.of(plan.digest)).describe()
                await part.recount_privacy(plan, loaded.rules)
                return
            except (ChainError, LocalError) as error:
                log.info("what plan %d has spent cannot be counted yet: %s", plan.id, error)
                await trio.sleep(CODE_RETRY_S)
            except SwarmError:
                return  # its code cannot be asked, and so not be trained

    async def _find_program(self, plan: Plan) -> Program:
        """What the plan's rounds are for: the blob that was written when this member consented, or
        another's; or else what its code says. Tried until this machine can.

        Raises ConfigurationError, PlanError if the plan is not one that this release can run.
        """
        program: Program | None = None
        with suppress(RemoteError):
            program = await self.bring_program(plan)
        while program is None:
            try:
                loaded = await (await self.trainers.of(plan.digest)).describe()
                program = parse(loaded.program)
                check_program(plan, program, program)
                await trio.to_thread.run_sync(self.programs.add, program)
            except (ConfigurationError, PlanError):
                raise
            except SwarmError as error:
                log.warning("the code of plan %d cannot be asked yet: %s", plan.id, error)
                program = None
                await trio.sleep(CODE_RETRY_S)
        check_known(program)
        return program

    async def hear_scores(self, sender: Address, payload: bytes) -> bytes:
        """Answer a member that tells what its rows say of a model."""
        part = self.participations.get(PlanId(read_told(payload).plan))
        if part is None:
            raise RemoteError("this node takes no part in that plan")
        return part.hear_scores(sender, payload)

    def _traffic(self) -> tuple[int, int]:
        traffic = self.network.traffic()
        return traffic.sent_bytes, traffic.received_bytes

    def _knows_needs(self) -> bool:
        """Whether the chain has been read, and every plan that this node joined has told what it
        needs: before that, after a start, everything here would look unneeded. As it would at one
        that is no member any more, and keeps what it has."""
        joined = [self.participations.get(plan) for plan in self._joining]
        is_read = self.height >= 0 and self.me is not None
        return is_read and all(part is not None and part.knows_needs for part in joined)

    def _take_needs(self) -> tuple[set[Digest], set[Digest]]:
        """The blobs that are needed here, and those that have served."""
        needed, spent = self._public(), set[Digest]()
        for part in self.participations.values():
            needed |= part.needed()
            spent |= part.take_spent()
        return needed, spent

    def may_read(self, sender: Address, blob: Digest) -> bool:
        """Every member may have every plan's newest model; called in worker threads."""
        is_member = member_with_node(self.members, sender) is not None
        return is_member and blob in self._public()

    def _public(self) -> set[Digest]:
        """What this node keeps for all members, whether or not it takes part in a plan."""
        plans = tuple(self.plans.values())
        of_plans = {d for p in plans for d in (p.base, *p.outputs)}
        return of_plans | self.proposed | self.published()

    # For the list of what leaves: called in worker threads.

    def purpose_of(self, blob: Digest) -> Purpose | None:
        """What a blob is that every member may have."""
        for plan in tuple(self.plans.values()):
            if blob == plan.base:
                return Purpose("model", plan.id, 0)
            if blob in plan.outputs:
                slot = plan.outputs.index(blob)
                kind = "sums" if slot == STATISTICS_SLOT else "model"
                return Purpose(kind, plan.id, plan.output_rounds[slot])
        if blob in self.proposed:
            return Purpose("model", None, 0)
        return Purpose("published") if blob in self.published() else None

    def plan_with(self, digest: Digest) -> PlanId | None:
        """The newest plan with this code, or these stages."""
        plans = tuple(self.plans.values())
        found = [plan.id for plan in plans if digest in (plan.digest, plan.program)]
        return max(found, default=None)

    def name_of_node(self, node: Address) -> str:
        member = member_with_node(self.members, node)
        return to_hex(node) if member is None else member.name

    def name_of_member(self, number: MemberId) -> str:
        member = self.members.get(number)
        return f"member {number}" if member is None else member.name

    def _halted_plans(self) -> list[PlanId]:
        return [n for n, part in self.participations.items() if part.halted is not None]

    def _greeted_notes(self) -> list[str]:
        return self.greetings.notes_about_self({m.node: m.name for m in self.members.values()})

    async def _tell_notes(self) -> None:
        """Log what is wrong, by name, whenever that changes."""
        told = ToldNotes()
        while True:
            await trio.sleep(NOTES_EVERY_S)
            status = self.status()
            notes = {*status.notes, *(f"{p.name}: {n}" for p in status.peers for n in p.notes)}
            for note in told.fresh(notes, trio.current_time()):
                log.warning("%s", note)

    def status(self) -> NodeStatus:
        """What this node says of itself; nothing secret is in it."""
        parts = [self.participations[number] for number in sorted(self.participations)]
        network, client = self.network, self.chain.client
        pids = [part.trainer_pid for part in parts]
        rounds = [part.plan.round for part in parts if part.plan is not None]
        traffic = network.traffic()
        present = [m for m in self.members.values() if m.present]
        now = trio.current_time()
        news = {key: told for key, (told, until) in self._new_keys.items() if now < until}
        peers = peer_statuses(present, network.status(), self.greetings, news)
        return NodeStatus(
            name=self.config.name,
            pid=os.getpid(),
            trainer_pid=next((pid for pid in pids if pid is not None), None),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            account=to_hex(self.address),
            peer_id=network.peer_id,
            p2p=list(network.addresses),
            rpc_url=self.rpc_url,
            dir=str(self.directory),
            contract=to_hex(client.contract),
            chain_id=client.chain_id,
            height=max(self.height, 0),
            round=next((r.number for r in rounds if r is not None), None),
            chain=name_validators(self.chain_status(), self.members.values()),
            members=[m.name for m in self.members.values() if m.present],
            connected=[m.name for m in self.members.values() if m.node in network.connected],
            peers=peers,
            notes=notes_of(
                self.config.name, self.address, self.members, peers, self._greeted_notes()
            )
            + missing_data(self.directory, self.config),
            bytes_sent=traffic.sent_bytes,
            bytes_received=traffic.received_bytes,
            sandbox=sandbox_status(self.trainers.sandbox),
            privacy=privacy_status(self.admission.ledger, self.config.data.name),
            plans=[plan_status(part) for part in parts],
            refused_plans={str(n): with_names(why) for n, why in sorted(self._refusals().items())},
        )

    def _refusals(self) -> dict[PlanId, str]:
        return self.against_policy | self.refused | self.unreadable


@asynccontextmanager
async def open_node(directory: Path, password: str | None = None) -> AsyncIterator[Node]:
    """Everything that a node is made of, up and running; `password` opens its key.

    Raises ConfigurationError before anything is written or started, where it can.
    """
    config = load_config(directory)
    genesis = read_network(directory, config)
    key = open_key(directory, config, password)
    await trio.to_thread.run_sync(self_check)
    sandbox = await try_out(config.training.sandbox)
    log.log(logging.INFO if sandbox.is_closed else logging.WARNING, "%s", sandbox.in_words())
    async with AsyncExitStack() as stack:
        stack.enter_context(only_node_in(directory))
        limits = NetworkLimits(max_upload_bytes_per_s=config.network.max_upload_bytes_per_s)
        founders = () if genesis is None else genesis.founders
        # By account, too: where a founder was is where its next key is, until it says otherwise.
        addresses = {
            key: config.network.peers.get(founder.name, founder.addresses)
            for founder in founders
            for key in (founder.account, founder.node)
        }
        said = config.network
        rules = dial_rules(
            address_of(key), said.announce, said.listen, addresses, said.dial_private
        )
        network = await stack.enter_async_context(open_network(key, said.listen, limits, rules))
        store = await trio.to_thread.run_sync(BlobStore, directory / "blobs")
        most_bytes = config.storage.outgoing_mb * 2**20
        listing = partial(OutgoingLog, directory / OUTGOING, most_bytes=most_bytes)
        outgoing = Outgoing(
            await trio.to_thread.run_sync(listing), lambda: network.traffic().peers, config.name
        )
        stack.callback(outgoing.close)
        exchange = Exchange(
            store, network, config.storage.max_blob_mb * 2**20, on_leaving=outgoing.leaving
        )
        network.serve_blobs(exchange)
        library = Library(directory / "plans")
        network.handle(BUNDLE_METHOD, outgoing.listed("code", library.serve))
        programs = Programs(directory / "programs")
        network.handle(PROGRAM_METHOD, outgoing.listed("program", programs.serve))
        opened = await stack.enter_async_context(
            open_node_chain(directory, config, key, network, genesis)
        )
        # From here on others may come in: everything that answers them is in place.
        network.set_members({f.node: addresses[f.node] for f in founders})
        policy = site_policy(directory, config)
        budget = Budget(config.privacy.epsilon, config.privacy.delta)
        spent = partial(PrivacyLedger, directory / PRIVACY, budget)
        ledger = await trio.to_thread.run_sync(spent)
        data_set = data_set_in(config.data.name, data_path(directory, config))
        client = opened.link.client
        confirmations = Confirmations(
            directory / "confirmations",
            config.policy.confirmers,
            network.address,
            config.name,
            client.contract,
            client.chain_id,
        )
        node = Node(
            directory=directory,
            config=config,
            address=network.address,
            election_secret=hmac.new(key, b"swarm/election/1", hashlib.sha256).digest(),
            secrets=MaskedSecrets(directory / "masked", key),
            chain=opened.link,
            chain_status=opened.status,
            network=network,
            store=store,
            exchange=exchange,
            library=library,
            programs=programs,
            trainers=Trainers(directory, config, library, stack, sandbox, policy),
            admission=Admission(policy, confirmations, ledger, data_set),
            outgoing=outgoing,
            known_addresses=addresses,
        )
        exchange.allow(node.may_read, purpose=node.purpose_of)
        network.handle(GREETING_METHOD, node.greetings.answer)
        network.on_connect(node.greetings.connected)
        network.serve_streams(StreamsOfPlans(node.participations))
        network.serve_observers(CHAIN_TOPIC, GREETING_METHOD)
        network.handle(SCORES_METHOD, outgoing.listed_scores(node.hear_scores))
        outgoing.name_of_node = node.name_of_node
        outgoing.name_of_member = node.name_of_member
        outgoing.plan_with = node.plan_with
        opened.link.on_sent = outgoing.transacted
        zoo = Zoo(
            directory / "zoo",
            key,
            network.address,
            client.chain_id,
            client.contract,
            network,
            store,
            exchange,
            library,
            node.trainers,
            node.plans,
            lambda: node.members,
            node.participations,
        )
        node.published = zoo.needed
        network.handle(SIGN_METHOD, zoo.serve_signature)
        network.handle(LIST_METHOD, zoo.serve_list)
        node.rpc_url = await stack.enter_async_context(
            open_http(config.http.listen, opened.rpc, node.status)
        )
        plan_commands = _plan_commands(node)
        if config.policy.consent == "automatic":
            node.consent = plan_commands.consent
        handlers = _commands(node, opened) | plan_commands.by_name
        handlers |= ZooCommands(zoo).by_name
        control = await stack.enter_async_context(open_control(directory, handlers))
        _announce(node, control)
        try:
            yield node
        finally:
            (directory / RUNNING).unlink(missing_ok=True)


def _in_words(error: BaseException) -> str:
    """A sentence for the status, of what went wrong first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, SwarmError):
        return str(error)
    return (
        f"a fault of this program ({type(error).__name__}: {error}), which the log describes: "
        "please report it. After a restart the node tries again"
    )


def _plan_commands(node: Node) -> PlanCommands:
    return PlanCommands(
        node.chain,
        node.library,
        node.programs,
        node.trainers,
        node.election_secret,
        node.secrets,
        node.config.training.max_samples,
        bring_code=node.bring_code,
        bring_program=node.bring_program,
        admission=node.admission,
        known_plans=node.plans,
    )


def _commands(node: Node, opened: OpenedChain) -> dict[str, Handler]:
    """What the command line may ask of the node beside plans that there are, by name."""
    model_commands = ModelCommands(
        node.participations, node.store, node.chain, node.library, node.trainers
    )
    propose_commands = ProposeCommands(
        node.chain,
        node.library,
        node.programs,
        node.trainers,
        node.store,
        on_proposed=node.proposed.add,
        bring_code=node.bring_code,
        export_model=model_commands.export_newest,
    )
    return {
        **NodeCommands(node.chain, node.status, opened.copy_to, opened.describe_blocks).by_name,
        **node.outgoing.by_name,
        **MemberCommands(node.chain).by_name,
        **model_commands.by_name,
        **propose_commands.by_name,
    }


def _announce(node: Node, control: str) -> None:
    running = Running(os.getpid(), control, node.rpc_url, node.network.addresses)
    partial = node.directory / (RUNNING + ".partial")
    partial.write_bytes(msgspec.json.encode(running))
    try:
        partial.replace(node.directory / RUNNING)
    except OSError:
        partial.unlink()
        raise
    log.info("node %s is up: %s, %s", node.config.name, node.network.addresses[0], node.rpc_url)
