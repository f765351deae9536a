"""The table of all recipes, by one command.

    python examples/score.py --json table.json
    python examples/score.py --recipe survival --recipe qsar --seeds 1

Each line is `compare.py` on one folder: the mean over the models trained alone, the swarm, and all
data pooled, on the held-back rows of all sites, and the swarm's worst site. A recipe whose data are
not in the repository is named with the command that writes them.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from compare import Compared, compare

from swarm.learning.plans.loading import load_plan

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """What of a folder is scored, and how."""

    metric: str
    to_reach: float | None = None
    peers: int | None = None
    seeds: int = 3
    folder: str = ""
    """The recipe's name if empty."""


RECIPES = {
    "heart": Recipe("auc"),
    "stroke": Recipe("auc", peers=24),
    "tuberculosis": Recipe("auc"),
    "leukaemia": Recipe("accuracy", 0.97),
    "lineage": Recipe("lineage", folder="leukaemia"),
    "survival": Recipe("c_index", 0.766, seeds=5),
    "solubility": Recipe("r2", 0.779),
    "qsar": Recipe("thrombin", 0.768),
    "proteins": Recipe("pearson", 0.689),
    "xray": Recipe("auc", 0.942),
    "recovery": Recipe("kappa"),
    "nuclei": Recipe("dice"),
    "wearables": Recipe("accuracy", 0.954),
    "sensors": Recipe("accuracy"),
    "small_hospitals": Recipe("auc", 0.75),
}


@contextmanager
def small_hospitals() -> Iterator[tuple[Path, set[str]]]:
    """The stroke plan with its 24 hospitals and 40 small ones: a folder, and the small ones."""
    stroke = HERE / "stroke"
    with TemporaryDirectory() as place:
        folder = Path(place)
        for file in (stroke / "plan.py", *stroke.glob("references.toml")):
            shutil.copy(file, folder)
        shutil.copytree(stroke / "data", folder / "data")
        shutil.copytree(stroke / "small", folder / "data", dirs_exist_ok=True)
        yield folder, {path.stem for path in (stroke / "small").glob("*.csv")}


def score(name: str, seeds: int | None) -> list[Compared]:
    """One for each seed. Raises FileNotFoundError, with what to do, if the data are not there."""
    recipe = RECIPES[name]
    if name == "small_hospitals":
        with small_hospitals() as (folder, small):
            return _seeds(folder, recipe, seeds, small)
    folder = HERE / (recipe.folder or name)
    if not (folder / "data").is_dir():
        raise FileNotFoundError(f"python examples/prepare.py {folder.name} --from FOLDER")
    return _seeds(folder, recipe, seeds, None)


def _seeds(folder: Path, recipe: Recipe, seeds: int | None, only: set[str] | None):
    plan = load_plan(folder)
    return [
        compare(plan, folder, seed, recipe.peers, recipe.metric, only)
        for seed in range(seeds or recipe.seeds)
    ]


def line(name: str, found: list[Compared]) -> str:
    """Means over seeds, of the swarm with the deviation."""
    recipe = RECIPES[name]
    alone, swarm, pooled = (
        np.mean([getattr(each, what) for each in found]) for what in ("alone", "swarm", "pooled")
    )
    worst = np.mean([np.nanmin(list(each.sites.values())) for each in found])
    told = "" if recipe.to_reach is None else f"{recipe.to_reach:.3f}"
    deviation = np.std([each.swarm for each in found])
    return (
        f"| {name:15} | {recipe.metric:9} | {alone:.3f} | {swarm:.3f} ± {deviation:.3f} "
        f"| {pooled:.3f} | {worst:.3f} | {told:8} | {len(found)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", choices=RECIPES, action="append", help="all by default")
    parser.add_argument("--seeds", type=int, help="0, 1, ... (default: the recipe's own number)")
    parser.add_argument("--json", type=Path, help="write every seed's figures there, too")
    given = parser.parse_args()
    table, missing = {}, {}
    print("| recipe | metric | alone | swarm | pooled | worst site | to reach | seeds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.recipe or list(RECIPES):
        try:
            found = score(name, given.seeds)
        except FileNotFoundError as error:
            missing[name] = str(error)
            continue
        print(line(name, found), flush=True)
        table[name] = {"metric": RECIPES[name].metric, "seeds": [asdict(each) for each in found]}
    for name, command in missing.items():
        print(f"{name} has no data here: {command}")
    if given.json:
        given.json.write_text(json.dumps(table | {"missing": missing}, indent=1) + "\n")


if __name__ == "__main__":
    main()
