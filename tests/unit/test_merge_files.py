"""Merging and checking tensor files: named faults, nothing half-written, flat memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from harness.merging import inputs_of, merge_files

from swarm.blobs.partial import Draft
from swarm.errors import BlobError
from swarm.learning.parameters import next_file as folding
from swarm.learning.parameters.placement import read_placement
from swarm.rounds.chunk_merge import (
    Incoming,
    MergeInputs,
    UnusableUpdate,
    check_update,
    find_wrong_chunk,
    merge_as_they_come,
)
from swarm.tensors import DType, Layout, TensorFile, TensorSpec, create_file, open_file
from swarm.types import MemberId

LAYOUT = Layout.from_specs(
    [
        TensorSpec("body.weight", "F32", (700, 500)),
        TensorSpec("body.mean", "F64", (3,)),
        TensorSpec("head.weight", "F32", (10,)),
        TensorSpec("brain", "BF16", (6,)),
        TensorSpec("batches", "I64", ()),
        TensorSpec("mask", "BOOL", (4,)),
    ]
)


def write(path: Path, seed: int, change: Callable[[TensorFile], None] | None = None) -> Path:
    with create_file(path, LAYOUT) as file:
        random = np.random.default_rng(seed)
        file["body.weight"][...] = random.standard_normal((700, 500))
        file["body.mean"][...] = seed
        file["head.weight"][...] = random.standard_normal(10)
        file["brain"][...] = 0x3F80 + seed
        file["batches"][...] = 10 * seed
        file["mask"][seed % 4] = True
        if change is not None:
            change(file)
    return path


def test_files_merge_tensor_by_tensor(tmp_path: Path) -> None:
    assert LAYOUT.chunks > 100
    paths = [write(tmp_path / f"{seed}", seed) for seed in (1, 2, 3)]
    merge_files(paths, [10, 20, 10], tmp_path / "merged")
    merged, first, second, third = map(open_file, [tmp_path / "merged", *paths])
    assert merged.layout == LAYOUT
    expected = (
        first["body.weight"] * np.float64(10)
        + second["body.weight"] * np.float64(20)
        + third["body.weight"] * np.float64(10)
    ) / 40.0
    assert merged["body.weight"].tobytes() == expected.astype(np.float32).tobytes()
    assert merged["body.mean"].tolist() == [2.0] * 3
    assert merged["brain"].tolist() == [0x3F82] * 6
    assert merged["batches"] == 30
    assert merged["mask"].tolist() == [False, True, True, True]


def test_chunk_by_chunk_in_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}", seed) for seed in (1, 2)]
    merge_files(paths, [3, 4], tmp_path / "whole")
    merge_files(paths, [4, 3], tmp_path / "other")
    backwards = list(reversed(range(LAYOUT.chunks)))
    found = [
        find_wrong_chunk(inputs_of(paths, [3, 4]), tmp_path / model, backwards, Event())
        for model in ("whole", "other")
    ]
    assert found[0] is None
    assert found[1] is not None


def test_sums_need_no_weights(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}", seed) for seed in (1, 2)]
    merge_files(paths, [1, 1], tmp_path / "sum", read_placement("sum"))
    merged = open_file(tmp_path / "sum")
    assert merged["body.mean"].tolist() == [3.0] * 3
    assert merged["batches"] == 30


def spoil(name: str, index: object, value: float) -> Callable[[TensorFile], None]:
    def change(file: TensorFile) -> None:
        file[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil("body.weight", (699, 499), np.nan), "'body.weight': element 349999 is not finite"),
        (spoil("body.mean", 1, -np.inf), "'body.mean': element 1 is not finite"),
        (spoil("head.weight", 0, np.inf), "'head.weight': element 0 is not finite"),
        (spoil("brain", 5, 0xFF80), "'brain': element 5 is not finite"),
    ],
)
def test_an_update_that_is_not_finite_is_refused_by_tensor_and_element(
    tmp_path: Path, change: Callable[[TensorFile], None], message: str
) -> None:
    path = write(tmp_path / "update", 1, change)
    with pytest.raises(BlobError, match=message):
        check_update(path, LAYOUT)
    good = write(tmp_path / "good", 2)
    check_update(good, LAYOUT)
    with pytest.raises(UnusableUpdate, match=message) as raised:
        merge_files([good, path], [1, 1], tmp_path / "merged")
    assert raised.value.contributor == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["good", "update"]


def test_a_boolean_byte_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "update", 1)
    content = bytearray(path.read_bytes())
    content[-1] = 7
    path.write_bytes(content)
    with pytest.raises(BlobError, match="'mask': element 3 is neither 0 nor 1"):
        check_update(path, LAYOUT)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([TensorSpec("a", "F32", (3,))], r"tensor 'a' is F32 \[3\], but must be F32 \[2\]"),
        ([TensorSpec("a", "F16", (2,))], r"tensor 'a' is F16 \[2\], but must be F32 \[2\]"),
        ([TensorSpec("b", "F32", (2,))], r"tensor 'a' is absent, but must be F32 \[2\]"),
        (
            [TensorSpec("a", "F32", (2,)), TensorSpec("b", "I8", ())],
            r"tensor 'b' is I8 \[\], but must be absent",
        ),
    ],
)
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, specs: list[TensorSpec], message: str
) -> None:
    expected = Layout.from_specs([TensorSpec("a", "F32", (2,))])
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path, layout in ((ours, expected), (theirs, Layout.from_specs(specs))):
        with create_file(path, layout):
            pass
    with pytest.raises(BlobError, match=message):
        check_update(theirs, expected)
    with pytest.raises(UnusableUpdate, match="contributor 1: other tensors") as raised:
        merge_files([ours, theirs], [1, 1], tmp_path / "merged")
    assert raised.value.is_schema


@pytest.mark.parametrize("samples", [[], [0], [2**53]])
def test_weights_that_cannot_be_are_refused(tmp_path: Path, samples: list[int]) -> None:
    path = write(tmp_path / "update", 1)
    updates = [Incoming(path, None, n, MemberId(0)) for n in samples]
    inputs = MergeInputs(inputs_of([path], [1]).folding, updates)
    draft = Draft(tmp_path / "merged", LAYOUT)
    with pytest.raises(ValueError, match="sample counts"):
        merge_as_they_come(inputs, draft, Event())


MEMORY = """
import sys
from pathlib import Path
from swarm.blobs.store import BlobStore
from swarm.rounds.chunk_merge import check_update
from harness.merging import inputs_of, merge_files
from swarm.tensors import Layout, TensorSpec, create_file

def anonymous_kb():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1])

folder = Path(sys.argv[1])
store = BlobStore(folder / "blobs")
peak = 0

def run(elements):
    layout = Layout.from_specs([TensorSpec("w", "F32", (elements,))])
    paths = []
    for index in range(3):
        path = folder / f"{index}"
        with create_file(path, layout) as file:
            file["w"][::1000] = index
        check_update(path, layout)
        paths.append(path)
    merge_files(paths, [1, 2, 3], store.scratch("merged"))
    after_merge = anonymous_kb()
    store.add(store.scratch("merged"))
    return max(after_merge, anonymous_kb())

run(4 << 20)  # compiled loops among it
before = anonymous_kb()
print(run(20 << 20) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(process.stdout) < 20_000  # kilobytes, for three files of 80 MiB and their merge


@pytest.mark.parametrize(
    ("dtype", "megabytes", "asked"),
    [("F32", 32, [("F32", 32768)]), ("F32", 1, [("F32", 1024)]), ("F64", 32, [])],
)
def test_what_a_merge_needs_is_loaded_before_the_first_one_waits_for_it(
    dtype: DType, megabytes: int, asked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(folding, "is_fused", lambda *what: seen.append(what))
    elements = (megabytes << 20) // (8 if dtype == "F64" else 4)
    layout = Layout.from_specs([TensorSpec("w", dtype, (elements,))])
    folding.Folding(read_placement("mean"), layout).prepare()
    assert seen == asked
