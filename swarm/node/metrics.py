"""A node's status as numbers for Prometheus: `GET /metrics` at its HTTP door.

The text format of Prometheus, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/). Names and units are those of the
status; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from swarm.node.status import NodeStatus, PlanStatus

Labels = Mapping[str, str]
Samples = Iterator[tuple[Labels, float]]


def prometheus_text(status: NodeStatus) -> bytes:
    """The whole answer to a scrape."""
    lines = []
    for name, kind, told, samples in _families(status):
        lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            named = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(
                f"{name}{{{named}}} {float(value)!r}" if named else f"{name} {float(value)!r}"
            )
    return ("\n".join(lines) + "\n").encode()


def _families(status: NodeStatus) -> Iterator[tuple[str, str, str, Samples]]:
    peers = status.peers
    plans = [plan for plan in status.plans if isinstance(plan, PlanStatus)]
    ahead = [({"member": p.name}, p.clock_s) for p in peers if p.clock_s is not None]
    yield "swarm_height", "gauge", "Blocks of the chain.", iter([({}, status.height)])
    yield (
        *("swarm_peer_connected", "gauge", "Whether a member is connected to this node."),
        (({"member": peer.name}, float(peer.connected)) for peer in peers),
    )
    yield (
        *("swarm_peer_clock_ahead_seconds", "gauge", "How far a member's clock is ahead of ours."),
        iter(ahead),
    )
    yield "swarm_notes", "gauge", "What is wrong with this node.", iter([({}, len(status.notes))])
    yield (
        *("swarm_sent_bytes_total", "counter", "Bytes sent to members."),
        iter([({}, status.bytes_sent)]),
    )
    yield (
        *("swarm_received_bytes_total", "counter", "Bytes received from members."),
        iter([({}, status.bytes_received)]),
    )
    yield (
        *("swarm_plans_asking", "gauge", "Plans that wait for this institution's answer."),
        iter([({}, len(status.asked))]),
    )
    yield (
        *("swarm_plan_round", "gauge", "Rounds of training that a plan has finished."),
        ((_of(plan), plan.model_round) for plan in plans),
    )
    yield (
        *("swarm_plan_rounds", "gauge", "Rounds of training that a plan has."),
        ((_of(plan), plan.rounds) for plan in plans),
    )
    yield (
        *("swarm_plan_halted", "gauge", "Whether this node has stopped training a plan."),
        ((_of(plan), float(plan.halted is not None)) for plan in plans),
    )
    yield (
        *("swarm_plan_waits_for", "gauge", "Members that a plan waits for."),
        ((_of(plan), len(plan.waits_for)) for plan in plans),
    )


def _of(plan: PlanStatus) -> Labels:
    return {"plan": str(plan.id), "name": plan.name}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
