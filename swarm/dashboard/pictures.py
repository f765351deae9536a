"""What pages show, from what a node says. Pure: the same answers give the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from swarm.node.plans.words import rules_in_words, stages_in_words
from swarm.rounds.model_tables import Lines, lines_of

PHASES = {"open": "training", "closed": "merging", "masking": "masking", "locked": "unmasking"}
STEPS = ("train", "submit", "merge", "attest")
DASH = "–"


@dataclass(frozen=True)
class Lane:
    """One member's way through a round. Each step is "done", "now", "late", "none" or ""."""

    name: str
    steps: tuple[str, str, str, str]
    words: str


@dataclass(frozen=True)
class PlanPicture:
    """A plan as it stands now."""

    id: int
    name: str
    headline: str
    tone: str
    """"good", "busy" or "bad"."""
    lanes: tuple[Lane, ...]
    notes: tuple[str, ...]
    percent: int | None
    """How far this site's training is."""


@dataclass(frozen=True)
class MemberPicture:
    """A member as this node sees it."""

    name: str
    state: str
    tone: str
    account: str = ""
    node: str = ""
    validator: bool = False


def plan_pictures(status: dict[str, Any]) -> list[PlanPicture]:
    """The plans, those that run first, then the newest first."""
    plans = sorted(
        status["plans"], key=lambda p: (p.get("status") not in ("running", "proposed"), -p["id"])
    )
    return [_plan_picture(plan, status) for plan in plans]


def _plan_picture(plan: dict[str, Any], status: dict[str, Any]) -> PlanPicture:
    if "status" not in plan:
        return PlanPicture(plan["id"], "", "is read for the first time", "busy", (), (), None)
    notes = []
    if plan["halted"]:
        notes.append(f"Training has stopped here: {plan['halted']}")
    if plan["last_report"]:
        notes.append(plan["last_report"])
    training = plan["training"]
    percent = None if training is None else round(100 * training["fraction"])
    waits = plan["waits_for"]
    runs = plan["status"] not in ("completed", "stopped")
    missing = [name for name in waits if runs and _is_away(name, status)]
    tone = (
        "bad" if plan["halted"] or missing else "good" if plan["status"] == "completed" else "busy"
    )
    lanes = tuple(_lane(name, plan, status) for name in plan["trainers"] if runs)
    return PlanPicture(
        plan["id"], plan["name"], _headline(plan, status), tone, lanes, tuple(notes), percent
    )


def _headline(plan: dict[str, Any], status: dict[str, Any]) -> str:
    """Such as: "Round 7 of 20 waits for Kyoto, which is not connected"."""
    if plan["status"] in ("completed", "stopped"):
        return f"{plan['status']} after {plan['model_round']} of {plan['rounds']} rounds"
    title = plan["title"] or "the first round"
    title = title[0].upper() + title[1:]
    if title.startswith("Round "):
        title += f" of {plan['rounds']}"
    waits = plan["waits_for"]
    if not waits:
        return f"{title}: {PHASES.get(plan['phase'], plan['phase'] or 'about to open')}"
    away = [name for name in waits if _is_away(name, status)]
    why = f", of whom {_listed(away)} cannot be reached" if away and len(away) < len(waits) else ""
    why = f", which cannot be reached from {status['name']}" if waits == away else why
    doing = PHASES.get(plan["phase"], "")
    return f"{title} waits for {_listed(waits)}{why}" + (f" ({doing})" if doing else "")


def _lane(name: str, plan: dict[str, Any], status: dict[str, Any]) -> Lane:
    submitted, phase = name in plan["submitted"], plan["phase"]
    away, final = _is_away(name, status), phase == "final"
    waited = "late" if away else "now"
    train = submit = "done"
    if not submitted:
        train, submit = (waited, "") if phase == "open" else ("none", "none")
    merges = plan["leader"] == name and name not in plan["merged"] and phase == "closed"
    merge = "done" if name in plan["merged"] else waited if merges else ""
    attest = "done" if name in plan["attested"] else waited if plan["merged"] and not final else ""
    words = "cannot be reached" if away else ""
    if not words and name == status["name"] and plan["training"] and not submitted:
        words = f"{round(100 * plan['training']['fraction'])} %"
    return Lane(name, (train, submit, merge, attest), words)


def plan_facts(plan: dict[str, Any]) -> list[str]:
    """What consent to a plan would mean, in sentences, as `swarm plan show` has them."""
    facts = [*plan["secrecy"], *rules_in_words(plan["rules"])]
    facts.append(f"It begins from {plan['begins'] or 'model ' + plan['base']}.")
    if plan["stages"] is None:
        facts.append("Its stages are not known: nobody within reach has them, or they are too new.")
    else:
        for heading, merged, changed in stages_in_words(plan["stages"]):
            asked = f" Asked for by the proposer: {changed}." if changed else ""
            facts.append(f"{heading}: {'; '.join(merged)}.{asked}")
    said = plan["privacy"]
    facts.append(f"Privacy of a training row: {said or 'none, updates tell of rows'}.")
    modules = sorted({each["module"] for each in plan["imports"]})
    facts.append(f"It imports {', '.join(modules) or 'nothing'}.")
    return facts


def counted(records: Sequence[dict[str, Any]]) -> set[str]:
    """The metrics of which all sites' counts are known for one of these rounds at least."""
    return {name for r in records for name in (r.get("joint") or {}).get("validation", {})}


def joint(record: dict[str, Any], metric: str) -> str:
    """What all sites' validation rows say of a round's model, with its 95 % interval; empty where
    they have not told."""
    score = (record.get("joint") or {}).get("validation", {}).get(metric)
    if score is None:
        return ""
    figure = next(iter(score["figures"].values()))
    text = number(figure["value"])
    if figure["low"] is not None:
        text += f" ({number(figure['low'])} to {number(figure['high'])})"
    return f"{text} of {len(score['sites'])}"


def member_pictures(members: dict[str, Any], status: dict[str, Any]) -> list[MemberPicture]:
    """Present members first, as they were admitted."""
    found = []
    for member in sorted(members["members"], key=lambda m: (not m["present"], m["id"])):
        name = member["name"]
        if not member["present"]:
            state, tone = "left", ""
        elif name == status["name"]:
            state, tone = "this node", "good"
        elif name in status["connected"]:
            state, tone = "connected", "good"
        else:
            state, tone = "cannot be reached", "bad"
        keys = member["account"], member["node"]
        found.append(MemberPicture(name, state, tone, *keys, member["validator"]))
    return found


def series(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    """By part and metric, the values by round: {"validation": {"auc": […]}}, None where there is
    none; "rounds" has the rounds' numbers."""
    scored = [r for r in records if r["number"] is not None and r["model"]]
    rounds = [r["number"] for r in scored]
    found: dict[str, dict[str, list[float | None]]] = {}
    for part in ("validation", "test"):
        names = dict.fromkeys(name for r in scored for name in r["metrics"].get(part, {}))
        for name in names:
            values = [r["metrics"].get(part, {}).get(name) for r in scored]
            found.setdefault(name, {"rounds": rounds})[part] = values
    return found


def tables(records: Sequence[dict[str, Any]]) -> Lines:
    """By metric, the headings and lines of what each site's rows say of each site's model, if the
    plan has found that out."""
    found = [record["table"] for record in records if record.get("table")]
    return lines_of(found[-1]) if found else []


def number(value: float | None, places: int = 3) -> str:
    """A score for people."""
    return DASH if value is None else f"{value:.{places}f}"


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def moment(timestamp: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _is_away(name: str, status: dict[str, Any]) -> bool:
    return name != status["name"] and name not in status["connected"]


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
