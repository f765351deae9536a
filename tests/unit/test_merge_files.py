"""Merging and checking tensor files: named faults, nothing half-written, flat memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from swarm.errors import BlobError
from swarm.learning.merge import MEAN, SUM
from swarm.node.merging import STEP_BYTES, check_update, merge_files, merge_range
from swarm.tensors import Layout, TensorFile, TensorSpec, create_file, open_file

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
    assert LAYOUT.file_bytes > STEP_BYTES
    paths = [write(tmp_path / f"{seed}", seed) for seed in (1, 2, 3)]
    result = merge_files(paths, [10, 20, 10], MEAN, tmp_path / "merged")
    assert result.layout == LAYOUT
    merged, first, second, third = map(open_file, [result.path, *paths])
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
    whole = merge_files(paths, [3, 4], MEAN, tmp_path / "whole").path.read_bytes()
    inputs = [open_file(path).raw for path in paths]
    out = np.zeros(LAYOUT.file_bytes, np.uint8)
    for chunk in reversed(range(LAYOUT.chunks)):
        start = chunk * LAYOUT.chunk_bytes
        merge_range(LAYOUT, start, start + LAYOUT.chunk_bytes, inputs, [3, 4], MEAN, out)
    assert out[LAYOUT.data_start :].tobytes() == whole[LAYOUT.data_start :]


def test_sums_need_no_weights(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{seed}", seed) for seed in (1, 2)]
    merged = open_file(merge_files(paths, [1, 1], SUM, tmp_path / "sum").path)
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
    with pytest.raises(BlobError, match=r"contributor 1 .*in tensor"):
        merge_files([good, path], [1, 1], MEAN, tmp_path / "merged")
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
    with pytest.raises(BlobError, match=message):
        merge_files([ours, theirs], [1, 1], MEAN, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_weights_that_cannot_be_leave_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "update", 1)
    for samples in ([], [0], [1, 2]):
        with pytest.raises(ValueError, match="sample counts"):
            merge_files([path], samples, MEAN, tmp_path / "merged")
    with pytest.raises(ValueError, match="0 contributors"):
        merge_files([], [], MEAN, tmp_path / "merged")
    assert [file.name for file in tmp_path.iterdir()] == ["update"]


MEMORY = """
import sys
from pathlib import Path
from swarm.blobs.store import BlobStore
from swarm.learning.merge import MEAN
from swarm.node.merging import check_update, merge_files
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
    merge_files(paths, [1, 2, 3], MEAN, store.scratch("merged"))
    after_merge = anonymous_kb()
    store.add(store.scratch("merged"))
    return max(after_merge, anonymous_kb())

run(1000)
before = anonymous_kb()
print(run(16 << 20) - before)
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
    assert int(process.stdout) < 20_000  # kilobytes, for three files of 64 MiB and their merge
