"""How the settings in plan.py were chosen: `python examples/tuberculosis/tune.py` (a few minutes).

Cross-validation inside the training rows: each fold simulates the whole federated run on the other
folds' samples, and scores the merged model on the fold's samples of all sites. The test rows of the
seed are dropped before anything is looked at. Folds are dealt twice, because they are small.
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
REPEATS = 2
GRID = {
    "learning_rate": [1e-3, 3e-3, 1e-2],
    "epochs": [1, 2, 5],
    "weight_decay": [0.01, 1.0],
}


def fold_plan(settings: dict, repeat: int, fold: int) -> swarm.Plan:
    """The plan with other settings, on training rows only: one fold of them is held back."""
    shipped = type(load_plan(HERE))

    class Fold(shipped):
        def data(self, site):
            known = super().data(site)
            both = zip(known.train, known.validation, strict=True)
            columns = [np.concatenate(pair) for pair in both]
            _, cohort, tb = columns
            shares = [1 / FOLDS] * (FOLDS - 1)
            parts = swarm.split(2 * cohort + tb, shares, seed=1000 * repeat + site.seed)
            held = parts.pop(fold)
            rest = np.sort(np.concatenate(parts))
            train, scored = (tuple(c[rows] for c in columns) for rows in (rest, held))
            return swarm.Data(train=train, validation=scored, test=scored)

    plan = Fold()
    for name, value in settings.items():
        setattr(plan, name, value)
    return plan


def score(settings: dict, seed: int) -> list[float]:
    """The merged model's AUC on each fold's samples of all sites."""
    found = []
    for repeat, fold in itertools.product(range(REPEATS), range(FOLDS)):
        plan = fold_plan(settings, repeat, fold)
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
    print("chosen: {1}, AUC {0:.4f}".format(*max(results, key=lambda result: result[0])))


if __name__ == "__main__":
    main()
