"""Merging and checking updates on disk, through mapped files and in pieces.

The main process does this without torch, and its memory does not grow with the model: inputs and
output are mapped, and only a piece of each is worked on at a time. All functions block; the node
calls them in threads, each of which checks its own arithmetic first.

A merge need not wait for whole updates: what chunk k of the updates folds into needs chunk k of
each and no other, so `merge_as_they_come` runs beside the transfers, and its result can be sent on
while it runs. Only rules that choose by distance wait for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np

from swarm.blobs.partial import Draft, PartialBlob, reading
from swarm.errors import BlobError, SchemaMismatch
from swarm.learning.folds.formats import find_unfit
from swarm.learning.folds.golden import self_check
from swarm.learning.parameters.next_file import (
    Contribution,
    FoldedUpdates,
    Folding,
    Piece,
    RawBytes,
    Stopped,
)
from swarm.tensors import MAX_CHUNK_BYTES, NUMPY_DTYPES, Layout, TensorSpec, open_file
from swarm.types import MemberId

STEP_BYTES = MAX_CHUNK_BYTES  # a whole number of chunks, whatever their size
STOP_LOOK_S = 0.2  # how soon a merge that waits for a chunk sees that it was stopped


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
    member: MemberId

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


@dataclass(frozen=True)
class MergeInputs:
    """What a merge is made of: updates in member order, and the round's base where the folding
    needs it."""

    folding: Folding
    updates: Sequence[Incoming]
    base: Path | None = None


def merge_as_they_come(inputs: MergeInputs, draft: Draft, stopped: Event) -> None:
    """Merge chunk after chunk into `draft`, as soon as all updates (in member order) have it.

    Returns early if `stopped` is set. Raises UnusableUpdate for values or a header that cannot be
    merged, BlobError if only the result does not fit, LocalError if it cannot be written or if this
    machine's arithmetic differs, ValueError for sample counts that cannot be weights.
    """
    writer = _Writer(draft)
    for _, piece in _merged_pieces(inputs, range(inputs.folding.up.chunks), stopped):
        writer.write(piece)


def find_wrong_chunk(
    inputs: MergeInputs, model: Path, chunks: Sequence[int], stopped: Event
) -> int | None:
    """Recompute what these chunks of the updates fold into; the first chunk of which something
    else stands in the file `model`, whose layout is right, or None.

    The updates need to hold these chunks only. Raises as `merge_as_they_come`.
    """
    found = open_file(model).raw
    for index, piece in _merged_pieces(inputs, chunks, stopped):
        if not np.array_equal(found[piece.offset : piece.offset + len(piece.raw)], piece.raw):
            return index
    return None


def _merged_pieces(
    inputs: MergeInputs, chunks: Iterable[int], stopped: Event
) -> Iterator[tuple[int, Piece]]:
    """The pieces of the result, and from which chunk of the updates each comes. Those of no chunk
    come first, as if from chunk 0."""
    self_check()
    up = inputs.folding.up
    contributions = [Contribution(u.member, u.samples, u.map()) for u in inputs.updates]
    base = None if inputs.base is None else open_file(inputs.base)
    folded = FoldedUpdates(inputs.folding, contributions, base)

    def wait(index: int) -> bool:
        if not all(update.await_chunk(index, stopped) for update in inputs.updates):
            return False
        _check_headers(up, index, contributions)
        return True

    def blame(start: int, stop: int) -> None:
        for number, each in enumerate(contributions):
            try:
                _check_values(up, start, stop, each.raw)
            except BlobError as error:
                raise UnusableUpdate(number, False, str(error)) from None

    try:
        folded.weigh(wait)
    except Stopped:
        return
    except UnusableUpdate:
        raise
    except BlobError:
        blame(0, up.file_bytes)
        raise
    for piece in folded.common():
        yield 0, piece
    for index in chunks:
        if not wait(index):
            return
        try:
            for piece in folded.pieces(index):
                yield index, piece
        except BlobError:
            start = index * up.chunk_bytes
            blame(start, min(start + up.chunk_bytes, up.file_bytes))
            raise


def _check_headers(up: Layout, index: int, contributions: Sequence[Contribution]) -> None:
    start = index * up.chunk_bytes
    header = up.header[start : start + up.chunk_bytes]
    for number, each in enumerate(contributions):
        if each.raw[start : start + len(header)].tobytes() != header:
            raise UnusableUpdate(number, True, f"contributor {number}: other tensors")


@dataclass
class _Writer:
    """Puts pieces together to chunks of a draft, which takes whole ones."""

    draft: Draft
    _begun: dict[int, tuple[RawBytes, int]] = field(default_factory=dict)
    """By number: the bytes of a chunk, and how many of them are still missing."""

    def write(self, piece: Piece) -> None:
        size = self.draft.chunk_bytes
        offset, raw = piece
        while len(raw):
            index = offset // size
            start, stop = self.draft.chunk_range(index)
            part, raw = raw[: stop - offset], raw[stop - offset :]
            if len(part) == stop - start:
                self.draft.write_chunks([(index, part.data)])
            else:
                self._fill(index, offset - start, part, stop - start)
            offset = stop

    def _fill(self, index: int, at: int, part: RawBytes, whole: int) -> None:
        chunk, missing = self._begun.pop(index, None) or (np.empty(whole, np.uint8), whole)
        chunk[at : at + len(part)] = part
        if missing == len(part):
            self.draft.write_chunks([(index, chunk.data)])
        else:
            self._begun[index] = chunk, missing - len(part)


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
