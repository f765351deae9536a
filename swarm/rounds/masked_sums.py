"""Updates as words of a ring, and the sum of words as the next model: in numpy, on files.

What a site has trained is taken in the order of its file, moved onto a grid, framed by zero words,
and only then masked (`swarm.privacy`). What comes out of the sum is in the same order.

All of it goes chunk by chunk from mapped files to mapped files: memory does not grow with the
model, and nobody holds an update, a masked one or a sum whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from swarm.blobs.manifest import Manifest
from swarm.blobs.tree import leaf_hash
from swarm.errors import PlanError
from swarm.privacy.canaries import (
    CHUNK_WORDS,
    chunks,
    framed_size,
    is_within_clip,
    unframe,
)
from swarm.privacy.fixed_point import (
    PIECE,
    Draw,
    Floats,
    Grid,
    Words,
    add,
    mean_grid,
    sum_grid,
)
from swarm.privacy.masks import Masks
from swarm.protocol.program import Stage
from swarm.protocol.state import MODEL_SLOT
from swarm.tensors import NUMPY_DTYPES, Layout, TensorFile, TensorSpec, create_file, open_file
from swarm.types import Digest

_WORDS = "words"

ReadBytes = Callable[[int, int], Any]
"""The bytes of a tensor file from one offset to another, as numpy reads them."""


class Spoiled(Exception):
    """A sum that is none of honest updates."""


@dataclass(frozen=True)
class Sums:
    """How the updates of one round become words, and their sum becomes an output.

    `layout` is of an update; `base` the model that training began from, None where the values
    themselves are summed; `members` how many are in the roster.
    """

    grid: Grid
    layout: Layout
    base: TensorFile | None
    members: int

    @property
    def words_layout(self) -> Layout:
        """Of the file of a masked update."""
        size = framed_size(self._count)
        spec = TensorSpec(_WORDS, "I32" if self.grid.bits == 32 else "I64", (size,))
        return Layout.from_specs([spec])

    def mask(self, update: ReadBytes, weight: float, draw: Draw, masks: Masks, out: Path) -> None:
        """Write the words of an update, framed and masked, as the tensor file that others ask for.

        Raises PlanError for a number that is not finite; then nothing is left.
        """
        with create_file(out, self.words_layout) as file:
            words = self._words(file)
            for at, (start, stop) in enumerate(chunks(self._count)):
                # Masked before it is in the file: what a mapping holds may reach the disk.
                chunk = np.zeros(stop - start + 2, self.grid.dtype)
                for first, last in _pieces(start, stop):
                    inside = chunk[1 + first - start : 1 + last - start]
                    moves = self._moves(update, first, last)
                    self.grid.encode_into(inside, moves, weight, draw)
                masks.add_to(chunk)
                words[at * CHUNK_WORDS :][: len(chunk)] = chunk

    def check(self, update: ReadBytes) -> None:
        """Raise PlanError for what cannot be masked: a number that is not finite, or in sums one
        beyond the bound that the plan declares, which would be cut."""
        for start, stop in _pieces(0, self._count):
            values = _numbers(self.layout, update, start, stop)
            unfit = np.flatnonzero(~np.isfinite(values))
            if len(unfit):
                at = start + int(unfit[0])
                _, offset, _ = next(_runs(self.layout, at, at + 1))
                name = self.layout.tensor_at(offset).name
                raise PlanError(
                    f"tensor {name!r} of the update has a number that is not finite, and cannot be "
                    "masked: look for a diverged training, or lower the learning rate"
                )
            if self.base is None and np.abs(values).max(initial=0.0) > self.grid.clip:
                raise PlanError(
                    f"a statistic of this site is {np.abs(values).max():.6g}, beyond the plan's "
                    f"`statistics_bound` of {self.grid.clip:g}: the plan must declare more"
                )

    def digest(self, masked: Sequence[Path]) -> Digest:
        """What members attest of the sum of these masked updates: the name that its file has."""
        layout, leaves = self.words_layout, bytearray()
        parts = (total.view(np.uint8).data for _, _, total in self._totals(masked))
        for part in (memoryview(layout.header), *parts):  # each begins at a chunk's edge
            for start in range(0, len(part), layout.chunk_bytes):
                leaves += leaf_hash(part[start : start + layout.chunk_bytes])
        return Manifest.of_tensors(layout, bytes(leaves)).root

    def add_up(self, masked: Sequence[Path], out: Path) -> None:
        """Write the sum of these masked updates to the new file `out`."""
        with create_file(out, self.words_layout) as file:
            words = self._words(file)
            for at, (_, _, total) in enumerate(self._totals(masked)):
                words[at * CHUNK_WORDS :][: len(total)] = total

    def open(
        self, masked: Sequence[Path], masks: Masks, weight: float, contributors: int, out: Path
    ) -> bool:
        """Write what the sum of these masked updates stands for, once `masks` are off, to the new
        file `out`; False if it was spoiled.

        `weight` is what the sum is divided by: of a mean, the contributors' joint one; of a sum, 1.
        The same bits at every member.
        """
        joint = float(contributors) if self.base is None else weight
        try:
            with create_file(out, self.layout) as file:
                for start, stop, total in self._totals(masked):
                    masks.add_to(total)
                    inside = unframe(total)
                    if inside is None or not is_within_clip(self.grid, inside, joint, contributors):
                        raise Spoiled
                    for first, last in _pieces(start, stop):
                        words = inside[first - start : last - start]
                        values = self.grid.decode(words, weight)
                        if self.base is not None:
                            values += _numbers(self.layout, _reading(self.base), first, last)
                        _put(file, first, values)
        except Spoiled:
            return False
        return True

    @property
    def _count(self) -> int:
        return sum(int(np.prod(spec.shape, dtype=np.int64)) for spec in self.layout.specs)

    def _words(self, file: TensorFile) -> Words:
        return file[_WORDS].view(self.grid.dtype)

    def _totals(self, masked: Sequence[Path]) -> Iterator[tuple[int, int, Words]]:
        """Chunk by chunk: which elements are in it, and the sum of its words, zeros included."""
        files = [self._words(open_file(path)) for path in masked]
        for at, (start, stop) in enumerate(chunks(self._count)):
            total = np.zeros(stop - start + 2, self.grid.dtype)
            for words in files:
                add(total, words[at * CHUNK_WORDS :][: len(total)])
            yield start, stop, total

    def _moves(self, update: ReadBytes, start: int, stop: int) -> Floats:
        """How far these elements went from the base, or what they are where there is none."""
        values = _numbers(self.layout, update, start, stop)
        if self.base is not None:
            values -= _numbers(self.layout, _reading(self.base), start, stop)
        return values


def grid_of(stage: Stage, members: int) -> Grid:
    """The grid of a masked stage: of means of moves, or of sums of statistics."""
    assert stage.clip is not None, "a secure plan's stages have it"
    kind = mean_grid if stage.slot == MODEL_SLOT else sum_grid
    return kind(stage.clip, members)


def read_mapped(path: Path) -> tuple[Layout, ReadBytes]:
    """The layout of a tensor file, and its bytes."""
    file = open_file(path)
    return file.layout, _reading(file)


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """So few elements at a time that what is done with them stays in a processor's cache."""
    for first in range(start, stop, PIECE):
        yield first, min(first + PIECE, stop)


def _reading(file: TensorFile) -> ReadBytes:
    return lambda start, stop: file.raw[start:stop]


def _runs(layout: Layout, start: int, stop: int) -> Iterator[tuple[np.dtype[Any], int, int]]:
    """Where elements `start` to `stop`, in the order of the file, lie in it: by run of one type,
    its type and the byte offsets."""
    before = 0
    for run in layout.runs:
        dtype = NUMPY_DTYPES[run.dtype]
        count = (run.stop - run.start) // dtype.itemsize
        first, last = max(start - before, 0), min(stop - before, count)
        if first < last:
            yield dtype, run.start + first * dtype.itemsize, run.start + last * dtype.itemsize
        before += count


def _numbers(layout: Layout, read: ReadBytes, start: int, stop: int) -> Floats:
    parts = [
        np.frombuffer(read(begin, end), dtype).astype(np.float64)
        for dtype, begin, end in _runs(layout, start, stop)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0)


def _put(file: TensorFile, start: int, values: NDArray[np.float64]) -> None:
    at = 0
    for dtype, begin, end in _runs(file.layout, start, start + len(values)):
        part = file.raw[begin:end].view(dtype)
        part[...] = values[at : at + len(part)]
        at += len(part)
