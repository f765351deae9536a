"""One institution's node: what it does with each new block.

    network ── blobs, messages ──┐
    chain ─── heads, transactions┼── node ── joined plans ── trainer processes
    http, control ── people ─────┘

`wiring` puts it together. Whatever fails for good ends the node with one sentence, and starting it
again goes on where the consortium is.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from swarm.errors import ChainError
from swarm.network.network import Network
from swarm.node.alerts.alerting import Alerting
from swarm.node.alerts.causes import Alert, find_alerts
from swarm.node.chain.link import UNDER_WAY, ChainLink
from swarm.node.chain.seen import Seen
from swarm.node.consent.answering import Answering
from swarm.node.doctor import Check, of_machine
from swarm.node.home.config import NodeConfig, missing_data
from swarm.node.home.rotation import next_address
from swarm.node.members.contacts import addresses_of, contact_owed, is_stated
from swarm.node.members.greetings import ALONE_S, Greetings
from swarm.node.members.new_keys import NewKeys
from swarm.node.members.notes import ToldNotes
from swarm.node.members.standing import keep_up
from swarm.node.outgoing.recorder import Outgoing
from swarm.node.plans.figures import Figures
from swarm.node.plans.joined import JoinedPlans
from swarm.node.plans.trainers import Trainers
from swarm.node.status import (
    NodeStatus,
    asked_of,
    former_of,
    name_validators,
    names_of_keys,
    notes_of,
    peer_statuses,
    plan_status,
    privacy_status,
    sandbox_status,
    standbys_of,
)
from swarm.protocol.state import Member, Plan, Round, member_set
from swarm.rounds.exchange import Exchange
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.retention import Retention
from swarm.types import NO_ADDRESS, Address, Digest, PlanId, to_hex
from swarm.visible import name_addresses, with_names

log = logging.getLogger("swarm.node")

CHAIN_RETRY_S = 1.0
NOTES_EVERY_S = 2.0
LOOK_AT_MACHINE_S = 2.0


@dataclass
class Node:
    """A running node. Made by `wiring.open_node`."""

    directory: Path
    config: NodeConfig
    chain: ChainLink
    chain_status: Callable[[], dict[str, object]]
    network: Network
    exchange: Exchange
    seen: Seen
    joined: JoinedPlans
    answering: Answering
    trainers: Trainers
    outgoing: Outgoing
    retention: Retention
    greetings: Greetings
    privacy: PrivacyLedger
    known_addresses: Mapping[Address, tuple[str, ...]]
    """Of the founders, by account and by node."""
    rpc_url: str = ""
    figures: Figures | None = None
    alerting: Alerting | None = None
    new_keys: NewKeys = field(default_factory=NewKeys)
    unreadable: dict[PlanId, str] = field(default_factory=dict)
    """Plans that this release cannot read as the chain has them now, and why."""
    _one_look: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    """At the machine: of looks that hang there is one."""

    @property
    def governs(self) -> bool:
        """Whether the node's key is, or was, its member's account, too."""
        return any(member.account == self.seen.own for member in self.seen.present)

    def _is_succeeded(self) -> bool:
        """Whether the chain has this node's next key in the place of the one that it uses."""
        if self.seen.me is not None:
            return False
        successor = next_address(self.directory)
        return successor is not None and self.seen.with_node(successor) is not None

    async def run(self) -> None:
        """Follow the chain, and take part in every plan that this member joined. Returns when the
        node is to go on with its next key."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_up, self.chain, self.seen.own, self._contact_owed)
            nursery.start_soon(self.retention.run)
            nursery.start_soon(self.outgoing.keep)
            nursery.start_soon(self.greetings.run, self.network)
            nursery.start_soon(self._tell_notes)
            nursery.start_soon(self._trust_votes)
            nursery.start_soon(self.trainers.end_idle, self._is_trained)
            if self.figures is not None:
                nursery.start_soon(self.figures.run)
            if self.alerting is not None:
                nursery.start_soon(self.alerting.run)
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
                await self.chain.wait_for_head(self.seen.height)

    def _is_trained(self, code: Digest) -> bool:
        """Whether a plan with this code is under way with this member in it."""
        me = self.seen.me
        return me is not None and any(
            plan.digest == code and plan.status in UNDER_WAY and plan.participants >> me.id & 1
            for plan in self.seen.plans.values()
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
        seen = self.seen
        news = await self.chain.news(seen.height, seen.members, seen.plans)
        if news.members is not None:
            self.new_keys.note(seen.members, news.members, news.height)
            seen.members = news.members
            self._admit_members()
        for number, why in news.unreadable.items():
            log.warning("plan %d cannot be read: %s", number, why)
            self.unreadable[number] = why
        for plan in news.plans.values():
            self.unreadable.pop(plan.id, None)
            await self.observe_plan(plan, news.ended.get(plan.id, []), nursery)
        seen.height = news.height
        self.chain.on_observed()
        self.exchange.rules_changed()
        if self.joined.turned():
            self.retention.look_soon()

    async def observe_plan(self, plan: Plan, ended: list[Round], nursery: trio.Nursery) -> None:
        """Take in a plan as it stands now: whatever that begins runs in the nursery."""
        self.seen.plans[plan.id] = plan
        is_joined, me = await self.joined.observe(plan, ended, nursery), self.seen.me
        if me is not None and not is_joined:
            self.answering.consider(plan, me, nursery)

    def _admit_members(self) -> None:
        present = self.seen.present
        configured, founding = self.config.network.peers, self.known_addresses
        name_addresses(self.new_keys.former | names_of_keys(self.seen.members.values()))
        standbys = {m.standby for m in present if m.standby != NO_ADDRESS}
        self.network.set_members(
            dict.fromkeys(standbys, ())
            | {m.node: addresses_of(m, configured, founding) for m in present},
            stated={m.node for m in present if is_stated(m, configured, founding)},
            observers=standbys,
        )

    def _contact_owed(self, me: Member) -> bytes | None:
        return contact_owed(me, self.config.network.announce, self.known_addresses)

    async def _tell_notes(self) -> None:
        """Log what is wrong, by name, whenever that changes."""
        told = ToldNotes()
        while True:
            await trio.sleep(NOTES_EVERY_S)
            status = self.status()
            notes = {*status.notes, *(f"{p.name}: {n}" for p in status.peers for n in p.notes)}
            for note in told.fresh(notes, trio.current_time()):
                log.warning("%s", note)

    async def find_alerts(self) -> list[Alert]:
        """What a person must see to. A disk that does not answer is said to be one."""
        checks = [Check("disk", "wrong", "this node's disk does not answer", "dmesg | tail")]
        with trio.move_on_after(LOOK_AT_MACHINE_S):
            look = partial(of_machine, self.directory, self.config)
            checks = await trio.to_thread.run_sync(  # type: ignore[call-arg]
                look, abandon_on_cancel=True, limiter=self._one_look
            )
        return find_alerts(self.status(), checks, shlex.quote(str(self.directory)))

    def status(self) -> NodeStatus:
        """What this node says of itself; nothing secret is in it."""
        parts = [part for _, part in sorted(self.joined.parts.items())]
        network, client = self.network, self.chain.client
        pids = [part.trainer_pid for part in parts]
        rounds = [part.plan.round for part in parts if part.plan is not None]
        traffic = network.traffic()
        seen, present = self.seen, self.seen.present
        names = {m.node: m.name for m in seen.members.values()}
        greeted = self.greetings.notes_about_self(names)
        own = self.config.name if seen.me is None else seen.me.name
        undelivered = "" if self.alerting is None else self.alerting.fault
        peers = peer_statuses(present, network.status(), self.greetings, self.new_keys.news())
        return NodeStatus(
            name=self.config.name,
            pid=os.getpid(),
            trainer_pid=next((pid for pid in pids if pid is not None), None),
            tasks=trio.lowlevel.current_statistics().tasks_living,
            account=to_hex(seen.own),
            peer_id=network.peer_id,
            p2p=list(network.addresses),
            rpc_url=self.rpc_url,
            dir=str(self.directory),
            contract=to_hex(client.contract),
            chain_id=client.chain_id,
            height=max(seen.height, 0),
            round=next((r.number for r in rounds if r is not None), None),
            chain=name_validators(self.chain_status(), seen.members.values()),
            members=[m.name for m in present],
            connected=[m.name for m in seen.members.values() if m.node in network.connected],
            peers=peers,
            standbys=standbys_of(present, network.connected),
            former=former_of(seen.members.values()),
            notes=notes_of(self.config.name, seen.own, seen.members, peers, greeted)
            + missing_data(self.directory, self.config)
            + ([f"alerts are not delivered: {undelivered}"] if undelivered else []),
            clock_ahead_s=self.greetings.own_clock_s(),
            key_elsewhere=[names.get(k, to_hex(k)) for k in self.greetings.say_twice()],
            bytes_sent=traffic.sent_bytes,
            bytes_received=traffic.received_bytes,
            sandbox=sandbox_status(self.trainers.sandbox),
            privacy=privacy_status(self.privacy, self.config.data.name),
            plans=[plan_status(part, own) for part in parts],
            asked=asked_of(seen.me, tuple(seen.plans.values()), member_set(m.id for m in present)),
            refused_plans={str(n): with_names(why) for n, why in sorted(self.refusals().items())},
        )

    def refusals(self) -> dict[PlanId, str]:
        """The plans that this node takes no part in, and why."""
        return self.answering.against_policy | self.joined.refused | self.unreadable
