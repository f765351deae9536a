"""Scoring every site's own model at one site: how well does it do where it was not made?

What is scored is a copy of all that training may change, in the model's own types, with what the
plan keeps beside the model. Whatever is frozen is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.learning.data.batches import rows_in
from swarm.learning.metrics.counts import MAX_ROWS, Counts
from swarm.learning.metrics.matrix import SHARED
from swarm.learning.parameters.named_tensors import State, state_of
from swarm.learning.parameters.travel import Rows
from swarm.learning.training.loop import LocalTraining


def take_copy(site: LocalTraining, model: State, kept: State | None) -> State:
    """This site's own model, to be sent: `model` is whole, with what the site has `kept`, unless
    that is in the model itself. The tensors are the site's, not copies of them."""
    if kept is None and site.kept_names and site.kept_names <= model.keys():
        kept = {name: model[name] for name in site.kept_names}
    names = state_of(site.model).keys()
    site.put({name: model[name] for name in names if name in model}, kept)
    return {**site.trained(), **site.kept()}


def score_copies(
    site: LocalTraining,
    shared: State,
    rows: Rows,
    statistics: Mapping[str, NDArray[Any]] | None,
) -> dict[int, dict[str, Counts]]:
    """What this site's test rows say of each site's copy, by member and metric: `rows` are those
    that were gathered. Of the `shared` model too, which is whole, if it is one without what sites
    keep.

    A site without test rows tells nothing, in as many numbers as all others; so does each of a copy
    that gives no numbers, as a member may have sent anything. Raises PlanError if no model does, or
    the plan counts nothing.
    """
    held = site.prepared(statistics)
    part = next(p for p in ("test", "validation", "train") if rows_in(getattr(held, p)))
    least = site.plan.min_rows if part == "test" else MAX_ROWS + 1

    def score(model: State, kept: State | None) -> dict[str, Counts]:
        counts = site.measure(model, getattr(held, part), kept).counts
        return {name: each.withheld_below(least) for name, each in counts.items()}

    found, faults = {}, {}
    if not site.kept_names:
        found[SHARED] = score(shared, None)
    for member in next(iter(rows.values()), {}):
        copy = {name: of[member] for name, of in rows.items()}
        kept = {name: copy[name] for name in site.kept_names} or None
        whole = {name: copy.get(name, value) for name, value in shared.items()}
        try:
            found[member] = score(whole, kept)
        except PlanError as error:
            faults[member] = error
    if faults and not found:
        raise next(iter(faults.values()))
    first = next(iter(found.values()), {})
    if not first:
        raise PlanError(
            "a cross-evaluation adds up counts, and `metrics` returns none: return at least one, "
            "such as swarm.metrics.roc(y, scores)"
        )
    nothing = {n: Counts(c.measure, np.zeros_like(c.values)) for n, c in first.items()}
    return {**found, **dict.fromkeys(faults, nothing)}
