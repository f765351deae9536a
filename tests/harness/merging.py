"""A merge of whole files, as a leader makes it that has all updates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event

from swarm.blobs.partial import Draft
from swarm.blobs.tree import Manifest
from swarm.learning.merge import MergeMethod
from swarm.rounds.chunk_merge import Incoming, merge_as_they_come
from swarm.tensors import Layout


def merge_files(
    paths: Sequence[Path], samples: Sequence[int], method: MergeMethod, out: Path
) -> Manifest:
    """Merge tensor files, in member order, into a new one. Raises as `merge_as_they_come`; nothing
    is left at `out` then."""
    layout = Layout.read(paths[0])
    updates = [Incoming(path, None, n) for path, n in zip(paths, samples, strict=True)]
    draft = Draft(out, layout)
    try:
        merge_as_they_come(layout, updates, method, draft, Event())
        return draft.manifest
    except BaseException:
        draft.discard()
        raise
