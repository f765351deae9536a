"""Updates as words of a ring, and the sum of words as the next model: in numpy, on files.

What a site has trained is flattened in the order of its tensors, moved onto a grid, framed by zero
words, and only then masked (`swarm.privacy`). What comes out of the sum is in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from swarm.errors import PlanError
from swarm.privacy.canaries import frame, framed_size, is_within_clip, unframe
from swarm.privacy.fixed_point import Draw, Grid, Words, add, mean_grid, sum_grid
from swarm.protocol.program import Stage
from swarm.protocol.state import MODEL_SLOT
from swarm.tensors import Layout, TensorFile, TensorSpec, create_file, open_file
from swarm.types import Digest

_WORDS = "words"
_SUM_DOMAIN = "swarm 2026 masked sum v1"
_PREFIX_BYTES = 8

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Sums:
    """How the updates of one round become words, and their sum becomes an output.

    `layout` is of an update; `base` the model that training began from, None where the values
    themselves are summed; `members` how many are in the roster.
    """

    grid: Grid
    layout: Layout
    base: Tensors | None
    members: int

    @property
    def words_layout(self) -> Layout:
        """Of the file of a masked update."""
        size = framed_size(sum(_size(spec) for spec in self.layout.specs))
        return _layout_of_words(size, self.grid.bits)

    def encode(self, update: Tensors, weight: float, draw: Draw) -> Words:
        """The words of an update, framed. Raises PlanError for a number that is not finite."""
        return frame(self.grid.encode(self._flat(update), weight, draw))

    def check(self, update: Tensors) -> None:
        """Raise PlanError for what cannot be masked: a number that is not finite, or in sums one
        beyond the bound that the plan declares, which would be cut."""
        flat = self._flat(update)
        if not np.isfinite(flat).all():
            raise PlanError("the update has numbers that are not finite, and cannot be masked")
        if self.base is None and np.abs(flat).max(initial=0.0) > self.grid.clip:
            raise PlanError(
                f"a statistic of this site is {np.abs(flat).max():.6g}, beyond the plan's "
                f"`statistics_bound` of {self.grid.clip:g}: the plan must declare more"
            )

    def decode(self, total: Words, weight: float, contributors: int, out: Path) -> bool:
        """Write what a sum without masks stands for to the new file `out`; False if it was spoiled.

        `weight` is what the sum is divided by: of a mean, the contributors' joint one; of a sum, 1.
        The same bits at every member.
        """
        inside = unframe(total)
        joint = float(contributors) if self.base is None else weight
        if inside is None or not is_within_clip(self.grid, inside, joint, contributors):
            return False
        values, at = self.grid.decode(inside, weight), 0
        with create_file(out, self.layout) as file:
            for spec in self.layout.specs:
                part = values[at : at + _size(spec)].reshape(spec.shape)
                before = 0.0 if self.base is None else self.base[spec.name].astype(np.float64)
                file[spec.name][...] = before + part
                at += _size(spec)
        return True

    def _flat(self, update: Tensors) -> NDArray[np.float64]:
        parts = []
        for spec in self.layout.specs:
            value = update[spec.name].astype(np.float64).ravel()
            if self.base is not None:
                value = value - self.base[spec.name].astype(np.float64).ravel()
            parts.append(value)
        return np.concatenate(parts) if parts else np.zeros(0)


def grid_of(stage: Stage, members: int) -> Grid:
    """The grid of a masked stage: of means of moves, or of sums of statistics."""
    assert stage.clip is not None, "a secure plan's stages have it"
    kind = mean_grid if stage.slot == MODEL_SLOT else sum_grid
    return kind(stage.clip, members)


def read_update(content: bytes) -> TensorFile:
    """The tensors of a whole file that was kept as bytes."""
    ends = _PREFIX_BYTES + int.from_bytes(content[:_PREFIX_BYTES], "little")
    layout = Layout.parse(content[:ends], len(content))
    return TensorFile(layout, np.frombuffer(content, np.uint8))


def write_words(words: Words, out: Path) -> None:
    """Write masked words as the tensor file that others ask for."""
    with create_file(out, _layout_of_words(len(words), 8 * words.itemsize)) as file:
        file[_WORDS][...] = words.view(words.dtype.str.replace("u", "i"))


def add_up(files: Iterable[Path], sums: Sums) -> Words:
    """The sum of masked updates."""
    total = np.zeros(sums.words_layout.specs[0].shape, sums.grid.dtype)
    for path in files:
        add(total, open_file(path)[_WORDS].view(sums.grid.dtype))
    return total


def sum_digest(total: Words) -> Digest:
    """What members attest of a sum."""
    return Digest(blake3(total.tobytes(), derive_key_context=_SUM_DOMAIN).digest())


def _layout_of_words(count: int, bits: int) -> Layout:
    return Layout.from_specs([TensorSpec(_WORDS, "I32" if bits == 32 else "I64", (count,))])


def _size(spec: TensorSpec) -> int:
    return int(np.prod(spec.shape, dtype=np.int64))
