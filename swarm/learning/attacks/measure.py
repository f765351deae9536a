"""Attacks on a plan, without and with differential privacy: what `swarm bench privacy` runs.

A process of its own, so that the command line never imports torch:
`python -m swarm.learning.attacks.measure FOLDER < job > found`.
"""

from __future__ import annotations

import sys
from copy import copy
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
import numpy as np

from swarm.errors import UNREADABLE, PlanError, SwarmError
from swarm.learning.attacks.audit import CONFIDENCE, epsilon_refuted, guess
from swarm.learning.attacks.membership import from_model, from_update, losses_of
from swarm.learning.data.batches import concatenate, rows_in, take
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.simulation.whole_run import open_sites, run_federated
from swarm.learning.training.loop import LocalTraining
from swarm.privacy.guarantee import Guarantee

AUDIT_ROUNDS = 5


class Job(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`privacy` is what the plan is tried with beside none; None: what it says itself."""

    folder: str
    seeds: tuple[int, ...] = (0,)
    privacy: Guarantee | None = None


class Found(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What an attacker gets. AUCs are means over sites and seeds, and the worst site's; None where
    no site has rows enough."""

    protection: str
    update_auc: float | None
    worst_update_auc: float | None
    model_auc: float | None
    worst_model_auc: float | None
    audited_epsilon: float
    """Of one run: the largest ε that the canaries refute; 0 if none."""
    right: int
    guesses: int
    canaries: int


_jobs = msgspec.json.Decoder(Job)


def measure(job: Job) -> list[Found]:
    """Attack the plan without privacy, and with it. Raises as the plan does."""
    folder = Path(job.folder)
    plan = load_plan(folder)
    promised = job.privacy or plan.privacy
    tried: list[Guarantee | None] = [None] if promised is None else [None, promised]
    return [_attacked(folder, plan, privacy, job.seeds) for privacy in tried]


def _attacked(folder: Path, plan: Plan, privacy: Guarantee | None, seeds: tuple[int, ...]) -> Found:
    protected: Any = copy(plan)
    protected.privacy = privacy
    updates, models, refuted = [], [], []
    for seed in seeds:
        sites = open_sites(protected, folder, seed)
        run = run_federated(folder, seed=seed, plan=protected, sites=sites)
        base = run.models[-2]
        for site in sites:
            if site.samples().train:
                update = site.train(len(run.models) - 1, base, run.statistics).state
                updates.append(from_update(site, base, update))
                models.append(from_model(site, run.models[-1]))
        refuted.append(_audit(folder, protected, sites, seed))
    of_update, of_model = ([a for a in found if a is not None] for found in (updates, models))
    epsilon, right, guesses, canaries = max(refuted)
    return Found(
        protection="none" if privacy is None else f"ε = {privacy.epsilon:g}",
        update_auc=mean(of_update) if of_update else None,
        worst_update_auc=max(of_update, default=None),
        model_auc=mean(of_model) if of_model else None,
        worst_model_auc=max(of_model, default=None),
        audited_epsilon=epsilon,
        right=right,
        guesses=guesses,
        canaries=canaries,
    )


def _audit(
    folder: Path, plan: Plan, sites: list[LocalTraining], seed: int
) -> tuple[float, int, int, int]:
    """Each training row of all sites is in or out by a coin; what the model then tells of them."""
    rows = concatenate([site.prepared(site.statistics_used or None).train for site in sites])
    if rows is None:
        raise PlanError(f"no site in {folder} has training rows: there is nothing to attack")
    present = np.random.default_rng(seed).random(rows_in(rows)) < 0.5
    data = Data(train=take(rows, np.flatnonzero(present)))
    site = LocalTraining(plan, Site("canaries"), folder, seed=seed, device="cpu", prepared=data)
    noise = site.noise_for(len(present)) if plan.privacy is not None else None
    model = site.initial
    for number in range(1, min(AUDIT_ROUNDS, plan.rounds) + 1):
        model = {**model, **site.train(number, model, noise=noise).state}
    right, guesses = guess(-losses_of(site, model, rows), present)
    delta = 0.0 if plan.privacy is None else plan.privacy.delta
    found = epsilon_refuted(right, guesses, len(present), delta, CONFIDENCE)
    return found, right, guesses, len(present)


def main() -> int:
    """Read a job, write what was found; a fault of the user's is one line and status 2."""
    try:
        found = measure(_jobs.decode(sys.stdin.buffer.read()))
    except (SwarmError, *UNREADABLE) as error:
        print(error, file=sys.stderr)
        return 2
    sys.stdout.buffer.write(msgspec.json.encode(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
