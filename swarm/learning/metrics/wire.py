"""Counts as they travel, and as they are believed: whatever came over the wire is checked here.

Of most measures few places are not 0, so those alone are written, each with its distance from the
last one. Who reads them checks every number before anything is added: a member can lie about its
own rows, but not break a sum, hide in an overflow or send more than a measure has places for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from swarm.errors import UNREADABLE, BlobError
from swarm.learning.metrics.classes import Confusion
from swarm.learning.metrics.counts import MAX_PLACES, Counts
from swarm.learning.metrics.means import Average
from swarm.learning.metrics.probabilities import Calibration
from swarm.learning.metrics.ranking import Roc
from swarm.learning.metrics.regression import Errors
from swarm.learning.metrics.survival import Concordance

AnyMeasure = Roc | Calibration | Confusion | Errors | Concordance | Average
MAX_COUNTS = 32
"""Of one plan."""
MAX_BYTES = 2**18
"""Of what a site tells of one model."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
_Places = Annotated[list[int], msgspec.Meta(max_length=MAX_PLACES)]


class SentCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measure's counts: how far each place that is not 0 lies behind the last, and its
    number."""

    measure: AnyMeasure
    gaps: _Places
    values: _Places


def pack(counts: Counts) -> SentCounts:
    """Counts to be sent."""
    places = np.flatnonzero(counts.values)
    gaps = np.diff(places, prepend=-1)
    measure: Any = counts.measure
    return SentCounts(measure, gaps.tolist(), counts.values[places].tolist())


def unpack(sent: SentCounts) -> Counts:
    """Counts that came, checked. Raises BlobError saying what is wrong with them."""
    measure = sent.measure
    if measure.places > MAX_PLACES:
        raise BlobError(f"{measure} has {measure.places} places, more than {MAX_PLACES}")
    if len(sent.gaps) != len(sent.values) or any(not 1 <= gap <= MAX_PLACES for gap in sent.gaps):
        raise BlobError("the places of counts are not in order")
    values = np.zeros(measure.places, dtype=np.int64)
    at = np.cumsum(np.array(sent.gaps, dtype=np.int64)) - 1
    if len(at) and at[-1] >= measure.places:
        raise BlobError(f"counts name the place {at[-1]}, and there are {measure.places}")
    try:
        values[at] = sent.values
        measure.check(values)
    except (ValueError, OverflowError) as error:
        raise BlobError(f"counts that no rows could give: {error}") from None
    return Counts(measure, values)


ByName = Annotated[dict[Name, SentCounts], msgspec.Meta(max_length=MAX_COUNTS)]
Part = Annotated[str, msgspec.Meta(pattern="^(validation|test)$")]


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A site's counts of the model that a round of a plan has made, by part of its rows."""

    plan: Annotated[int, msgspec.Meta(ge=0)]
    round: Annotated[int, msgspec.Meta(ge=0)]
    model: Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{64}$")]
    parts: dict[Part, ByName]


_counts_decoder = msgspec.json.Decoder(ByName)
_told_decoder = msgspec.json.Decoder(Told)


def encode_all(counts: Mapping[str, Counts]) -> bytes:
    """A model's counts by the plan's own names, as JSON."""
    return msgspec.json.encode({n: pack(c) for n, c in counts.items()}, order="sorted")


def decode_all(raw: bytes) -> dict[str, Counts]:
    """As `encode_all` wrote them. Raises BlobError saying what is wrong."""
    return {name: unpack(each) for name, each in read_sent(raw).items()}


def read_sent(raw: bytes) -> dict[str, SentCounts]:
    """As `encode_all` wrote them, to be sent on. Raises BlobError if they are no counts."""
    try:
        return _counts_decoder.decode(raw)
    except UNREADABLE as error:
        raise BlobError(f"these are no counts: {error}") from None


def encode_told(told: Told) -> bytes:
    """What a site says of a model, as JSON."""
    return msgspec.json.encode(told, order="sorted")


def read_told(raw: bytes) -> Told:
    """What a member says. Raises BlobError if it is too large or something else."""
    if len(raw) > MAX_BYTES:
        raise BlobError(f"{len(raw)} bytes of scores are more than {MAX_BYTES}")
    try:
        return _told_decoder.decode(raw)
    except UNREADABLE as error:
        raise BlobError(f"these are no scores: {error}") from None


def merge_all(sites: Sequence[Mapping[str, Counts]]) -> dict[str, Counts]:
    """By name, the counts of all sites that have them. Sites whose measure is another than the
    first one's are left out: their plan is not ours."""
    merged: dict[str, Counts] = {}
    for site in sites:
        for name, counts in site.items():
            if name not in merged:
                merged[name] = counts
            elif merged[name].measure == counts.measure:
                merged[name] = merged[name] + counts
    return merged
