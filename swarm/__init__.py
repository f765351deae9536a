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
    from swarm.errors import NoAnswer
    from swarm.learning import metrics
    from swarm.learning.data.histograms import histogram, quantiles, value_range
    from swarm.learning.data.moments import moments, standardise, unstandardise
    from swarm.learning.data.splits import split
    from swarm.learning.data.tables import Table, read_csv
    from swarm.learning.data.tallies import read_tally, tally
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
    from swarm.learning.models.loaded_model import LoadedModel, load
    from swarm.learning.parameters.placement import at, frozen, gathered, local, shared
    from swarm.learning.plans.plan import Context, Data, Plan, Site
    from swarm.learning.plans.roles import elected
    from swarm.learning.plans.stages import (
        cross_evaluate,
        personalise,
        select,
        statistics,
        train,
        train_and_select,
    )
    from swarm.learning.scripts.session import join
    from swarm.learning.simulation.whole_run import FederatedRun, open_sites, run_federated
    from swarm.notebook import connect
    from swarm.privacy.guarantee import dp

__all__ = [
    "Context",
    "Data",
    "FederatedRun",
    "LoadedModel",
    "NoAnswer",
    "Plan",
    "Site",
    "Table",
    "__version__",
    "adam",
    "at",
    "connect",
    "cross_evaluate",
    "dp",
    "elected",
    "frozen",
    "gathered",
    "geometric_median",
    "histogram",
    "join",
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
    "select",
    "shared",
    "split",
    "standardise",
    "statistics",
    "sum",
    "tally",
    "train",
    "train_and_select",
    "trimmed",
    "unstandardise",
    "value_range",
    "yogi",
]

_HOMES = {
    "Context": "swarm.learning.plans.plan",
    "Data": "swarm.learning.plans.plan",
    "FederatedRun": "swarm.learning.simulation.whole_run",
    "LoadedModel": "swarm.learning.models.loaded_model",
    "NoAnswer": "swarm.errors",
    "Plan": "swarm.learning.plans.plan",
    "Site": "swarm.learning.plans.plan",
    "Table": "swarm.learning.data.tables",
    "adam": "swarm.learning.folds",
    "at": "swarm.learning.parameters.placement",
    "connect": "swarm.notebook",
    "cross_evaluate": "swarm.learning.plans.stages",
    "dp": "swarm.privacy.guarantee",
    "elected": "swarm.learning.plans.roles",
    "frozen": "swarm.learning.parameters.placement",
    "gathered": "swarm.learning.parameters.placement",
    "geometric_median": "swarm.learning.folds",
    "histogram": "swarm.learning.data.histograms",
    "join": "swarm.learning.scripts.session",
    "krum": "swarm.learning.folds",
    "load": "swarm.learning.models.loaded_model",
    "local": "swarm.learning.parameters.placement",
    "maximum": "swarm.learning.folds",
    "mean": "swarm.learning.folds",
    "median": "swarm.learning.folds",
    "moments": "swarm.learning.data.moments",
    "momentum": "swarm.learning.folds",
    "multi_krum": "swarm.learning.folds",
    "nesterov": "swarm.learning.folds",
    "open_sites": "swarm.learning.simulation.whole_run",
    "personalise": "swarm.learning.plans.stages",
    "quantiles": "swarm.learning.data.histograms",
    "read_csv": "swarm.learning.data.tables",
    "read_tally": "swarm.learning.data.tallies",
    "run_federated": "swarm.learning.simulation.whole_run",
    "select": "swarm.learning.plans.stages",
    "shared": "swarm.learning.parameters.placement",
    "split": "swarm.learning.data.splits",
    "standardise": "swarm.learning.data.moments",
    "statistics": "swarm.learning.plans.stages",
    "sum": "swarm.learning.folds",
    "tally": "swarm.learning.data.tallies",
    "train": "swarm.learning.plans.stages",
    "train_and_select": "swarm.learning.plans.stages",
    "trimmed": "swarm.learning.folds",
    "unstandardise": "swarm.learning.data.moments",
    "value_range": "swarm.learning.data.histograms",
    "yogi": "swarm.learning.folds",
}


def __getattr__(name: str) -> object:
    if name == "metrics":
        return import_module("swarm.learning.metrics")
    if name in ("lightning", "huggingface"):  # the callbacks for scripts that use them
        return import_module(f"swarm.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"this release of swarm has no swarm.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
