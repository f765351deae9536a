"""A whole federated run in one process, without chain or network.

The same plan API, the same local training and the same bit-exact merge as a real run, so a tuning
script tunes what will run. Sites take turns; a round's model is the merge of their updates (FedAvg:
McMahan et al., arXiv:1602.05629).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.learning.evaluate import Metrics, merged_statistics, pooled_test_rows, training_sites
from swarm.learning.loading import load_plan
from swarm.learning.loop import LocalTraining, Update
from swarm.learning.merge import MEAN
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import merge_all
from swarm.learning.plan import Plan, Site
from swarm.learning.programs import program_of
from swarm.learning.settings import rules_of
from swarm.learning.sites import deal
from swarm.learning.stages import STATISTICS, TRAIN
from swarm.learning.state import State, copy_state, specs_of
from swarm.learning.travel import completed, to_wire
from swarm.protocol.program import Place


@dataclass(frozen=True)
class FederatedRun:
    """The whole model after each round (index 0: the initial one), and the merged statistics.

    Tensors that travelled are in their wire types.
    """

    sites: list[LocalTraining]
    models: list[State]
    statistics: dict[str, NDArray[np.float64]] | None

    def score(self, round: int = -1) -> Metrics:
        """The metrics of a round's model on the held-back rows of all sites. These are for one look
        at the end: whoever chooses by them has nothing left to judge the choice by."""
        rows = pooled_test_rows(self.sites, self.statistics)
        return dict(self.sites[0].score(self.models[round], rows))

    def counts(self, round: int = -1, part: str = "test") -> dict[str, dict[str, Counts]]:
        """By site and metric, what each site would tell the others of a round's model."""
        model = self.models[round]
        return {s.site.name: s.count(model, self.statistics, part) for s in self.sites}

    def result(self, round: int = -1, part: str = "test") -> dict[str, Counts]:
        """By metric, the sites' counts added up: what a consortium knows of a round's model
        without any site's rows."""
        return merge_all(list(self.counts(round, part).values()))


def open_sites(
    plan: Plan, folder: Path, seed: int, peers: int | None = None
) -> list[LocalTraining]:
    """The sites that the plan's folder ships, dealt to `peers` as in a testnet, their data read."""
    sites = []
    for dealt in deal(folder, peers):
        with TemporaryDirectory() as directory:
            location = dealt.copy_to(Path(directory))
            site = Site(dealt.name, location)
            own = deepcopy(plan)  # in the world, no site sees what another one keeps in it
            sites.append(LocalTraining(own, site, folder, seed=seed, device="cpu"))
            sites[-1].samples()  # reads the data now: the copy goes away
    return sites


def run_federated(
    folder: Path,
    *,
    seed: int = 0,
    rounds: int | None = None,
    peers: int | None = None,
    plan: Plan | None = None,
    sites: Sequence[LocalTraining] | None = None,
) -> FederatedRun:
    """Run the plan in `folder` on its own sites, or on those given. Raises as the plan does."""
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
    run = FederatedRun(at, [at[0].initial], None)
    for number in range(1, program.rounds + 1):
        place = program.place(number)
        assert place is not None
        run = DONE_BY[place.stage.task](run, trained, place)
    return run


def _sum_statistics(run: FederatedRun, trained: Sequence[LocalTraining], at: Place) -> FederatedRun:
    return replace(run, statistics=merged_statistics(run.sites))


def _train(run: FederatedRun, trained: Sequence[LocalTraining], at: Place) -> FederatedRun:
    """One round of training everywhere, and the merge."""
    base, sums = run.models[-1], run.statistics
    updates = [site.train(at.within, base, sums, round_in_all=at.number) for site in trained]
    sent = [to_wire(u.state, s.travels) for u, s in zip(updates, trained, strict=True)]
    merged = merge_states(sent, [weight(u, s) for u, s in zip(updates, trained, strict=True)])
    return replace(run, models=[*run.models, completed(merged, run.models[0])])


DONE_BY = {STATISTICS: _sum_statistics, TRAIN: _train}
"""What a round is, by its stage's task."""


def weight(update: Update, site: LocalTraining) -> int:
    """How much an update counts: its training rows, at most those to which the site consented,
    which are the rows before `prepare`."""
    return min(update.samples, site.samples().train)


def merge_states(states: Sequence[State], samples: Sequence[int]) -> State:
    """The sample-weighted mean of the real merge, in memory."""
    merged = copy_state(states[0])
    for spec in specs_of(merged):
        inputs = [_raw(state[spec.name]) for state in states]
        MEAN.merge(spec.dtype, inputs, samples, _raw(merged[spec.name]))
    return merged


def _raw(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's elements as a flat numpy view; bfloat16 as its bits."""
    flat = tensor.contiguous().reshape(-1)
    if flat.dtype == torch.bfloat16:
        return flat.view(torch.int16).numpy().view(np.uint16)
    return flat.numpy()
