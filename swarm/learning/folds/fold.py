"""A fold: how the updates of a round become the next model, as a plan says it.

    state' = step(state, reduce(updates, weights))

The chain keeps the digest of a plan's program, and folds are part of that. So a fold has one way to
be written, and a member whose release does not know it says so before it consents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from swarm.errors import BlobError, PlanError
from swarm.learning.folds.parts import Part, read_part
from swarm.learning.folds.reduce import MEAN, REDUCES, Reduce, Sum
from swarm.learning.folds.step import STEPS, Step

P = TypeVar("P", bound=Part)

_NO_STEP = b"\x00"
_BY = {"samples": b"\x00", "site": b"\x01", "distance": b"\x02"}


@dataclass(frozen=True)
class Fold:
    """A reduce, and a step after it or none. Raises PlanError for what does not go together.

    `by` is "site" for a mean that counts sites instead of samples, and otherwise None: what is
    counted then follows from the rule.
    """

    reduce: Reduce = MEAN
    step: Step | None = None
    by: Literal["samples", "site"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.reduce, Reduce):
            raise PlanError(f"reduce is {self.reduce!r}, but must be one such as swarm.mean()")
        if self.step is not None and not isinstance(self.step, Step):
            raise PlanError(f"step is {self.step!r}, but must be one such as swarm.nesterov()")
        if self.step is not None and isinstance(self.reduce, Sum):
            raise PlanError(
                f"{self.step.name} goes from the last model towards another, and a sum of models "
                "is none: leave out the step, or take swarm.mean()"
            )
        if self.by not in (None, "samples", "site"):
            raise PlanError(f"by is {self.by!r}, but must be 'samples' or 'site'")
        if self.by == "samples" and self.reduce.by != "samples":
            raise PlanError(
                f"{self.reduce.name} counts every site once, as nobody can check how many samples "
                "a site has: leave out by='samples'"
            )
        if self.by == self.reduce.by or self.reduce.by != "samples":
            object.__setattr__(self, "by", None)  # so that equal folds are equal

    @property
    def counts(self) -> Literal["samples", "site", "distance"]:
        """What the weights of its reduce are."""
        return self.by or self.reduce.by

    @property
    def words(self) -> str:
        """A sentence or two for people."""
        each = ", every site counting once" if self.by == "site" else ""
        first = self.reduce.words + each
        return first if self.step is None else f"{first}. Then {self.step.words}"

    def weights(self, samples: Sequence[int]) -> Sequence[int]:
        """The weights for contributors with so many samples. Raises ValueError for a fold whose
        weights come from distances."""
        if self.counts == "distance":
            raise ValueError(f"the weights of {self.reduce.name} come from the updates' distances")
        return samples if self.counts == "samples" else [1] * len(samples)

    def check(self, min_peers: int, verify: str) -> None:
        """Raise PlanError, with the remedy, unless a plan may have this fold with so many
        contributors at least and at this level ("held", "shared" or "full")."""
        if min_peers < self.reduce.least:
            raise PlanError(
                f"{self.reduce.name} needs {self.reduce.least} updates, but the plan merges from "
                f"{min_peers} on: set min_peers to {self.reduce.least} or more"
            )
        if verify not in self.reduce.verify_levels:
            raise PlanError(
                f"{self.reduce.name} can only be checked from whole updates: set verify to 'full' "
                f"instead of {verify!r}"
            )

    def encode(self) -> bytes:
        """The one way to write it: reduce, step (or a zero byte), and what is counted (a byte)."""
        step = _NO_STEP if self.step is None else self.step.encode()
        return self.reduce.encode() + step + _BY[self.counts]


def decode_fold(raw: bytes) -> Fold:
    """Read what `encode` wrote.

    Raises PlanError for a fold that this release does not know or numbers that it does not allow,
    BlobError for bytes that are not what `encode` writes.
    """
    name, body, rest = read_part(raw)
    reduce = _find(name, "reduce", {kind.name: kind for kind in REDUCES}).parse(body)
    step = None
    if rest[:1] == _NO_STEP:
        rest = rest[1:]
    else:
        name, body, rest = read_part(rest)
        step = _find(name, "step", {kind.name: kind for kind in STEPS}).parse(body)
    fold = Fold(reduce, step, "site" if rest == _BY["site"] else None)
    if fold.encode() != raw:
        raise BlobError(f"these bytes are no fold: {raw[:64].hex()}")
    return fold


def _find(name: str, what: str, known: Mapping[str, type[P]]) -> type[P]:
    if name not in known:
        raise PlanError(
            f"this release of swarm does not know the {what} {name!r} that the plan asks for: "
            "update swarm before you consent"
        )
    return known[name]
