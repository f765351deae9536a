"""How an example's settings were chosen: `python examples/tune.py heart` (some minutes).

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
from swarm.learning.loading import load_plan

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Search:
    """All combinations of `grid`, each scored on every one of `folds` held-back folds."""

    grid: dict[str, list]
    folds: int = 5
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
}


def fold_plan(example: str, settings: dict, fold: int) -> swarm.Plan:
    """The example's plan with other settings, on training rows only, one fold of them held back."""
    search = SEARCHES[example]

    class Fold(type(load_plan(HERE / example))):
        def data(self, site):
            known = super().data(site)
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


def score(example: str, settings: dict, seed: int) -> list[float]:
    """The merged model's AUC on each fold's rows of all sites."""
    search, folder = SEARCHES[example], HERE / example
    found = []
    for fold in range(search.folds):
        plan = fold_plan(example, settings, fold)
        sites = open_sites(plan, folder, seed, search.peers)
        found.append(run_federated(folder, plan=plan, sites=sites).score()["auc"])
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
    parser.add_argument("--seeds", type=int, default=5, help="0, 1, ... (default: %(default)s)")
    given = parser.parse_args()
    grid = SEARCHES[given.example].grid
    tried = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    chosen = []
    for seed in range(given.seeds):
        scores = []
        for settings in tried:
            scores.append(score(given.example, settings, seed))
            print(f"  {np.mean(scores[-1]):.4f} ± {np.std(scores[-1]):.4f}  {settings}", flush=True)
        choice = choose(scores)
        chosen.append(tried[choice])
        print(f"seed {seed}: best {np.max(np.mean(scores, axis=1)):.4f}, ", end="")
        print(f"chosen {np.mean(scores[choice]):.4f} {tried[choice]}", flush=True)
    shipped = {name: getattr(load_plan(HERE / given.example), name) for name in grid}
    agreed = sum(settings == shipped for settings in chosen)
    print(f"{agreed} of {given.seeds} seeds choose what plan.py ships: {shipped}")


if __name__ == "__main__":
    main()
