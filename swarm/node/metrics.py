"""A node's status as numbers for Prometheus: `GET /metrics` at its HTTP door.

The text format of Prometheus, version 0.0.4
(https://prometheus.io/docs/instrumenting/exposition_formats/). Names and units are those of the
status; nothing is counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

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
    waits = status.chain.get("waiting_for") or () if status.chain.get("round") else ()
    yield (
        *("swarm_node_info", "gauge", "Whose node this is, and its release; always 1."),
        iter([({"node": status.name, "release": version("swarm")}, 1)]),
    )
    yield "swarm_height", "gauge", "Blocks of the chain.", iter([({}, status.height)])
    yield (
        *("swarm_chain_waits_for", "gauge", "Validators whose votes a block waits for."),
        iter([({}, len(waits))]),
    )
    yield (
        *("swarm_peer_connected", "gauge", "Whether a member is connected to this node."),
        (({"member": peer.name}, float(peer.connected)) for peer in peers),
    )
    yield (
        *("swarm_peer_clock_ahead_seconds", "gauge", "How far a member's clock is ahead of ours."),
        iter(ahead),
    )
    yield (
        *("swarm_peer_key_used_twice", "gauge", "Whether a member's key is used on two machines."),
        (({"member": peer.name}, float(peer.key_twice)) for peer in peers),
    )
    yield (
        *("swarm_key_used_elsewhere", "gauge", "Members that see our key on another machine, too."),
        iter([({}, len(status.key_elsewhere))]),
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
        *("swarm_plan_training_ratio", "gauge", "How far this site's training of a round is."),
        ((_of(p), p.training.fraction) for p in plans if p.training is not None),
    )
    yield (
        *("swarm_plan_score", "gauge", "Of the newest final model, on this site's own rows."),
        _scores(plans),
    )
    yield (
        *("swarm_plan_round_seconds", "gauge", "How long the newest final round took."),
        ((_of(p), p.finished["total_s"]) for p in plans if p.finished is not None),
    )
    yield (
        *("swarm_plan_left_out", "gauge", "Whether our update was left out of the newest round."),
        ((_of(plan), float(plan.left_out is not None)) for plan in plans),
    )
    yield (
        *(
            "swarm_privacy_spent_epsilon",
            "gauge",
            "Privacy of our rows that is spent.",
        ),
        iter([({}, status.privacy.spent)]),
    )
    yield (
        *("swarm_plan_halted", "gauge", "Whether this node has stopped training a plan."),
        ((_of(plan), float(plan.halted is not None)) for plan in plans),
    )
    yield (
        *("swarm_plan_waits_for", "gauge", "Members that a plan waits for."),
        ((_of(plan), len(plan.waits_for)) for plan in plans),
    )


def _scores(plans: Iterable[PlanStatus]) -> Samples:
    for plan in plans:
        scores = {} if plan.finished is None else plan.finished["metrics"]
        for rows, values in scores.items():
            for metric, value in values.items():
                if value is not None:
                    yield {**_of(plan), "rows": rows, "metric": metric}, value


def _of(plan: PlanStatus) -> Labels:
    return {"plan": str(plan.id), "name": plan.name}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
