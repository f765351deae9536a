"""Reduce: how the updates of one round become one value for each element.

Every rule says itself what the rest of swarm must know of it: what its weights are, how few
contributors it works with, how many liars it bears, at which levels its merges can be checked. The
arithmetic lies in `averages`, `ranks`, `gram` and `choice`.

A liar is a contributor whose update is arbitrary, in every element, knowing all others'. Rules that
bear liars count every contributor once, as nobody can check how many samples another has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from swarm.learning.folds import distance_weights, medians
from swarm.learning.folds.averages import merge_mean, merge_sum
from swarm.learning.folds.formats import FLOATS, Array, refuse_unfit
from swarm.learning.folds.gram import Gram
from swarm.learning.folds.parts import Count, Part, Within
from swarm.tensors import DType

VerifyName = Literal["held", "shared", "full"]
By = Literal["samples", "site", "distance"]

MAX_SAMPLES = 2**53 - 1
ANY_LEVEL: tuple[VerifyName, ...] = ("held", "shared", "full")
FULL_ONLY: tuple[VerifyName, ...] = ("full",)


@dataclass(frozen=True)
class Reduce(Part):
    """One way to merge updates."""

    by: ClassVar[By] = "site"
    """What the weights are: numbers of samples; 1 for each site; or whole numbers that `weigh`
    finds from the distances between all updates."""
    verify_levels: ClassVar[tuple[VerifyName, ...]] = ANY_LEVEL
    """By distance: "full" only, as the weights depend on every chunk of every update. Otherwise
    chunk k of the result needs chunk k of each update and nothing else."""

    @property
    def least(self) -> int:
        """The fewest contributors with which it does what it promises."""
        return 1

    def bears(self, contributors: int) -> int:
        """How many liars among so many contributors cannot lead the result astray."""
        return 0

    @property
    def words(self) -> str:
        """One sentence for people."""
        raise NotImplementedError

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        """Merge equally long one-dimensional arrays of one type into `out`.

        `inputs` and `weights` are in member order; BF16 is given and returned as raw uint16.
        Raises BlobError naming the first contributor (counted from 0) whose values cannot be
        merged, ValueError if the weights cannot be.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Mean(Reduce):
    """The mean, by numbers of samples: federated averaging (McMahan et al. 2017)."""

    name = "mean"
    by = "samples"
    words = "mean: averages the updates; bears no liar"

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        check_samples(weights, len(inputs))
        merge_mean(dtype, inputs, weights, out)


@dataclass(frozen=True)
class Sum(Reduce):
    """The sum: of statistics."""

    name = "sum"
    words = "sum: adds what the sites send; bears no liar"

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        merge_sum(dtype, inputs, out)


@dataclass(frozen=True)
class Maximum(Reduce):
    """The elementwise maximum; of booleans, whether any is true."""

    name = "maximum"
    words = "maximum: takes the largest value of each element; bears no liar"

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        medians.merge_maximum(dtype, inputs, out)


@dataclass(frozen=True)
class Median(Reduce):
    """The elementwise median (Yin et al. 2018). Of an even number of floats the mean of the two in
    the middle; of integers and booleans the upper of them."""

    name = "median"
    least = 3
    words = "median: takes the middle value of each element; bears liars if fewer than half are"

    def bears(self, contributors: int) -> int:
        return (contributors - 1) // 2

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        medians.merge_trimmed(dtype, inputs, self.bears(len(inputs)), out)


@dataclass(frozen=True)
class Trimmed(Reduce):
    """The elementwise mean without the largest and the smallest values (Yin et al. 2018); of
    integers and booleans the largest of the rest.

    `share` is the part of the sites that is left out at either end, as the decimal that was
    written, times the number of sites, rounded up: 0.1 of eight sites is one. One value is always
    left, or two.
    """

    share: Annotated[float, Within(0.001, 0.499)]

    name = "trimmed"
    least = 3

    @property
    def words(self) -> str:
        return (
            f"trimmed: averages each element without its largest and smallest values, {self.share} "
            "of the sites (rounded up) at either end; bears as many liars"
        )

    def bears(self, contributors: int) -> int:
        wanted = -(-Fraction(str(self.share)) * contributors // 1)
        return min(int(wanted), (contributors - 1) // 2)

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        medians.merge_trimmed(dtype, inputs, self.bears(len(inputs)), out)


@dataclass(frozen=True)
class ByDistance(Reduce):
    """A mean with weights from the distances between whole updates. A site of weight 0 has no part
    in it; of integers and booleans the largest of the others is taken."""

    by = "distance"
    verify_levels = FULL_ONLY

    def weigh(self, gram: Gram) -> tuple[int, ...]:
        """A whole number for each contributor: its weight. Raises ValueError for fewer
        contributors than `least`."""
        if len(gram) < self.least:
            raise ValueError(f"{self.name} needs {self.least} contributors, not {len(gram)}")
        return self._weigh(gram)

    def _weigh(self, gram: Gram) -> tuple[int, ...]:
        raise NotImplementedError

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        check_weights(weights, len(inputs))
        refuse_unfit(dtype, inputs)  # those of weight 0 as well
        kept = [index for index, weight in enumerate(weights) if weight]
        merge_mean(dtype, [inputs[index] for index in kept], [weights[k] for k in kept], out)


@dataclass(frozen=True)
class Krum(ByDistance):
    """The update with the nearest n − f − 2 others (Blanchard et al. 2017), for f liars."""

    f: Count

    name = "krum"

    @property
    def words(self) -> str:
        return (
            f"krum: keeps the update nearest to the others; bears {_liars(self.f)} of "
            f"n ≥ {self.least}"
        )

    @property
    def least(self) -> int:
        return 2 * self.f + 3

    def bears(self, contributors: int) -> int:
        return self.f if contributors >= self.least else 0

    def _weigh(self, gram: Gram) -> tuple[int, ...]:
        return distance_weights.choose_nearest(gram, self.f, 1)


@dataclass(frozen=True)
class MultiKrum(ByDistance):
    """The mean of the m updates that Krum scores best (Blanchard et al. 2017), for f liars."""

    f: Count
    m: Count

    name = "multi_krum"

    @property
    def words(self) -> str:
        return (
            f"multi_krum: averages the {self.m} updates nearest to the others; bears "
            f"{_liars(self.f)} of n ≥ {self.least}"
        )

    @property
    def least(self) -> int:
        return max(2 * self.f + 3, self.m + self.f + 2)

    def bears(self, contributors: int) -> int:
        return self.f if contributors >= self.least else 0

    def _weigh(self, gram: Gram) -> tuple[int, ...]:
        return distance_weights.choose_nearest(gram, self.f, self.m)


@dataclass(frozen=True)
class GeometricMedian(ByDistance):
    """The point with the smallest sum of distances to all updates, as near as `steps` steps of
    Weiszfeld's iteration come (Pillutla et al. 2022). Of integers and booleans the upper median is
    taken, as every site has some weight."""

    steps: Annotated[int, Within(1, 64)] = 16

    name = "geometric_median"
    least = 3
    words = (
        "geometric_median: takes the point with the least distance to all updates; bears liars if "
        "fewer than half are"
    )

    def bears(self, contributors: int) -> int:
        return (contributors - 1) // 2

    def _weigh(self, gram: Gram) -> tuple[int, ...]:
        return distance_weights.weigh_towards_centre(gram, self.steps)

    def merge(
        self, dtype: DType, inputs: Sequence[Array], weights: Sequence[int], out: Array
    ) -> None:
        if dtype in FLOATS:
            super().merge(dtype, inputs, weights, out)
        else:
            medians.merge_trimmed(dtype, inputs, self.bears(len(inputs)), out)


MEAN, SUM = Mean(), Sum()
REDUCES: tuple[type[Reduce], ...] = (
    *(Mean, Sum, Maximum, Median, Trimmed),
    *(Krum, MultiKrum, GeometricMedian),
)


def check_samples(samples: Sequence[int], contributors: int) -> None:
    """Raises ValueError unless there is one positive count per contributor and all fit exactly."""
    if len(samples) != contributors or contributors == 0:
        raise ValueError(f"{len(samples)} sample counts for {contributors} contributors")
    if min(samples) < 1 or sum(samples) > MAX_SAMPLES:
        raise ValueError(f"sample counts must be positive and add up below 2**53: {list(samples)}")


def check_weights(weights: Sequence[int], contributors: int) -> None:
    """Raises ValueError unless there is one weight per contributor, and one above 0."""
    if len(weights) != contributors or not any(weights) or min(weights) < 0:
        raise ValueError(f"these cannot weigh {contributors} contributors: {list(weights)}")


def _liars(count: int) -> str:
    return "1 liar" if count == 1 else f"{count} liars"
