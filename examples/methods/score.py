"""What each method is worth on the same rows: a table, from one command.

    python examples/methods/score.py --data FOLDER --json table.json

FOLDER holds `har_features.npz` and `har_windows.npz` (30 people with a phone: UCI data set 341,
doi:10.24432/C54G7M) or `xray_pneumonia_28.npz` (PneumoniaMNIST of MedMNIST v2,
doi:10.5281/zenodo.10519652), both under CC BY 4.0; README.md says how the files are made. Each
method runs whole and in one process, without a network, but with the same training and the same
bit-exact folding as nodes. Every site scores its own model on its own test rows, and the counts are
added up: no row is pooled. A seed decides the initial model and the order of rows.

With --nodes each run is `swarm testnet run`: a node for each site, which send and check their
updates, and the figures are what they add up at the end.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as nodes do, before torch loads: the same bits

import numpy as np

from swarm import open_sites, run_federated
from swarm.errors import PlanError
from swarm.learning.plans.loading import load_plan

HERE = Path(__file__).parent
METHODS = {
    "fedavg": 0.938, "fedprox": 0.941, "scaffold": 0.950, "fedbn": None, "fedper": 0.951,
    "finetuned": 0.954, "ditto": 0.951, "fedavgm": 0.939, "fedadam": None, "diloco": 0.938,
    "trimmed": None, "median": None, "krum": None, "multi_krum": None, "geometric_median": None,
}  # fmt: skip
"""By file: what an earlier release reached on the first task by hand."""
ROBUST = ("fedavg", "trimmed", "median", "krum", "multi_krum", "geometric_median")
RATES_FILE = "rates.toml"
HOSPITALS = 8
LIE = -10.0


def people(data: Path, folder: Path, groups: int = 30) -> None:
    """A file for each person, or for each group of them."""
    found, windows = _open(data, "har_features.npz"), _open(data, "har_windows.npz")
    subject, experiment = windows["subject"], windows["experiment"]
    second = np.array([experiment[subject == s].max() for s in range(1, 31)])
    is_test = experiment == second[subject - 1]
    for group in range(groups):
        own = (subject - 1) % groups == group
        np.savez(
            folder / f"person{group + 1:02}.npz",
            **{"x": found["X"][own], "y": found["y"][own], "is_test": is_test[own]},
        )


def hospitals(data: Path, folder: Path) -> None:
    """A file for each hospital: of the sick and of the healthy it has a share of its own."""
    file, random = _open(data, "xray_pneumonia_28.npz"), np.random.default_rng(0)
    rows: list[list[tuple]] = [[] for _ in range(HOSPITALS)]
    for part, is_test in (("train", False), ("val", False), ("test", True)):
        images, labels = file[f"{part}_images"], file[f"{part}_labels"].reshape(-1)
        for sick in (0, 1):
            order = random.permutation(np.flatnonzero(labels == sick))
            share = np.linspace(1, 3, HOSPITALS)[:: 1 if sick else -1]
            ends = np.round(np.cumsum(share / share.sum()) * len(order)).astype(int)
            for hospital, own in enumerate(np.split(order, ends[:-1])):
                rows[hospital].append((images[own], labels[own], np.full(len(own), is_test)))
    for hospital, parts in enumerate(rows):
        x, y, is_test = (np.concatenate(column) for column in zip(*parts, strict=True))
        np.savez(folder / f"hospital{hospital + 1}.npz", x=x, y=y, is_test=is_test)


def _open(data: Path, name: str):
    if not (data / name).exists():
        raise SystemExit(f"{data / name} is not there: see {HERE / 'README.md'}, and give --data")
    return np.load(data / name)


TASKS = {"activity": people, "xray": hospitals}


@contextmanager
def written(method: str, task: str, make_data):
    """A plan's folder: the method, its task, and the sites' data."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(HERE / f"{method}.py", folder / "plan.py")
        shutil.copy(HERE / f"{task}.py", folder / "task.py")
        (folder / "data").mkdir()
        make_data(folder / "data")
        yield folder


Settings = float | dict[str, float]
"""A learning rate, or settings of the plan by name."""


def rate_of(task: str, method: str) -> Settings:
    """The learning rate that choose.py found, and other settings if it looked for some."""
    rates = tomllib.loads((HERE / RATES_FILE).read_text()).get(task, {})
    if method not in rates:
        raise SystemExit(
            f"{HERE / RATES_FILE} has no rate of {method} on {task}: "
            f"run choose.py --data FOLDER --task {task} --method {method} first"
        )
    return rates[method]


def by_name(rate: Settings) -> dict[str, float]:
    return rate if isinstance(rate, dict) else {"learning_rate": rate}


def run(folder: Path, seed: int, rate: Settings, liar: bool = False):
    """One run. The liar is the first site: it sends ten times the opposite of what it learnt."""
    plan = load_plan(folder)
    for name, value in by_name(rate).items():
        setattr(plan, name, value)
    sites = open_sites(plan, folder, seed)
    if liar:
        sites[0].train = lying(sites[0].train)
    return run_federated(folder, plan=plan, sites=sites, seed=seed)


def lying(train):
    def train_and_lie(round, base, *arguments, **settings):
        update = train(round, base, *arguments, **settings)
        sent = {
            name: base[name] + LIE * (value - base[name]) if value.is_floating_point() else value
            for name, value in update.state.items()
        }
        return replace(update, state=sent)

    return train_and_lie


def score_on_nodes(method: str, task: str, data: Path, seed: int, rate: Settings) -> dict:
    """As `score`, by a node for each site. What sites have fine-tuned stays with them, unless the
    plan cross-evaluates: so it does then."""
    began = time.monotonic()
    with written(method, task, lambda folder: TASKS[task](data, folder)) as folder:
        write_settings(folder, rate)
        command = [sys.executable, "-m", "swarm", "testnet", "run", folder, "--seed", str(seed)]
        command += ["--no-references", "--out", folder / "out", "--json", folder / "report.json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{method} on {task}: {done.stderr}")
        report = json.loads((folder / "report.json").read_text())
    figure, sites = figures_of(report)
    return {"score": figure, "worst site": min(sites), "s": round(time.monotonic() - began, 1)}


def write_settings(folder: Path, rate: Settings) -> None:
    """Have the plan's own code say its settings, as nodes read nothing else."""
    plan = type(load_plan(folder))
    lines = [f"{plan.__name__}.{name} = {value}\n" for name, value in by_name(rate).items()]
    if any(stage.task == "personalise" for stage in plan.stages):
        lines.append(f"{plan.__name__}.stages += [swarm.cross_evaluate()]\n")
    file = folder / "plan.py"
    file.write_text(file.read_text() + "\n\n" + "".join(lines))


def figures_of(report: dict) -> tuple[float, list[float]]:
    """What a testnet says of each site's model on its own rows: of all, and of each site."""
    tables = [each["table"] for each in report["rounds"] if each["table"]]
    if tables:
        (told,) = tables[-1]["metrics"].values()
        own = [m["sites"][m["model"]]["value"] for m in told["models"] if not m["is_shared"]]
        return told["own"]["value"], own
    (told,) = report["joint"].values()
    figure = next(iter(told["figures"].values()))
    return figure["value"], [site["value"] for site in told["sites"].values()]


def score(method: str, task: str, data: Path, seed: int, rate: Settings) -> dict:
    """The figure of all sites' rows, and the worst site's, of one seed."""
    began = time.process_time()
    with written(method, task, lambda folder: TASKS[task](data, folder)) as folder:
        done = run(folder, seed, rate)
    (merged,) = done.result().values()
    worst = min(float(c) for told in done.counts().values() for c in told.values())
    return {
        "score": float(merged),
        "worst site": worst,
        "s": round(time.process_time() - began, 1),
    }


class Table:
    """What was found, by task, method and seed. With a file each finding is written as soon as it
    is made, and none is made again: a command that was stopped goes on. A finding of another rate
    than the present one is dropped."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.rows = json.loads(file.read_text()) if file is not None and file.exists() else {}

    def seeds(self, task: str, method: str, rate: Settings, seeds: int, find) -> list[dict]:
        """The findings of the first seeds; `find(seed)` makes one that is missing."""
        row = self.rows.setdefault(task, {}).get(method)
        if row is None or row["rate"] != rate:
            row = self.rows[task][method] = {"rate": rate, "seeds": {}}
        for seed in map(str, range(seeds)):
            if seed not in row["seeds"]:
                row["seeds"][seed] = find(int(seed))
                self._write()
        return [row["seeds"][str(seed)] for seed in range(seeds)]

    def _write(self) -> None:
        if self.file is not None:
            unfinished = self.file.with_name(self.file.name + ".new")
            unfinished.write_text(json.dumps(self.rows, indent=1) + "\n")
            unfinished.replace(self.file)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """The mean, and its standard error; of one value alone that is unknown."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def score_lie(method: str, data: Path, seed: int, rate: Settings) -> dict:
    """Of eight groups of people, without a liar and with one, on the rows of the other seven. A
    model that gives no numbers any more scores 0."""
    found = {}
    with written(method, "activity", lambda folder: people(data, folder, HOSPITALS)) as folder:
        for name, liar in (("no liar", False), ("one liar", True)):
            try:
                told = list(run(folder, seed, rate, liar).counts().values())
            except PlanError:  # a variance below 0: what is computed from it is NaN
                found[name] = 0.0
                continue
            found[name] = float(sum_of([c for site in told[1:] for c in site.values()]))
    return found


def sum_of(counts):
    total = counts[0]
    for each in counts[1:]:
        total = total + each
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder with the .npz files")
    parser.add_argument(
        "--json", type=Path, help="keep what is found there, and find only what is missing in it"
    )
    parser.add_argument("--task", choices=TASKS, action="append", help="both by default")
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--liar", action="store_true", help="the table of one liar of eight instead"
    )
    parser.add_argument("--nodes", action="store_true", help="a node for each site")
    given = parser.parse_args()
    methods, table = given.method or list(METHODS), Table(given.json)
    if given.liar:
        print_liar(table, [m for m in methods if m in ROBUST], given.data, given.seeds)
        return
    for task in given.task or list(TASKS):
        print_task(table, task, methods, given.data, given.seeds, given.nodes)


def print_task(
    table: Table, task: str, methods: list[str], data: Path, seeds: int, nodes: bool = False
) -> None:
    """Seconds are of one processor, or, with nodes, by the clock."""
    print(f"{task:18} {'mean':>6} {'s.e.':>6} {'worst site':>10} {'by hand':>8} {'s':>6}")
    kept = f"{task} on nodes" if nodes else task
    for method in methods:
        rate = rate_of(task, method)
        find = partial(score_on_nodes if nodes else score, method, task, data, rate=rate)
        found = table.seeds(kept, method, rate, seeds, find)
        mean, error = mean_and_error([f["score"] for f in found])
        worst = np.mean([f["worst site"] for f in found])
        hand = METHODS[method] if task == "activity" else None
        print(
            f"{method:18} {mean:6.3f} {error:6.3f} {worst:10.3f} "
            f"{'' if hand is None else f'{hand:.3f}':>8} {sum(f['s'] for f in found):6.0f}",
            flush=True,
        )


def print_liar(table: Table, methods: list[str], data: Path, seeds: int) -> None:
    print(f"{'of eight':18} {'no liar':>8} {'one liar':>8} {'s.e. of the difference':>23}")
    for method in methods:
        rate = rate_of("activity", method)
        find = partial(score_lie, method, data, rate=rate)
        found = table.seeds("liar", method, rate, seeds, find)
        honest, lied = (np.mean([f[name] for f in found]) for name in ("no liar", "one liar"))
        _, error = mean_and_error([f["one liar"] - f["no liar"] for f in found])
        print(f"{method:18} {honest:8.3f} {lied:8.3f} {error:23.3f}", flush=True)


if __name__ == "__main__":
    main()
