"""What both kinds of input are worth beside either alone, site by site.

    python examples/sensors/score.py --seeds 3 --json FILE

Three swarms with the same settings: of all sites with what each has; of the sites that have
movement, with that alone; of those that have turning, with that alone. Each is scored on the second
recordings of every site whose phones have what it needs.
"""

import argparse
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from swarm import open_sites, run_federated
from swarm.learning.plans.loading import load_plan

HERE = Path(__file__).parent
ALONE = ("movement", "turning")


def accuracies(kinds: tuple[str, ...], seed: int) -> dict[str, float]:
    """By site, of the last model of a swarm that looks at these kinds only."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "data").mkdir()
        for file in sorted((HERE / "data").glob("*.npz")):
            if file.stem == "visitor" or any(kind in file.stem for kind in kinds):
                shutil.copy(file, folder / "data")
        plan = load_plan(HERE)
        plan.looks_at = kinds
        run = run_federated(folder, plan=plan, sites=open_sites(plan, folder, seed))
        return {name: scores["accuracy"] for name, scores in run.site_scores().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, ... (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write every seed's figures there, too")
    given = parser.parse_args()
    asked = {"both": ALONE} | {kind: (kind,) for kind in ALONE}
    found = {
        name: [accuracies(kinds, seed) for seed in range(given.seeds)]
        for name, kinds in asked.items()
    }
    print(f"| site | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for site in found["both"][0]:
        scores = [[seed.get(site, np.nan) for seed in seeds] for seeds in found.values()]
        told = (f"{np.mean(each):.3f} ± {np.std(each):.3f}" for each in scores)
        print(f"| {site} | {' | '.join(told)} |".replace("nan ± nan", "–"))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
