"""swarm: institutions train one PyTorch model on data that never leaves them.

What a plan needs is importable from here, and only loaded when it is asked for: `import swarm`
imports neither torch nor numpy, because the command line and the main process of a node must stay
small and quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from swarm.learning import metrics
    from swarm.learning.federated import FederatedRun, open_sites, run_federated
    from swarm.learning.folds import (
        adam,
        geometric_median,
        krum,
        maximum,
        mean,
        median,
        momentum,
        multi_krum,
        nesterov,
        sum,
        trimmed,
        yogi,
    )
    from swarm.learning.histograms import histogram, quantiles, value_range
    from swarm.learning.loaded_model import LoadedModel, load
    from swarm.learning.placement import at, frozen, gathered, local, shared
    from swarm.learning.plan import Context, Data, Plan, Site
    from swarm.learning.splits import split
    from swarm.learning.stages import personalise, statistics, train
    from swarm.learning.statistics import moments, standardise, unstandardise
    from swarm.learning.tables import Table, read_csv
    from swarm.learning.tallies import read_tally, tally

__all__ = [
    "Context",
    "Data",
    "FederatedRun",
    "LoadedModel",
    "Plan",
    "Site",
    "Table",
    "__version__",
    "adam",
    "at",
    "frozen",
    "gathered",
    "geometric_median",
    "histogram",
    "krum",
    "load",
    "local",
    "maximum",
    "mean",
    "median",
    "metrics",
    "moments",
    "momentum",
    "multi_krum",
    "nesterov",
    "open_sites",
    "personalise",
    "quantiles",
    "read_csv",
    "read_tally",
    "run_federated",
    "shared",
    "split",
    "standardise",
    "statistics",
    "sum",
    "tally",
    "train",
    "trimmed",
    "unstandardise",
    "value_range",
    "yogi",
]

_HOMES = {
    "Context": "swarm.learning.plan",
    "Data": "swarm.learning.plan",
    "FederatedRun": "swarm.learning.federated",
    "LoadedModel": "swarm.learning.loaded_model",
    "Plan": "swarm.learning.plan",
    "Site": "swarm.learning.plan",
    "Table": "swarm.learning.tables",
    "adam": "swarm.learning.folds",
    "at": "swarm.learning.placement",
    "frozen": "swarm.learning.placement",
    "gathered": "swarm.learning.placement",
    "geometric_median": "swarm.learning.folds",
    "histogram": "swarm.learning.histograms",
    "krum": "swarm.learning.folds",
    "load": "swarm.learning.loaded_model",
    "local": "swarm.learning.placement",
    "maximum": "swarm.learning.folds",
    "mean": "swarm.learning.folds",
    "median": "swarm.learning.folds",
    "moments": "swarm.learning.statistics",
    "momentum": "swarm.learning.folds",
    "multi_krum": "swarm.learning.folds",
    "nesterov": "swarm.learning.folds",
    "open_sites": "swarm.learning.federated",
    "personalise": "swarm.learning.stages",
    "quantiles": "swarm.learning.histograms",
    "read_csv": "swarm.learning.tables",
    "read_tally": "swarm.learning.tallies",
    "run_federated": "swarm.learning.federated",
    "shared": "swarm.learning.placement",
    "split": "swarm.learning.splits",
    "standardise": "swarm.learning.statistics",
    "statistics": "swarm.learning.stages",
    "sum": "swarm.learning.folds",
    "tally": "swarm.learning.tallies",
    "train": "swarm.learning.stages",
    "trimmed": "swarm.learning.folds",
    "unstandardise": "swarm.learning.statistics",
    "value_range": "swarm.learning.histograms",
    "yogi": "swarm.learning.folds",
}


def __getattr__(name: str) -> object:
    if name == "metrics":
        return import_module("swarm.learning.metrics")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"this release of swarm has no swarm.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
