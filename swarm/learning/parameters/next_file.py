"""How the updates of a round become the next file, stretch by stretch, the same on every machine.

There are two layouts. *Up* is what each update holds. *Down* is what the next model file holds: the
shared tensors; beside them the state of their step, by which the next one goes on; the rows of the
gathered ones, and who is who. What swarm adds has names of its own, which begin with `~`:

    ~step/velocity/head.weight   a slot of the step's state, in the tensor's shape
    ~step/taken                  how many steps were taken since the state was zeros
    ~row/score                   a gathered tensor, [contributors, …]
    ~members                     the numbers of the contributors, in that order

Where no tensor has a step or is gathered, both layouts are the same.

A chunk of *up* holds elements of some tensors; folded, each belongs to one stretch in each of a few
tensors of *down*. So chunk k of every update, with the same elements of the last model, is all that
those stretches need, unless a rule weighs whole updates by their distances: that comes first.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from swarm.errors import BlobError, PlanError
from swarm.learning.folds.averages import is_fused
from swarm.learning.folds.formats import FLOATS, Array, narrow_within, refuse_unfit, widen
from swarm.learning.folds.gram import Elements, find_gram
from swarm.learning.folds.reduce import ByDistance, check_samples
from swarm.learning.folds.step import state_dtype
from swarm.learning.parameters.placement import (
    RESERVED,
    At,
    Folded,
    Gathered,
    Placement,
    Shared,
)
from swarm.tensors import NUMPY_DTYPES, DType, Layout, TensorFile, TensorSpec

RawBytes = np.ndarray[Any, np.dtype[np.uint8]]

STEP = RESERVED + "step/"
TAKEN = STEP + "taken"
ROW = RESERVED + "row/"
MEMBERS = RESERVED + "members"


class Contribution(NamedTuple):
    """One update, mapped: its bytes may still be on their way."""

    member: int
    samples: int
    raw: RawBytes


class Piece(NamedTuple):
    """Some bytes of the folded file; the buffer is used again for the next piece."""

    offset: int
    raw: RawBytes


class Stopped(Exception):
    """What was waited for will not come."""


@dataclass(frozen=True)
class Run:
    """Elements of one type that lie side by side in *up*, and in each place that they fold into.

    `start` and `stop` are byte offsets in *up*. `targets` are, in *down*, the type and the offset
    of the first element: of the tensor, and of each slot of its step; of gathered rows the first.
    """

    row: int
    dtype: DType
    start: int
    stop: int
    specs: tuple[TensorSpec, ...]
    targets: tuple[tuple[DType, int], ...]

    def is_followed_by(self, other: Run) -> bool:
        """Whether both are one run: never of gathered rows, which lie apart."""
        return (
            (self.row, self.dtype, self.stop) == (other.row, other.dtype, other.start)
            and len(self.targets) == len(other.targets)
            and all(
                mine[0] == its[0] and mine[1] + self.elements * _size(mine[0]) == its[1]
                for mine, its in zip(self.targets, other.targets, strict=True)
            )
        )

    @property
    def elements(self) -> int:
        return (self.stop - self.start) // _size(self.dtype)

    @cached_property
    def firsts(self) -> list[int]:
        """The number of each tensor's first element."""
        sizes = (spec.size_bytes // _size(self.dtype) for spec in self.specs[:-1])
        return list(accumulate(sizes, initial=0))


@dataclass(frozen=True)
class Outline:
    """What *down* looks like for some number of contributors, and what folds into it."""

    down: Layout
    runs: tuple[Run, ...]

    def between(self, start: int, stop: int) -> Iterator[Run]:
        """The runs with elements between two offsets of *up*."""
        first = max(0, bisect_right(self._starts, start) - 1)
        for run in self.runs[first : bisect_left(self._starts, stop)]:
            if run.stop > start:
                yield run

    @cached_property
    def _starts(self) -> list[int]:
        return [run.start for run in self.runs]


@dataclass(frozen=True)
class Folding:
    """What becomes of updates of one layout. Raises PlanError for names that a file cannot have."""

    placement: Placement
    up: Layout
    _outlines: dict[int, Outline] = field(default_factory=dict, compare=False)

    def down(self, contributors: int) -> Layout:
        """The layout of the next file, from so many updates."""
        return self.outline(contributors).down

    @property
    def needs_base(self) -> bool:
        """Whether folding reads the last model."""
        steps = any(fold.step is not None for fold in self.placement.folds)
        return steps or any(isinstance(f.reduce, ByDistance) for f in self.placement.folds)

    def outline(self, contributors: int) -> Outline:
        rows = contributors if self.placement.gathers else 1
        if rows not in self._outlines:
            self._outlines[rows] = self._draw(rows)
        return self._outlines[rows]

    def _draw(self, rows: int) -> Outline:
        of_each = [self._made_of(spec, rows) for spec in self.up.specs]
        specs = [made for each in of_each for made in each]
        names = {spec.name for spec in specs}
        if any(name.startswith(STEP) for name in names):
            specs.append(TensorSpec(TAKEN, "I64", ()))
        if any(name.startswith(ROW) for name in names):
            specs.append(TensorSpec(MEMBERS, "I64", (rows,)))
        try:
            down = Layout.from_specs(specs)
        except ValueError as error:
            raise PlanError(f"the model cannot be exchanged as its tensors say: {error}") from None
        starts = offsets_of(down)
        groups: list[list[Run]] = []
        for spec, start, made in zip(self.up.specs, self.up.starts, of_each, strict=True):
            if not spec.size_bytes:
                continue
            targets = tuple((m.dtype, starts[m.name]) for m in made)
            row, stop = self.placement.row_of(spec.name), start + spec.size_bytes
            run = Run(row, spec.dtype, start, stop, (spec,), targets)
            is_gathered = isinstance(self.placement.rows[row][1], Gathered)
            if groups and not is_gathered and groups[-1][-1].is_followed_by(run):
                groups[-1].append(run)
            else:
                groups.append([run])
        return Outline(down, tuple(_joined(group) for group in groups))

    def _made_of(self, spec: TensorSpec, rows: int) -> list[TensorSpec]:
        """What is in *down* of a tensor of *up*."""
        match self.placement.place_of(spec.name):
            case Gathered():
                return [TensorSpec(ROW + spec.name, spec.dtype, (rows, *spec.shape))]
            case Shared() | At() as place:
                kind, step = state_dtype(spec.dtype), place.fold.step
                slots = () if step is None or kind is None else step.slots
                state = [TensorSpec(_slot(s, spec.name), kind or "F32", spec.shape) for s in slots]
                return [spec, *state]
        raise PlanError(f"the tensor {spec.name!r} does not travel, so no update may have it")

    def prepare(self) -> None:
        """Load what it needs, or the first one would wait for it."""
        if any(spec.dtype == "F32" for spec in self.up.specs):
            is_fused("F32", self.up.chunk_bytes // 4)


class FoldedUpdates:
    """The next file, in pieces, as they are asked for.

    `contributions` are in member order; `base` is the last model, where the folding needs it.
    Raises ValueError for numbers of samples that cannot be weights.
    """

    def __init__(
        self, folding: Folding, contributions: Sequence[Contribution], base: TensorFile | None
    ) -> None:
        self.folding = folding
        self._outline = folding.outline(len(contributions))
        self._contributions = contributions
        self._base = _Base(base)
        self._buffers: dict[int, RawBytes] = {}
        samples = [each.samples for each in contributions]
        check_samples(samples, len(samples))
        self._weights: list[Sequence[int]] = [
            place.fold.weights(samples)
            if isinstance(place, Folded) and place.fold.counts != "distance"
            else ()
            for _, place in folding.placement.rows
        ]

    def weigh(self, wait: Callable[[int], bool]) -> None:
        """Find the weights of rules that go by distance: `wait` is called with each chunk of *up*
        that is needed, and says whether it is there. Raises Stopped if one is not."""
        rows = {run.row for run in self._outline.runs}
        for row, (_, place) in enumerate(self.folding.placement.rows):
            if row in rows and isinstance(place, Folded):
                rule = place.fold.reduce
                if isinstance(rule, ByDistance):
                    gram = find_gram(lambda row=row: self._elements(row, wait))  # type: ignore[misc]
                    self._weights[row] = rule.weigh(gram)

    def common(self) -> Iterator[Piece]:
        """The pieces that no chunk of *up* makes: how many steps, whose rows."""
        starts = offsets_of(self._outline.down)
        if TAKEN in starts:
            yield Piece(starts[TAKEN], _as_bytes([self._base.taken + 1]))
        if MEMBERS in starts:
            yield Piece(starts[MEMBERS], _as_bytes([c.member for c in self._contributions]))

    def pieces(self, chunk: int) -> Iterator[Piece]:
        """What chunk `chunk` of *up* folds into. Raises BlobError naming tensors, and the first
        contributor with values that cannot be."""
        start, stop = self._range(chunk)
        for run in self._outline.between(start, stop):
            begin, end = max(run.start, start), min(run.stop, stop)
            first = (begin - run.start) // _size(run.dtype)
            try:
                yield from self._folded(run, begin, end, first)
            except BlobError as error:
                names = [self.folding.up.tensor_at(offset).name for offset in (begin, end - 1)]
                where = "tensor {!r}" if names[0] == names[1] else "tensors {!r} to {!r}"
                raise BlobError(f"{error} (in {where.format(*names)})") from None

    def _folded(self, run: Run, begin: int, end: int, first: int) -> Iterator[Piece]:
        inputs = self._inputs(run.dtype, begin, end)
        place = self.folding.placement.rows[run.row][1]
        if not isinstance(place, Folded):
            refuse_unfit(run.dtype, inputs)
            ((_, offset),) = run.targets
            for index, each in enumerate(self._contributions):
                row = offset + index * (run.stop - run.start) + begin - run.start
                yield Piece(row, each.raw[begin:end])
            return
        outs = [
            self._buffer(number, dtype, len(inputs[0]))
            for number, (dtype, _) in enumerate(run.targets)
        ]
        place.fold.reduce.merge(run.dtype, inputs, self._weights[run.row], outs[0])
        step = place.fold.step
        if step is not None and len(outs) > 1:
            base = self._base.read(run, first, len(outs[0]))
            state = [self._base.read(run, first, len(outs[0]), slot) for slot in step.slots]
            step.advance(run.dtype, base, outs[0], state, self._base.taken, outs[0], outs[1:])
        for out, (dtype, offset) in zip(outs, run.targets, strict=True):
            yield Piece(offset + first * _size(dtype), out.view(np.uint8))

    def _elements(self, row: int, wait: Callable[[int], bool]) -> Iterator[Elements]:
        for chunk in range(self.folding.up.chunks):
            if not wait(chunk):
                raise Stopped
            start, stop = self._range(chunk)
            for run in self._outline.between(start, stop):
                if run.row == row:
                    begin, end = max(run.start, start), min(run.stop, stop)
                    inputs = self._inputs(run.dtype, begin, end)
                    first = (begin - run.start) // _size(run.dtype)
                    base = self._base.read(run, first, len(inputs[0]))
                    yield Elements(run.dtype, base, inputs)

    def _range(self, chunk: int) -> tuple[int, int]:
        up = self.folding.up
        start = chunk * up.chunk_bytes
        return start, min(start + up.chunk_bytes, up.file_bytes)

    def _inputs(self, dtype: DType, begin: int, end: int) -> list[Array]:
        return [each.raw[begin:end].view(NUMPY_DTYPES[dtype]) for each in self._contributions]

    def _buffer(self, number: int, dtype: DType, elements: int) -> Array:
        size = elements * _size(dtype)
        if number not in self._buffers or len(self._buffers[number]) < size:
            self._buffers[number] = np.empty(size, np.uint8)
        return self._buffers[number][:size].view(NUMPY_DTYPES[dtype])


class _Base:
    """The last model, and its step's state, by the elements of runs."""

    def __init__(self, file: TensorFile | None) -> None:
        self._file = file
        self._specs = {} if file is None else {spec.name: spec for spec in file.layout.specs}
        self._starts = {} if file is None else offsets_of(file.layout)
        self.taken = 0
        """How many steps its state has taken."""
        if file is not None and self._specs.get(TAKEN) == TensorSpec(TAKEN, "I64", ()):
            self.taken = max(0, int(file[TAKEN]))

    def read(self, run: Run, first: int, count: int, slot: str = "") -> Array:
        """Elements of a run's tensors, or of a slot of their step's state, in the type in which
        they are folded. Raises BlobError for a model that lacks one; state that is absent is 0."""
        dtype = (state_dtype(run.dtype) if slot else run.dtype) or run.dtype
        found: list[Array] = []
        tensors = range(bisect_right(run.firsts, first) - 1, bisect_left(run.firsts, first + count))
        for spec, at in ((run.specs[i], run.firsts[i]) for i in tensors):
            elements = spec.size_bytes // _size(run.dtype)
            begin, end = max(first - at, 0), min(first + count - at, elements)
            found.append(self._part(spec, _slot(slot, spec.name), slot, dtype, begin, end))
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _part(
        self, spec: TensorSpec, name: str, slot: str, dtype: DType, begin: int, end: int
    ) -> Array:
        own = self._specs.get(name)
        if own is None and slot:
            return np.zeros(end - begin, NUMPY_DTYPES[dtype])
        if own is None or self._file is None or own.shape != spec.shape:
            raise BlobError(f"the round's base has no tensor {name!r} of shape {list(spec.shape)}")
        start, size = self._starts[name], _size(own.dtype)
        raw = self._file.raw[start + begin * size : start + end * size]
        return _converted(own.dtype, dtype, raw.view(NUMPY_DTYPES[own.dtype]), name)


def fold_whole(
    folding: Folding, contributions: Sequence[Contribution], base: TensorFile | None
) -> TensorFile:
    """The next file, in memory. Raises as `FoldedUpdates` and its methods."""
    folded = FoldedUpdates(folding, contributions, base)
    folded.weigh(lambda chunk: True)
    down = folding.down(len(contributions))
    raw = np.empty(down.file_bytes, np.uint8)
    raw[: down.data_start] = np.frombuffer(down.header, np.uint8)
    pieces = [folded.common(), *(folded.pieces(chunk) for chunk in range(folding.up.chunks))]
    for offset, piece in (found for each in pieces for found in each):
        raw[offset : offset + len(piece)] = piece
    return TensorFile(down, raw)


def _joined(group: Sequence[Run]) -> Run:
    first, specs = group[0], tuple(spec for run in group for spec in run.specs)
    return Run(first.row, first.dtype, first.start, group[-1].stop, specs, first.targets)


def offsets_of(layout: Layout) -> dict[str, int]:
    """Where each tensor's data begins in the file, by name."""
    return dict(zip((spec.name for spec in layout.specs), layout.starts, strict=True))


def is_added(name: str) -> bool:
    """Whether a tensor of a model file is no tensor of the model."""
    return name.startswith(RESERVED)


def _slot(slot: str, name: str) -> str:
    return f"{STEP}{slot}/{name}" if slot else name


def _size(dtype: DType) -> int:
    return NUMPY_DTYPES[dtype].itemsize


def _as_bytes(numbers: Sequence[int]) -> RawBytes:
    return np.array(numbers, NUMPY_DTYPES["I64"]).view(np.uint8)


def _converted(of: DType, to: DType, values: Array, name: str) -> Array:
    """As values of the type in which tensors travel, to which the initial model is rounded."""
    if of == to:
        return values
    if of not in FLOATS or to not in FLOATS:
        raise BlobError(f"the round's base has the tensor {name!r} in {of}, not in {to}")
    wide, out = np.empty(len(values), np.float64), np.empty(len(values), NUMPY_DTYPES[to])
    widen(of, values, wide)
    narrow_within(to, wide, out)
    return out
