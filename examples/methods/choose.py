"""How each method's settings were chosen: `python examples/methods/choose.py --data FOLDER`.

Each method is tried with every learning rate, and Ditto with every one and every weight of the
distance between its two models, and scored on rows that are held back from its training rows;
the rows that score.py tests on are dropped before anything is looked at. The best rate goes to
rates.toml, from which score.py reads it. One run of each: seed 0.
"""

import argparse
import tomllib
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from score import HERE, METHODS, RATES_FILE, TASKS, Settings, run, written

RATES = {
    "scaffold": (0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3),
    "finetuned": (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.03),
}
"""SCAFFOLD takes plain steps, which are longer than those of the plan's own optimizer."""
USUAL_RATES = (0.001, 0.003, 0.01, 0.03)
OTHERS = {"ditto": {"nearness": (0.03, 0.1, 0.3, 1.0)}}
"""Settings beside the rate that are looked for, too."""
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


def grid(method: str) -> list[Settings]:
    """All settings that a method is tried with."""
    rates, others = RATES.get(method, USUAL_RATES), OTHERS.get(method)
    if others is None:
        return list(rates)
    columns = {"learning_rate": rates, **others}
    return [dict(zip(columns, row, strict=True)) for row in product(*columns.values())]


def choose(task: str, method: str, data: Path) -> tuple[Settings, list[float]]:
    """The settings that did best, and what each of the grid reached."""
    found = []
    make = training_rows(lambda folder: TASKS[task](data, folder))
    with written(method, task, make) as folder:
        for settings in grid(method):
            (value,) = run(folder, seed=0, rate=settings).result().values()
            found.append(float(value))
    return grid(method)[int(np.argmax(found))], found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument("--task", choices=TASKS, action="append", help="both by default")
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default")
    given = parser.parse_args()
    for task in given.task or TASKS:
        for method in given.method or METHODS:
            best, found = choose(task, method, given.data)
            tried = zip(grid(method), found, strict=True)
            print(task, method, best, " ", *(f"{given}: {v:.4f}" for given, v in tried), flush=True)
            keep(task, method, best)


def keep(task: str, method: str, settings: Settings) -> None:
    """Write settings to rates.toml, beside those that stand there."""
    file = HERE / RATES_FILE
    rates = tomllib.loads(file.read_text()) if file.exists() else {}
    rates.setdefault(task, {})[method] = settings
    lines = ["# Written by choose.py: the rate that did best on held-back training rows.\n"]
    for each, of in sorted(rates.items()):
        lines += [f"\n[{each}]\n", *(f"{m} = {as_toml(of[m])}\n" for m in METHODS if m in of)]
    file.write_text("".join(lines))


def as_toml(settings: Settings) -> str:
    if not isinstance(settings, dict):
        return str(settings)
    return f"{{ {', '.join(f'{name} = {value}' for name, value in settings.items())} }}"


if __name__ == "__main__":
    main()
