"""What of a node's status, and of its machine, a person must see to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from swarm.node.doctor import Check
from swarm.node.members.greetings import CLOCK_S
from swarm.node.status import NodeStatus, PlanStatus

SETTLE_S = 4.0
"""What is over within so many seconds was a restart, or a hiccup of the network."""
CHAIN_SETTLE_S = 12.0
"""A silent proposer is given up sooner."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that stands now. `key` names it for as long as it stands; while `detail` changes,
    it is another one, and has to settle anew."""

    key: str
    cause: str
    command: str
    """What to type, or to change."""
    settle_s: float = SETTLE_S
    detail: str = ""


def find_alerts(status: NodeStatus, checks: Sequence[Check], home: str) -> list[Alert]:
    """All that stand. `checks` are the doctor's of this machine; `home` is the node's directory, as
    it is typed."""
    alerts = [
        *_of_members(status, home),
        *_of_keys_and_clocks(status),
        *_of_plans(status, home),
    ]
    chain = status.chain
    if chain.get("waiting_for") and chain.get("round"):
        alerts.append(
            Alert(
                key="chain",
                cause=f"no block after {status.height}: votes are missing from "
                + ", ".join(chain["waiting_for"]),
                command="swarm node start, there",
                settle_s=CHAIN_SETTLE_S,
                detail=str(status.height),
            )
        )
    return alerts + [
        Alert(key=check.name, cause=check.found, command=check.fix)
        for check in checks
        if check.result == "wrong"
    ]


def _of_members(status: NodeStatus, home: str) -> Iterator[Alert]:
    away = [peer for peer in status.peers if not peer.connected]
    command = f"swarm node status {home} --connected"
    if len(away) == len(status.peers) > 1:
        yield Alert(key="alone", cause="no other member is connected", command=command)
        return
    for peer in away:
        yield Alert(
            key=f"away: {peer.name}", cause=f"{peer.name} is not connected", command=command
        )


def _of_keys_and_clocks(status: NodeStatus) -> Iterator[Alert]:
    if status.key_elsewhere:
        said = ", ".join(status.key_elsewhere)
        yield Alert(
            key="key",
            cause=f"another machine uses this node's key at the same time, says {said}",
            command="stop the node on one of the two",
        )
    if status.clock_ahead_s is not None:
        yield Alert(
            key="clock",
            cause=f"this machine's clock is {_ahead(status.clock_ahead_s)} the other members'",
            command="timedatectl set-ntp true",
        )
    for peer in status.peers:
        if peer.key_twice:
            yield Alert(
                key=f"key: {peer.name}",
                cause=f"the key of {peer.name} is used on two machines at once",
                command="ask there which one is theirs, and have the other one stopped",
            )
        is_wrong = peer.clock_s is not None and abs(peer.clock_s) > CLOCK_S
        if is_wrong and peer.clock_s is not None and status.clock_ahead_s is None:
            yield Alert(
                key=f"clock: {peer.name}",
                cause=f"the clock of {peer.name} is {_ahead(peer.clock_s)} this machine's",
                command="timedatectl set-ntp true, there",
            )


def _of_plans(status: NodeStatus, home: str) -> Iterator[Alert]:
    for number, name in status.asked.items():
        yield Alert(
            key=f"asked: {number}",
            cause=f"plan {number} {name} waits for this institution's answer",
            command=f"swarm plan show {number}",
        )
    for number, why in status.refused_plans.items():
        yield Alert(
            key=f"refused: {number}",
            cause=f"plan {number} is not trained here: {why}",
            command=f"swarm plan show {number}",
        )
    for plan in status.plans:
        if not isinstance(plan, PlanStatus):
            continue
        if plan.halted is not None:
            yield Alert(
                key=f"halted: {plan.id}",
                cause=f"plan {plan.id} {plan.name} is not trained here any more: {plan.halted}",
                command=f"swarm node status {home}; mend it, and restart the node",
            )
        if plan.left_out is not None:
            yield Alert(
                key=f"left out: {plan.id}",
                cause=f"this site's update was left out of plan {plan.id} {plan.name}: "
                + plan.left_out,
                command=f"swarm node status {home}, and trainer.log there",
            )


def _ahead(ahead_s: float) -> str:
    return f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'}"
