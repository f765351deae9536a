"""Reading a site's CSV files, in a few plain functions.

A hospital's table has gaps, words and codes. `Table` turns named columns into float32 matrices and
says which file, line and column it could not read, because the person at the site has the file and
the author of the plan does not. No row is left out and no cell is guessed: what cannot be read as
it was meant is refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from swarm.errors import ConfigurationError
from swarm.learning.data.arrays import columns_of
from swarm.learning.data.unfamiliar_values import note_numbers

MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "NAN", "null", "NULL"})
"""Cells that mean "not known"."""

_OTHER_TABLES = (".tsv", ".xls", ".xlsx", ".ods")
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """Rows of text under named columns, and where each row came from ("file.csv:7")."""

    columns: dict[str, list[str]]
    origins: list[str]

    def __len__(self) -> int:
        return len(self.origins)

    def lines(self) -> list[int]:
        """The number of each row: its line in the file, or its place in the frame, from 0."""
        return [int(origin.rpartition(":")[2].rpartition(" ")[2]) for origin in self.origins]

    def text(self, column: str) -> list[str]:
        """One column as it stands in the file. Raises ConfigurationError if there is none."""
        if column not in self.columns:
            hint = ""
            if len(self.columns) == 1 and any(mark in next(iter(self.columns)) for mark in ";\t|"):
                hint = "; say which delimiter divides its cells: read_csv(path, delimiter=…)"
            raise ConfigurationError(
                f"{self._place()} has no column {column!r}; it has {', '.join(self.columns)}{hint}"
            )
        return self.columns[column]

    def numbers(self, *columns: str) -> NDArray[np.float32]:
        """The named columns as float32 [rows, columns]; a missing cell is NaN.

        Raises ConfigurationError naming file, line and column of a cell that is no number, or one
        that float32 cannot hold.
        """
        if not columns:
            raise ConfigurationError("numbers() names no column: name at least one")
        return np.stack([self._numbers(name) for name in columns], axis=1)

    def one_hot(self, column: str, values: Sequence[str | float]) -> NDArray[np.float32]:
        """1 where `column` equals a value, as float32 [rows, values]; a missing cell is all 0.

        Raises ConfigurationError naming file and line of a value that is not among `values`.
        """
        known = {code_of(value): index for index, value in enumerate(values)}
        if len(known) != len(values):
            raise ConfigurationError(
                f"one_hot({column!r}): {', '.join(map(str, values))} names a value twice"
            )
        result = np.zeros((len(self), len(known)), dtype=np.float32)
        for row, cell in enumerate(self.text(column)):
            index = known.get(code_of(cell))  # first: "NA" may be one of the values
            if index is not None:
                result[row, index] = 1.0
            elif cell not in MISSING:
                raise ConfigurationError(
                    f"{self.origins[row]}: {column} is {cell!r}, which is none of "
                    f"{', '.join(str(v) for v in values)}"
                )
        return result

    def where(self, keep: ArrayLike) -> Table:
        """The rows for which `keep` [rows] is true. Raises ConfigurationError if it has another
        length, or holds row numbers."""
        chosen = np.asarray(keep)
        if chosen.shape != (len(self),) or (chosen.dtype != bool and len(self)):
            raise ConfigurationError(
                f"where() takes one True or False for each of the {len(self)} rows, not "
                f"{chosen.dtype} {list(chosen.shape)}"
            )
        rows = np.flatnonzero(chosen)
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
            value = _number(cell)
            if value is None:
                raise ConfigurationError(
                    f"{self.origins[row]}: {column} is {cell[:80]!r}, which is no number; "
                    "leave the cell empty if the value is not known"
                )
            if abs(value) > _LARGEST:
                raise ConfigurationError(
                    f"{self.origins[row]}: {column} is {cell[:80]!r}, beyond what a float32 holds "
                    "(3.4e38); correct it, or leave the cell empty"
                )
            result[row] = value
        note_numbers(column, result)
        return result

    def _place(self) -> str:
        return self.origins[0].rpartition(":")[0] if self.origins else "the table"


def read_csv(path: Path, delimiter: str = ",") -> Table:
    """Read one CSV file (plain or .gz) with a header line, or all of a folder in name order.

    Every file must have the same columns. Raises ConfigurationError naming file and line of what
    is no CSV: an open quote, too few or too many cells, bytes that are no UTF-8 text.
    """
    files = _csv_files(path)
    columns: dict[str, list[str]] = {}
    origins: list[str] = []
    for file in files:
        records = _records(file, delimiter)
        _, cells = next(records, (1, []))
        header = [name.strip() for name in cells]
        if len(set(header)) != len(header) or not header:
            twice = sorted({name for name in header if header.count(name) > 1})
            raise ConfigurationError(
                f"{file}: the first line must name each column once"
                + (f"; it has {', '.join(map(repr, twice))} twice" if twice else "")
            )
        if not columns:
            columns = {name: [] for name in header}
        if set(columns) != set(header):
            raise ConfigurationError(
                f"{file} has other columns than {files[0]}: "
                f"{', '.join(sorted(set(columns) ^ set(header)))} is in one of them only"
            )
        for line, cells in records:
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


def as_table(frame: Any) -> Table:
    """A frame (pandas, polars and others), or a dict of columns, as a table; a gap as "".

    Raises ConfigurationError for columns of different lengths, or none.
    """
    given: Mapping[str, Sequence[Any]] = frame if isinstance(frame, Mapping) else columns_of(frame)
    columns = {str(name): [_cell(value) for value in values] for name, values in given.items()}
    lengths = {len(cells) for cells in columns.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ConfigurationError(
            "the frame has no rows" if lengths <= {0} else "the columns have different lengths"
        )
    return Table(columns, [f"row {row}" for row in range(lengths.pop())])


def _cell(value: Any) -> str:
    """A value as it would stand in a file. Python writes a float so that it reads the same."""
    if value is None or value != value:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return str(int(value))
    return repr(float(value)) if isinstance(value, (float, np.floating)) else str(value).strip()


def _records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records of a file that are not blank, each with the line on which it begins.

    A quote that is never closed is an error of its own. One that the next stray quote closes again
    would swallow the rows between them: a cell over several lines is therefore refused if one of
    these lines has as many delimiters as a row.
    """
    text = _text(file)
    lines = io.StringIO(text, newline=None).readlines()  # as the reader below counts them
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begin, width = 1, 0
    try:
        for cells in reader:
            end = reader.line_num
            width = width or len(cells)
            inner = lines[begin:end]
            if any(line.count(delimiter) + 1 >= width for line in inner):
                raise ConfigurationError(
                    f"{file}:{begin}: a quoted cell goes on to line {end}, over what looks like "
                    "rows of its own: close its quote, or write the cell on one line"
                )
            if cells:
                yield begin, cells
            begin = end + 1
    except csv.Error as error:
        raise ConfigurationError(
            f"{file}:{begin}: {error}: close the quote that was opened there, and double a quote "
            "inside a cell"
        ) from None


def _csv_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigurationError(f"{path} does not exist: name the site's CSV file or its folder")
    seen = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [p for p in seen if p.name.lower().endswith((".csv", ".csv.gz"))]
    if not files:
        raise ConfigurationError(f"{path} holds no .csv file")
    for other in seen:
        if other.suffix.lower() in _OTHER_TABLES:
            raise ConfigurationError(
                f"{other} is no CSV, and its rows would be left out: save it as .csv, or move it "
                "out of the folder"
            )
    return files


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix.lower() == ".gz" else raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{file}:{line} is no UTF-8 text ({error.reason}): save the file as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}; is the file whole?") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigurationError(f"{file}:{line} holds a NUL byte: save the file as UTF-8 text")
    return text


def _number(cell: str) -> float | None:
    """A cell as a number, infinite if it is too large; None if a person would not call it one:
    Python reads "1_5" as 15."""
    if "_" in cell or not cell.isascii() or cell[-1:].isalpha():
        return None
    try:
        return float(cell)
    except ValueError:
        return None


def code_of(value: str | float) -> str | float:
    """Codes compare as numbers where they are numbers: "3", "3.0" and 3 are one code."""
    number = _number(value) if isinstance(value, str) else float(value)
    return str(value) if number is None or math.isinf(number) else number
