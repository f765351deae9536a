"""Any number of simulated clients in one process, with one model for all of them.

A client exists while it is asked: its rows are looked up, its plan is a new copy, and what it makes
is handed over. Rows of the plan's sites are read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, Dataset, Subset

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.code import bundle
from swarm.learning.data.arrays import as_array
from swarm.learning.data.batches import concatenate, rows_in
from swarm.learning.metrics.wire import encode_all
from swarm.learning.parameters.named_tensors import (
    State,
    pack_state,
    set_state,
    state_of,
    unpack_state,
)
from swarm.learning.parameters.travel import Rows, completed, rows_of, to_wire
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import rules_of
from swarm.learning.plans.stages import CROSS_EVALUATE, PERSONALISE
from swarm.learning.scripts.script import Script
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.messages import (
    Copied,
    CopyClient,
    Opened,
    OpenPlan,
    Personal,
    PersonaliseClient,
    ScoreModel,
    TrainClient,
    Turn,
    Updated,
)
from swarm.learning.simulation.partition import Partition, read_rule
from swarm.learning.simulation.whole_run import open_site, weight
from swarm.learning.training.crossing import score_copies, take_copy
from swarm.learning.training.loop import NO_ROWS, LocalTraining
from swarm.learning.training.personal import personalise
from swarm.tensors import Layout, TensorFile, TensorSpec

Sums = dict[str, NDArray[Any]]


@dataclass
class Clients:
    """Made by `open_clients`. `begin` says with which model the next requests begin."""

    base: LocalTraining
    sites: list[LocalTraining]
    """The plan's own, with their rows."""
    partition: Partition | None
    """None: each site is a client."""
    rows: Any
    """All training rows, as the plan's `data` gave them; None without a partition."""
    opened: Opened
    state: State
    gathered: Rows
    """What was gathered in the round before, by row."""
    sums: Sums | None = None
    copies: Rows = field(default_factory=dict)
    """The clients' own models, where they are to be scored."""

    def begin(self, model: bytes, statistics: bytes | None, copies: bytes | None = None) -> None:
        self.copies = NO_ROWS if copies is None else rows_of(unpack_state(read_file(copies)))
        told = unpack_state(read_file(model))
        self.state, self.gathered = completed(told, self.base.initial), rows_of(told)
        found = None if statistics is None else read_file(statistics)
        self.sums = None if found is None else {n: np.array(v) for n, v in found.items()}

    def statistics(self, client: int) -> bytes:
        """The sums of one client's rows."""
        return pack_arrays(self._at(client).statistics())

    def train(self, asked: TrainClient) -> Updated:
        """One client's update, and what it is to keep."""
        site = self._at(asked.client)
        update = site.train(
            asked.round,
            self.state,
            self.sums,
            own_copy=False,
            round_in_all=asked.round_in_all,
            kept=_kept(asked.kept),
            rows=self.gathered,
        )
        sent = pack_state(to_wire(update.state, site.travels))
        return Updated(
            client=asked.client,
            update=sent.raw.tobytes(),
            samples=weight(update, site),
            loss=update.loss,
            train_s=update.train_s,
            kept=pack_state(update.kept).raw.tobytes() if update.kept else None,
        )

    def personalise(self, asked: PersonaliseClient) -> Personal:
        """Fine-tune one client's own copy, and give it away if it is wanted."""
        site = self._at(asked.client)
        found = personalise(
            site,
            asked.round,
            self.state,
            self.sums,
            epochs=asked.epochs or None,
            round_in_all=asked.round_in_all,
            kept=_kept(asked.kept),
            gathered=self.gathered,
        )
        copy = None
        if asked.gives_copy:
            copy = pack_state(take_copy(site, found.model, found.update.kept)).raw.tobytes()
        return Personal(
            before=found.before,
            after=found.after,
            rows=found.rows,
            client=asked.client,
            copy=copy,
        )

    def copy(self, asked: CopyClient) -> Copied:
        """One client's own model: the shared one with what it has kept."""
        own = take_copy(self._at(asked.client), self.state, _kept(asked.kept))
        return Copied(client=asked.client, copy=pack_state(own).raw.tobytes())

    def score_copies(self, client: int) -> dict[int, bytes]:
        """What one client's test rows say of each client's own model."""
        found = score_copies(self._at(client), self.state, self.copies, self.sums)
        return {copy: encode_all(counts) for copy, counts in found.items()}

    def score(self, asked: ScoreModel) -> dict[str, float | None]:
        """The model's metrics on all sites' rows of one kind; none if there are no such rows.

        Where sites have parts of their own, a metric is the mean of theirs, by their rows.
        """
        if not self.base.kept_names and not self.base.scores_itself:
            rows = concatenate([getattr(s.prepared(self.sums), asked.part) for s in self.sites])
            return _known(self.base.score(self.state, rows)) if rows_in(rows) else {}
        totals: dict[str, float] = {}
        count = 0
        for number, site in enumerate(self.sites):
            part = "train" if site.scores_itself else asked.part  # of a script's, all that is known
            rows = rows_in(getattr(site.prepared(self.sums), part))
            kept = _kept(asked.kept.get(number))
            found = site.evaluate(self.state, self.sums, [asked.part], kept)[asked.part]
            count += rows
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + rows * value
        return _known({name: total / count for name, total in totals.items()})

    def whole(self) -> bytes:
        """The model as the plan's own, in its own types."""
        set_state(self.base.model, self.state, self.base.travels)
        return pack_state(state_of(self.base.model)).raw.tobytes()

    def _at(self, client: int) -> LocalTraining:
        if self.partition is None:
            return self.sites[client]
        data = Data(train=_take(self.rows, self.partition.rows_of(client)))
        return self.base.at(Site(f"client{client}"), data)


def open_clients(asked: OpenPlan) -> Clients:
    """Read a plan, its sites' rows, and deal them. Raises as the plan does."""
    folder, rule = Path(asked.plan), read_rule(asked.partition)
    plan = load_plan(folder)
    rules = rules_of(plan)
    torch.set_num_threads(rules.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if isinstance(plan, Script) and rule.kind != "sites":
        raise PlanError(
            "a script reads its site's rows itself, so they cannot be dealt to clients: give "
            "--partition sites, without --clients"
        )
    base, sites = _open_sites(plan, asked, folder)
    training = [number for number, site in enumerate(sites) if site.samples().train]
    if not training:
        raise PlanError("no site holds training rows: give Data(train=…)")
    notes: list[str] = []
    partition, rows = None, None
    clients = len(sites)
    trained: tuple[int, ...] | None = tuple(training)
    if rule.kind != "sites":
        rows = _joined([sites[number].data.train for number in training])
        clients, trained = asked.clients or len(sites), None
        partition = Partition(_labels(rows), clients, rule, asked.seed, plan.min_rows)
        if partition.repeats:
            notes.append(
                f"{_count(rows)} training rows are too few for {clients} clients: each draws "
                f"{plan.min_rows} with repetition"
            )
    elif asked.clients not in (0, len(sites)):
        raise ConfigurationError(
            f"the plan has {len(sites)} sites, and {asked.clients} clients are asked for: give "
            "--partition iid or dirichlet:0.3 to deal the rows anew"
        )
    if rule.kind != "sites" and base.kept_names:
        raise PlanError(
            f"{type(plan).__name__} keeps parts at each site, and clients to which rows are dealt "
            "have none to score them on: give --partition sites"
        )
    program = program_of(plan)
    program = program if asked.rounds is None else program.with_rounds(asked.rounds)
    places = [program.place(number) for number in range(1, program.rounds + 1)]
    turns = [
        Turn(p.stage.task, p.stage.merge, p.number, p.within, p.stage.epochs, p.stage.ends)
        for p in places
        if p is not None
    ]
    tasks = {turn.task for turn in turns} & {PERSONALISE, CROSS_EVALUATE}
    if rule.kind != "sites" and tasks:
        raise PlanError(
            f"{type(plan).__name__} has a stage in which each site scores on rows of its own, and "
            "clients to which rows are dealt hold none back: give --partition sites"
        )
    opened = Opened(
        name=type(plan).__name__,
        digest=bundle.read(folder).digest,
        licence=plan.licence,
        min_peers=rules.min_peers,
        turns=tuple(turns),
        clients=clients,
        training_clients=trained,
        rows=sum(site.samples().train for site in sites),
        initial=pack_state(base.initial).raw.tobytes(),
        names=tuple(site.site.name for site in sites),
        notes=tuple(notes),
    )
    return Clients(base, sites, partition, rows, opened, base.initial, {})


def free_memory() -> tuple[int, ...]:
    """The free bytes of each GPU that torch sees, this process's own share taken off."""
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    return tuple(int(torch.cuda.mem_get_info(gpu)[0]) for gpu in gpus)


def _open_sites(
    plan: Plan, asked: OpenPlan, folder: Path
) -> tuple[LocalTraining, list[LocalTraining]]:
    """The plan without rows, and its sites: with one model for all, unless each needs its own."""

    def own(site: Site) -> LocalTraining:
        return LocalTraining(deepcopy(plan), site, folder, seed=asked.seed, device=asked.device)

    dealt = deal(folder, asked.peers)
    if isinstance(plan, Script):  # which runs with a site's rows, or not at all
        sites = [open_site(each, own) for each in dealt]
        return sites[0], sites
    base = own(Site("clients"))
    opened = own if base.kept_names else base.at  # a plan may hold what its sites keep
    return base, [open_site(each, opened) for each in dealt]


def read_file(raw: bytes) -> TensorFile:
    """A canonical file from its bytes. Raises BlobError if it is none."""
    length = 8 + int.from_bytes(raw[:8], "little")
    return TensorFile(Layout.parse(raw[:length], len(raw)), np.frombuffer(raw, np.uint8).copy())


def pack_arrays(arrays: Sums) -> bytes:
    """Float64 arrays as a canonical file's bytes."""
    layout = Layout.from_specs([TensorSpec(n, "F64", v.shape) for n, v in arrays.items()])
    file = TensorFile(layout, np.zeros(layout.file_bytes, np.uint8))
    file.raw[: layout.data_start] = np.frombuffer(layout.header, np.uint8)
    for name, value in arrays.items():
        file[name][...] = value
    return file.raw.tobytes()


def _kept(raw: bytes | None) -> State | None:
    return None if raw is None else unpack_state(read_file(raw))


def _known(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in scores.items()}


# All sites' rows in one place, in the forms that `Data` takes, as the plan gave them.


def _joined(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined(columns) for columns in zip(*parts, strict=True))
    if isinstance(first, Dataset):
        return ConcatDataset(parts)
    if isinstance(first, torch.Tensor):
        return torch.cat(list(parts))
    return np.concatenate([as_array(part) for part in parts])


def _take(rows: Any, chosen: NDArray[np.int64]) -> Any:
    if isinstance(rows, dict):
        return {key: _take(column, chosen) for key, column in rows.items()}
    if isinstance(rows, tuple):
        return tuple(_take(column, chosen) for column in rows)
    if isinstance(rows, Dataset):
        return Subset(rows, chosen.tolist())
    return rows[chosen]


def _count(rows: Any) -> int:
    return len(next(iter(rows.values()))) if isinstance(rows, dict) else rows_in(rows)


def _labels(rows: Any) -> NDArray[np.float64]:
    """What is taken for the label: the last array, where it has one number a row."""
    last = list(rows.values())[-1] if isinstance(rows, dict) else rows
    last = last[-1] if isinstance(last, tuple) else last
    values = None if isinstance(last, Dataset) else np.asarray(last, dtype=np.float64)
    if values is None or values.size != len(values):
        return np.zeros(_count(rows))
    return np.nan_to_num(values.reshape(-1))
