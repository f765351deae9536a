"""One institution's node: a nursery that wires the machines to the adapters.

    network ── blobs, messages ──┐
    chain ─── heads, transactions┼── node ── participants (one a plan) ── trainer process
    http, control ── people ─────┘

Everything is opened in order and closed in the opposite one; whatever fails for good ends the node
with one sentence, and starting it again goes on where the consortium is.
"""

from __future__ import annotations

import ctypes
import hashlib
import hmac
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import trio

from swarm.blobs.store import BlobStore
from swarm.errors import MACHINE_FAULTS, ChainError, LocalError, SwarmError
from swarm.learning.merge import self_check
from swarm.learning.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.network.limits import NetworkLimits
from swarm.network.network import Network, open_network
from swarm.node.chain_link import ChainLink, WaitingCall
from swarm.node.config import NodeConfig, data_path, load_config
from swarm.node.control import Running, only_node_in, open_control
from swarm.node.embedded import open_node_chain, read_network
from swarm.node.handlers import Handlers
from swarm.node.http import open_http
from swarm.node.keys import load_key
from swarm.node.library import METHOD as BUNDLE_METHOD
from swarm.node.library import Library
from swarm.node.password import find_password
from swarm.node.upkeep import keep_up
from swarm.protocol.awaited_calls import Waiting, is_more_awaited
from swarm.protocol.machine import MergeAnnounced, RoundMachine
from swarm.protocol.state import Member, Plan, Round, member_set, member_with_node
from swarm.rounds.drafts import Drafts
from swarm.rounds.driver import Driver, Stage
from swarm.rounds.exchange import Exchange
from swarm.rounds.records import Records
from swarm.rounds.retention import Pruning
from swarm.rounds.training import Work
from swarm.types import Address, Digest, MemberId, PlanId, to_hex

log = logging.getLogger("swarm.node")

CODE_RETRY_S = 1.0
CHAIN_RETRY_S = 1.0
PRUNE_EVERY_S = 30.0
RUNNING = "running.json"
M_ARENA_MAX = -8  # as <malloc.h> has it


@dataclass
class Node:
    """A running node. Made by `open_node`."""

    directory: Path
    config: NodeConfig
    address: Address
    election_secret: bytes
    chain: ChainLink
    chain_status: Callable[[], dict[str, object]]
    network: Network
    store: BlobStore
    exchange: Exchange
    library: Library
    known_addresses: Mapping[Address, tuple[str, ...]]
    rpc_url: str = ""
    members: dict[MemberId, Member] = field(default_factory=dict)
    plans: dict[PlanId, Plan] = field(default_factory=dict)
    participants: dict[PlanId, Driver] = field(default_factory=dict)
    proposed: set[Digest] = field(default_factory=set)
    """Initial models that were made here for plans of which the chain does not tell yet."""
    height: int = -1
    trainers: dict[Digest, Trainer] = field(default_factory=dict)
    _resources: AsyncExitStack = field(default_factory=AsyncExitStack)
    _joining: set[PlanId] = field(default_factory=set)
    _pruning: Pruning = field(default_factory=Pruning)
    _stages: set[Stage | None] = field(default_factory=set)
    _moved_on: trio.Event = field(default_factory=trio.Event)
    """Set when a round has opened, closed or ended since the last pruning."""

    @property
    def me(self) -> Member | None:
        """This node's own membership, if it has one."""
        return member_with_node(self.members, self.address)

    def _saw_waiting(self, call: WaitingCall) -> None:
        leader = member_with_node(self.members, call.sender)
        if call.function == "merge" and leader is not None:
            plan, number, attempt, model, omitted, _ = call.arguments
            if plan in self.participants:
                announced = MergeAnnounced(number, attempt, leader.id, model, omitted)
                self.participants[plan].announce(announced)

    def _awaits_more(self, calls: list[WaitingCall]) -> bool | None:
        """Whether a round still waits for more than these: then a block of them can wait too."""
        waiting: dict[PlanId, list[Waiting]] = {}
        for call in calls:
            sender = member_with_node(self.members, call.sender)
            if sender is not None:
                plan, number, attempt, *rest = call.arguments
                found = Waiting(call.function, sender.id, number, attempt)
                if call.function != "submit":
                    found = found._replace(choice=(Digest(rest[0]), rest[1]))
                waiting.setdefault(plan, []).append(found)
        members = member_set(i for i, member in self.members.items() if member.present)
        answers = {
            is_more_awaited(self.plans[plan], members, of_plan, int(time.time()))
            for plan, of_plan in waiting.items()
            if plan in self.plans
        }
        return True if True in answers else False if answers == {False} else None

    async def run(self) -> None:
        """Follow the chain, and keep a participant for every plan that this member joined."""
        self.chain.on_waiting = self._saw_waiting
        self.chain.awaits_more = self._awaits_more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_up, self.chain, self.address)
            nursery.start_soon(self._keep_pruned)
            while True:
                try:
                    await self._observe(nursery)
                except ChainError as error:
                    log.warning("the chain cannot be read: %s", error)
                    await trio.sleep(CHAIN_RETRY_S)
                    continue
                await self.chain.wait_for_head(self.height)

    async def _observe(self, nursery: trio.Nursery) -> None:
        """Take in what the blocks since the last look have changed."""
        news = await self.chain.news(self.height, self.members, self.plans)
        if news.members is not None:
            self.members = news.members
            self._admit_members()
        for plan in news.plans.values():
            await self._observe_plan(plan, news.ended.get(plan.id, []), nursery)
        self.height = news.height
        self.chain.on_observed()
        self.exchange.rules_changed()
        stages = {p.stage for p in self.participants.values()}
        if stages != self._stages:
            self._stages = stages
            self._moved_on.set()

    async def _observe_plan(self, plan: Plan, ended: list[Round], nursery: trio.Nursery) -> None:
        plan_id = plan.id
        known = plan_id in self.plans
        self.plans[plan_id] = plan
        if not known and not self.library.has(plan.digest):
            nursery.start_soon(self._fetch_code, plan)
        if plan_id in self.participants:
            await self.participants[plan_id].observe(plan, self.members, ended)
        elif plan_id not in self._joining:
            me = self.me
            if me is not None and me.id in plan.consents:
                self._joining.add(plan_id)
                nursery.start_soon(self._participate, plan_id, me)

    def _admit_members(self) -> None:
        present = [m for m in self.members.values() if m.present and m.node != self.address]
        by_name = self.config.network.peers
        self.network.set_members(
            {m.node: by_name.get(m.name, self.known_addresses.get(m.node, ())) for m in present}
        )

    async def _fetch_code(self, plan: Plan) -> None:
        """Get a proposed plan's code, for people to read. Tried until somebody has it."""
        while not self.library.has(plan.digest):
            try:
                peers = [m.node for m in self.members.values() if m.node != self.address]
                await self.library.fetch(plan.digest, peers, self.network)
            except SwarmError as error:
                log.info("%s", error)
                await trio.sleep(CODE_RETRY_S)

    async def _participate(self, plan_id: PlanId, me: Member) -> None:
        """Take part in one plan for as long as the node runs."""
        plan = self.plans[plan_id]
        await self._fetch_code(plan)
        self.library.read(plan.digest)
        records = Records(self.directory / "records" / f"plan-{plan.id}.jsonl")
        participant = Driver(
            machine=RoundMachine(plan.id, me.id, self.election_secret, self.store.has),
            chain=self.chain,
            work=Work(
                me.id,
                self.exchange,
                await self.trainer(plan.digest),
                records,
                Drafts(plan.id, self.exchange),
            ),
            keep_models=self.config.storage.keep_models,
            traffic=self._traffic,
        )
        self.participants[plan_id] = participant
        await participant.observe(self.plans[plan_id], self.members, [])
        await participant.run()

    async def trainer(self, digest: Digest) -> Trainer:
        """The trainer for the plan with this code; one for each, from the first use on."""
        if digest not in self.trainers:
            opened = open_trainer(self._trainer_config(digest))
            self.trainers[digest] = await self._resources.enter_async_context(opened)
        return self.trainers[digest]

    def _trainer_config(self, digest: Digest) -> TrainerConfig:
        training = self.config.training
        return TrainerConfig(
            plan=self.library.path(digest),
            digest=digest,
            site=self.config.name,
            workspace=self.directory / "trainer" / digest.hex(),
            data=data_path(self.directory, self.config),
            options=self.config.data.options,
            device=training.device,
            seed=training.seed,
            log=self.directory / "trainer.log",
        )

    def _traffic(self) -> tuple[int, int]:
        traffic = self.network.traffic()
        return traffic.sent_bytes, traffic.received_bytes

    async def _keep_pruned(self) -> None:
        """Delete blobs that no plan needs any more, whenever a round opens, closes or ends, and
        now and then: what was still on its way when its round ended comes after that."""
        while True:
            with trio.move_on_after(PRUNE_EVERY_S):
                await self._moved_on.wait()
            self._moved_on = trio.Event()
            if not self._knows_its_needs():
                continue
            whole = self.store.roots()
            here = whole | (await trio.to_thread.run_sync(self.store.unfinished)).keys()
            needed, spent = self._public(), set[Digest]()
            for participant in self.participants.values():
                needed |= participant.needed()
                spent |= participant.take_spent()
            dropped = self._pruning.look(here, needed, spent)
            try:
                await trio.to_thread.run_sync(self.store.discard, dropped)
            except LocalError as error:
                log.warning("blobs that are not needed any more are still here: %s", error)

    def _knows_its_needs(self) -> bool:
        """Whether the chain has been read, and every plan that this node joined has told what it
        needs: before that, after a start, everything here would look unneeded. As it would at one
        that is no member any more, and keeps what it has."""
        joined = [self.participants.get(plan) for plan in self._joining]
        is_read = self.height >= 0 and self.me is not None
        return is_read and all(p is not None and p.has_observed for p in joined)

    def may_read(self, sender: Address, blob: Digest) -> bool:
        """Every member may have every plan's newest model; called in worker threads."""
        is_member = member_with_node(self.members, sender) is not None
        return is_member and blob in self._public()

    def _public(self) -> set[Digest]:
        """What this node keeps for all members, whether or not it takes part in a plan."""
        plans = tuple(self.plans.values())
        return {d for p in plans for d in (p.model0, p.model, p.statistics)} | self.proposed

    def status(self) -> dict[str, Any]:
        """What this node says of itself; nothing secret is in it."""
        trainers = [p.work.trainer.pid for p in self.participants.values()]
        traffic = self.network.traffic()
        rounds = [p.plan.round for p in self.participants.values() if p.plan is not None]
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "trainer_pid": next((pid for pid in trainers if pid is not None), None),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "account": to_hex(self.address),
            "peer_id": self.network.peer_id,
            "p2p": list(self.network.addresses),
            "rpc_url": self.rpc_url,
            "dir": str(self.directory),
            "contract": to_hex(self.chain.client.contract),
            "chain_id": self.chain.client.chain_id,
            "height": max(self.height, 0),
            "round": next((r.number for r in rounds if r is not None), None),
            "chain": self._chain_words(),
            "members": [m.name for m in self.members.values() if m.present],
            "connected": [
                m.name for m in self.members.values() if m.node in self.network.connected
            ],
            "bytes_sent": traffic.sent_bytes,
            "bytes_received": traffic.received_bytes,
            "plans": [p.status() for p in self.participants.values()],
        }

    def _chain_words(self) -> dict[str, object]:
        """The chain's status, with names in the place of addresses."""
        names = {to_hex(m.node): m.name for m in self.members.values()}
        said = dict(self.chain_status())
        for key in ("validators", "waiting_for"):
            if isinstance(said.get(key), list):
                said[key] = [names.get(a, a) for a in said[key]]  # type: ignore[attr-defined]
        if "proposer" in said:
            said["proposer"] = names.get(str(said["proposer"]), said["proposer"])
        return said


@asynccontextmanager
async def open_node(directory: Path, password: str | None = None) -> AsyncIterator[Node]:
    """Everything that a node is made of, up and running; `password` opens its key.

    Raises ConfigurationError before anything is written or started, where it can.
    """
    config = load_config(directory)
    genesis = read_network(directory, config)
    key = load_key(directory / config.key.file, find_password(directory, config, password))
    await trio.to_thread.run_sync(self_check)
    async with AsyncExitStack() as stack:
        stack.enter_context(only_node_in(directory))
        limits = NetworkLimits(max_upload_bytes_per_s=config.network.max_upload_bytes_per_s)
        network = await stack.enter_async_context(open_network(key, config.network.listen, limits))
        founders = () if genesis is None else genesis.founders
        addresses = {
            founder.node: config.network.peers.get(founder.name, founder.addresses)
            for founder in founders
        }
        store = await trio.to_thread.run_sync(BlobStore, directory / "blobs")
        exchange = Exchange(store, network, config.storage.max_blob_mb * 2**20)
        network.serve_blobs(exchange)
        library = Library(directory / "plans")
        network.handle(BUNDLE_METHOD, library.serve)
        opened = await stack.enter_async_context(
            open_node_chain(directory, config, key, network, genesis)
        )
        # From here on others may come in: everything that answers them is in place.
        network.set_members({a: texts for a, texts in addresses.items() if a != network.address})
        node = Node(
            directory=directory,
            config=config,
            address=network.address,
            election_secret=hmac.new(key, b"swarm/election/1", hashlib.sha256).digest(),
            chain=opened.link,
            chain_status=opened.status,
            network=network,
            store=store,
            exchange=exchange,
            library=library,
            known_addresses=addresses,
            _resources=stack,
        )
        exchange.rules.append(node.may_read)
        node.rpc_url = await stack.enter_async_context(
            open_http(config.http.listen, opened.rpc, node.status)
        )
        control = await stack.enter_async_context(open_control(directory, Handlers(node).by_name))
        _announce(node, control)
        try:
            yield node
        finally:
            (directory / RUNNING).unlink(missing_ok=True)


def _announce(node: Node, control: str) -> None:
    running = Running(os.getpid(), control, node.rpc_url, node.network.addresses)
    partial = node.directory / (RUNNING + ".partial")
    partial.write_bytes(msgspec.json.encode(running))
    partial.replace(node.directory / RUNNING)
    log.info("node %s is up: %s, %s", node.config.name, node.network.addresses[0], node.rpc_url)


async def run_node(directory: Path, password: str | None = None) -> None:
    """Run a node until SIGINT or SIGTERM. Raises what ends it otherwise."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for number in signals:
                    log.info("%s: ending", signal.Signals(number).name)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            async with open_node(directory, password) as node:
                await node.run()


def start_node(directory: Path, password: str | None = None) -> None:
    """Blocks; the entry of `swarm node start`.

    Raises SwarmError or OSError (a full disk, say) for what a person can mend.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    # Training competes for the processor: let threads take turns faster than every 5 ms.
    sys.setswitchinterval(1e-3)
    _share_memory()
    try:
        trio.run(run_node, directory.resolve(), password)
    except BaseExceptionGroup as group:
        expected, rest = group.split(_can_be_mended)
        if expected is None or rest is not None:
            raise
        raise _first(expected) from None


def _share_memory() -> None:
    """Let all threads draw from two pools of glibc's. By default each has one of its own and keeps
    what it ever needed, and work here moves from thread to thread: a node would grow for hours."""
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _can_be_mended(error: BaseException) -> bool:
    return isinstance(error, SwarmError) or (
        isinstance(error, OSError) and error.errno in MACHINE_FAULTS
    )


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
