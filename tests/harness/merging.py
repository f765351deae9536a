"""A merge of whole files, as a leader makes it that has all updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

from swarm.blobs.manifest import Manifest
from swarm.blobs.partial import Draft
from swarm.learning.parameters.next_file import Folding
from swarm.learning.parameters.placement import Placement
from swarm.rounds.chunk_merge import Incoming, MergeInputs, merge_as_they_come
from swarm.tensors import Layout
from swarm.types import MemberId

MEAN = Placement()


def inputs_of(
    paths: Sequence[Path],
    samples: Sequence[int],
    placement: Placement = MEAN,
    base: Path | None = None,
) -> MergeInputs:
    """Updates that are whole, of members 0, 1, …"""
    pairs = zip(paths, samples, strict=True)
    updates = [Incoming(path, None, n, MemberId(i)) for i, (path, n) in enumerate(pairs)]
    return MergeInputs(Folding(placement, Layout.read(paths[0])), updates, base)


def merge_files(
    paths: Sequence[Path],
    samples: Sequence[int],
    out: Path,
    placement: Placement = MEAN,
    base: Path | None = None,
) -> Manifest:
    """Merge tensor files, in member order, into a new one. Raises as `merge_as_they_come`; nothing
    is left at `out` then."""
    inputs = inputs_of(paths, samples, placement, base)
    draft = Draft(out, inputs.folding.down(len(paths)))
    try:
        merge_as_they_come(inputs, draft, Event())
        return draft.manifest
    except BaseException:
        draft.discard()
        raise
