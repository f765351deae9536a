"""How an example's settings were chosen: `python examples/tune.py heart` (some minutes).

`--references` chooses those of the models that the swarm is compared with, each site's own and the
pooled one, and writes them to the example's references.toml: among the same settings, on the same
folds, by the same rule, so that neither side of the comparison is better prepared. A reference gets
the setting that most seeds choose.

Cross-validation inside the training rows. Each fold simulates the whole federated run, statistics
round included, on the other folds' rows, and scores the merged model on the fold's rows of all
sites. The test rows are dropped before anything is looked at.

The seed decides which rows are test rows, so the choice is made for each seed anew, and a setting
ships only if every seed's training rows choose it: no score over seeds is then of a model whose
settings have seen its test rows. Of the settings that cannot be told from the best one (their mean
is less than one standard error below: Breiman et al., Classification and Regression Trees, 1984,
section 3.4.3) the gentlest is chosen: a grid lists few passes, small models, small steps first.
"""

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import swarm
from swarm import open_sites, run_federated
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.references import (
    REFERENCES,
    merged_statistics,
    train_alone,
    train_pooled,
    training_sites,
)

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Search:
    """All combinations of `grid`, each scored on every one of `folds` held-back folds by the plan's
    `metric`, the larger the better, for each of `seeds`."""

    grid: dict[str, list]
    folds: int = 5
    seeds: int = 5
    """One is enough where the seed does not decide which rows are test rows."""
    metric: str = "auc"
    peers: int | None = None
    strata: Callable = lambda *columns: columns[-1]
    """Of a site's columns, what each fold must hold its share of: as a rule the label."""


SEARCHES = {
    "heart": Search(
        grid={
            "epochs": [1, 2],
            "hidden": [16, 32],
            "learning_rate": [3e-3, 1e-2],
        },
    ),
    "stroke": Search(
        grid={
            "epochs": [1, 2],
            "hidden": [8, 16],
            "learning_rate": [1e-2, 3e-2],
        },
        folds=3,
        peers=24,  # one hospital to a site: the harder case
    ),
    "tuberculosis": Search(
        grid={
            "epochs": [1, 2, 5],
            "learning_rate": [1e-3, 3e-3, 1e-2],
        },
        strata=lambda expression, cohort, tb: 2 * cohort + tb,
    ),
    "leukaemia": Search(
        grid={
            "learning_rate": [1e-3, 3e-3, 1e-2],
        },
        folds=3,
        seeds=3,
        metric="accuracy",
    ),
    "survival": Search(
        grid={
            "learning_rate": [0.1, 0.3, 1.0],
        },
        folds=3,
        metric="c_index",
    ),
    "solubility": Search(
        grid={
            "rate": [1e-3, 3e-3],
        },
        folds=2,
        seeds=1,
        metric="r2",
        strata=lambda bits, descriptors, log_s: np.digitize(log_s, [-6, -4, -2, 0]),
    ),
    "qsar": Search(
        grid={
            "rate": [1e-3, 3e-3],
        },
        folds=2,
        seeds=1,
        metric="thrombin",
        strata=lambda bits, target, affinity: target,
    ),
    "proteins": Search(
        grid={
            "rate": [1e-3, 3e-3],
        },
        folds=2,
        seeds=1,
        metric="pearson",
        strata=lambda rna, protein: np.zeros(len(rna)),
    ),
    "xray": Search(
        grid={
            "learning_rate": [1e-3, 3e-3],
        },
        folds=2,
        seeds=1,
    ),
    "recovery": Search(
        grid={
            "learning_rate": [3e-3, 1e-2],
        },
        folds=2,
        seeds=1,
        metric="kappa",
    ),
    "nuclei": Search(
        grid={
            "learning_rate": [3e-3, 1e-2],
        },
        folds=2,
        seeds=1,
        metric="dice",
        strata=lambda image, mask: np.zeros(len(image)),
    ),
}


def fold_plan(example: str, settings: dict, fold: int) -> swarm.Plan:
    """The example's plan with other settings, on training rows only, one fold of them held back."""
    search = SEARCHES[example]

    class Fold(type(load_plan(HERE / example))):
        def data(self, site):
            known = super().data(site)
            if known.train is None:
                return known
            both = zip(known.train, known.validation, strict=True)
            columns = [np.concatenate(pair) for pair in both]
            shares = [1 / search.folds] * (search.folds - 1)
            parts = swarm.split(search.strata(*columns), shares, seed=site.seed)
            held = parts.pop(fold)
            rest = np.sort(np.concatenate(parts))
            train, scored = (tuple(c[rows] for c in columns) for rows in (rest, held))
            return swarm.Data(train=train, validation=scored, test=scored)

    plan = Fold()
    for name, value in settings.items():
        setattr(plan, name, value)
    return plan


def score(example: str, settings: dict, seed: int) -> dict[str, list[float]]:
    """The merged model's score on each fold's rows of all sites."""
    search, folder = SEARCHES[example], HERE / example
    found = []
    for fold in range(search.folds):
        plan = fold_plan(example, settings, fold)
        sites = training_sites(open_sites(plan, folder, seed, search.peers))
        found.append(run_federated(folder, plan=plan, sites=sites).score()[search.metric])
    return {"swarm": found}


def score_references(example: str, settings: dict, seed: int) -> dict[str, list[float]]:
    """On each fold's rows of all sites: the mean score of the models trained alone, and the pooled
    one's."""
    search, folder = SEARCHES[example], HERE / example
    found = {"alone": [], "pooled": []}
    for fold in range(search.folds):
        plan = fold_plan(example, settings, fold)
        # A site that only tests has no part in a choice.
        sites = training_sites(open_sites(plan, folder, seed, search.peers))
        sums = merged_statistics(sites)
        metric = search.metric
        alone = [train_alone(site, sites, plan.rounds, sums)[metric] for site in sites]
        found["alone"].append(np.mean(alone))
        found["pooled"].append(train_pooled(sites, sums, plan.rounds)[metric])
    return found


def choose(scores: list[list[float]]) -> int:
    """The first setting that is within one standard error of the best; `scores` is by fold."""
    means = np.mean(scores, axis=1)
    best = int(np.argmax(means))
    error = np.std(scores[best], ddof=1) / np.sqrt(len(scores[best]))
    return int(np.argmax(means >= means[best] - error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=SEARCHES)
    parser.add_argument("--seeds", type=int, help="0, 1, ... (default: the search's own number)")
    parser.add_argument("--references", action="store_true", help="write references.toml")
    given = parser.parse_args()
    search = SEARCHES[given.example]
    grid, seeds = search.grid, given.seeds or search.seeds
    tried = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    scored = score_references if given.references else score
    chosen = {}
    for seed in range(seeds):
        scores = {}
        for settings in tried:
            for name, folds in scored(given.example, settings, seed).items():
                scores.setdefault(name, []).append(folds)
                print(
                    f"  {name} {np.mean(folds):.4f} ± {np.std(folds):.4f}  {settings}", flush=True
                )
        for name, by_setting in scores.items():
            choice = choose(by_setting)
            chosen.setdefault(name, []).append(tried[choice])
            print(f"seed {seed}: {name}: best {np.max(np.mean(by_setting, axis=1)):.4f}, ", end="")
            print(f"chosen {np.mean(by_setting[choice]):.4f} {tried[choice]}", flush=True)
    if given.references:
        print(write_references(given.example, chosen))
        return
    shipped = {name: getattr(load_plan(HERE / given.example), name) for name in grid}
    agreed = sum(settings == shipped for settings in chosen["swarm"])
    print(f"{agreed} of {seeds} seeds choose what plan.py ships: {shipped}")


def write_references(example: str, chosen: dict[str, list[dict]]) -> Path:
    """Write what most seeds chose; of equals, the first of the grid."""
    lines = [f"# Written by `python examples/tune.py {example} --references`: no part of the plan."]
    for name, each in chosen.items():
        most = max(each, key=each.count)
        lines += ["", f"[{name}]  # chosen by {each.count(most)} of {len(each)} seeds"]
        lines += [f"{key} = {value}" for key, value in most.items()]
    path = HERE / example / REFERENCES
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    main()
