"""A plan with any number of clients on this machine: the nodes' training and folds, no network.

Workers train clients, one model each; here their updates are merged as they come, in the clients'
order, and thrown away. So memory depends on the model and on the workers, and not on the clients;
and the result depends on neither the number of workers nor who of them was quick.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

import numpy as np

from swarm.blobs.store import name_of
from swarm.errors import PlanError
from swarm.learning.code import bundle
from swarm.learning.folds.running import RawBytes, RunningMean
from swarm.learning.metrics.choice import Rule, check_counted
from swarm.learning.metrics.matrix import Matrix
from swarm.learning.metrics.wire import decode_all
from swarm.learning.models.card import Card, Score, Scores, describe_plan
from swarm.learning.models.model_folder import MODEL, write_folder
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import Frozen, Local, Placement, Shared, read_placement
from swarm.learning.scripts.reader import is_script
from swarm.learning.simulation.messages import (
    Begin,
    Copied,
    CopiesScored,
    CopyClient,
    Opened,
    OpenPlan,
    Personal,
    PersonaliseClient,
    ScoreCopies,
    Scored,
    ScoreModel,
    Summed,
    SumRows,
    TrainClient,
    Turn,
    Updated,
    Whole,
    WriteWhole,
)
from swarm.rounds.figures import read_figures, write_figures
from swarm.tensors import Layout, TensorFile
from swarm.testnet.gpu_workers import place_workers
from swarm.testnet.workers import Channel, WorkerProcess, Workers, in_order, open_workers
from swarm.types import to_hex

SUMS_AT_ONCE = 64
"""Clients of one request for statistics."""
MOST_ATTEMPTS = 20
STATISTICS, TRAIN, PERSONALISE, SELECT = "statistics", "train", "personalise", "select"
SEND_COPY, CROSS_EVALUATE = "send copy", "cross-evaluate"

OnRound = Callable[[dict[str, Any]], None]
"""Called with each round of the report, as soon as it is over."""


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    `clients` is how many, 0 for one a site. `sample` is the part of them that trains in each round;
    above 1, how many. `drop` is the chance with which one of these is lost on the way. `rounds` and
    `peers` are as in a testnet.
    """

    plan: Path
    clients: int = 0
    sample: float = 1.0
    drop: float = 0.0
    partition: str = "sites"
    seed: int = 0
    rounds: int | None = None
    peers: int | None = None


@dataclass
class _Run:
    """Where a simulation stands. `folder` holds what clients keep."""

    folder: Path
    asked: Simulation
    workers: Workers
    opened: Opened
    model: RawBytes
    statistics: bytes | None = None
    best: RawBytes | None = None
    """The best model until now, if the plan chooses one, and what it scored."""
    best_value: float | None = None
    rounds: list[dict[str, Any]] = field(default_factory=list)
    personal: list[dict[str, Any]] = field(default_factory=list)
    copies: RawBytes | None = None
    """The clients' own models, once they are gathered."""
    table: dict[str, Any] | None = None
    """What each client's rows say of each client's model."""


def simulate(
    asked: Simulation,
    *,
    processes: int,
    device: str = "cpu",
    out: Path | None = None,
    on_round: OnRound = lambda round: None,
    start: Callable[[], Channel] = WorkerProcess,
) -> dict[str, Any]:
    """Run it in at most so many workers, and return the report. With `out`, write the model's
    folder there. `device` "auto" takes GPUs if there are, with as many workers as find room.

    Raises PlanError for the plan's faults, or where a round has fewer than `min_peers` updates.
    """
    began = time.monotonic()
    if is_script(asked.plan):  # what it keeps from round to round is in its process
        processes = 1
    opening = OpenPlan(
        plan=str(asked.plan.resolve()),
        partition=asked.partition,
        clients=asked.clients,
        seed=asked.seed,
        peers=asked.peers,
        rounds=asked.rounds,
    )
    devices = place_workers(device, processes, start, opening)
    with open_workers(devices, start, opening) as workers, TemporaryDirectory() as kept:
        opened = workers.open(Opened)
        _check_size(asked, opened)
        run = _Run(Path(kept), asked, workers, opened, np.frombuffer(opened.initial, np.uint8))
        _begin(run)
        for turn in opened.turns:
            if turn.task == STATISTICS:
                run.statistics = _sum_statistics(run)
            elif turn.task == PERSONALISE:
                run.personal.append(_personalise(run, turn))
            elif turn.task == TRAIN:
                run.model = _train(run, turn)
            elif turn.task == SEND_COPY:
                run.copies = _gather_copies(run, turn)
            elif turn.task == CROSS_EVALUATE:
                run.table = _cross_evaluate(run)
            elif turn.task == SELECT:
                if not _select(run, turn) and turn.ends:
                    break
            else:
                raise PlanError(f"the stage {turn.task!r} is not simulated: try it in a testnet")
            _begin(run)
            if turn.task == TRAIN:
                run.rounds[-1]["metrics"] = _score(run, "validation")
                on_round(run.rounds[-1])
        if run.best is not None:
            run.model = run.best
            _begin(run)
        scores = _score(run, "test")
        with TemporaryDirectory() as folder:
            digest = _name(run.model, Path(folder))
            if out is not None:
                _write(run, scores, out, Path(folder))
    return {
        "plan": opened.name,
        "plan_digest": to_hex(opened.digest),
        "seed": asked.seed,
        "clients": opened.clients,
        "rows": opened.rows,
        "partition": asked.partition,
        "sample": asked.sample,
        "drop": asked.drop,
        "devices": {device: devices.count(device) for device in devices},
        "wall_s": round(time.monotonic() - began, 2),
        "peak_memory_bytes": _peak_memory(),
        "swarm": scores,
        "final_model": {"digest": digest, "path": None if out is None else str(out / MODEL)},
        "rounds": run.rounds,
        "personal": run.personal,
        "table": run.table,
        "notes": list(opened.notes),
    }


def _check_size(asked: Simulation, opened: Opened) -> None:
    able = _able(opened)
    size = _size(asked, len(able))
    if size < opened.min_peers:
        raise PlanError(
            f"{size} of {len(able)} clients train in a round, and the plan's min_peers is "
            f"{opened.min_peers}: sample more of them"
        )


def _able(opened: Opened) -> Sequence[int]:
    """The clients that can train, in their order."""
    return range(opened.clients) if opened.training_clients is None else opened.training_clients


def _size(asked: Simulation, clients: int) -> int:
    if asked.sample <= 1:
        return max(1, round(asked.sample * clients))
    return min(round(asked.sample), clients)


def _draw(run: _Run, turn: Turn, attempt: int) -> tuple[list[int], int]:
    """Who trains in a round, in their order, and how many more are lost on the way."""
    generator = np.random.default_rng([run.asked.seed, 7, turn.number, attempt])
    able = np.array(_able(run.opened))
    size = _size(run.asked, len(able))
    chosen = able if size == len(able) else np.sort(generator.choice(able, size, replace=False))
    stay = generator.random(len(chosen)) >= run.asked.drop
    return [int(client) for client in chosen[stay]], int((~stay).sum())


def _train(run: _Run, turn: Turn) -> RawBytes:
    """One round; an attempt with too few updates is void, and others are drawn."""
    began = time.monotonic()
    for attempt in range(1, MOST_ATTEMPTS + 1):
        chosen, lost = _draw(run, turn, attempt)
        if len(chosen) >= run.opened.min_peers:
            break
    else:
        raise PlanError(
            f"round {turn.within}: so many clients are lost that fewer than min_peers "
            f"({run.opened.min_peers}) are left in {MOST_ATTEMPTS} attempts: sample more of them"
        )
    requests = (
        TrainClient(
            client=client,
            round=turn.within,
            round_in_all=turn.number,
            kept=_read(run.folder / f"kept-{client}"),
        )
        for client in chosen
    )
    losses, train_s = 0.0, 0.0
    with TemporaryDirectory(dir=run.folder) as folder:
        fold = _open_fold(run, read_placement(turn.merge), Path(folder))
        for update in in_order(run.workers, requests, Updated):
            fold.add(update.client, update.samples, np.frombuffer(update.update, np.uint8))
            if update.kept is not None:
                (run.folder / f"kept-{update.client}").write_bytes(update.kept)
            losses, train_s = losses + update.loss, train_s + update.train_s
        merged = fold.finish()
    run.rounds.append(
        {
            "round": turn.number,
            "number": turn.within,
            "attempt": attempt,
            "contributors": len(chosen),
            "lost": lost,
            "loss": losses / len(chosen),
            "train_s": round(train_s, 3),
            "total_s": round(time.monotonic() - began, 3),
            "metrics": {},
        }
    )
    return merged


def _personalise(run: _Run, turn: Turn) -> dict[str, Any]:
    """Fine-tuning at every client that can train: what their scores come to, as nodes tell it."""
    began = time.monotonic()
    gives_copy = any(each.task == SEND_COPY for each in run.opened.turns)
    requests = (
        PersonaliseClient(
            client=client,
            round=turn.within,
            round_in_all=turn.number,
            epochs=turn.epochs,
            kept=_read(run.folder / f"kept-{client}"),
            gives_copy=gives_copy,
        )
        for client in _able(run.opened)
    )
    merged: RunningMean | None = None
    with TemporaryDirectory(dir=run.folder) as folder:
        told = Path(folder) / "told"
        for own in in_order(run.workers, requests, Personal):
            if own.copy is not None:
                (run.folder / f"own-{own.client}").write_bytes(own.copy)
            write_figures(told, {"before": own.before, "after": own.after}, own.rows)
            raw = np.fromfile(told, np.uint8)
            merged = merged or RunningMean(_layout(raw), is_sum=True)
            merged.add(raw)
        assert merged is not None
        told.write_bytes(merged.finish().tobytes())
        figures = read_figures(told)
    return {
        "round": turn.number,
        "number": turn.within,
        "figures": figures,
        "total_s": round(time.monotonic() - began, 3),
    }


def _gather_copies(run: _Run, turn: Turn) -> RawBytes:
    """Every client's own model: what it has fine-tuned, or the newest with what it has kept."""
    able = _able(run.opened)
    missing = [client for client in able if not (run.folder / f"own-{client}").exists()]
    requests = (
        CopyClient(client=client, kept=_read(run.folder / f"kept-{client}")) for client in missing
    )
    for reply in in_order(run.workers, requests, Copied):
        (run.folder / f"own-{reply.client}").write_bytes(reply.copy)
    with TemporaryDirectory(dir=run.folder) as folder:
        fold = WholeFold(
            read_placement(turn.merge), TensorFile(_layout(run.model), run.model), Path(folder)
        )
        for client in able:
            raw = np.fromfile(run.folder / f"own-{client}", np.uint8)
            fold.add(client, 1, raw)
        return fold.finish()


def _cross_evaluate(run: _Run) -> dict[str, Any]:
    """What each client's test rows say of each client's own model, and of the one that all share.
    Of the best shared one, where the plan chooses it."""
    copies = None if run.copies is None else run.copies.tobytes()
    model = run.model if run.best is None else run.best
    run.workers.begin(Begin(model=model.tobytes(), statistics=run.statistics, copies=copies))
    requests = (ScoreCopies(client=client) for client in _able(run.opened))
    told = {
        reply.client: {copy: decode_all(raw) for copy, raw in reply.counts.items()}
        for reply in in_order(run.workers, requests, CopiesScored)
    }
    return Matrix(told).table(lambda client: run.opened.names[client])


def _select(run: _Run, turn: Turn) -> bool:
    """Whether the newest model takes the best one's place, by all sites' validation rows."""
    rule, scores = Rule.read(turn.merge), run.rounds[-1]["metrics"]
    check_counted(rule.metric, scores, scores)
    value = scores.get(rule.metric)
    is_better = run.best is None or rule.is_better(value, run.best_value)
    if is_better:
        run.best, run.best_value = run.model, value
    return is_better


class Fold(Protocol):
    """What becomes of a round's updates, given in the clients' order."""

    def add(self, client: int, samples: int, raw: RawBytes) -> None: ...

    def finish(self) -> RawBytes: ...


def _open_fold(run: _Run, placement: Placement, folder: Path) -> Fold:
    """A plain mean adds updates up as they come; any other fold needs all of a round."""
    if all(place == Shared() for _, place in placement.rows if not isinstance(place, IN_NO_UPDATE)):
        return MeanFold()
    return WholeFold(placement, TensorFile(_layout(run.model), run.model), folder)


IN_NO_UPDATE = (Local, Frozen)


class MeanFold:
    """Keeps none of the updates."""

    def __init__(self) -> None:
        self._mean: RunningMean | None = None

    def add(self, client: int, samples: int, raw: RawBytes) -> None:
        self._mean = self._mean or RunningMean(_layout(raw))
        self._mean.add(raw, samples)

    def finish(self) -> RawBytes:
        assert self._mean is not None
        return self._mean.finish()


class WholeFold:
    """Keeps a round's updates in `folder`, mapped, until all are there."""

    def __init__(self, placement: Placement, base: TensorFile, folder: Path) -> None:
        self._placement, self._base, self._folder = placement, base, folder
        self._given: list[Contribution] = []

    def add(self, client: int, samples: int, raw: RawBytes) -> None:
        path = self._folder / f"update-{client}"
        path.write_bytes(raw.tobytes())
        self._given.append(Contribution(client, samples, np.memmap(path, np.uint8, "r")))

    def finish(self) -> RawBytes:
        folding = Folding(self._placement, _layout(self._given[0].raw))
        return fold_whole(folding, self._given, self._base).raw


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _sum_statistics(run: _Run) -> bytes:
    """The sums over all clients that can train, whoever is drawn later."""
    able = list(_able(run.opened))
    requests = [
        SumRows(clients=tuple(able[start : start + SUMS_AT_ONCE]))
        for start in range(0, len(able), SUMS_AT_ONCE)
    ]
    merged: RunningMean | None = None
    for reply in in_order(run.workers, requests, Summed):
        for each in reply.statistics:
            raw = np.frombuffer(each, np.uint8)
            layout = _layout(raw)
            if merged is not None and layout != merged.layout:
                raise PlanError(
                    "the clients' statistics differ in names or shapes: take them from a list in "
                    "the plan, not from the rows"
                )
            merged = merged or RunningMean(layout, is_sum=True)
            merged.add(raw)
    assert merged is not None
    return merged.finish().tobytes()


def _begin(run: _Run) -> None:
    run.workers.begin(Begin(model=run.model.tobytes(), statistics=run.statistics))


def _score(run: _Run, part: Literal["validation", "test"]) -> dict[str, float | None]:
    files = {int(f.name.removeprefix("kept-")): f for f in run.folder.glob("kept-*")}
    kept = {client: file.read_bytes() for client, file in files.items()}
    return run.workers.ask(ScoreModel(part=part, kept=kept), Scored).result().metrics


def _layout(raw: RawBytes) -> Layout:
    length = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    return Layout.parse(raw[:length].tobytes(), len(raw))


def _name(raw: RawBytes, folder: Path) -> str:
    """The digest that nodes would give the model."""
    (folder / "model").write_bytes(raw.tobytes())
    return to_hex(name_of(folder / "model"))


def _write(run: _Run, scores: dict[str, float | None], out: Path, folder: Path) -> None:
    whole, sums = folder / "whole", folder / "sums"
    whole.write_bytes(run.workers.ask(WriteWhole(), Whole).result().model)
    if run.statistics is not None:
        sums.write_bytes(run.statistics)
    code = bundle.read(run.asked.plan)
    told = (
        Scores(
            "the held-back test rows of all sites together",
            {name: Score(value) for name, value in scores.items()},
        ),
    )
    card = Card(
        name=run.opened.name,
        about=describe_plan(code),
        licence=run.opened.licence,
        plan=to_hex(code.digest),
        round=len(run.rounds),
        rounds=len(run.rounds),
        scores=told if scores else (),
    )
    write_folder(out, whole, None if run.statistics is None else sums, code, card, force=True)


def _peak_memory() -> int:
    """The most that this process and any one of its workers had in memory, together, in bytes."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kib += resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(kib) * 1024
