"""What a plan is written with: tables, splits, statistics, metrics, and the dealing of sites."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.data.moments import mean_and_deviation, moments, standardise
from swarm.learning.data.splits import split
from swarm.learning.data.tables import read_csv
from swarm.learning.metrics import accuracy, auc, r2
from swarm.learning.simulation.dealing import deal


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_importing_swarm_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, swarm, swarm.learning.code.bundle; swarm.__version__\n"
        "import swarm.learning.supervisor.trainer_messages\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'too much is imported'\n"
        "import swarm.learning.supervisor.supervisor, swarm.learning.simulation.dealing\n"
        "swarm.Plan, swarm.moments\n"
        "assert 'torch' not in sys.modules, 'torch is imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_columns_become_numbers_and_gaps_become_nan(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "age,sex\n63,1\n,?\n 41.5 ,0\n"))
    np.testing.assert_array_equal(
        table.numbers("sex", "age"), np.float32([[1, 63], [np.nan, np.nan], [0, 41.5]])
    )


def test_codes_become_one_column_each(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "cp,side\n3.0,L\n,R\n4,\n"))
    assert table.one_hot("cp", [3, 4]).tolist() == [[1, 0], [0, 0], [0, 1]]
    assert table.one_hot("side", ["L", "R"]).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_a_cell_that_cannot_be_read_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "age\n63\nold\n")
    with pytest.raises(ConfigurationError, match=r"a\.csv:3: age is 'old'"):
        read_csv(path).numbers("age")
    with pytest.raises(ConfigurationError, match=r"a\.csv:3: age is 'old', which is none of"):
        read_csv(path).one_hot("age", [63])
    with pytest.raises(ConfigurationError, match=r"no column 'sex'; it has age"):
        read_csv(path).numbers("sex")


def test_a_folder_reads_as_one_table_and_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "b.csv", "y,x\n4,3\n")
    write(tmp_path / "a.csv", "x,y\n1,2\n")
    assert read_csv(tmp_path).numbers("x", "y").tolist() == [[1, 2], [3, 4]]
    write(tmp_path / "c.csv", "x\n1\n")
    with pytest.raises(ConfigurationError, match=r"c\.csv has other columns"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "first line"), ("a,a\n1,2\n", "each column once"), ("a,b\n1\n", "1 cells under 2")],
)
def test_a_broken_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_csv(write(tmp_path / "a.csv", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        read_csv(tmp_path / "patients.csv")


def test_repeated_rows_are_kept_once(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", "x,y\n1,2\n3,4\n1,2\n"))
    assert table.distinct().numbers("x").ravel().tolist() == [1, 3]


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=60),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=2),
    st.integers(0, 5),
)
def test_a_split_puts_every_row_into_exactly_one_part(
    labels: list[int], fractions: list[float], seed: int
) -> None:
    parts = split(labels, fractions, seed)
    assert sorted(itertools.chain(*(part.tolist() for part in parts))) == list(range(len(labels)))
    for part, again in zip(parts, split(labels, fractions, seed), strict=True):
        np.testing.assert_array_equal(part, again)


def test_a_split_keeps_the_share_of_each_label() -> None:
    labels = np.array([0] * 90 + [1] * 30)
    train, test = split(labels, [1 / 3], seed=1)
    assert (len(test), int(labels[test].sum())) == (40, 10)
    assert len(train) == 80


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=40), st.integers(1, 39))
def test_merged_moments_standardise_as_pooled_rows_would(values: list[float], cut: int) -> None:
    pooled = np.array(values)[:, None]
    sites = [s for s in (pooled[:cut], pooled[cut:]) if len(s)]
    merged = {k: sum(moments(s)[k] for s in sites) for k in ("count", "sum", "squares")}
    mean, deviation = mean_and_deviation(merged)
    assert mean[0] == pytest.approx(pooled.mean(), abs=1e-9)
    if pooled.std() > 1e-3:
        assert deviation[0] == pytest.approx(pooled.std(), rel=1e-5)


def test_missing_values_and_dead_columns_standardise_to_zero() -> None:
    values = np.array([[1.0, np.nan, 5.0], [3.0, np.nan, 5.0], [np.nan, np.nan, 5.0]])
    z = standardise(np.vstack([values, [[2.0, 9.0, 7.0]]]), moments(values))
    np.testing.assert_allclose(z, [[-1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert z.dtype == np.float32


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_the_auc_counts_pairs_and_ties_half(rows: list[tuple[bool, int]]) -> None:
    labels = [label for label, _ in rows]
    positives = [score for label, score in rows if label]
    negatives = [score for label, score in rows if not label]
    found = auc(labels, [score for _, score in rows])
    if not positives or not negatives:
        assert math.isnan(found)
        return
    wins = sum((p > n) + (p == n) / 2 for p in positives for n in negatives)
    assert found == pytest.approx(wins / (len(positives) * len(negatives)))


def test_other_metrics_and_their_refusals() -> None:
    assert accuracy([1, 0, 1, 1], [True, False, False, True]) == 0.75
    assert r2([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0
    assert math.isnan(r2([1.0, 1.0], [1.0, 1.0]))
    with pytest.raises(ValueError, match="NaN"):
        auc([0, 1], [0.1, float("nan")])
    with pytest.raises(ValueError, match="cannot be compared"):
        auc([0, 1], [0.1])


def test_every_file_in_data_is_a_site_by_convention(tmp_path: Path) -> None:
    write(tmp_path / "data" / "north.csv", "a\n1\n")
    write(tmp_path / "data" / "south" / "x.csv", "a\n1\n")
    write(tmp_path / "data" / "README.md", "where it is from")
    assert [site.name for site in deal(tmp_path)] == ["north", "south"]


def test_a_site_has_its_files_whole_name_without_the_kind(tmp_path: Path) -> None:
    for name in ("St. Mary.csv", "St. Luke.csv", "basel.2019.csv"):
        write(tmp_path / "data" / name, "a\n1\n")
    write(tmp_path / "data" / "ward.1" / "x.csv", "a\n1\n")
    names = [site.name for site in deal(tmp_path)]
    assert names == ["St. Luke", "St. Mary", "basel.2019", "ward.1"]
    for packed in ("north.csv.gz", "south.csv.gz"):
        write(tmp_path / "packed" / "data" / packed, "")
    assert [site.name for site in deal(tmp_path / "packed")] == ["north", "south"]


@pytest.mark.parametrize("name", ["README.txt", "readme", "LICENSE", "License.csv", "codebook.pdf"])
def test_a_file_that_describes_the_data_is_no_site(tmp_path: Path, name: str) -> None:
    write(tmp_path / "data" / "north.csv", "a\n1\n")
    write(tmp_path / "data" / name, "where it is from")
    assert [site.name for site in deal(tmp_path)] == ["north"]


def test_a_file_of_another_kind_is_asked_about_and_becomes_no_site(tmp_path: Path) -> None:
    write(tmp_path / "data" / "north.csv", "a\n1\n")
    write(tmp_path / "data" / "notes.txt", "call Anna")
    with pytest.raises(PlanError, match=r"north\.csv and notes\.txt: is each of them a site"):
        deal(tmp_path)
    write(tmp_path / "sites.toml", '[[site]]\nname = "north"\npath = "data/north.csv"\n')
    assert [site.name for site in deal(tmp_path)] == ["north"]


@pytest.mark.parametrize(
    "names", [("a.csv", "A.csv"), ("a.csv", "a/x.csv"), ("é.csv", "e\u0301.csv")]
)
def test_two_sites_whose_names_look_alike_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        write(tmp_path / "data" / name, "a\n1\n")
    with pytest.raises(PlanError, match="look alike"):
        deal(tmp_path)


def test_sites_are_dealt_to_fewer_peers_in_turn(tmp_path: Path) -> None:
    for name in "abcde":
        write(tmp_path / "data" / f"{name}.csv", f"x\n{ord(name)}\n")
    write(tmp_path / "sites.toml", "peers = 2\n")
    first, second = deal(tmp_path)
    assert (first.name, second.name) == ("a+c+e", "b+d")
    assert len(deal(tmp_path, peers=5)) == 5
    folder = first.copy_to(tmp_path / "node")
    assert read_csv(folder).numbers("x").ravel().tolist() == [97, 99, 101]


def test_more_peers_than_sites_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.csv", "x\n1\n")
    with pytest.raises(ConfigurationError, match="--peers between 1 and 1"):
        deal(tmp_path, peers=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[site]]\nname = "a"\npath = "../x.csv"\n', "leaves"),
        ('[[site]]\nname = "a"\npath = "data/none.csv"\n', "does not exist"),
        ('[[site]]\nname = "a/b"\npath = "data/a.csv"\n', "site"),
        ("colour = 1\n", "colour"),
    ],
)
def test_a_wrong_sites_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "data" / "a.csv", "x\n1\n")
    write(tmp_path / "sites.toml", text)
    with pytest.raises(PlanError, match=message):
        deal(tmp_path)
