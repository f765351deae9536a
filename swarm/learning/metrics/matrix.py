"""What every site's rows say of every site's own model: counts by site and copy, and their file.

A site's file has the same layout at all sites, so these are gathered as tensors are, side by side:

    copies          whose models were scored, by member number; -1: the shared one
    counts/NAME     int64 [copies, places], of one metric
    measure/NAME    how that is counted, as JSON

Gathered, each has one more dimension, the sites (`parameters.next_file`). What a site has written
there is believed only when the table is read: one that tells impossible counts tells nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from swarm.errors import UNREADABLE, BlobError, PlanError
from swarm.learning.metrics.counts import MAX_PLACES, Counts, Figure, merge
from swarm.learning.metrics.wire import AnyMeasure
from swarm.learning.parameters.next_file import MEMBERS, ROW
from swarm.tensors import DType, Layout, TensorFile, TensorSpec, create_file, open_file

SHARED = -1
"""In place of a member's number: the model that all have made together."""
MOST_NUMBERS = 2**23
"""Of one site's file: 64 MiB."""

OfCopies = Mapping[int, Mapping[str, Counts]]
"""What one site's rows say, by copy and metric. All copies have the same metrics."""

_measures = msgspec.json.Decoder(AnyMeasure)


def write_counts(out: Path, told: OfCopies) -> None:
    """Write one site's counts.

    Raises PlanError for names that cannot travel, and for more numbers than a site may send;
    LocalError where the file cannot be written.
    """
    copies, first = sorted(told), next(iter(told.values()), {})
    if sum(counts.measure.places for counts in first.values()) * len(copies) > MOST_NUMBERS:
        raise PlanError(
            f"what is counted of {len(copies)} models is more than {MOST_NUMBERS} numbers: count "
            "fewer metrics, bins or classes"
        )
    values: dict[str, NDArray[Any]] = {"copies": np.array(copies, np.int64)}
    for name, counts in first.items():
        rows = [told[copy][name].values for copy in copies]
        values[f"counts/{name}"] = np.stack(rows)
        written = msgspec.json.encode(counts.measure)
        values[f"measure/{name}"] = np.frombuffer(written, np.uint8)
    kinds: dict[str, DType] = {"int64": "I64", "uint8": "U8"}
    specs = [TensorSpec(name, kinds[v.dtype.name], v.shape) for name, v in values.items()]
    try:
        layout = Layout.from_specs(specs)
    except ValueError as error:
        raise PlanError(f"the names of the plan's metrics cannot travel: {error}") from None
    with create_file(out, layout) as file:
        for name, value in values.items():
            file[name][...] = value


@dataclass(frozen=True)
class Matrix:
    """The whole table: what each site's rows say, by site, copy and metric. `silent` are the sites
    whose counts no rows could give."""

    sites: Mapping[int, OfCopies]
    silent: tuple[int, ...] = ()

    def table(self, name_of: Callable[[int], str]) -> dict[str, Any]:
        """By metric, for people and reports: `models`, one entry for each copy with its main figure
        at each of the `sites`, at `all` of them, and at the `others` than its own; and `own`, of
        every site's own model on its own rows, added up."""
        metrics = {m: None for of in self.sites.values() for each in of.values() for m in each}
        return {
            "metrics": {metric: self._of_metric(metric, name_of) for metric in metrics},
            "silent": [name_of(site) for site in self.silent],
        }

    def own(self, metric: str) -> Counts | None:
        """Of every site's own model on its own rows; None if there are no such models."""
        return _sum([of[site][metric] for site, of in self.sites.items() if site in of])

    def _of_metric(self, metric: str, name_of: Callable[[int], str]) -> dict[str, Any]:
        copies = sorted({copy for of in self.sites.values() for copy in of})
        models = []
        for copy in copies:
            cells = {site: of[copy][metric] for site, of in self.sites.items()}
            models.append(
                {
                    "model": "shared" if copy == SHARED else name_of(copy),
                    "is_shared": copy == SHARED,
                    "sites": {name_of(site): _told(counts) for site, counts in cells.items()},
                    "all": _told(_sum(list(cells.values()))),
                    "others": _told(_sum([c for site, c in cells.items() if site != copy])),
                }
            )
        return {"models": models, "own": _told(self.own(metric))}


def read_matrix(source: Path | TensorFile) -> Matrix:
    """The table that a cross-evaluation has gathered. Raises BlobError for no such file: all sites
    have written with one layout, or were left out."""
    file = source if isinstance(source, TensorFile) else open_file(source)
    values = {name.removeprefix(ROW): value for name, value in file.items()}
    try:
        members = [int(member) for member in values[MEMBERS]]
        rows = {member: _row(values, number) for number, member in enumerate(members)}
    except (KeyError, IndexError, TypeError) as error:
        raise BlobError(f"this is no table of a cross-evaluation: {error!r}") from None
    told = {member: row for member, row in rows.items() if row is not None}
    usual = Counter(_kind(row) for row in told.values()).most_common(1)
    alike = {member: row for member, row in told.items() if usual and _kind(row) == usual[0][0]}
    return Matrix(alike, tuple(member for member in members if member not in alike))


def _row(values: Mapping[str, NDArray[Any]], number: int) -> OfCopies | None:
    """What one site has written; None if no rows could give that."""
    names = [name.removeprefix("counts/") for name in values if name.startswith("counts/")]
    copies = [int(copy) for copy in values["copies"][number]]
    found: dict[int, dict[str, Counts]] = {copy: {} for copy in copies}
    if not names or not copies:
        return None
    try:
        for name in names:
            measure = _measures.decode(values[f"measure/{name}"][number].tobytes())
            numbers = values[f"counts/{name}"][number]
            if measure.places > MAX_PLACES or numbers.shape != (len(copies), measure.places):
                return None
            for copy, each in zip(copies, numbers, strict=True):
                measure.check(each)
                found[copy][name] = Counts(measure, np.array(each))
    except (*UNREADABLE, ValueError, OverflowError):
        return None
    return found


def _kind(row: OfCopies) -> tuple[object, ...]:
    """What rows must have in common to stand in one table."""
    first = next(iter(row.values()))
    return (*row, *((name, counts.measure) for name, counts in first.items()))


def _sum(counts: list[Counts]) -> Counts | None:
    return merge(counts) if counts else None


def _told(counts: Counts | None) -> dict[str, Any]:
    figure = Figure(None) if counts is None else counts.figure
    return figure._asdict()
