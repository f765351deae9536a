"""What must hold at the end of a run, looked at from outside: replicas, models, logs, figures."""

from __future__ import annotations

import re
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from harness.faults.drive import Drive, Kill, logs_of
from harness.faults.liar import read_lies
from harness.faults.nodes import Nodes, run_in
from harness.faults.opposite import turned
from harness.faults.plan import COMPARED, FaultPlan
from harness.faults.replica import Replica
from swarm.errors import LocalError
from swarm.learning.parameters.named_tensors import State, pack_state
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.dealing import SiteFiles
from swarm.learning.simulation.whole_run import open_sites, run_federated
from swarm.learning.training.loop import Update
from swarm.node.commands.control import ask
from swarm.tensors import open_file
from swarm.testnet.references import open_evaluator

READ_S = 60.0
EQUIVOCATION = re.compile(r".*(?:sent two |proposed two blocks).*")


class Check(msgspec.Struct, frozen=True):
    """One thing that must hold."""

    what: str
    ok: bool
    detail: str = ""


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one run."""

    plan: str
    about: str
    seed: int
    ok: bool
    checks: list[Check]
    counts: dict[str, int]
    measures: dict[str, list[float]]
    round_s: dict[int, float]
    """Seconds from one round's final model to the next one's."""
    downtime_s: float
    wall_s: float
    auc: float | None
    story: list[str]


def read_replicas(nodes: Nodes, drive: Drive) -> dict[str, Replica]:
    """The chain as each living node has it, the first with its events; without those that could
    not be read."""
    replicas: dict[str, Replica] = {}
    for name, sight in drive.watch.fresh().items():
        command = [sys.executable, "-m", "harness.faults.replica"]
        command += [sight.status["rpc_url"], *([] if replicas else [sight.status["contract"]])]
        try:
            printed = run_in(nodes.within(name), command, READ_S)
        except LocalError as error:
            drive.tell(f"the replica of {name} cannot be read: {error}")
            continue
        replicas[name] = msgspec.json.decode(printed, type=Replica)
    return replicas


def score(nodes: Nodes, sites: list[SiteFiles], rounds: int) -> float | None:
    """The final model's first metric on all sites' held-back rows."""
    file = nodes.testnet.file
    models = ask(nodes.home(nodes.answering[0]), "models", READ_S, plan=file.plan_id)
    path = next((m["path"] for m in models["models"] if m["number"] == rounds), None)
    if path is None:
        return None
    with open_evaluator(Path(file.plan), sites, file.seed) as evaluator:
        result = evaluator.result(evaluator.scores([path], models["statistics"]))
    return next(iter(result.swarm.values()), None)


def judge(
    name: str,
    plan: FaultPlan,
    drive: Drive,
    failure: str | None,
    replicas: Mapping[str, Replica],
    auc: float | None,
    wall_s: float,
) -> Outcome:
    """Check what can be told of a run by itself, and put it together."""
    counts, measures = Counter(drive.counts), {k: list(v) for k, v in drive.measures.items()}
    deaths = [k for k in drive.kills if k.leader and _left_unmerged(k, replicas)]
    counts["kills"] = len(drive.kills)
    counts["leader_kills"] = len(deaths)
    counts["proposer_kills"] = sum(k.proposer for k in drive.kills)
    counts["attempts_again"] = drive.watch.attempts
    counts["lies"] = sum(read_lies(drive.nodes.home(name)).total() for name in drive.nodes.liars)
    measures["final_s"] = [round(k.final_s, 2) for k in deaths if k.final_s is not None]
    checks = [
        Check("all rounds are final at all nodes", failure is None, failure or ""),
        _one_model_a_round(plan, drive, replicas),
        _one_final_digest(plan, drive),
        _one_block_a_height(replicas, len(drive.nodes.answering)),
        *_clean_logs(drive.nodes),
        *([_nobody_left_out(drive)] if plan.firewalled else []),
        *([as_without_faults(plan, drive)] if plan.exact and failure is None else []),
        *([_releases(drive)] if drive.nodes.upgraded else []),
        *(_at_least(name, least, counts) for name, least in plan.at_least.items()),
        *(
            _at_most(name, most, measures, sum(a.measure == name for a in drive.awaited))
            for name, most in plan.at_most.items()
            if name not in COMPARED
        ),
    ]
    return Outcome(
        plan=name,
        about=plan.about,
        seed=drive.seed,
        ok=all(check.ok for check in checks),
        checks=checks,
        counts=dict(counts),
        measures=measures,
        round_s=seconds_a_round(drive.watch.final_at),
        downtime_s=round(sum(k.back_at - k.at for k in drive.kills if k.back_at), 1),
        wall_s=round(wall_s, 1),
        auc=auc,
        story=[f"{told.at_s:7.1f} s  {told.text}" for told in drive.story],
    )


def seconds_a_round(final_at: Mapping[int, float]) -> dict[int, float]:
    """Between the models of rounds that follow each other."""
    return {
        number: round(at - final_at[number - 1], 2)
        for number, at in sorted(final_at.items())
        if number - 1 in final_at
    }


def _left_unmerged(kill: Kill, replicas: Mapping[str, Replica]) -> bool:
    """Whether the chain bears out that this leader died after the close and before its merge."""
    replica = next(iter(replicas.values()), None)
    if replica is None:
        return False
    until = kill.back_at or float("inf")
    place = (kill.place.round, kill.place.attempt)
    own = [t for t in replica.told if t.by is not None and replica.members[t.by] == kill.name]
    merged = any((t.round, t.attempt) == place and t.at <= until for t in own)
    closed = any(t.name == "RoundClosed" and (t.round, t.attempt) == place for t in replica.told)
    return closed and not merged


def _one_model_a_round(plan: FaultPlan, drive: Drive, replicas: Mapping[str, Replica]) -> Check:
    what = "one final model a round, and none was lost"
    said = {number: set(models) for number, models in drive.watch.models.items()}
    for replica in list(replicas.values())[:1]:
        final: dict[int, list[str]] = {}
        for told in replica.told:
            if told.name == "RoundFinal":
                final.setdefault(told.round, []).append(told.model)
        for number, models in final.items():
            if len(models) > 1 or not said.get(number, set()) <= set(models):
                return Check(what, False, f"round {number}: {models} and {said.get(number)}")
        lost = sorted(set(said) - set(final))
        if lost:
            return Check(what, False, f"rounds {lost} were final, and are not any more")
        if len(final) < plan.rounds:
            return Check(what, False, f"only {len(final)} rounds are final")
    twice = [number for number, models in said.items() if len(models) > 1]
    return Check(what, not twice and bool(replicas), f"two models in {twice}" if twice else "")


def _one_final_digest(plan: FaultPlan, drive: Drive) -> Check:
    digests = {
        name: sight.plan["model"] if sight.plan else "none"
        for name, sight in drive.watch.fresh().items()
    }
    alike = len(set(digests.values())) == 1 and set(digests) == set(drive.nodes.answering)
    what = f"{len(digests)} nodes end with the same model"
    return Check(what, alike, "" if alike else str(digests))


def as_without_faults(plan: FaultPlan, drive: Drive) -> Check:
    """Whether the last model file and what each site keeps are, bit for bit, those of the same plan
    in one process, where in each round the same sites contribute."""
    nodes, file = drive.nodes, drive.nodes.testnet.file
    folder = Path(file.plan)
    sites = open_sites(load_plan(folder), folder, file.seed)
    for site in sites:
        if site.site.name in nodes.liars and plan.opposite is not None:
            site.train = _lying(site.train, plan.opposite)  # type: ignore[method-assign]
    run = run_federated(
        folder,
        seed=file.seed,
        rounds=plan.rounds,
        sites=sites,
        contributors=drive.watch.contributors,
    )
    wrong = []
    for number, name in enumerate(nodes.names):
        if name not in nodes.answering:
            continue
        told = ask(nodes.home(name), "models", READ_S, plan=file.plan_id)
        model = open_file(Path(told["models"][-1]["path"]))
        if model.layout != run.file.layout or not np.array_equal(model.raw, run.file.raw):
            wrong.append(f"the model at {name}")
        kept = run.kept[-1][number]
        if told["kept"] is None:
            wrong += [f"what {name} keeps is gone"] * bool(kept)
        elif not np.array_equal(open_file(Path(told["kept"])).raw, pack_state(kept or {}).raw):
            wrong.append(f"what {name} keeps")
    tensors = len(run.file.layout.specs)
    kept_by = sum(bool(kept) for kept in run.kept[-1])
    what = f"{tensors} tensors of the model, and what {kept_by} sites keep, as without faults"
    return Check(what, not wrong, ", ".join(wrong))


def _lying(train: Callable[..., Update], times: float) -> Callable[..., Update]:
    def train_and_lie(round: int, base: State, *more: Any, **settings: Any) -> Update:
        update = train(round, base, *more, **settings)
        return replace(update, state=turned(update.state, base, times))

    return train_and_lie


def _nobody_left_out(drive: Drive) -> Check:
    names = set(drive.nodes.names)
    missed = [
        f"{', '.join(sorted(names - contributors))} in round {number}"
        for number, contributors in sorted(drive.watch.contributors.items())
        if names - contributors
    ]
    return Check("nobody is left out of any round", not missed, "; ".join(missed))


def _releases(drive: Drive) -> Check:
    """Whether nodes of both releases have named the others', before each upgrade and at the end."""
    wrong = [*drive.wrong_releases, *drive.mistaken_releases()]
    what = f"{len(drive.nodes.upgraded)} nodes have the newer release, as the others say"
    return Check(what, not wrong, "; ".join(wrong))


def _one_block_a_height(replicas: Mapping[str, Replica], nodes: int) -> Check:
    hashes = [replica.hashes for replica in replicas.values()]
    heights = min(map(len, hashes), default=0)
    forks = [h for h in range(heights) if len({chain[h] for chain in hashes}) > 1]
    what = f"one block a height: {len(hashes)} replicas of {heights} blocks"
    return Check(
        what, len(hashes) == nodes > 0 and not forks, f"forks at {forks[:5]}" if forks else ""
    )


def _clean_logs(nodes: Nodes) -> list[Check]:
    logs = logs_of(nodes)
    crashed = [file for file, text in logs.items() if "Traceback" in text]
    lied = [
        line
        for text in logs.values()
        for line in EQUIVOCATION.findall(text)
        if not any(liar in line for liar in nodes.liars)
    ]
    return [
        Check("no traceback in any log", not crashed, ", ".join(crashed)),
        Check("nobody honest voted or proposed twice", not lied, " / ".join(lied[:3])),
    ]


def compare(outcome: Outcome, plan: FaultPlan, measures: Mapping[str, list[float]]) -> None:
    """Add what only comparing with an undisturbed run could tell."""
    outcome.measures.update(measures)
    outcome.checks += [
        _at_most(name, plan.at_most[name], outcome.measures, 0)
        for name in sorted(COMPARED & plan.at_most.keys())
    ]
    outcome.ok = all(check.ok for check in outcome.checks)


def auc_gap(outcome: Outcome, undisturbed: Outcome) -> list[float]:
    """How far the two AUCs are from each other; nothing if one of them is not known."""
    if outcome.auc is None or undisturbed.auc is None:
        return []
    return [round(abs(outcome.auc - undisturbed.auc), 4)]


def _at_least(name: str, least: float, counts: Mapping[str, int]) -> Check:
    count = counts.get(name, 0)
    return Check(f"{name}: at least {least}", count >= least, f"{count}")


def _at_most(name: str, most: float, measures: Mapping[str, list[float]], awaited: int) -> Check:
    """`awaited`: how many values never came."""
    values = measures.get(name, [])
    ok = bool(values) and max(values) <= most and not awaited
    detail = ", ".join(f"{v:g}" for v in values) or "never came"
    detail += f"; {awaited} never came" if awaited and values else ""
    return Check(f"{name}: at most {most:g}", ok, detail)


def show(outcome: Outcome) -> None:
    """Print one run: its checks, counts and figures."""
    console = Console(highlight=False, width=100)
    word = "holds" if outcome.ok else "FAILS"
    console.print(f"\n[bold]{outcome.plan}[/], seed {outcome.seed}: {word}. {outcome.about}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for check in outcome.checks:
        table.add_row("ok" if check.ok else "FAILS", check.what, check.detail)
    console.print(table)
    counted = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in outcome.counts.items() if n)
    seconds = sorted(outcome.round_s.values())
    median = statistics.median(seconds) if seconds else float("nan")
    worst = seconds[-1] if seconds else float("nan")
    console.print(f"  {counted or 'no faults'}; down for {outcome.downtime_s:.0f} s in all")
    console.print(
        f"  {len(seconds)} rounds of {median:.1f} s (median; longest {worst:.1f} s), "
        f"AUC {_text(outcome.auc)}, {outcome.wall_s:.0f} s in all"
    )
    for name, values in outcome.measures.items():
        if values:
            console.print(f"  {name}: median {statistics.median(values):g}, most {max(values):g}")


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}"
