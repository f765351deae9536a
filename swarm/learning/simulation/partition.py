"""Which rows each simulated client has.

    sites             the plan's own sites, one client each
    iid               all rows, dealt at random
    dirichlet:0.3     all rows, dealt so that each client has its own mix of labels: a draw from a
                      Dirichlet distribution (Hsu, Qi and Brown, arXiv:1909.06335); the smaller the
                      number, the less alike clients are

Every row has one client. Where there are too few rows for so many clients, each client draws its
rows with repetition, and the report says so. What a client has depends on the seed and its number
alone, and is found when it is asked for: a thousand clients take no more memory than ten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from swarm.errors import ConfigurationError

Rows = NDArray[np.int64]
Kind = Literal["sites", "iid", "dirichlet"]
LARGEST_ALPHA = 1e6
MOST_LABELS = 100
"""A label with more values is cut into so many parts of equal size."""


@dataclass(frozen=True)
class PartitionRule:
    """How rows are dealt; `alpha` is the Dirichlet distribution's."""

    kind: Kind
    alpha: float = 1.0

    def __str__(self) -> str:
        return f"dirichlet:{self.alpha:g}" if self.kind == "dirichlet" else self.kind


def read_rule(text: str) -> PartitionRule:
    """Read "sites", "iid" or "dirichlet:0.3". Raises ConfigurationError for anything else."""
    kind, colon, number = text.partition(":")
    if not colon and kind == "sites":
        return PartitionRule("sites")
    if not colon and kind == "iid":
        return PartitionRule("iid")
    try:
        alpha = float(number)
    except ValueError:
        alpha = math.nan
    if kind != "dirichlet" or not 0 < alpha <= LARGEST_ALPHA:
        raise ConfigurationError(
            f"{text!r} is no way to deal rows: write sites, iid, or dirichlet:0.3"
        )
    return PartitionRule("dirichlet", alpha)


class Partition:
    """The rows of each client, by their number among all rows.

    `labels` [rows] are those that a Dirichlet distribution mixes. `least` is how many rows a client
    has where rows are drawn with repetition.
    """

    def __init__(
        self, labels: NDArray[np.float64], clients: int, rule: PartitionRule, seed: int, least: int
    ) -> None:
        self.clients = clients
        self.repeats = len(labels) < clients * least
        self._seed = seed
        self._rule = rule
        self._each = least if self.repeats else len(labels) // clients
        kinds = _kinds_of(labels) if rule.kind == "dirichlet" else np.zeros(len(labels), np.int64)
        self._of_kind = [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]
        self._shares = np.array([len(rows) for rows in self._of_kind]) / len(labels)
        self._dealt = None if self.repeats else self._deal(len(labels))

    def rows_of(self, client: int) -> Rows:
        """Sorted row numbers of one client."""
        if self._dealt is not None:
            start, stop = self._dealt[1][client : client + 2]
            return np.sort(self._dealt[0][start:stop])
        generator = self._generator(client)
        wanted = generator.multinomial(self._each, self._mix(generator))
        drawn = [
            rows[generator.integers(len(rows), size=count)]
            for rows, count in zip(self._of_kind, wanted, strict=True)
        ]
        return np.sort(np.concatenate(drawn))

    def _deal(self, rows: int) -> tuple[Rows, Rows]:
        """All rows in the order in which clients have them, and where each client's begin. Clients
        take turns in taking what is left of the kinds that they want."""
        generator = np.random.default_rng([self._seed, 0])
        left = [generator.permutation(of_kind) for of_kind in self._of_kind]
        sizes = np.full(self.clients, rows // self.clients)
        sizes[: rows % self.clients] += 1
        order = np.empty(rows, np.int64)
        ends = np.concatenate([[0], np.cumsum(sizes)])
        for client in range(self.clients):
            mix, begin = self._mix(self._generator(client)), int(ends[client])
            while begin < ends[client + 1]:
                counts = np.array([len(of_kind) for of_kind in left])
                wanted = np.where(counts > 0, mix, 0.0)
                wanted = wanted if wanted.sum() > 0 else counts.astype(float)
                share = generator.multinomial(ends[client + 1] - begin, wanted / wanted.sum())
                for kind, count in enumerate(np.minimum(share, counts)):
                    order[begin : begin + count] = left[kind][:count]
                    left[kind] = left[kind][count:]
                    begin += int(count)
        return order, ends

    def _mix(self, generator: np.random.Generator) -> NDArray[np.float64]:
        """A client's own mix of labels, about that of all rows."""
        if self._rule.kind != "dirichlet":
            return self._shares
        mix = generator.dirichlet(np.maximum(self._shares * self._rule.alpha, 1e-9))
        total = mix.sum()
        return mix / total if np.isfinite(total) and total > 0 else self._shares

    def _generator(self, client: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, 1 + client])


def _kinds_of(labels: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each row's label as a whole number from 0; of a number with many values, which part it is."""
    values, kinds = np.unique(labels, return_inverse=True)
    if len(values) > MOST_LABELS:
        kinds = np.argsort(np.argsort(labels, kind="stable")) * MOST_LABELS // len(labels)
    return kinds.reshape(-1).astype(np.int64)
