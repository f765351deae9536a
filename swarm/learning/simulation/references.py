"""What a run on one machine is compared with: each site alone, and (a reference) all data pooled.

Only a testnet can do this: it has every site's files, which no member of a real consortium has. All
of it runs through the same `LocalTraining` as the trainer, with the same number of rounds and the
same statistics, and is scored on the same rows: the held-back test rows of all sites together. Each
reference may have settings of its own, chosen for it as the plan's were for the swarm: they lie
beside the plan in `references.toml`, and are no part of it.

Test rows are looked at once, for the final model and for each reference, and the looks are counted.
The progress from round to round is shown on validation rows.

A process of its own, so that the command line never imports torch:
`python -m swarm.learning.simulation.references < jobs > answers`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import UNREADABLE, ConfigurationError, PlanError, SwarmError
from swarm.learning.data.batches import concatenate, rows_in
from swarm.learning.folds.reduce import SUM
from swarm.learning.parameters.named_tensors import State, read_arrays, read_state
from swarm.learning.parameters.travel import completed
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Site
from swarm.learning.plans.plan_faults import method_place
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import rules_of
from swarm.learning.supervisor.trainer_messages import Samples
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.site_plan import PARTS

REFERENCES = "references.toml"

Metrics = dict[str, float | None]
Sums = Mapping[str, NDArray[Any]]


class JobSite(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One site of the testnet and where its data lies."""

    name: str
    data: str
    options: dict[str, str | int | float | bool] = {}


class Job(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to compute. `models` are model files of one run, `statistics` its merged sums, if any;
    `kept` is the file of what a site has kept of its own, by site.

    `rounds` and `seed` default to the plan's. `references` asks for the models trained alone and
    on pooled data.
    """

    plan: str
    sites: list[JobSite]
    models: list[str] = []
    statistics: str | None = None
    kept: dict[str, str] = {}
    seed: int | None = None
    rounds: int | None = None
    references: bool = True
    device: str = "auto"


_jobs = msgspec.json.Decoder(Job)


class References(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`references.toml`: by name, settings of the plan that a reference has instead."""

    alone: dict[str, int | float | str | bool] = {}
    pooled: dict[str, int | float | str | bool] = {}


NO_SETTINGS = References()


class Result(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Scores on the held-back rows of all sites. NaN is written as null."""

    samples: dict[str, Samples]
    local: dict[str, Metrics] = {}
    pooled: Metrics | None = None
    swarm: Metrics = {}
    """Of the last of the models."""
    sites: dict[str, Metrics] = {}
    """The same model's, on each site's own held-back rows."""
    progress: list[Metrics] = []
    """Of each model, on the validation rows of all sites: empty where there are none."""
    settings: References = References()
    """What the references had instead of the plan's own settings."""
    test_looks: int = 0
    """How many models were scored on the held-back rows."""
    notes: list[str] = []
    """Which reference could not be trained, and why: the others are there."""


class Answer(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The result of one job, or why there is none and whose fault that is."""

    result: Result | None = None
    error: str = ""
    exit_status: int = 0


def run(job: Job) -> Result:
    """Do a job. Raises SwarmError with one clear sentence."""
    if not job.sites:
        raise ConfigurationError("there is no site to evaluate: name at least one")
    folder = Path(job.plan)
    plan = load_plan(folder)
    rules = rules_of(plan)
    torch.set_num_threads(rules.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    trainings = [
        LocalTraining(
            deepcopy(plan),  # each site has its own, as in the world
            Site(s.name, Path(s.data), s.options),
            folder,
            seed=job.seed,
            device=job.device,
        )
        for s in job.sites
    ]
    rounds = program_of(plan).training_rounds if job.rounds is None else job.rounds
    samples = {t.site.name: t.samples() for t in trainings}
    merged = read_arrays(Path(job.statistics)) if job.statistics else merged_statistics(trainings)
    settings = read_references(folder)
    for own in (settings.alone, settings.pooled):
        trainings[0].with_settings(own)  # refuses what the plan does not have
    result = Result(samples=samples, settings=settings)
    for model in job.models:
        state = completed(read_state(Path(model)), trainings[0].initial)
        rows = concatenate([t.prepared(merged).validation for t in trainings])
        # What sites kept then is not known any more.
        is_shown = rows_in(rows) and not trainings[0].kept_names
        result.progress.append(_clean(trainings[0].score(state, rows)) if is_shown else {})
    if job.models:
        kept = {name: read_state(Path(file)) for name, file in job.kept.items()}
        scores = {
            t.site.name: t.evaluate(state, merged, ["test"], kept.get(t.site.name))["test"]
            for t in trainings
        }
        result.sites = {name: _clean(each) for name, each in scores.items()}
        if trainings[0].kept_names:
            result.swarm = _clean(mean_of_sites(scores, trainings))
        else:
            result.swarm = _score(trainings[0], state, None, trainings, merged)
        result.test_looks += 1
    if job.references:
        _add_references(result, trainings, merged, rounds)
    return result


def _add_references(
    result: Result, sites: Sequence[LocalTraining], merged: Sums | None, rounds: int
) -> None:
    for site in training_sites(sites):
        try:
            found = train_alone(site, sites, rounds, merged, result.settings)
            result.local[site.site.name] = found
            result.test_looks += 1
        except PlanError as error:
            result.notes.append(f"{site.site.name} cannot be trained alone: {error}")
    try:
        result.pooled = train_pooled(sites, merged, rounds, result.settings)
        result.test_looks += 1
    except PlanError as error:
        result.notes.append(f"the pooled rows cannot be trained on: {error}")


def read_references(folder: Path) -> References:
    """The settings of the references beside the plan in `folder`; the plan's own if there are none.

    Raises ConfigurationError if the file cannot be read.
    """
    file = (folder if folder.is_dir() else folder.parent) / REFERENCES
    if not file.exists():
        return References()
    try:
        return msgspec.toml.decode(file.read_bytes(), type=References)
    except (*UNREADABLE, ValueError) as error:
        raise ConfigurationError(f"{file}: {error}: correct it, or delete it") from None


def training_sites(sites: Sequence[LocalTraining]) -> list[LocalTraining]:
    """Those with training rows; the others only test. Raises PlanError if there is none."""
    found = [site for site in sites if site.samples().train]
    if not found:
        raise PlanError(f"{_place(sites, 'data')}no site holds training rows: give Data(train=…)")
    return found


def _place(sites: Sequence[LocalTraining], method: str) -> str:
    """ "plan.py:42 in data: ", for what is wrong with all the sites together."""
    place = method_place(sites[0].folder, type(sites[0].plan), method)
    return f"{place}: " if place else ""


def train_alone(
    training: LocalTraining,
    sites: Sequence[LocalTraining],
    rounds: int,
    merged: Sums | None,
    settings: References = NO_SETTINGS,
) -> Metrics:
    """Train at one site, prepared with the sums over all as in the swarm, so that only the training
    differs; score on the held-back rows of all `sites`."""
    own = training.with_settings(settings.alone)
    return _score(own, *_train(own, merged, rounds), sites, merged)


def train_alone_across(
    training: LocalTraining,
    sites: Sequence[LocalTraining],
    rounds: int,
    merged: Sums | None,
    settings: References = NO_SETTINGS,
) -> dict[str, Metrics]:
    """As `train_alone`, once, but scored on each site's held-back rows by themselves: a line of a
    cross-site table, by the name of the site that is scored."""
    own = training.with_settings(settings.alone)
    state, kept = _train(own, merged, rounds)
    return {
        other.site.name: _score(own, state, kept, [other], merged)
        for other in sites
        if other.samples().test
    }


def train_pooled(
    sites: Sequence[LocalTraining],
    merged: Sums | None,
    rounds: int,
    settings: References = NO_SETTINGS,
    judged: Sequence[LocalTraining] = (),
) -> Metrics:
    """Train on all rows in one place: what a swarm is measured against, and must never do. Scored
    on the held-back rows of all sites, or of those `judged`."""
    prepared = [site.prepared(merged) for site in sites]  # those that only test add test rows
    data = Data(*(concatenate([getattr(d, part) for d in prepared]) for part in PARTS))
    first = sites[0]
    pooled = LocalTraining(
        first.plan,
        Site("pooled"),
        first.folder,
        seed=first.seed,
        device=str(first.device),
        prepared=data,
    ).with_settings(settings.pooled)
    return _score(pooled, *_train(pooled, None, rounds), judged or sites, merged)


def merged_statistics(sites: Sequence[LocalTraining]) -> dict[str, NDArray[np.float64]] | None:
    """The bit-exact sums over the sites that train, in their order, or None if the plan has no
    statistics. Raises PlanError naming a statistic that is not the same array everywhere, and the
    sites."""
    if not sites[0].has_statistics:
        return None
    trained = training_sites(sites)
    each = [site.statistics() for site in trained]
    _refuse_difference(trained, each)
    merged = {name: np.empty_like(sums) for name, sums in each[0].items()}
    for name, out in merged.items():
        flat = [np.ascontiguousarray(sums[name]).reshape(-1) for sums in each]
        SUM.merge("F64", flat, [1] * len(flat), out.reshape(-1))
    return merged


def _refuse_difference(
    sites: Sequence[LocalTraining], each: Sequence[Mapping[str, NDArray[Any]]]
) -> None:
    names = [site.site.name for site in sites]
    for key in sorted({key for sums in each for key in sums}):
        said = [f"{list(sums[key].shape)}" if key in sums else "absent" for sums in each]
        if len(set(said)) > 1:
            told = ", ".join(f"{shape} at {name}" for shape, name in zip(said, names, strict=True))
            place = _place(sites, "statistics")
            raise PlanError(
                f"{place}the sites' statistics differ: {key!r} is {told}; the same names and "
                "shapes must come from every site, so take them from a list in the plan, not from "
                "the rows"
            )


def pooled_test_rows(sites: Sequence[LocalTraining], statistics: Sums | None) -> Any:
    """The held-back rows of all sites, prepared with one model's statistics."""
    rows = concatenate([site.prepared(statistics).test for site in sites])
    if not rows_in(rows):
        raise ConfigurationError(
            f"{_place(sites, 'data')}no site holds test rows: give Data(train, validation, test)"
        )
    return rows


def _score(
    training: LocalTraining,
    state: State,
    kept: State | None,
    sites: Sequence[LocalTraining],
    sums: Sums | None,
) -> Metrics:
    return _clean(training.score(state, pooled_test_rows(sites, sums), kept))


def _train(
    training: LocalTraining, statistics: Sums | None, rounds: int
) -> tuple[State, State | None]:
    state, kept = training.initial, None
    for round in range(1, rounds + 1):
        update = training.train(round, state, statistics, kept=kept)
        state, kept = completed(update.state, state), update.kept
    return state, kept


def mean_of_sites(
    scores: Mapping[str, Mapping[str, float]], sites: Sequence[LocalTraining]
) -> dict[str, float]:
    """Each metric's mean over the sites that have it, by their numbers of test rows."""
    rows = {site.site.name: site.samples().test for site in sites}
    found = {}
    for metric in sorted({metric for each in scores.values() for metric in each}):
        at = [name for name, each in scores.items() if metric in each]
        total = sum(rows[name] for name in at)
        found[metric] = sum(rows[name] * scores[name][metric] for name in at) / total
    return found


def _clean(metrics: dict[str, float]) -> Metrics:
    """JSON has no NaN."""
    return {name: value if np.isfinite(value) else None for name, value in metrics.items()}


def main() -> None:
    """Entry point: one `Job` a line as JSON on standard input, one `Answer` a line on standard
    output, until the input ends. Importing torch takes longer than most jobs."""
    sys.dont_write_bytecode = True
    # What a plan prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(_answer(line)) + b"\n")
        answers.flush()


def _answer(line: bytes) -> Answer:
    try:
        return Answer(result=run(_jobs.decode(line)))
    except UNREADABLE as error:
        return Answer(error=f"not an evaluation job: {error}", exit_status=2)
    except SwarmError as error:
        return Answer(error=str(error), exit_status=error.exit_status)


if __name__ == "__main__":
    main()
