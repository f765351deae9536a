"""How each method's learning rate was chosen: `python examples/methods/choose.py --data FOLDER`.

Each method is tried with every rate, and scored on rows that are held back from its training rows;
the rows that score.py tests on are dropped before anything is looked at. The best rate goes to
rates.toml, from which score.py reads it. One run of each: seed 0.
"""

import argparse
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from score import HERE, METHODS, RATES_FILE, TASKS, run, written

RATES = {"scaffold": (0.03, 0.1, 0.2, 0.3)}
"""SCAFFOLD takes plain steps, which are longer than those of the plan's own optimizer."""
USUAL_RATES = (0.001, 0.003, 0.01, 0.03)
HELD_BACK = 0.3


def training_rows(make_data):
    """Writes each site's training rows alone, the last of each class held back as its test."""

    def make(folder: Path) -> None:
        with TemporaryDirectory() as place:
            make_data(Path(place))
            for file in sorted(Path(place).iterdir()):
                np.savez(folder / file.name, **hold_back(np.load(file)))

    return make


def hold_back(rows) -> dict[str, np.ndarray]:
    """A site's training rows; of each class the first are for training, and the last are scored.

    One row between them is dropped: windows that follow each other overlap by a half.
    """
    x, y = rows["x"][~rows["is_test"]], rows["y"][~rows["is_test"]]
    is_scored, is_kept = np.zeros(len(y), bool), np.ones(len(y), bool)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        cut = int(len(own) * (1 - HELD_BACK))
        is_scored[own[cut:]] = True
        is_kept[own[cut - 1 : cut]] = False
    return {"x": x[is_kept], "y": y[is_kept], "is_test": is_scored[is_kept]}


def choose(task: str, method: str, data: Path) -> tuple[float, list[float]]:
    """The rate that did best, and what each rate reached."""
    rates, found = RATES.get(method, USUAL_RATES), []
    make = training_rows(lambda folder: TASKS[task](data, folder))
    with written(method, task, make) as folder:
        for rate in rates:
            (value,) = run(folder, seed=0, rate=rate).result().values()
            found.append(float(value))
    return rates[int(np.argmax(found))], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--task", choices=TASKS, action="append", help="both by default")
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default")
    given = parser.parse_args()
    for task in given.task or TASKS:
        for method in given.method or METHODS:
            best, found = choose(task, method, given.data)
            tried = zip(RATES.get(method, USUAL_RATES), found, strict=True)
            print(task, method, best, " ", *(f"{rate}: {v:.4f}" for rate, v in tried), flush=True)
            keep(task, method, best)


def keep(task: str, method: str, rate: float) -> None:
    """Write a rate to rates.toml, beside those that stand there."""
    file = HERE / RATES_FILE
    rates = tomllib.loads(file.read_text()) if file.exists() else {}
    rates.setdefault(task, {})[method] = rate
    lines = ["# Written by choose.py: the rate that did best on held-back training rows.\n"]
    for each, of in sorted(rates.items()):
        lines += [f"\n[{each}]\n", *(f"{m} = {of[m]}\n" for m in METHODS if m in of)]
    file.write_text("".join(lines))


if __name__ == "__main__":
    main()
