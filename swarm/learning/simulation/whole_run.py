"""A whole federated run in one process, without chain or network.

The same plan API, the same local training and the same bit-exact folding as a real run, so a tuning
script tunes what will run. Sites take turns; a round's model is what their updates fold into, by
default their mean (FedAvg: McMahan et al., arXiv:1602.05629).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.learning.metrics.choice import Rule, check_counted, choose
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.matrix import Matrix
from swarm.learning.metrics.wire import merge_all
from swarm.learning.parameters.named_tensors import (
    State,
    copy_state,
    pack_state,
    unpack_state,
)
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import Placement, read_placement
from swarm.learning.parameters.travel import Rows, completed, rows_of, to_wire
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Plan, Site
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import rules_of
from swarm.learning.plans.stages import (
    CROSS_EVALUATE,
    PERSONALISE,
    SELECT,
    SEND_COPY,
    STATISTICS,
    TRAIN,
)
from swarm.learning.simulation.dealing import SiteFiles, deal
from swarm.learning.simulation.references import (
    Metrics,
    mean_of_sites,
    merged_statistics,
    pooled_test_rows,
    training_sites,
)
from swarm.learning.simulation.turns import SimulatedLink, Turns
from swarm.learning.training.answering import Answering
from swarm.learning.training.crossing import score_copies, take_copy
from swarm.learning.training.loop import LocalTraining, Update
from swarm.learning.training.personal import Personal, personalise
from swarm.protocol.program import Place
from swarm.tensors import TensorFile


@dataclass(frozen=True)
class FederatedRun:
    """The whole model after each round (index 0: the initial one), what each site has kept of its
    own then (None: nothing), and the merged statistics.

    Tensors that travelled are in their wire types.
    """

    sites: list[LocalTraining]
    models: list[State]
    statistics: dict[str, NDArray[np.float64]] | None
    kept: list[list[State | None]]
    file: TensorFile
    """The newest model as it comes down, with what its steps go on from."""
    personal: Mapping[str, Personal] = field(default_factory=dict)
    """By site, its own model and the scores before and after, if the plan has such a stage."""
    asked_bytes: int = 0
    """Of tensors that sites have sent to the holders of the plan's role."""
    answered_bytes: int = 0
    """Of tensors that those have answered."""
    best: int | None = None
    """The index in `models` of the plan's best, if it chooses one."""
    is_over: bool = False
    """Whether the plan has ended before its last round."""
    contributors: Mapping[int, Collection[str]] = field(default_factory=dict)
    """Whose work counts in a round, by its number on the chain; in others everybody's."""
    copies: Rows = field(default_factory=dict)
    """Each site's own model, by tensor and site's number, once the plan has gathered them."""
    matrix: Matrix | None = None
    """What each site's rows say of each site's own model, if the plan asks, by their numbers."""

    def table(self) -> dict[str, Any] | None:
        """What each site's rows say of each site's own model, as nodes show it: `Matrix.table`."""
        names = [site.site.name for site in self.sites]
        return None if self.matrix is None else self.matrix.table(lambda number: names[number])

    def contributing(self, round: int) -> list[int]:
        """The numbers of the sites whose training counts in a round."""
        named = self.contributors.get(round)
        return [
            number
            for number, site in enumerate(self.sites)
            if site.samples().train and (named is None or site.site.name in named)
        ]

    def score(self, round: int = -1) -> Metrics:
        """The metrics of a round's model on the held-back rows of all sites. These are for one look
        at the end: whoever chooses by them has nothing left to judge the choice by.

        Where sites have parts of their own, each scores its own model on its own rows, and a metric
        is the sites' mean, by their numbers of rows.
        """
        if not self.sites[0].kept_names:
            rows = pooled_test_rows(self.sites, self.statistics)
            return dict(self.sites[0].score(self.models[round], rows))
        return dict(mean_of_sites(self.site_scores(round), self.sites))

    def site_scores(self, round: int = -1) -> dict[str, dict[str, float]]:
        """The metrics of each site's own model on its own held-back rows, if it has any."""
        found = {}
        for site, kept in zip(self.sites, self.kept[round], strict=True):
            if site.samples().test:
                scores = site.evaluate(self.models[round], self.statistics, ["test"], kept)
                found[site.site.name] = scores["test"]
        return found

    def counts(self, round: int = -1, part: str = "test") -> dict[str, dict[str, Counts]]:
        """By site and metric, what each site would tell the others of a round's model, with what
        the site keeps of its own; of the last one, of the copy that it has fine-tuned, if it has.
        """
        own = self.personal if round in (-1, len(self.models) - 1) else {}
        found = {}
        for site, kept in zip(self.sites, self.kept[round], strict=True):
            name, model = site.site.name, self.models[round]
            if name in own:
                model, kept = own[name].model, own[name].update.kept
            found[name] = site.count(model, self.statistics, part, kept)
        return found

    def result(self, round: int = -1, part: str = "test") -> dict[str, Counts]:
        """By metric, the sites' counts added up: what a consortium knows of a round's model
        without any site's rows."""
        return merge_all(list(self.counts(round, part).values()))


def open_sites(
    plan: Plan, folder: Path, seed: int, peers: int | None = None
) -> list[LocalTraining]:
    """The sites that the plan's folder ships, dealt to `peers` as in a testnet, their data read."""

    def opened(site: Site) -> LocalTraining:
        own = deepcopy(plan)  # in the world, no site sees what another one keeps in it
        return LocalTraining(own, site, folder, seed=seed, device="cpu")

    return [open_site(dealt, opened) for dealt in deal(folder, peers)]


def open_site(dealt: SiteFiles, opened: Callable[[Site], LocalTraining]) -> LocalTraining:
    """One of a simulation's sites, its data read from a copy that then goes away; a script's stays
    as long as its site, since it is read again if the script runs anew."""
    with ExitStack() as stack:
        location = dealt.copy_to(Path(stack.enter_context(TemporaryDirectory())))
        site = opened(Site(dealt.name, location))
        site.samples()
        if site.scores_itself:
            weakref.finalize(site.plan, stack.pop_all().close)
        return site


def run_federated(
    folder: Path,
    *,
    seed: int = 0,
    rounds: int | None = None,
    peers: int | None = None,
    plan: Plan | None = None,
    sites: Sequence[LocalTraining] | None = None,
    contributors: Mapping[int, Collection[str]] | None = None,
) -> FederatedRun:
    """Run the plan in `folder` on its own sites, or on those given. Raises as the plan does.

    With `contributors`, by round of the chain, only what these sites send is merged, and only they
    keep what they were left with, as on a network that others dropped out of; in rounds that are
    not named, all do.
    """
    plan = plan or load_plan(folder)
    rules = rules_of(plan)
    torch.set_num_threads(rules.threads)
    at = list(sites or open_sites(plan, folder, seed, peers))
    trained = training_sites(at)
    if len(trained) < rules.min_peers:
        raise PlanError(
            f"min_peers is {rules.min_peers}, and {len(trained)} sites hold training rows: change "
            "it in plan.py, or name more sites"
        )
    program = program_of(plan)
    program = program if rounds is None else program.with_rounds(rounds)
    first = at[0].initial
    run = FederatedRun(
        at, [first], None, [[None] * len(at)], pack_state(first), contributors=contributors or {}
    )
    for number in range(1, program.rounds + 1):
        place = program.place(number)
        assert place is not None
        run = DONE_BY[place.stage.task](run, place)
        if run.is_over:
            break
    return run


def _sum_statistics(run: FederatedRun, at: Place) -> FederatedRun:
    sites = [run.sites[number] for number in run.contributing(at.number)]
    return replace(run, statistics=merged_statistics(sites))


def _train(run: FederatedRun, at: Place) -> FederatedRun:
    """One round of training everywhere, and what the updates fold into."""
    numbers = run.contributing(at.number)
    sites = [run.sites[number] for number in numbers]
    links = _links(run, at, sites)
    works = [
        partial(
            site.train,
            at.within,
            run.models[-1],
            run.statistics,
            round_in_all=at.number,
            kept=run.kept[-1][number],
            rows=rows_of(unpack_state(run.file)),
            link=link,
        )
        for site, number, link in zip(sites, numbers, links, strict=True)
    ]
    first = links[0]
    updates = [work() for work in works] if first is None else first.turns.run(works)
    sent = [to_wire(u.state, s.travels) for u, s in zip(updates, sites, strict=True)]
    samples = [weight(u, s) for u, s in zip(updates, sites, strict=True)]
    placement = read_placement(at.stage.merge)
    file = merge_states(sent, samples, placement, run.file, numbers)
    left = {number: update.kept for number, update in zip(numbers, updates, strict=True)}
    return replace(
        run,
        models=[*run.models, completed(unpack_state(file), run.models[0])],
        kept=[*run.kept, [left.get(n, before) for n, before in enumerate(run.kept[-1])]],
        file=file,
        asked_bytes=run.asked_bytes + sum(0 if link is None else link.sent_bytes for link in links),
        answered_bytes=run.answered_bytes
        + sum(0 if link is None else link.received_bytes for link in links),
    )


def _links(
    run: FederatedRun, at: Place, sites: Sequence[LocalTraining]
) -> Sequence[SimulatedLink | None]:
    """Each site's way to the holder of the plan's role in this round; None if it has none."""
    first = sites[0]
    if first.role is None:
        return [None] * len(sites)
    plan, place = deepcopy(first.plan), Site("holder")
    own = LocalTraining(plan, place, first.folder, seed=first.seed, device=str(first.device))
    holder = Answering(own, run.models[-1], at.within, at.number, run.statistics)
    turns = Turns(len(sites))
    return [SimulatedLink(holder, turns, number) for number in range(len(sites))]


def _personalise(run: FederatedRun, at: Place) -> FederatedRun:
    """Fine-tuning everywhere; the copies stay apart."""
    own = {
        site.site.name: personalise(
            site,
            at.within,
            run.models[-1],
            run.statistics,
            epochs=at.stage.epochs or None,
            round_in_all=at.number,
            kept=kept,
            gathered=rows_of(unpack_state(run.file)),
        )
        for site, kept in zip(run.sites, run.kept[-1], strict=True)
        if site.samples().train
    }
    return replace(run, personal=own)


def _select(run: FederatedRun, at: Place) -> FederatedRun:
    """The newest model, or the best until now, by what all sites count on validation rows."""
    rule, newest = Rule.read(at.stage.merge), len(run.models) - 1
    told = []
    for site in run.sites:
        scores = site.measure_part(run.models[newest], run.statistics, "validation")
        check_counted(rule.metric, scores.numbers, scores.counts)
        before = {}
        if run.best is not None:
            before = site.count(run.models[run.best], run.statistics, "validation")
        told.append((site.told(scores).get(rule.metric), before.get(rule.metric)))
    is_better = run.best is None or choose(rule, told).is_newest
    best = newest if is_better else run.best
    return replace(run, best=best, is_over=at.stage.ends and not is_better)


def _send_copy(run: FederatedRun, at: Place) -> FederatedRun:
    """Each site's own model: what it has fine-tuned, or the newest with what it keeps."""
    copies: dict[str, dict[int, torch.Tensor]] = {}
    for number in run.contributing(at.number):
        site = run.sites[number]
        own = run.personal.get(site.site.name)
        model, kept = (
            (run.models[-1], run.kept[-1][number]) if own is None else (own.model, own.update.kept)
        )
        for name, value in copy_state(take_copy(site, model, kept)).items():
            copies.setdefault(name, {})[number] = value
    return replace(run, copies=copies)


def _cross_evaluate(run: FederatedRun, at: Place) -> FederatedRun:
    """What each site's test rows say of each site's own model, and of the one that all share."""
    shared = run.models[-1 if run.best is None else run.best]
    told = {
        number: score_copies(run.sites[number], shared, run.copies, run.statistics)
        for number in run.contributing(at.number)
    }
    return replace(run, matrix=Matrix(told))


DONE_BY = {
    STATISTICS: _sum_statistics,
    TRAIN: _train,
    PERSONALISE: _personalise,
    SELECT: _select,
    SEND_COPY: _send_copy,
    CROSS_EVALUATE: _cross_evaluate,
}
"""What a round is, by its stage's task."""


def weight(update: Update, site: LocalTraining) -> int:
    """How much an update counts: its training rows, at most those to which the site consented,
    which are the rows before `prepare`."""
    return min(update.samples, site.samples().train)


def merge_states(
    states: Sequence[State],
    samples: Sequence[int],
    placement: Placement | None = None,
    base: TensorFile | None = None,
    members: Sequence[int] | None = None,
) -> TensorFile:
    """The next model file, in memory: what sites have sent, folded as in a real merge."""
    files = [pack_state(state) for state in states]
    folding = Folding(placement or Placement(), files[0].layout)
    numbers = range(len(files)) if members is None else members
    contributions = [
        Contribution(member, count, file.raw)
        for member, count, file in zip(numbers, samples, files, strict=True)
    ]
    return fold_whole(folding, contributions, base)
