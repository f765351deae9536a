"""What a node says of itself, to people and programs. Nothing secret is in it: anyone at this site
may be shown all of it."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from swarm.box.description import Report
from swarm.learning.supervisor.trainer_messages import Progress
from swarm.network.network import NOT_COUNTED
from swarm.node.members.greetings import Acquaintance, Greetings
from swarm.protocol.masking import Masking
from swarm.protocol.state import (
    BEST_SLOT,
    Duty,
    Member,
    MemberSet,
    Omission,
    Plan,
    Round,
    RoundStatus,
    members_in,
    undecided,
    willing_with,
)
from swarm.protocol.state import PlanStatus as PlanState
from swarm.rounds.participation import Participation
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.records import REASONS, RECENT_ROUNDS
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, to_hex
from swarm.visible import with_names


class TrainingStatus(msgspec.Struct, frozen=True):
    """How far the running training is."""

    fraction: float
    epoch: int
    loss: float


class StartingPlan(msgspec.Struct, frozen=True):
    """A plan that this node has joined and not looked at yet."""

    id: int


class PrivacyStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan, or all plans together, have spent of this site's rows' privacy."""

    spent: float
    """ε so far."""
    epsilon: float | None
    """What the plan promises, or this site allows all plans; None: no limit."""
    delta: float


class PlanStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Where one plan stands at this node. Digests in hex, members by name."""

    id: int
    name: str
    digest: str
    status: str
    rounds: int
    """How many of training it has."""
    round: int | None
    """Its number on the chain."""
    title: str | None
    """What people call it."""
    attempt: int | None
    phase: str | None
    leader: str | None
    """Of a closed round, whose slot it is."""
    holder: str | None = None
    """Who holds the plan's role in this attempt."""
    waits_for: list[str]
    """Whose answer, update or merge comes next."""
    waits_why: str
    """What they are waited for; or what is missing, where nobody is waited for by name."""
    trainers: list[str]
    """Who trains in the round."""
    submitted: list[str]
    merged: list[str]
    """Who has posted a merge."""
    attested: list[str]
    """Who has attested one, its leaders included."""
    training: TrainingStatus | None
    model: str
    model_round: int
    """Of training; 0 before the first."""
    model_held: bool
    best: str | None = None
    """The best model until now, where the plan chooses one."""
    statistics: str | None
    privacy: PrivacyStatus | None
    """None for a plan without."""
    halted: str | None
    """Why this node has stopped training it, if it has."""
    left_out: str | None = None
    """Why this site's update is not in the newest round's model, if its leader left it out."""
    last_report: str
    records: list[dict[str, Any]]
    """Of the newest rounds, oldest first: `swarm.rounds.records`."""

    @property
    def finished(self) -> dict[str, Any] | None:
        """The record of the newest round that is final."""
        return next((r for r in reversed(self.records) if r["model"]), None)


class SandboxStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How plan code is boxed on this machine: `swarm.box.description.Report`."""

    stand: dict[str, str]
    """Each wall, with its detail."""
    missing: dict[str, str]
    """Each wall that is not there, and why."""
    reach: list[str]
    """What plan code could reach; empty if nothing that matters."""


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Another member, as this node reaches it."""

    name: str
    connected: bool
    remote: str | None
    failed_dials: dict[str, str]
    """Why each of its addresses led nowhere, if it did not."""
    release: str
    """Of swarm, as its node says; empty if it has not said."""
    clock_s: float | None
    """How far its clock is ahead of this machine's."""
    notes: list[str]
    """What is wrong with it, as far as this node can tell."""
    key_twice: bool = False
    """Whether its key is used on two machines at once."""


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One node. Members by name, addresses in hex."""

    name: str
    pid: int
    trainer_pid: int | None
    tasks: int
    """Of trio: to see whether they grow."""
    account: str
    peer_id: str
    p2p: list[str]
    rpc_url: str
    dir: str
    contract: str
    chain_id: int
    height: int
    round: int | None
    chain: dict[str, Any]
    """What the chain says of itself: `swarm.chain.service`, or an external endpoint's URL."""
    members: list[str]
    connected: list[str]
    peers: list[PeerStatus]
    standbys: dict[str, bool] = msgspec.field(default_factory=dict)
    """Members that have a second node, and whether that is connected to this one."""
    former: list[str] = msgspec.field(default_factory=list)
    """Members that have left or were removed, and have not come back under their name."""
    notes: list[str]
    """What is wrong with this node itself, and what to do."""
    clock_ahead_s: float | None = None
    """How far this machine's clock is ahead of most members', if that is too far."""
    key_elsewhere: list[str] = msgspec.field(default_factory=list)
    """Members that say that another machine uses this node's key, too."""
    bytes_sent: int
    bytes_received: int
    sandbox: SandboxStatus
    privacy: PrivacyStatus
    """Of all plans with privacy together."""
    plans: list[PlanStatus | StartingPlan]
    asked: dict[str, str] = msgspec.field(default_factory=dict)
    """By number, the names of plans that wait for this member's consent or its declining."""
    refused_plans: dict[str, str]
    """By number, the plans that this member has joined and its node takes no part in: why."""


def peer_statuses(
    members: Iterable[Member],
    network: Mapping[str, Any],
    greetings: Greetings,
    new_keys: Mapping[Address, str],
) -> list[PeerStatus]:
    """Each of these members, by what the network and its own greetings tell."""
    found = []
    for member in members:
        said = network["peers"].get(to_hex(member.node))
        if said is not None:
            known = greetings.peers.get(member.node, Acquaintance())
            found.append(
                PeerStatus(
                    name=member.name,
                    connected=said["connected"],
                    remote=said["remote"],
                    failed_dials={at: with_names(why) for at, why in said["failed_dials"].items()},
                    release=known.version,
                    clock_s=known.clock_s,
                    notes=[
                        *greetings.notes_about(member.node),
                        *([_one_way(said["failed_dials"])] if said["one_way"] else []),
                        *([new_keys[member.node]] if member.node in new_keys else []),
                    ],
                    key_twice=greetings.is_twice(member.node),
                )
            )
    return found


def _one_way(failed_dials: Mapping[str, str]) -> str:
    tried = "; ".join(f"{at}: {with_names(why)}" for at, why in failed_dials.items())
    return f"it cannot be dialled ({tried}); it is connected since it has dialled this node"


def standbys_of(members: Iterable[Member], connected: Collection[Address]) -> dict[str, bool]:
    """Of these members those with a standby, and whether it is among the connected."""
    return {m.name: m.standby in connected for m in members if m.standby != NO_ADDRESS}


def former_of(members: Collection[Member]) -> list[str]:
    """Who was a member and is none, by names that no member bears now."""
    present = {m.name for m in members if m.present}
    return sorted({m.name for m in members} - present)


def names_of_keys(members: Iterable[Member]) -> dict[str, str]:
    """Whose each key is, by its address in hex."""
    named: dict[str, str] = {}
    for member in members:
        named[to_hex(member.account)] = f"{member.name}'s account"
        if member.standby != NO_ADDRESS:
            named[to_hex(member.standby)] = f"{member.name}'s standby"
        named[to_hex(member.node)] = member.name
    return named


def notes_of(
    name: str,
    node: Address,
    members: Mapping[MemberId, Member],
    peers: Sequence[PeerStatus],
    said: list[str],
) -> list[str]:
    """What is wrong with the node of this name and key: `said` by greetings, and by where it
    stands."""
    mine = [m for m in members.values() if m.node == node]
    standing = _standing_of(name, node, members.values())
    if not any(m.present for m in mine) and standing is not None:
        said = [standing, *said]
    elif members and not mine:
        said = [
            "this node is no member yet: have a member propose its card.json with `swarm contract "
            "propose --admit`, and more than half of the members vote for it",
            *said,
        ]
    elif mine and not any(m.present for m in mine):
        said = [
            "this institution is no member any more: it has left, or was removed; coming back "
            "takes `swarm init` with a new key, and the others' votes",
            *said,
        ]
    elif (
        not said
        and not any(p.connected for p in peers)
        and any(NOT_COUNTED in why for p in peers for why in p.failed_dials.values())
    ):
        said = [
            "no member lets this node in: they may have removed it, or not admitted it yet; ask "
            "one of them for `swarm contract members`",
            *said,
        ]
    return said


def _standing_of(name: str, node: Address, members: Iterable[Member]) -> str | None:
    """What this key is to a member whose node has another one."""
    for member in members:
        if member.present and member.standby == node:
            return (
                f"this node is the standby of {member.name}: it follows the chain, and "
                "`swarm node take-over` makes it the member's node"
            )
    for member in members:
        if member.present and (member.account == node or member.name == name):
            return (
                f"this machine's key is not the node key of {member.name}, which is "
                f"{to_hex(member.node)}: stop this node if another machine has taken over; if it "
                "is to have a new key that the others know, `swarm node rotate --finish`"
            )
    return None


def asked_of(me: Member | None, plans: Iterable[Plan], members: MemberSet) -> dict[str, str]:
    """The plans that wait for this member's answer. `members` are the present ones."""
    now = int(time.time())
    return {
        str(plan.id): plan.name
        for plan in plans
        if me is not None
        and plan.status is PlanState.PROPOSED
        and now < plan.until
        and undecided(plan, members) >> me.id & 1
    }


def plan_status(part: Participation, own: str) -> PlanStatus | StartingPlan:
    """`own` is the name of this node's member."""
    plan = part.plan
    if plan is None:
        return StartingPlan(part.id)
    round, names, told = plan.round, part.names(), part.rounds(RECENT_ROUNDS)
    return PlanStatus(
        id=plan.id,
        name=plan.name,
        digest=to_hex(plan.digest),
        status=plan.status.name.lower(),
        rounds=part.program.training_rounds,
        round=None if round is None else round.number,
        title=None if round is None else part.program.title_of(round.number),
        attempt=None if round is None else round.attempt,
        phase=None if round is None else round.status.name.lower(),
        leader=_leader(plan, names),
        holder=None if round is None or round.holder is None else names.get(round.holder),
        waits_for=[names.get(i, str(i)) for i in members_in(part.waited_for(int(time.time())))],
        waits_why=waits_why(plan, part.present, int(time.time())),
        submitted=[]
        if round is None
        else [names.get(i, str(i)) for i in sorted(round.submissions)],
        trainers=[] if round is None else _named(names, round.trainers),
        merged=[]
        if round is None
        else [names.get(c.leader, str(c.leader)) for c in round.candidates],
        attested=[] if round is None else _named(names, attesters_of(round)),
        training=training_status(part.progress),
        model=to_hex(plan.model),
        model_round=part.program.number_of(plan.model_round) or 0,
        model_held=part.holds(plan.model),
        best=_hex_or_none(plan.outputs[BEST_SLOT]),
        statistics=_hex_or_none(plan.statistics),
        privacy=_privacy(part),
        halted=None if part.halted is None else with_names(part.halted),
        left_out=left_out(told, own),
        last_report=with_names(part.last_report),
        records=told,
    )


def left_out(records: Sequence[Mapping[str, Any]], own: str) -> str | None:
    """Why the newest round is without the update of the member `own`, if its leader says so; a
    member that has withdrawn knows it."""
    why: str | None = records[-1]["omitted"].get(own) if records else None
    return None if why == REASONS[Omission.WITHDRAWN] else why


def _privacy(part: Participation) -> PrivacyStatus | None:
    if part.privacy is None:
        return None
    promised, spent = part.privacy
    return PrivacyStatus(spent=spent, epsilon=promised.epsilon, delta=promised.delta)


def privacy_status(ledger: PrivacyLedger, data_set: str) -> PrivacyStatus:
    budget = ledger.budget
    return PrivacyStatus(
        spent=ledger.spent(data_set, ""), epsilon=budget.epsilon, delta=budget.delta
    )


def waits_why(plan: Plan, members: MemberSet, now: int) -> str:
    """What a plan waits for; empty if it is over. `members` are the present ones."""
    round = plan.round
    willing = willing_with(plan, Duty.TRAIN, members, now).bit_count()
    missing = max(0, plan.rules.min_peers - willing)
    more = f"{missing} more that consent{'s' * (missing == 1)} to train" if missing else ""
    if plan.status is PlanState.PROPOSED:
        if now < plan.until and undecided(plan, members):
            return f"`swarm plan consent {plan.id}` or `swarm plan decline {plan.id}` there"
        return more or "the first round, which any of them may open"
    if plan.status is not PlanState.RUNNING or round is None:
        return ""
    if round.status is RoundStatus.OPEN:
        return "the update of each of them"
    if round.status is RoundStatus.CLOSED:
        return "checks of the merge by more than half" if round.candidates else "the merge"
    if round.masking is not None and round.status in (RoundStatus.MASKING, RoundStatus.LOCKED):
        return _masking_waits(round, round.masking)
    return more or "the next round, which any of them may open"


def _masking_waits(round: Round, masking: Masking) -> str:
    if round.status is RoundStatus.LOCKED:
        lacking = masking.needed - len(masking.opened)
        if lacking > 0:
            return f"shares from {lacking} of them, which open the masked sum"
        return "votes for the model from more than half"
    if not masking.is_complete:
        return "the masked update of each of them"
    if not masking.may_lock():
        return f"word from {masking.needed} members that the shares of all are right"
    return "votes for the masked sum"


def sandbox_status(report: Report) -> SandboxStatus:
    return SandboxStatus(
        stand={str(wall): detail for wall, detail in report.stand.items()},
        missing={str(wall): why for wall, why in report.missing.items()},
        reach=list(report.gaps),
    )


def training_status(progress: Progress | None) -> TrainingStatus | None:
    if progress is None:
        return None
    return TrainingStatus(progress.fraction, progress.epoch, progress.loss)


def name_validators(said: dict[str, object], members: Iterable[Member]) -> dict[str, Any]:
    """The chain's own status, with names in the place of addresses."""
    names = {to_hex(m.node): m.name for m in members}
    named: dict[str, Any] = dict(said)
    for key in ("validators", "waiting_for"):
        if isinstance(named.get(key), list):
            named[key] = [names.get(a, a) for a in named[key]]
    if "proposer" in named:
        named["proposer"] = names.get(str(named["proposer"]), named["proposer"])
    return named


def _leader(plan: Plan, names: dict[MemberId, str]) -> str | None:
    if plan.round is None or plan.round.status is not RoundStatus.CLOSED:
        return None
    return names.get(plan.round.leader_at(int(time.time())))


def attesters_of(round: Round) -> int:
    """The set of members that have attested a merge of this round."""
    attesters = 0
    for candidate in round.candidates:
        attesters |= candidate.attesters
    return attesters


def _named(names: dict[MemberId, str], members: int) -> list[str]:
    return [names.get(i, str(i)) for i in members_in(members)]


def _hex_or_none(digest: Digest) -> str | None:
    return None if digest == NO_DIGEST else to_hex(digest)
