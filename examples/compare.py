"""What a swarm is worth on an example: each site alone, the swarm, all data pooled, over seeds.

    python examples/compare.py examples/stroke --peers 24

The whole federated run in one process, without chain or network, but with the same plan, training
and bit-exact merge as `swarm testnet run`. The seed decides the split and the initial model. All
three are prepared with the same statistics, train for the same number of rounds, and are scored
once, on the same rows: the held-back rows of all sites. Each has settings of its own, which
`tune.py` chose among the same ones: the swarm's are the plan's, the others' in references.toml. The
pooled model is a reference that no consortium can train.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from swarm import open_sites, run_federated
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.references import read_references, train_alone, train_pooled


def compare(folder: Path, seeds: int, peers: int | None, metric: str, wire: str) -> None:
    """Print a line for each seed, then the means and standard deviations over seeds."""
    plan = load_plan(folder)
    plan.wire_dtype = wire
    settings = read_references(folder)
    rows = []
    print(f"{'seed':>6} {'alone':>7} {'swarm':>7} {'pooled':>7}   ({metric})")
    for seed in range(seeds):
        sites = open_sites(plan, folder, seed, peers)
        begun = time.process_time()
        swarm = run_federated(folder, plan=plan, sites=sites)
        cpu_s = time.process_time() - begun
        sums, rounds = swarm.statistics, plan.rounds
        alone = [train_alone(site, sites, rounds, sums, settings)[metric] for site in sites]
        pooled = train_pooled(sites, sums, rounds, settings)[metric]
        rows.append((np.mean(alone), swarm.score()[metric], pooled))
        print(
            _line(seed, rows[-1]), f"  {len(sites)} sites, swarm {cpu_s:.1f} s of CPU", flush=True
        )
    print(_line("mean", np.mean(rows, axis=0)))
    print(_line("sd", np.std(rows, axis=0)))


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
    given = parser.parse_args()
    compare(given.plan, given.seeds, given.peers, given.metric, given.wire)


if __name__ == "__main__":
    main()
