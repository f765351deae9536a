"""What the folds of simulated days make: real files of few numbers, really folded.

In the days of the rounds an update is a name. Here each name stands for a small file, so that the
folds run on whichever updates the trouble of a day leaves, with the states that their steps go on
from. What is folded from the same updates is folded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from harness.names import name
from swarm.errors import PlanError
from swarm.learning.folds.fold import Fold
from swarm.learning.folds.reduce import (
    GeometricMedian,
    Krum,
    Maximum,
    Mean,
    Median,
    MultiKrum,
    Reduce,
    Sum,
    Trimmed,
)
from swarm.learning.folds.step import STEPS
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import Gathered, Placement, Shared, read_placement
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.program import Program
from swarm.protocol.state import MODEL_SLOT, Rules, VerifyLevel
from swarm.tensors import NUMPY_DTYPES, Layout, TensorFile, TensorSpec
from swarm.types import Digest

UP = Layout.from_specs(
    [
        TensorSpec("seen", "I64", (1,)),
        TensorSpec("told", "F64", (3,)),
        TensorSpec("weight", "F32", (5,)),
    ]
)
REDUCES: Sequence[Reduce] = (
    *(Mean(), Sum(), Maximum(), Median(), Trimmed(0.2)),
    *(Krum(1), MultiKrum(1, 2), GeometricMedian(4)),
)


def drawn_merge(seed: int, nodes: int, rules: Rules) -> tuple[str, Rules]:
    """How the models of a day are merged, and the day's rules with what that needs. From a source
    of its own, so that the rest of the day stays what it was."""
    rng = Random(f"merge of {seed}")
    honest = nodes - (nodes - 1) // 3
    able = [each for each in REDUCES if each.least <= honest]
    reduce, step = rng.choice(able), rng.choice([None, *(kind() for kind in STEPS)])
    by_site = isinstance(reduce, Mean) and rng.random() < 0.5
    step = None if isinstance(reduce, Sum) else step
    fold = Fold(reduce, step, "site" if by_site else None)
    told = Gathered() if rng.random() < 0.3 else Shared()
    placement = Placement((("weight", Shared(fold)), ("told", told), ("*", Shared())))
    rules = replace(rules, min_peers=max(rules.min_peers, reduce.least))
    level = rules.verify_level.name.lower()
    try:
        placement.check(rules.min_peers, level)
    except PlanError:  # can only be checked from whole updates
        rules = replace(rules, verify_level=VerifyLevel.FULL)
    return placement.encode(), rules


def merge_in_words(program: Program) -> str:
    """By which rule, and which step if any, a day's models are merged."""
    merge = next(stage.merge for stage in program.stages if stage.slot == MODEL_SLOT)
    fold = read_placement(merge).folds[0]
    return fold.reduce.name if fold.step is None else f"{fold.reduce.name}, {fold.step.name}"


@dataclass
class Folds:
    """The models of one day, by name."""

    _files: dict[Digest, TensorFile] = field(default_factory=dict)
    _made: dict[tuple[object, ...], Digest] = field(default_factory=dict)

    def merged(self, merge: str, base: Digest, updates: Iterable[FrozenUpdate]) -> Digest:
        """What merging these updates must give. Raises as folding does."""
        given = tuple(updates)
        made = self._made.get((merge, base, given))
        if made is None:
            file = self._fold(merge, base, given)
            made = name("model", base, [(u.update, u.samples) for u in given], file.raw.tobytes())
            self._files[made], self._made[merge, base, given] = file, made
        return made

    def _fold(self, merge: str, base: Digest, updates: Sequence[FrozenUpdate]) -> TensorFile:
        contributions = [Contribution(u.member, u.samples, made_up(u.update).raw) for u in updates]
        known = self._files.get(base) or made_up(base)
        file = fold_whole(Folding(read_placement(merge), UP), contributions, known)
        for tensor in file.layout.specs:
            if not np.isfinite(file[tensor.name].astype(float)).all():
                raise AssertionError(f"folding by {merge} makes {tensor.name} no numbers")
        return file


def made_up(digest: Digest) -> TensorFile:
    """A file that this name stands for."""
    file = TensorFile(UP, np.zeros(UP.file_bytes, np.uint8))
    file.raw[: UP.data_start] = np.frombuffer(UP.header, np.uint8)
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    for spec in UP.specs:
        drawn = rng.normal(0, 10.0 ** rng.integers(-2, 3), spec.shape)
        file[spec.name][...] = drawn.astype(NUMPY_DTYPES[spec.dtype])
    return file
