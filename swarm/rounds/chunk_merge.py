"""Merging and checking updates on disk, through mapped files and in pieces.

The main process does this without torch, and its memory does not grow with the model: inputs and
output are mapped, and only a piece of each is worked on at a time. All functions block; the node
calls them in threads, each of which checks its own arithmetic first.

A merge need not wait for whole updates: chunk k of the result needs chunk k of each and no other,
so `merge_as_they_come` runs beside the transfers, and its result can be sent on while it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from swarm.blobs.partial import Draft, PartialBlob, reading
from swarm.blobs.tree import Manifest
from swarm.errors import BlobError, SchemaMismatch
from swarm.learning.merge import MergeMethod, check_samples, find_unfit, is_fused, self_check
from swarm.tensors import (
    MAX_CHUNK_BYTES,
    NUMPY_DTYPES,
    Layout,
    TensorSpec,
    open_file,
)

RawBytes = np.ndarray[Any, np.dtype[np.uint8]]

STEP_BYTES = MAX_CHUNK_BYTES  # a whole number of chunks, whatever their size
STOP_LOOK_S = 0.2  # how soon a merge that waits for a chunk sees that it was stopped


def prepare(layout: Layout) -> None:
    """Load what merges of such files need, or the first one would wait for it."""
    if any(spec.dtype == "F32" for spec in layout.specs):
        is_fused("F32", layout.chunk_bytes // 4)


class UnusableUpdate(BlobError):
    """One contributor's update cannot be merged; the others' may be."""

    def __init__(self, contributor: int, is_schema: bool, words: str) -> None:
        super().__init__(words)
        self.contributor = contributor
        self.is_schema = is_schema


@dataclass(frozen=True)
class Incoming:
    """An update to merge, whole or still on its way. `growing` is None for a whole one."""

    path: Path
    growing: PartialBlob | None
    samples: int

    def map(self) -> RawBytes:
        """Its bytes. Raises LocalError if it is not there any more: its round may be over."""
        if self.growing is None:
            with reading(self.path):
                return np.memmap(self.path, np.uint8, "r")
        return np.frombuffer(self.growing.map(), np.uint8)

    def await_chunk(self, index: int, stopped: Event) -> bool:
        """Wait for a chunk; False if `stopped` was set before it came."""
        while self.growing is not None and not self.growing.wait_for(index, STOP_LOOK_S):
            if stopped.is_set():
                return False
        return True


def merge_as_they_come(
    layout: Layout, updates: Sequence[Incoming], method: MergeMethod, draft: Draft, stopped: Event
) -> None:
    """Merge chunk after chunk into `draft`, as soon as all updates (in member order) have it.

    Returns early if `stopped` is set. Raises UnusableUpdate for values or a header that cannot be
    merged, BlobError if only the result does not fit, LocalError if it cannot be written or if this
    machine's arithmetic differs, ValueError for sample counts that cannot be weights.
    """
    for index, merged in _merged_chunks(layout, updates, method, range(layout.chunks), stopped):
        draft.write_chunks([(index, merged)])


def find_wrong_chunk(
    layout: Layout,
    updates: Sequence[Incoming],
    method: MergeMethod,
    model: Manifest,
    chunks: Sequence[int],
    stopped: Event,
) -> int | None:
    """Recompute these chunks of a merge; the first that `model` has otherwise, or None.

    The updates need to hold these chunks only. Raises as `merge_as_they_come`.
    """
    for index, merged in _merged_chunks(layout, updates, method, chunks, stopped):
        if not model.matches(index, merged):
            return index
    return None


def _merged_chunks(
    layout: Layout,
    updates: Sequence[Incoming],
    method: MergeMethod,
    chunks: Iterable[int],
    stopped: Event,
) -> Iterator[tuple[int, memoryview]]:
    """The merged chunks, each in a buffer that the next one takes over."""
    self_check()
    samples = [update.samples for update in updates]
    check_samples(samples, len(updates))
    raws = [update.map() for update in updates]
    buffer = np.empty(layout.chunk_bytes, np.uint8)
    for index in chunks:
        if not all(update.await_chunk(index, stopped) for update in updates):
            return
        start = index * layout.chunk_bytes
        stop = min(start + layout.chunk_bytes, layout.file_bytes)
        header = layout.header[start:stop]
        out = buffer[: stop - start]
        for contributor, raw in enumerate(raws):
            if raw[start : start + len(header)].tobytes() != header:
                raise UnusableUpdate(contributor, True, f"contributor {contributor}: other tensors")
        out[: len(header)] = np.frombuffer(header, np.uint8)
        pieces = [raw[start:stop] for raw in raws]
        try:
            _merge_chunk(layout, start, pieces, samples, method, out)
        except BlobError:
            _blame(layout, start, stop, raws)
            raise
        yield index, out.data


def _merge_chunk(
    layout: Layout,
    start: int,
    inputs: Sequence[RawBytes],
    samples: Sequence[int],
    method: MergeMethod,
    out: RawBytes,
) -> None:
    """Merge the bytes of one chunk, which begins at the offset `start` of the file."""
    for dtype, begin, end in layout.segments_between(start, start + len(out)):
        numpy_dtype, part = NUMPY_DTYPES[dtype], slice(begin - start, end - start)
        pieces = [raw[part].view(numpy_dtype) for raw in inputs]
        try:
            method.merge(dtype, pieces, samples, out[part].view(numpy_dtype))
        except BlobError as error:
            first, last = layout.tensor_at(begin).name, layout.tensor_at(end - 1).name
            where = f"tensor {first!r}" if first == last else f"tensors {first!r} to {last!r}"
            raise BlobError(f"{error} (in {where})") from None


def _blame(layout: Layout, start: int, stop: int, raws: Sequence[RawBytes]) -> None:
    """Raise UnusableUpdate for the first contributor whose values may not be merged, if any."""
    for contributor, raw in enumerate(raws):
        try:
            _check_values(layout, start, stop, raw)
        except BlobError as error:
            raise UnusableUpdate(contributor, False, str(error)) from None


def check_update(path: Path, expected: Layout) -> None:
    """Check that a file holds the expected tensors and only values that may be merged.

    Raises SchemaMismatch or BlobError, naming the tensor and what is wrong with it.
    """
    try:
        layout = Layout.read(path)
    except BlobError as error:
        raise SchemaMismatch(str(error)) from error
    _check_schema(path.name, layout, expected)
    raw = open_file(path).raw
    for start, stop in _steps(layout):
        _check_values(layout, start, stop, raw)


def _check_values(layout: Layout, start: int, stop: int, raw: RawBytes) -> None:
    for dtype, begin, end in layout.segments_between(start, stop):
        values = raw[begin:end].view(NUMPY_DTYPES[dtype])
        index = find_unfit(dtype, values)
        if index is not None:
            offset = begin + index * values.itemsize
            spec = layout.tensor_at(offset)
            place = (offset - layout.starts[layout.specs.index(spec)]) // values.itemsize
            what = "is neither 0 nor 1" if dtype == "BOOL" else "is not finite"
            raise BlobError(f"tensor {spec.name!r}: element {place} {what}")


def _steps(layout: Layout) -> Iterator[tuple[int, int]]:
    for start in range(0, layout.file_bytes, STEP_BYTES):
        yield start, min(start + STEP_BYTES, layout.file_bytes)


def _check_schema(whose: str, found: Layout, expected: Layout) -> None:
    if found.schema_digest == expected.schema_digest:
        return
    ours = {spec.name: spec for spec in expected.specs}
    theirs = {spec.name: spec for spec in found.specs}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise SchemaMismatch(
                f"{whose}: tensor {name!r} is {_told(theirs.get(name))}, but must be "
                f"{_told(ours.get(name))}"
            )


def _told(spec: TensorSpec | None) -> str:
    return "absent" if spec is None else f"{spec.dtype} {list(spec.shape)}"
