"""How the settings in plan.py were chosen: `python examples/heart/tune.py` (a few minutes).

Cross-validation inside the training rows. Each fold simulates the whole federated run, statistics
round included, on the other folds' rows, and scores the merged model on the fold's rows of all
hospitals. The held-back test rows of the seed are dropped before anything is looked at.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import swarm
from swarm.learning.loading import load_plan
from swarm.testing.federated import open_sites, run_federated

HERE = Path(__file__).parent
FOLDS = 5
GRID = {
    "hidden": [8, 16, 32],
    "dropout": [0.0, 0.3],
    "learning_rate": [1e-3, 3e-3, 1e-2],
    "epochs": [1, 2],
    "weight_decay": [0.01, 0.1],
}


def fold_plan(settings: dict, fold: int) -> swarm.Plan:
    """The plan with other settings, on training rows only: one fold of them is held back."""
    shipped = type(load_plan(HERE))

    class Fold(shipped):
        def data(self, site):
            known = super().data(site)
            pairs = zip(known.train, known.validation, strict=True)
            columns = [np.concatenate(pair) for pair in pairs]
            shares = [1 / FOLDS] * (FOLDS - 1)
            parts = swarm.split(columns[-1], shares, seed=site.seed)
            held = parts.pop(fold)
            rest = np.sort(np.concatenate(parts))
            return swarm.Data(
                train=tuple(c[rest] for c in columns),
                validation=tuple(c[held] for c in columns),
                test=tuple(c[held] for c in columns),
            )

    plan = Fold()
    for name, value in settings.items():
        setattr(plan, name, value)
    return plan


def score(settings: dict, seed: int) -> list[float]:
    """The merged model's AUC on each fold's rows of all hospitals."""
    found = []
    for fold in range(FOLDS):
        plan = fold_plan(settings, fold)
        run = run_federated(HERE, plan=plan, sites=open_sites(plan, HERE, seed))
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
    results.sort(key=lambda result: -result[0])
    print("\nbest:")
    for mean, settings in results[:5]:
        print(f"{mean:.4f}  {settings}")


if __name__ == "__main__":
    main()
