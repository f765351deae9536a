"""Merging and checking updates on disk, through mapped files and in pieces.

The main process does this without torch, and its memory does not grow with the model: inputs and
output are mapped, and only a piece of each is worked on at a time. All functions block; the node
calls them in threads, each of which checks its own arithmetic first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swarm.errors import BlobError, SchemaMismatch
from swarm.learning.merge import MergeMethod, check_samples, find_unfit, self_check
from swarm.tensors import (
    MAX_CHUNK_BYTES,
    NUMPY_DTYPES,
    Layout,
    TensorSpec,
    create_file,
    open_file,
)

RawBytes = np.ndarray[Any, np.dtype[np.uint8]]

STEP_BYTES = MAX_CHUNK_BYTES  # a whole number of chunks, whatever their size


@dataclass(frozen=True)
class MergeResult:
    layout: Layout
    path: Path


def merge_files(
    paths: Sequence[Path], samples: Sequence[int], method: MergeMethod, out: Path
) -> MergeResult:
    """Merge tensor files into a new one. `paths` and `samples` are in member order.

    Raises BlobError if one is not canonical, differs in its tensors from the first, or holds values
    that cannot be merged (contributors are counted from 0); LocalError if `out` cannot be written
    or this machine's arithmetic differs; ValueError for sample counts that cannot be weights.
    Nothing is left at `out` then.
    """
    self_check()
    check_samples(samples, len(paths))
    inputs = [open_file(path) for path in paths]
    layout = inputs[0].layout
    for contributor, given in enumerate(inputs[1:], 1):
        _check_schema(f"contributor {contributor}", given.layout, layout)
    raws = [given.raw for given in inputs]
    with create_file(out, layout) as merged:
        for start, stop in _steps(layout):
            merge_range(layout, start, stop, raws, samples, method, merged.raw)
    return MergeResult(layout, out)


def merge_range(
    layout: Layout,
    start: int,
    stop: int,
    inputs: Sequence[RawBytes],
    samples: Sequence[int],
    method: MergeMethod,
    out: RawBytes,
) -> None:
    """Merge what lies between two chunk edges of whole files' bytes; needs nothing beyond them."""
    for dtype, begin, end in layout.segments_between(start, stop):
        numpy_dtype = NUMPY_DTYPES[dtype]
        pieces = [raw[begin:end].view(numpy_dtype) for raw in inputs]
        try:
            method.merge(dtype, pieces, samples, out[begin:end].view(numpy_dtype))
        except BlobError as error:
            first, last = layout.tensor_at(begin).name, layout.tensor_at(end - 1).name
            where = f"tensor {first!r}" if first == last else f"tensors {first!r} to {last!r}"
            raise BlobError(f"{error} (in {where})") from None


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
