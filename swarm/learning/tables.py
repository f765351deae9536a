"""Reading a site's CSV files, and splitting its rows, in a few plain functions.

A hospital's table has gaps, words and codes. `Table` turns named columns into float32 matrices and
says which file, line and column it could not read, because the person at the site has the file and
the author of the plan does not.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swarm.errors import ConfigurationError

MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "NULL"})
"""Cells that mean "not known"."""


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns, and where each row came from ("file.csv:7")."""

    columns: dict[str, list[str]]
    origins: list[str]

    def __len__(self) -> int:
        return len(self.origins)

    def text(self, column: str) -> list[str]:
        """One column as it stands in the file. Raises ConfigurationError if there is none."""
        if column not in self.columns:
            raise ConfigurationError(
                f"{self._place()} has no column {column!r}; it has {', '.join(self.columns)}"
            )
        return self.columns[column]

    def numbers(self, *columns: str) -> NDArray[np.float32]:
        """The named columns as float32 [rows, columns]; a missing cell is NaN.

        Raises ConfigurationError naming file, line and column of a cell that is no number.
        """
        return np.stack([self._numbers(name) for name in columns], axis=1)

    def one_hot(self, column: str, values: Sequence[str | float]) -> NDArray[np.float32]:
        """1 where `column` equals a value, as float32 [rows, values]; a missing cell is all 0.

        Raises ConfigurationError naming file and line of a value that is not among `values`.
        """
        known = {_code(value): index for index, value in enumerate(values)}
        result = np.zeros((len(self), len(known)), dtype=np.float32)
        for row, cell in enumerate(self.text(column)):
            if cell in MISSING:
                continue
            if _code(cell) not in known:
                raise ConfigurationError(
                    f"{self.origins[row]}: {column} is {cell!r}, which is none of "
                    f"{', '.join(str(v) for v in values)}"
                )
            result[row, known[_code(cell)]] = 1.0
        return result

    def where(self, keep: ArrayLike) -> Table:
        """The rows for which `keep` [rows] is true."""
        rows = np.flatnonzero(np.asarray(keep, dtype=bool))
        return Table(
            {name: [cells[i] for i in rows] for name, cells in self.columns.items()},
            [self.origins[i] for i in rows],
        )

    def distinct(self) -> Table:
        """Each row once: a copy of a patient must not be in training and in test."""
        rows = list(zip(*self.columns.values(), strict=True))
        first = {row: index for index, row in reversed(list(enumerate(rows)))}
        return self.where([first[row] == index for index, row in enumerate(rows)])

    def _numbers(self, column: str) -> NDArray[np.float32]:
        result = np.full(len(self), np.nan, dtype=np.float32)
        for row, cell in enumerate(self.text(column)):
            if cell in MISSING:
                continue
            try:
                result[row] = float(cell)
            except ValueError:
                raise ConfigurationError(
                    f"{self.origins[row]}: {column} is {cell!r}, which is no number; "
                    "leave the cell empty if the value is not known"
                ) from None
        return result

    def _place(self) -> str:
        return self.origins[0].rpartition(":")[0] if self.origins else "the table"


def read_csv(path: Path, delimiter: str = ",") -> Table:
    """Read one CSV file (plain or .gz) with a header line, or all of a folder in name order.

    Every file must have the same columns. Raises ConfigurationError naming the file otherwise.
    """
    files = _csv_files(path)
    columns: dict[str, list[str]] = {}
    origins: list[str] = []
    for file in files:
        rows = list(csv.reader(io.StringIO(_text(file)), delimiter=delimiter))
        header = [name.strip() for name in rows[0]] if rows else []
        if len(set(header)) != len(header) or not header:
            raise ConfigurationError(f"{file}: the first line must name each column once")
        if not columns:
            columns = {name: [] for name in header}
        if set(columns) != set(header):
            raise ConfigurationError(f"{file} has other columns than {files[0]}")
        for line, cells in enumerate(rows[1:], start=2):
            if not cells:
                continue
            if len(cells) != len(header):
                raise ConfigurationError(
                    f"{file}:{line}: {len(cells)} cells under {len(header)} column names"
                )
            for name, cell in zip(header, cells, strict=True):
                columns[name].append(cell.strip())
            origins.append(f"{file}:{line}")
    if not origins:
        raise ConfigurationError(f"{path} holds no rows")
    return Table(columns, origins)


def split(strata: ArrayLike, fractions: Sequence[float], seed: int) -> list[NDArray[np.int64]]:
    """Deal rows to parts at random, keeping each stratum's share in every part.

    `strata` [rows] is usually the label. Returns sorted row numbers for each of `fractions`, and
    for the rest as the first part: `train, test = split(y, [1 / 3], seed=0)`. A row is in exactly
    one part. The same seed gives the same parts, and a stratum is dealt alike whatever other strata
    stand beside it: a hospital's test rows stay its test rows however hospitals share sites.
    """
    if min(fractions) < 0 or sum(fractions) > 1:
        raise ConfigurationError(f"the fractions {list(fractions)} must lie in 0..1 together")
    labels = np.asarray(strata).reshape(-1)
    parts: list[list[int]] = [[] for _ in range(len(fractions) + 1)]
    for value in np.unique(labels):
        own = hashlib.sha256(repr(_code(str(value))).encode()).digest()
        generator = np.random.default_rng([seed, *own])
        rows = generator.permutation(np.flatnonzero(labels == value))
        edges = np.rint(np.cumsum([0.0, *fractions]) * len(rows)).astype(int)
        for part, (start, stop) in enumerate(itertools.pairwise(edges), start=1):
            parts[part].extend(rows[start:stop].tolist())
        parts[0].extend(rows[edges[-1] :].tolist())
    return [np.array(sorted(part), dtype=np.int64) for part in parts]


def _csv_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigurationError(f"{path} does not exist: name the site's CSV file or its folder")
    files = sorted(p for p in path.iterdir() if p.name.endswith((".csv", ".csv.gz")))
    if not files:
        raise ConfigurationError(f"{path} holds no .csv file")
    return files


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        return (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read as UTF-8 text: {error}") from error


def _code(value: str | float) -> str | float:
    """Codes compare as numbers where they are numbers: "3", "3.0" and 3 are one code."""
    try:
        return float(value)
    except ValueError:
        return str(value)
