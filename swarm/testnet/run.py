"""One whole run on this machine: nodes up, plan proposed, consents, rounds, report, nodes down."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import ConfigurationError, LocalError, PlanError, SwarmError
from swarm.learning.models.card import Score, Scores
from swarm.learning.models.model_folder import MODEL, read_folder, write_card
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import ask
from swarm.protocol.state import Omission
from swarm.rounds.records import REASONS
from swarm.testnet.layout import (
    ALL_MODELS,
    TestnetFile,
    create_testnet,
    delete_nodes,
    read_testnet,
    write_testnet,
)
from swarm.testnet.processes import (
    NodeProcess,
    last_line,
    prepare_nodes,
    start_node,
    status_of,
    stop_nodes,
    wait_ready,
)
from swarm.testnet.references import Evaluation, Evaluator, open_evaluator

POLL_S = 0.25
MODEL_FOLDER = "model"
CATCH_UP_S = 60.0
STALLED_S = 600.0
ATTEMPTS = 2
"""At one round, after which a testnet, in which nothing fails, gives up."""
WRONG_SCHEMA = REASONS[Omission.WRONG_SCHEMA]
SCORES_S = 30.0
"""How long the nodes' own scores of the last model are waited for; the run is complete without."""

NO_SAMPLES = {"train": 0, "validation": 0, "test": 0}
NOTHING = Evaluation()

Statuses = list[dict[str, Any]]
OnProgress = Callable[[str, Statuses], None]
"""Called with what is going on, and the nodes' statuses, several times a second."""


@dataclass
class Testnet:
    """A testnet that this process started, or found running."""

    __test__ = False

    directory: Path
    file: TestnetFile
    processes: dict[str, NodeProcess] = field(default_factory=dict)

    def statuses(self) -> Statuses:
        return [status_of(node) for node in self.file.nodes]

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """Each answering node's own account of all rounds, oldest first."""
        found = {}
        for node in self.file.nodes:
            with suppress(SwarmError):
                found[node.name] = ask(Path(node.directory), "records", plan=self.file.plan_id)
        return found

    def home(self, index: int = 0) -> Path:
        return Path(self.file.nodes[index].directory)

    def save(self) -> None:
        write_testnet(self.directory, self.file)


def bring_up(
    directory: Path,
    plan: Path,
    peers: int | None,
    seed: int,
    keep_models: int = ALL_MODELS,
) -> Testnet:
    """Make and start the nodes of a testnet; return when all of them answer.

    Raises ConfigurationError or PlanError before anything is started, or ends what it started.
    """
    prepare_nodes()
    sites = deal(plan, peers)
    made = create_testnet(directory, plan, sites, seed, keep_models=keep_models)
    testnet = Testnet(directory, made)
    try:
        for node in testnet.file.nodes:
            testnet.processes[node.name] = start_node(node)
        testnet.save()
        wait_ready(testnet.file, testnet.processes)
    except BaseException:
        stop_nodes(testnet.file, testnet.processes)
        raise
    return testnet


def start_in_background(
    directory: Path, plan: Path, peers: int | None, rounds: int | None, seed: int
) -> Testnet:
    """Bring a testnet up and begin the plan; return while it runs.

    What a person can mend leaves nothing behind, so that the same command can be given again.
    """
    testnet = bring_up(directory, plan, peers, seed)
    try:
        begin_plan(testnet, rounds)
    except BaseException as error:
        stop_nodes(testnet.file, testnet.processes)
        if isinstance(error, ConfigurationError):
            delete_nodes(directory, testnet.file.nodes)
        raise
    return testnet


def begin_plan(testnet: Testnet, rounds: int | None) -> None:
    """The first node proposes the plan; every member consents, its own node computing its side."""
    path = str(Path(testnet.file.plan).resolve())
    proposed = ask(
        testnet.home(), "propose_plan", path=path, rounds=rounds, invite=[], within_s=None
    )
    testnet.file.plan_id = int(proposed["id"])
    testnet.save()
    height = ask(testnet.home(), "contract_info")["height"]
    needed, nodes = proposed["rules"]["min_peers"], len(testnet.file.nodes)
    if needed > nodes:
        raise PlanError(
            f"{proposed['name']}: min_peers is {needed}, but this testnet has {nodes} nodes: "
            "change it in plan.py, or give --peers"
        )

    def consent(index: int) -> None:
        _wait_for_height(testnet.home(index), height)
        ask(testnet.home(index), "consent", plan=testnet.file.plan_id, path=path)

    with ThreadPoolExecutor() as pool:
        list(pool.map(consent, range(len(testnet.file.nodes))))


def _wait_for_height(home: Path, height: int) -> None:
    """A node may be a block behind the one that has just proposed."""
    until = time.monotonic() + CATCH_UP_S
    while ask(home, "contract_info")["height"] < height:
        if time.monotonic() > until:
            raise LocalError(
                f"the node in {home} has not reached height {height} for {CATCH_UP_S:.0f} s: see "
                "its log"
            )
        time.sleep(POLL_S)


def follow(
    testnet: Testnet,
    on_progress: OnProgress,
    poll_s: float = POLL_S,
    check: Future[Evaluation] | None = None,
) -> dict[str, Any]:
    """Watch until every node holds the final model. Returns the first node's plan status.

    A training that lives moves, however long it takes. Raises PlanError if the plan's own code
    fails at a site, or `check` finds that the sites do not fit together, and LocalError if a node
    ends or nothing moves for a long time.
    """
    moved_at, last = time.monotonic(), None
    held_since: float | None = None
    while True:
        if check is not None and check.done() and isinstance(check.exception(), PlanError):
            check.result()
        statuses = testnet.statuses()
        on_progress("training", statuses)
        plans = [plan_of(status, testnet.file.plan_id) for status in statuses]
        for node, plan in zip(testnet.file.nodes, plans, strict=True):
            process = testnet.processes.get(node.name)
            if process is not None and process.poll() is not None:
                log = Path(node.directory) / "node.log"
                raise LocalError(f"the node {node.name} ended: {last_line(log)} (log: {log})")
            if plan is not None and plan["halted"]:
                raise PlanError(f"{node.name}: {plan['halted']}")
        held = [p for p in plans if p is not None and p["status"] == "completed"]
        if len(held) == len(plans) and all(p["model_held"] for p in held):
            held_since = held_since or time.monotonic()
            scored = all(map(_scored, held)) and _is_told(held)
            if scored or time.monotonic() - held_since > SCORES_S:
                return held[0]
        _refuse_repetition(plans)
        place = [p and (p["round"], p["phase"], p["submitted"], p["training"]) for p in plans]
        if place != last or any(p and p["training"] for p in plans):
            moved_at, last = time.monotonic(), place
        elif time.monotonic() - moved_at > STALLED_S:
            reports = {p["last_report"] for p in plans if p is not None and p["last_report"]}
            raise LocalError(
                f"nothing has moved for {STALLED_S:.0f} s; the nodes say: "
                f"{'; '.join(reports) or 'nothing'}"
            )
        time.sleep(poll_s)


def _refuse_repetition(plans: list[dict[str, Any] | None]) -> None:
    """A round whose updates do not fit together will never be merged: say so, and who differs."""
    for plan in plans:
        if plan is not None and (plan["attempt"] or 0) > ATTEMPTS:
            failure = PlanError if WRONG_SCHEMA in plan["last_report"] else LocalError
            raise failure(
                f"{plan['title']} was tried {ATTEMPTS} times: "
                f"{plan['last_report'] or 'see the log of the nodes'}"
            )


def plan_of(status: dict[str, Any], plan_id: int | None) -> dict[str, Any] | None:
    """The status of one plan at one node, if the node answers and takes part."""
    found = [p for p in status.get("plans", []) if p["id"] == plan_id and "status" in p]
    return found[0] if found else None


def _scored(plan: dict[str, Any]) -> bool:
    return any(record["metrics"] for record in _of_result(plan))


def _of_result(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The record of the round that made, or chose, the model that is handed out."""
    result = plan["best"] or plan["model"]
    return [record for record in plan["records"] if record["model"] == result][-1:]


def _is_told(plans: list[dict[str, Any]]) -> bool:
    """Whether every node has heard what each of them counts on the last model."""
    joint = [record["joint"] for plan in plans for record in _of_result(plan)]
    return all(each == joint[0] for each in joint)


def run_testnet(
    plan: Path,
    *,
    peers: int | None,
    rounds: int | None,
    seed: int,
    keep: Path | None,
    out: Path,
    on_progress: OnProgress,
    references: bool = True,
) -> dict[str, Any]:
    """A whole run; returns the report. Every process that it started has ended when it returns.

    The model is written first: no score that fails, and no reference, costs it. `references` asks
    for the models trained alone and on pooled data.
    """
    began = time.monotonic()
    prepare_nodes()
    sites = deal(plan, peers)
    notes: list[str] = []
    with _directory(keep) as directory, open_evaluator(plan, sites, seed) as evaluator:
        check = evaluator.scores([], None)
        asked = evaluator.references(rounds) if references else None
        on_progress("starting the nodes", [])
        testnet = bring_up(directory, plan, peers, seed)
        try:
            on_progress("proposing the plan, and consenting", testnet.statuses())
            begin_plan(testnet, rounds)
            final = follow(testnet, on_progress, check=check)
            statuses, records = testnet.statuses(), testnet.records()
            models = ask(testnet.home(), "models", plan=testnet.file.plan_id)
            out.mkdir(parents=True, exist_ok=True)
            folder = out / MODEL_FOLDER
            handed_out = next(m for m in models["models"] if m["round"] == models["chosen"])
            ask(
                testnet.home(),
                "export",
                plan=testnet.file.plan_id,
                round=handed_out["round"],
                path=str(folder.resolve()),
                force=True,
            )
            on_progress("scoring on all sites' held-back rows", statuses)
            paths = [m["path"] for m in models["models"]]
            if paths[-1] != handed_out["path"]:
                paths.append(handed_out["path"])  # the last one is scored on test rows
            counted = _found(evaluator, check, "The rows were not counted", notes)
            alone = asked and _found(evaluator, asked, "No model was trained alone", notes)
            notes += alone.notes if alone else []
            scores = evaluator.scores(paths, models["statistics"], _kept_in(testnet))
            scored = _found(evaluator, scores, "The models were not scored", notes)
            _tell_scores(folder, scored)
        finally:
            on_progress("ending the nodes", [])
            stop_nodes(testnet.file, testnet.processes)
    return build_report(
        testnet,
        final,
        statuses,
        records,
        models["models"],
        scored or counted or NOTHING,
        alone or counted or NOTHING,
        folder / MODEL,
        notes,
        wall_s=time.monotonic() - began,
    )


def _tell_scores(folder: Path, scored: Evaluation | None) -> None:
    """Write on the model's card how it scores: a testnet knows all sites' held-back rows."""
    if scored is not None and scored.swarm:
        scores = {name: Score(value) for name, value in scored.swarm.items()}
        card = read_folder(folder).card
        told = (Scores("the held-back test rows of all sites together", scores),)
        write_card(folder, msgspec.structs.replace(card, scores=told))


def _kept_in(testnet: Testnet) -> dict[str, str]:
    """The files of what sites have kept of their own, by site."""
    plan = testnet.file.plan_id
    asked = {n.name: ask(Path(n.directory), "models", plan=plan) for n in testnet.file.nodes}
    return {name: answer["kept"] for name, answer in asked.items() if answer["kept"]}


def _found(
    evaluator: Evaluator, future: Future[Evaluation], otherwise: str, notes: list[str]
) -> Evaluation | None:
    """What the evaluator found; a failure becomes a note in the report."""
    try:
        return evaluator.result(future)
    except SwarmError as error:
        notes.append(f"{otherwise}: {error}")
        return None


def build_report(
    testnet: Testnet,
    final: dict[str, Any],
    statuses: Statuses,
    records: dict[str, list[dict[str, Any]]],
    models: list[dict[str, Any]],
    scored: Evaluation,
    alone: Evaluation,
    model_path: Path,
    notes: list[str],
    wall_s: float,
) -> dict[str, Any]:
    """What `--json` writes. A round has its number on the chain, and its number among the rounds of
    training if it is one. A round's seconds are the slowest node's, its bytes all nodes', its
    metrics those on all sites' validation rows. `swarm`, `pooled` and each site's `local` are on
    all test rows, and `test_looks` counts the models that were ever scored on them."""
    metrics = {m["round"]: s for m, s in zip(models, scored.progress, strict=False)}
    rounds = []
    for record in records[testnet.file.nodes[0].name]:
        number = record["round"]
        each = {n: r for n, rs in records.items() for r in rs if r["round"] == number}
        rounds.append(
            {
                "round": number,
                "title": record["title"],
                "number": record["number"],
                "attempt": record["attempt"],
                "leader": record["leader"],
                "contributors": record["contributors"],
                "omitted": record["omitted"],
                "model": record["model"],
                "figures": record["figures"],
                "table": record["table"],
                "choice": record["choice"],
                "metrics": metrics.get(number, {}),
                "joint": record["joint"],
                "site_metrics": {n: r["metrics"].get("validation", {}) for n, r in each.items()},
                **{
                    key: round(max(r[key] for r in each.values()), 3)
                    for key in ("train_s", "exchange_s", "merge_s", "chain_s", "total_s")
                },
                "bytes_sent": sum(r["bytes_sent"] for r in each.values()),
                "bytes_received": sum(r["bytes_received"] for r in each.values()),
            }
        )
    return {
        "plan": final["name"],
        "plan_digest": final["digest"],
        "chain_id": testnet.file.chain_id,
        "contract": statuses[0]["contract"],
        "seed": testnet.file.seed,
        "wall_s": round(wall_s, 2),
        "sites": [
            {
                "name": status["name"],
                "account": status["account"],
                "peer_id": status["peer_id"],
                "samples": alone.samples.get(status["name"], NO_SAMPLES),
                "local": alone.local.get(status["name"], {}),
                "swarm": scored.sites.get(status["name"], {}),
            }
            for status in statuses
        ],
        "swarm": scored.swarm,
        "joint": next((r["joint"]["test"] for r in rounds[::-1] if "test" in r["joint"]), {}),
        "pooled": alone.pooled,
        "references": alone.settings,
        "test_looks": scored.test_looks + alone.test_looks + _own_models(rounds),
        "final_model": {"digest": final["best"] or final["model"], "path": str(model_path)},
        "rounds": rounds,
        "notes": notes,
    }


def _own_models(rounds: list[dict[str, Any]]) -> int:
    """How many models of single sites were scored on test rows, in a cross-evaluation."""
    tables = [r["table"] for r in rounds if r["table"]]
    told = next(iter(tables[-1]["metrics"].values()), None) if tables else None
    return 0 if told is None else sum(not each["is_shared"] for each in told["models"])


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        yield keep
        return
    temporary = Path(tempfile.mkdtemp(prefix="swarm-testnet-"))
    try:
        yield temporary
    except LocalError:
        raise  # its sentence names a log in there
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(temporary, ignore_errors=True)


def take_down(directory: Path) -> TestnetFile:
    """End a testnet that runs in the background; what its nodes wrote stays."""
    file = read_testnet(directory)
    stop_nodes(file, {})
    return file


def delete(directory: Path) -> None:
    """Delete a testnet that has ended, and nothing else that may lie in its directory."""
    delete_nodes(directory, read_testnet(directory).nodes)


def find(directory: Path) -> Testnet:
    """The testnet in `directory`, running or not."""
    return Testnet(directory, read_testnet(directory))
