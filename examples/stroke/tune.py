"""How the settings in plan.py were chosen: `python examples/stroke/tune.py` (a few minutes).

Cross-validation inside the training rows, with one hospital to a site, the harder case: each fold
simulates the whole federated run, statistics round included, on the other folds' patients, and
scores the merged model on the fold's patients of all hospitals. The test rows of the seed are
dropped before anything is looked at.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import swarm
from swarm.learning.loading import load_plan
from swarm.testing.federated import open_sites, run_federated

HERE = Path(__file__).parent
PEERS = 24
FOLDS = 3
GRID = {
    "hidden": [8, 16, 32],
    "learning_rate": [3e-3, 1e-2, 3e-2],
    "epochs": [1, 2],
}


def fold_plan(settings: dict, fold: int) -> swarm.Plan:
    """The plan with other settings, on training rows only: one fold of them is held back."""
    shipped = type(load_plan(HERE))

    class Fold(shipped):
        def data(self, site):
            known = super().data(site)
            both = zip(known.train, known.validation, strict=True)
            columns = [np.concatenate(pair) for pair in both]
            shares = [1 / FOLDS] * (FOLDS - 1)
            parts = swarm.split(columns[-1], shares, seed=site.seed)
            held = parts.pop(fold)
            rest = np.sort(np.concatenate(parts))
            train, scored = (tuple(c[rows] for c in columns) for rows in (rest, held))
            return swarm.Data(train=train, validation=scored, test=scored)

    plan = Fold()
    for name, value in settings.items():
        setattr(plan, name, value)
    return plan


def score(settings: dict, seed: int) -> list[float]:
    """The merged model's AUC on each fold's patients of all hospitals."""
    found = []
    for fold in range(FOLDS):
        plan = fold_plan(settings, fold)
        run = run_federated(HERE, plan=plan, sites=open_sites(plan, HERE, seed, PEERS))
        found.append(run.score()["auc"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="whose training rows to use")
    seed = parser.parse_args().seed
    results = []
    for values in itertools.product(*GRID.values()):
        settings = dict(zip(GRID, values, strict=True))
        folds = score(settings, seed)
        results.append((np.mean(folds), settings))
        print(f"{np.mean(folds):.4f} ± {np.std(folds):.4f}  {settings}", flush=True)
    print("chosen: {1}, AUC {0:.4f}".format(*max(results, key=lambda result: result[0])))


if __name__ == "__main__":
    main()
