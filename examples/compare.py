"""What a swarm is worth on an example: each site alone, the swarm, all data pooled, over seeds.

    python examples/compare.py examples/stroke --peers 24
    python examples/compare.py examples/xray --across --seeds 1

The whole federated run in one process, without chain or network, but with the same plan, training
and bit-exact merge as `swarm testnet run`. The seed decides the split and the initial model. All
three are prepared with the same statistics, train for the same number of rounds, and are scored
once, on the same rows: the held-back rows of all sites. Each has settings of its own, which
`tune.py` chose among the same ones: the swarm's are the plan's, the others' in references.toml. The
pooled model is a reference that no consortium can train.

Where each site has a model of its own in the end (parts that stay, or fine-tuning), that model is
scored on its site's rows, and so are the models trained alone.
"""

import argparse
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swarm import FederatedRun, Plan, open_sites, run_federated
from swarm.learning.metrics.counts import merge
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.references import (
    pooled_test_rows,
    read_references,
    train_alone,
    train_alone_across,
    train_pooled,
    training_sites,
)


@dataclass(frozen=True)
class Compared:
    """A metric of one seed."""

    alone: float
    """The mean over the sites that train; by their rows where each is scored on its own."""
    swarm: float
    pooled: float
    sites: dict[str, float]
    """Of the swarm's model, on each site's held-back rows by themselves; NaN where they are of one
    class."""
    interval: tuple[float | None, float | None] | None
    """Of the swarm's score, 95%, where it comes of counts that sites add up."""
    cpu_s: float
    """Of the swarm's run."""


def compare(
    plan: Plan,
    folder: Path,
    seed: int,
    peers: int | None,
    metric: str,
    only: Collection[str] | None = None,
) -> Compared:
    """Train all three; judge the sites named in `only`, if any. Raises KeyError if the plan has no
    such metric."""
    sites = open_sites(plan, folder, seed, peers)
    begun = time.process_time()
    run = run_federated(folder, plan=plan, sites=sites)
    cpu_s = time.process_time() - begun
    settings, sums, rounds = read_references(folder), run.statistics, plan.rounds
    judged = [site for site in sites if only is None or site.site.name in only]
    names = {site.site.name for site in judged}
    counts = {name: c[metric] for name, c in run.counts().items() if name in names and metric in c}
    of_all = merge(list(counts.values())).figure if counts else None
    if has_own_models(run):
        assert of_all is not None, f"{metric} must be counts: each site has a model of its own"
        swarm, by_site = _number(of_all.value), _numbers(counts)
        own = {
            site.site.name: train_alone_across(site, [site], rounds, sums, settings)
            for site in training_sites(judged)
        }
        weights = [counts[name].rows for name in own]
        alone = [_number(across[name][metric]) for name, across in own.items()]
    else:
        rows = pooled_test_rows(judged, sums)
        swarm = _number(sites[0].score(run.models[-1], rows)[metric])
        scores = run.site_scores()
        by_site = _numbers({name: scores[name][metric] for name in scores if name in names})
        trained = training_sites(judged)
        weights = None
        alone = [
            _number(train_alone(site, judged, rounds, sums, settings)[metric]) for site in trained
        ]
    pooled = _number(train_pooled(sites, sums, rounds, settings, judged)[metric])
    interval = None if of_all is None else (of_all.low, of_all.high)
    mean = float(np.average(alone, weights=weights))
    return Compared(mean, swarm, pooled, by_site, interval, cpu_s)


def has_own_models(run: FederatedRun) -> bool:
    """Whether each site has a model of its own in the end."""
    return bool(run.sites[0].kept_names or run.personal)


def print_seeds(folder: Path, seeds: int, peers: int | None, metric: str, wire: str) -> None:
    """A line for each seed, then the means and standard deviations over seeds."""
    plan = load_plan(folder)
    plan.wire_dtype = wire
    rows = []
    print(f"{'seed':>6} {'alone':>7} {'swarm':>7} {'pooled':>7}   ({metric})")
    for seed in range(seeds):
        found = compare(plan, folder, seed, peers, metric)
        rows.append((found.alone, found.swarm, found.pooled))
        told = f"{len(found.sites)} sites, swarm {found.cpu_s:.1f} s of CPU"
        print(_line(seed, rows[-1]), f"  {told}", flush=True)
    print(_line("mean", np.mean(rows, axis=0)))
    print(_line("sd", np.std(rows, axis=0)))


def print_across(folder: Path, seeds: int, peers: int | None, metric: str) -> None:
    """A line for each model, a column for the held-back rows of each site, mean over seeds: the
    models trained alone, then the swarm's."""
    plan, lines, names = load_plan(folder), {}, []
    for seed in range(seeds):
        sites = open_sites(plan, folder, seed, peers)
        run = run_federated(folder, plan=plan, sites=sites)
        settings, sums = read_references(folder), run.statistics
        across = {
            site.site.name: train_alone_across(site, sites, plan.rounds, sums, settings)
            for site in training_sites(sites)
        }
        across["swarm"] = run.site_scores()
        names = list(across["swarm"])
        for model, scores in across.items():
            lines.setdefault(model, []).append([_number(scores[n][metric]) for n in names])
    width = max(map(len, [*names, *lines]))
    print(" ".join(f"{name:>{width}}" for name in ["", *names]))
    for model, found in lines.items():
        means = np.mean(found, axis=0)
        print(" ".join([f"{model:>{width}}", *(f"{mean:{width}.3f}" for mean in means)]))


def _numbers(scores) -> dict[str, float]:
    return {name: _number(score) for name, score in scores.items()}


def _number(value: float | None) -> float:
    """What cannot be given, such as an AUC of one class, is NaN."""
    return np.nan if value is None else float(value)


def _line(name, scores) -> str:
    return f"{name!s:>6} " + " ".join(f"{score:7.4f}" for score in scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path, help="the folder of an example")
    parser.add_argument(
        "--seeds", type=int, default=5, help="seeds 0, 1, ... (default: %(default)s)"
    )
    parser.add_argument("--peers", type=int, help="number of sites (default: the example's)")
    parser.add_argument("--metric", default="auc", help="one of the plan's (default: %(default)s)")
    parser.add_argument(
        "--wire",
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        help="the type in which parameters travel (default: %(default)s)",
    )
    parser.add_argument(
        "--across", action="store_true", help="each site's own model at each other site instead"
    )
    given = parser.parse_args()
    if given.across:
        print_across(given.plan, given.seeds, given.peers, given.metric)
    else:
        print_seeds(given.plan, given.seeds, given.peers, given.metric, given.wire)


if __name__ == "__main__":
    main()
