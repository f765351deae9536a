"""The picture at the end of a run: the plan's first metric by round, on validation rows, and at its
end what the final model and those it is compared with reach on test rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_plot(report: dict[str, Any], path: Path) -> Path | None:
    """Draw `report` to the PNG file `path`; return the path, or None if there is no score to draw.

    A score that cannot be given (NaN) leaves a gap.
    """
    if not report["swarm"]:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metric = next(iter(report["swarm"]), None)
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    rounds = [r for r in report["rounds"] if r["number"] is not None and metric in r["metrics"]]
    axes.plot(
        [r["number"] for r in rounds],
        [math.nan if r["metrics"][metric] is None else r["metrics"][metric] for r in rounds],
        color="#1b7837",
        linewidth=2.2,
        marker="o",
        markersize=4,
        label="swarm, validation rows",
    )
    final = report["swarm"][metric]
    if final is not None:
        last = max((r["round"] for r in report["rounds"]), default=0)
        axes.plot([last], [final], "D", color="#00441b", markersize=8, label="swarm, test rows")
    alone = [s["local"].get(metric) for s in report["sites"]]
    known = [value for value in alone if value is not None]
    for index, value in enumerate(known):
        axes.axhline(
            value,
            color="#b2abd2",
            linewidth=1,
            linestyle=":",
            label="each site alone" if index == 0 else None,
        )
    if known:
        mean = sum(known) / len(known)
        axes.axhline(mean, color="#7b5ea7", linewidth=1.5, linestyle="--", label="alone, mean")
    if report["pooled"] and report["pooled"].get(metric) is not None:
        pooled = report["pooled"][metric]
        label = "all data pooled (reference)"
        axes.axhline(pooled, color="#999999", linewidth=1.5, linestyle="-.", label=label)
    axes.set_xlabel("round")
    axes.set_ylabel(f"{metric} on all sites' rows; lines are on test rows")
    axes.set_title(f"{report['plan']}: {len(report['sites'])} sites, seed {report['seed']}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
    return path


def simulation_figures(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the plot of simulated runs shows, as JSON: the first metric by round, of each run. A
    score that cannot be given is None. Reports are those of `swarm.testnet.simulate.simulate`."""
    first = reports[0]
    metric = next((name for r in reports for each in r["rounds"] for name in each["metrics"]), "")
    return {
        "plan": first["plan"],
        "partition": first["partition"],
        "seed": first["seed"],
        "metric": metric,
        "runs": [
            {
                "clients": report["clients"],
                "contributors": report["rounds"][0]["contributors"],
                "rounds": [r["number"] for r in report["rounds"]],
                "values": [r["metrics"].get(metric) for r in report["rounds"]],
            }
            for report in reports
        ],
    }


def write_simulation_plot(reports: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw the first metric by round of simulated runs, a line for each, to the PNG file `path`,
    and write what is drawn as JSON beside it. Returns the path of that."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    told = simulation_figures(reports)
    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), dpi=120, layout="constrained")
    for run in told["runs"]:
        axes.plot(
            run["rounds"],
            [math.nan if value is None else value for value in run["values"]],
            linewidth=1.8,
            label=f"{run['clients']:,} clients, {run['contributors']} a round",
        )
    axes.set_xlabel("round")
    axes.set_ylabel(f"{told['metric']} on all sites' validation rows")
    axes.set_title(f"{told['plan']}: {told['partition']}, seed {told['seed']}")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path)
    pyplot.close(figure)
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps(told, indent=2, allow_nan=False) + "\n")
    return beside
