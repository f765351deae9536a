"""No row is lost: tables, frames, arrays and splits are read right, or refused by place."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from harness.plans import write_tiny_plan

import swarm
from swarm.errors import ConfigurationError, PlanError
from swarm.learning import metrics
from swarm.learning.data import arrays
from swarm.learning.data.batches import as_tensors, batches, rows_in
from swarm.learning.data.splits import split
from swarm.learning.data.tables import Table, read_csv
from swarm.learning.simulation.whole_run import run_federated


def table(folder: Path, content: bytes, name: str = "a.csv") -> Table:
    (folder / name).write_bytes(content)
    return read_csv(folder / name)


# Tables.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'a,b\n1,"x\n2,y\n3,z\n', r"a\.csv:2: unexpected end of data: close the quote"),
        (b'a,b\n1,"x\n2,y\n3,z"\n4,w\n', r"a\.csv:2: a quoted cell goes on to line 4"),
        (b'a\n1\n"2\n3"\n', r"a\.csv:3: a quoted cell goes on to line 4"),
        (b'a,b\n1,"x"y\n', r"a\.csv:2: .*expected after"),
        (b'a\n"' + b"x" * 200_000 + b'"\n', r"a\.csv:2: field larger"),
        (b"a\n1\n2\0\n", r"a\.csv:3 holds a NUL byte"),
        ("a,ü\n1,2\n".encode("latin-1"), r"a\.csv:1 is no UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), r"a\.csv:1 is no UTF-8 text"),
        (b"a,b\n1,2\n3\n", r"a\.csv:3: 1 cells under 2 column names"),
        (b"a,b,a\n1,2,3\n", "it has 'a' twice"),
    ],
)
def test_what_is_no_csv_is_refused_with_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        table(tmp_path, content)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("1_5", "which is no number"),
        ("inf", "which is no number"),
        ("-Infinity", "which is no number"),
        ("-nan", "which is no number"),
        ("١٢", "which is no number"),
        ('"12,5"', "which is no number"),
        ("1e400", "beyond what a float32 holds"),
        ("-3.5e38", "beyond what a float32 holds"),
    ],
)
def test_what_a_person_would_not_call_a_number_is_refused(
    tmp_path: Path, cell: str, message: str
) -> None:
    found = table(tmp_path, f"a\n0\n{cell}\n".encode())
    with pytest.raises(ConfigurationError, match=rf"a\.csv:3: a is .*{message}"):
        found.numbers("a")


def test_a_cell_over_two_lines_moves_no_line_number(tmp_path: Path) -> None:
    found = table(tmp_path, b'id,note,age\n\n1,"two\nlines",50\n2,x,abc\n')
    assert [origin.rpartition(":")[2] for origin in found.origins] == ["3", "5"]
    assert found.text("note") == ["two\nlines", "x"]
    with pytest.raises(ConfigurationError, match=r"a\.csv:5: age is 'abc'"):
        found.numbers("age")


def test_lines_may_end_as_on_any_system(tmp_path: Path) -> None:
    for content in (b"a\r\n1\r\n2\r\n", b"a\r1\r2\r", b"\xef\xbb\xbfa\n1\n2"):
        assert table(tmp_path, content).numbers("a").ravel().tolist() == [1, 2]


def test_a_cut_compressed_file_is_refused_with_its_name(tmp_path: Path) -> None:
    whole = gzip.compress(b"a\n" + b"1\n" * 1000)
    for content in (whole[:-9], whole[:20] + b"\xff" + whole[21:], b"a\n1\n"):
        with pytest.raises(ConfigurationError, match=r"a\.csv\.gz cannot be read"):
            table(tmp_path, content, "a.csv.gz")


def test_no_table_of_a_folder_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "B.CSV").write_text("x\n2\n")
    (tmp_path / "._a.csv").write_bytes(b"\0\5\x16\7")  # what macOS leaves beside a file
    assert sorted(read_csv(tmp_path).numbers("x").ravel()) == [1, 2]
    (tmp_path / "more.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigurationError, match=r"more\.xlsx is no CSV"):
        read_csv(tmp_path)


def test_a_wrong_delimiter_is_suggested(tmp_path: Path) -> None:
    found = table(tmp_path, b"a;b\n1;2\n")
    with pytest.raises(ConfigurationError, match="read_csv\\(path, delimiter"):
        found.numbers("a")


def test_a_code_that_looks_like_a_gap_counts_where_it_is_a_value(tmp_path: Path) -> None:
    found = table(tmp_path, b'region\nNA\nEU\n""\n')
    assert found.one_hot("region", ["NA", "EU"]).tolist() == [[1, 0], [0, 1], [0, 0]]
    with pytest.raises(ConfigurationError, match="names a value twice"):
        found.one_hot("region", ["EU", "EU"])


def test_rows_are_chosen_by_truth_and_not_by_number(tmp_path: Path) -> None:
    found = table(tmp_path, b"a\n1\n2\n3\n")
    assert found.where([True, False, True]).numbers("a").ravel().tolist() == [1, 3]
    for keep in ([0, 2], [True, False], np.array([2, 1, 1])):
        with pytest.raises(ConfigurationError, match="one True or False for each of the 3 rows"):
            found.where(keep)


# Splits.


@pytest.mark.parametrize(
    ("strata", "fractions", "message"),
    [
        ([0, 1, np.nan, 1], [0.5], r"missing \(NaN\) in 1 of 4 rows, the first is row 2"),
        (["a", None, "b"], [0.5], "missing"),
        (np.arange(40.0), [0.25], "40 different strata, too small to be divided"),
        (np.zeros((4, 2)), [0.5], r"shape \[4, 2\]"),
        ([0, 1], [0.7, 0.4], "must lie in 0..1 together"),
        ([0, 1], [float("nan")], "must lie in 0..1 together"),
    ],
)
def test_a_split_that_would_lose_rows_is_refused(
    strata: Any, fractions: list[float], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        split(strata, fractions, seed=0)


def test_a_split_takes_any_fractions_that_make_a_whole() -> None:
    assert [len(part) for part in split(np.zeros(10), [0.1, 0.2, 0.7], 0)] == [0, 1, 2, 7]
    assert [len(part) for part in split(np.zeros((10, 1)), [], 0)] == [10]
    assert sum(len(part) for part in split(np.zeros(10), [0.1] * 10, 0)) == 10


def test_the_rows_of_a_patient_stay_in_one_part() -> None:
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), generator.integers(1, 6, 60))
    sick = (patients % 3 == 0).astype(float)
    parts = split(sick, [0.15, 0.25], seed=3, groups=patients)
    assert sorted(np.concatenate(parts)) == list(range(len(patients)))
    held = [set(patients[part]) for part in parts]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]
    for part, share in zip(parts, (0.6, 0.15, 0.25), strict=True):
        assert abs(len(part) / len(patients) - share) < 0.06
        assert abs(sick[part].mean() - sick.mean()) < 0.12
    again = split(sick, [0.15, 0.25], seed=3, groups=patients)
    other = split(sick, [0.15, 0.25], seed=4, groups=patients)
    assert all(map(np.array_equal, parts, again))
    assert not all(map(np.array_equal, parts, other))


@pytest.mark.parametrize("patients", [[1], [1, 1], [1, 2], [1, 1, 2], [1, 2, 3, 4]])
def test_few_patients_are_dealt_whole_too(patients: list[int]) -> None:
    parts = split(np.zeros(len(patients)), [0.15, 0.25], 0, groups=patients)
    assert sorted(np.concatenate(parts)) == list(range(len(patients)))
    with pytest.raises(ConfigurationError, match="1 groups for"):
        split(np.zeros(len(patients) + 1), [0.5], 0, groups=[7])


# Arrays and frames.


FRAME = {"age": [63.0, 41.5, 70.0], "count": [1, 2, 3]}


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_and_columns_are_taken_as_they_are(frame: Callable[[object], Any]) -> None:
    x, y = as_tensors((frame(FRAME), frame({"y": [True, False, True]})["y"]))
    assert (x.dtype, y.dtype) == (torch.float32, torch.bool)
    assert x.tolist() == [[63, 1], [41.5, 2], [70, 3]]
    gaps = as_tensors(frame({"n": [1.5, None, 3.0]}))
    assert gaps[:, 0].isnan().tolist() == [False, True, False]
    with pytest.raises(PlanError, match=r"its column 'ward' is .*code it as numbers"):
        as_tensors(frame({"ward": ["icu", "icu"]}))


def test_a_column_that_may_have_gaps_keeps_its_rows() -> None:
    column = pd.Series([1, None, 3], dtype="Int64")
    assert as_tensors(column).isnan().tolist() == [False, True, False]
    assert as_tensors(pd.Series([1, 2, 3], dtype="Int64")).tolist() == [1, 2, 3]
    with pytest.raises(PlanError, match="collect it to a frame in memory"):
        as_tensors(pl.LazyFrame(FRAME))


def test_frames_ask_for_narwhals_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "narwhals", None)
    assert arrays.as_array(np.arange(3)).tolist() == [0, 1, 2]
    with pytest.raises(PlanError, match="pip install narwhals"):
        arrays.as_array(pd.DataFrame(FRAME))


def test_arrays_of_any_make_become_tensors_without_losing_a_value() -> None:
    assert as_tensors(np.arange(3, dtype=">f4")).tolist() == [0, 1, 2]
    assert as_tensors(np.arange(3, dtype=np.longdouble)).tolist() == [0, 1, 2]
    assert as_tensors(np.array([1, 2.5, True], dtype=object)).tolist() == [1, 2.5, 1]
    masked = np.ma.MaskedArray([1, -999, 3], mask=[0, 1, 0])
    assert as_tensors(masked).isnan().tolist() == [False, True, False]
    assert as_tensors(np.arange(6.0)[::-2]).tolist() == [5, 3, 1]
    assert as_tensors(()) is None
    assert as_tensors({}) is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (([[1], [1, 2]],), r"train\[0\] is of no use: it is a list that makes no array"),
        ({"x": np.array([1, None], dtype=object)}, r"train\['x'\] .*None in row 1"),
        ((np.array(["a", "b"]),), "holds np.str_\\('a'\\), which is no number|'a', which is no"),
        ((np.array(["2020-01-01"], dtype="datetime64[D]"),), "no number"),
        ((torch.zeros(3).to_sparse(),), "dense real numbers"),
        ((torch.zeros(3, dtype=torch.complex64),), "dense real numbers"),
        ((iter([1, 2]),), "not numbers"),
        (3.0, "a single number where rows are needed"),
        ((torch.zeros(3), torch.zeros(4)), r"train\[0\] has 3 rows, train\[1\] has 4 rows"),
    ],
)
def test_what_is_no_number_is_refused_by_its_place(part: object, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        as_tensors(part, "train")


def test_an_odd_number_of_rows_by_two_leaves_no_batch_of_one() -> None:
    part = torch.arange(7.0)
    sizes = [len(batch) for batch in batches(part, 2, range(7), torch.device("cpu"))]
    assert (sizes, sum(sizes)) == ([3, 2, 2], rows_in(part))
    assert [len(b) for b in batches(part, 2, [3], torch.device("cpu"))] == [1]


def test_labels_that_are_not_zero_or_one_have_no_auc() -> None:
    with pytest.raises(ValueError, match="must be 0 or 1, and 2 is among them"):
        metrics.auc([1, 2, 2], [0.1, 0.2, 0.3])
    assert metrics.auc(torch.tensor([0, 1]), torch.tensor([0.1, 0.2]).bfloat16()) == 1


def test_a_missing_value_that_reaches_the_loss_is_named_with_its_column(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path, ("swarm.standardise(x, statistics)", "x"))
    rows = (plan / "data" / "site0.csv").read_text().replace("\n", "\n,1,1\n", 1)
    (plan / "data" / "site0.csv").write_text(rows)
    with pytest.raises(PlanError, match=r"plan\.py:\d+ in loss: .*batch\[0\] has nan in its col"):
        run_federated(plan)
    assert isinstance(swarm.Plan.min_rows, int)
