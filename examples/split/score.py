"""What a cut costs and saves on the same rows and the same network: a table, from one command.

    python examples/split/score.py
    python examples/split/score.py --task xray --data FOLDER

Everything runs in one process, without a network, but with the plans, the training and the
bit-exact folding of nodes; the sites take turns at the head, batch by batch. Each method is tried
with the learning rates of RATES, and has the one with the best AUC on validation rows, over all
seeds; test rows are looked at once, for that one.
"""

import argparse
import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from swarm import open_sites, run_federated
from swarm.learning.plans.loading import load_plan

HERE = Path(__file__).parent
EXAMPLES = HERE.parent
METHODS = ("fedavg", "sent", "ushape")
RATES = (1e-3, 3e-3, 1e-2)


def stroke(folder: Path, data: Path | None) -> None:
    shutil.copy(EXAMPLES / "stroke" / "plan.py", folder / "hospital.py")
    shutil.copy(EXAMPLES / "stroke" / "sites.toml", folder)
    shutil.copytree(EXAMPLES / "stroke" / "data", folder / "data")


def xray(folder: Path, data: Path | None) -> None:
    if data is None:
        raise SystemExit("give --data FOLDER: see examples/methods/README.md")
    sys.path.insert(0, str(EXAMPLES / "methods"))
    from score import hospitals

    shutil.copy(EXAMPLES / "methods" / "xray.py", folder / "hospital.py")
    (folder / "data").mkdir()
    hospitals(data, folder / "data")


TASKS = {"stroke": stroke, "xray": xray}


@contextmanager
def written(method: str, task: str, data: Path | None = None):
    """A plan's folder: the method, its task and its network, and the sites' data."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        for source, name in ((method, "plan"), (task, "task"), ("network", "network")):
            shutil.copy(HERE / f"{source}.py", folder / f"{name}.py")
        TASKS[task](folder, data)
        yield folder


def run(folder: Path, seed: int, rate: float):
    plan = load_plan(folder)
    plan.learning_rate = rate
    return run_federated(folder, plan=plan, sites=open_sites(plan, folder, seed), seed=seed)


def validated(done) -> float:
    """The mean over sites of the last model's AUC on their validation rows."""
    state, sums = done.models[-1], done.statistics
    found = [site.evaluate(state, sums, ["validation"])["validation"] for site in done.sites]
    return float(np.nanmean([each["auc"] for each in found if each]))


class Silent:
    """A head that computes nothing: what is left to count is the site's own work."""

    def __init__(self, site):
        self.held = site.held()
        self.features = site.model.tail.in_features

    def ask(self, tensors, like):
        rows = len(tensors[0])
        features = (torch.zeros(rows, self.features), torch.tensor([0]))
        return Answered(features if like is None else like)

    def state(self):
        return self.held


class Answered:
    def __init__(self, tensors):
        self.tensors = tensors

    def answer(self):
        return tuple(torch.zeros_like(each) for each in self.tensors)


def flops_of_round(done) -> int:
    """Of all sites, in one round of training (`torch.utils.flop_counter`)."""
    total = 0
    for site in done.sites:
        link = None if site.role is None else Silent(site)
        with FlopCounterMode(display=False) as counter:
            site.train(1, done.models[0], done.statistics, link=link)
        total += counter.get_total_flops()
    return total


def bytes_of_round(done) -> dict[str, float]:
    """Of all sites, in one round: the models, and what is asked and answered."""
    rounds, site = len(done.models) - 1, done.sites[0]
    travels = sum(
        done.models[-1][n].numel() * done.models[-1][n].element_size() for n in site.travels
    )
    return {
        "models": 2 * travels * len(done.sites),
        "asked": done.asked_bytes / rounds,
        "answered": done.answered_bytes / rounds,
    }


def distance_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Székely, Rizzo and Bakirov, Annals of Statistics 35:2769 (2007), of rows: 0 independent, 1
    the same but for scale and rotation."""

    def centred(rows):
        d = torch.cdist(rows.double().flatten(1), rows.double().flatten(1))
        return d - d.mean(0) - d.mean(1, keepdim=True) + d.mean()

    x, y = centred(a), centred(b)
    return float(((x * y).mean() / ((x * x).mean() * (y * y).mean()).sqrt()).clamp(min=0).sqrt())


def reconstruction(cut: torch.Tensor, rows: torch.Tensor) -> float:
    """The explained part of the rows' variance, by the best linear map from half of the cuts, on
    the other half: what a holder that knows some rows makes of the others."""
    half = len(cut) // 2
    a = torch.cat([cut.flatten(1), torch.ones(len(cut), 1)], 1).double()
    b = rows.flatten(1).double()
    ridge = 1e-3 * half * torch.eye(a.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(a[:half].T @ a[:half] + ridge, a[:half].T @ b[:half])
    left = ((a[half:] @ solved - b[half:]) ** 2).sum()
    return float(1 - left / ((b[half:] - b[:half].mean(0)) ** 2).sum())


def leakage(done) -> dict[str, float]:
    """How much of the rows is in what the sites send, on validation rows of all sites."""
    site = done.sites[0]
    site.put(done.models[-1], None)
    rows = torch.cat([s.prepared(done.statistics).validation[0] for s in done.sites])[:1000]
    with torch.no_grad():
        cut = site.model.eval().bottom(rows)
    return {
        "distance correlation": distance_correlation(cut, rows),
        "explained": reconstruction(cut, rows),
    }


def score(method: str, task: str, seeds: int, data: Path | None) -> dict:
    with written(method, task, data) as folder:
        tried = {rate: [run(folder, seed, rate) for seed in range(seeds)] for rate in RATES}
        rate = max(RATES, key=lambda r: np.mean([validated(done) for done in tried[r]]))
        chosen = tried[rate]
        scores = [done.score() for done in chosen]
        found = {name: [each[name] for each in scores] for name in ("auc", "accuracy")}
        found |= {"rate": rate, "flops": flops_of_round(chosen[0])}
        found |= bytes_of_round(chosen[0])
        if method != "fedavg":
            found |= leakage(chosen[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", choices=TASKS, default="stroke", help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, help="the folder with xray_pneumonia_28.npz")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the table there, too")
    given = parser.parse_args()
    table = {}
    print(
        f"{'':8} {'AUC':>12} {'accuracy':>12} {'rate':>6} {'MFLOP':>8} {'models':>8} {'asked':>8}"
        f" {'answered':>8}   MB a round, all sites"
    )
    for method in METHODS:
        found = table[method] = score(method, given.task, given.seeds, given.data)
        scores = [f"{np.mean(found[n]):.4f} ±{np.std(found[n]):.4f}" for n in ("auc", "accuracy")]
        print(
            f"{method:8} {scores[0]:>12} {scores[1]:>12} {found['rate']:6g} "
            f"{found['flops'] / 1e6:8.1f} "
            + " ".join(f"{found[n] / 1e6:8.3f}" for n in ("models", "asked", "answered")),
            flush=True,
        )
    for method in METHODS[1:]:
        correlation, explained = (table[method][n] for n in ("distance correlation", "explained"))
        print(f"{method}: distance correlation of what is sent with the rows {correlation:.3f};")
        print(f"{'':8} of the rows' variance a linear map from it explains {explained:.3f}")
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
