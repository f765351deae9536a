"""Seconds and bytes of a round against the model's size and the number of peers, as one picture.

    swarm bench round --peers 4 --size 1MB,4MB,25MB,100MB --json sizes.json
    swarm bench round --peers 2,4,8,16 --size 4MB --json peers.json
    python benchmarks/plot.py sizes.json peers.json --out rounds.png

Any number of files may be given. Results of one number of peers become a line over the sizes,
results of one size a line over the numbers of peers; the bytes beside the seconds, because those of
the peers that do not lead must not grow with their number.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

Result = dict[str, Any]


def draw(results: list[Result], out: Path) -> None:
    """Three panels: seconds by size, seconds by peers, bytes by peers."""
    figure, (by_size, by_peers, moved) = pyplot.subplots(
        1, 3, figsize=(14, 4.2), dpi=110, layout="constrained"
    )
    for peers, line in lines(results, "peers", "size_bytes"):
        median = [r["seconds"]["median"] for r in line]
        worst = [r["seconds"]["most"] for r in line]
        sizes = [r["size_bytes"] / 1e6 for r in line]
        (drawn,) = by_size.plot(sizes, median, marker="o", label=f"{peers} peers")
        by_size.fill_between(sizes, median, worst, alpha=0.15, color=drawn.get_color())
    by_size.set(xscale="log", yscale="log", xlabel="model, MB", ylabel="seconds per round, median")
    for axis in (by_size.xaxis, by_size.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}" if axis is by_size.yaxis else NullFormatter())
    for size_bytes, line in lines(results, "size_bytes", "peers"):
        peers = [r["peers"] for r in line]
        label = f"{size_bytes / 1e6:g} MB"
        by_peers.plot(peers, [r["seconds"]["median"] for r in line], marker="o", label=label)
        for role, style in (("leader", "-"), ("other", "--")):
            sent = [r["models_moved"].get(f"{role}_sent") for r in line]
            moved.plot(peers, sent, style, marker="o", label=f"{label}, {role} sends")
    by_peers.set(xlabel="peers", ylabel="seconds per round, median", ylim=(0, None))
    moved.set(xlabel="peers", ylabel="models sent per round", ylim=(0, None))
    for axes in (by_size, by_peers, moved):
        finish(axes)
    figure.savefig(out)


def lines(results: list[Result], same: str, along: str) -> list[tuple[Any, list[Result]]]:
    """Results that agree in `same`, in the order of `along`; single ones are no line."""
    found: dict[Any, dict[Any, Result]] = defaultdict(dict)
    for result in results:
        found[result[same]][result[along]] = result  # the last of equal ones counts
    ordered: Callable[[dict[Any, Result]], list[Result]] = lambda g: [g[k] for k in sorted(g)]  # noqa: E731
    return [(value, ordered(group)) for value, group in sorted(found.items()) if len(group) > 1]


def finish(axes: Axes) -> None:
    axes.grid(alpha=0.25, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", help="written by `swarm bench round --json`")
    parser.add_argument("--out", type=Path, default=Path("rounds.png"))
    options = parser.parse_args()
    results = [r for file in options.files for r in json.loads(file.read_text())["results"]]
    draw(results, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
