"""The blob store: whole and right, or in the making; and what it is after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from swarm.blobs.manifest import Manifest
from swarm.blobs.store import BlobStore
from swarm.blobs.tree import leaf_hash
from swarm.errors import BlobError, ChunkPending, ConfigurationError, LocalError
from swarm.tensors import Layout, TensorSpec, create_file, open_file
from swarm.types import NO_DIGEST, Digest

LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (5000,)), TensorSpec("n", "I64", ())])


def write_model(path: Path, value: float) -> Path:
    with create_file(path, LAYOUT) as file:
        file["w"][...] = np.arange(5000, dtype=np.float32) * value
        file["n"][...] = 3
    return path


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


@pytest.fixture
def other(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "other")


def add_model(store: BlobStore, value: float = 1.0) -> Digest:
    return store.add(write_model(store.scratch("update"), value))


def test_an_added_file_is_served_chunk_by_chunk_under_its_root(store: BlobStore) -> None:
    path = write_model(store.scratch("update"), 1.0)
    content = path.read_bytes()
    root = store.add(path)
    manifest = store.manifest(root)
    assert not path.exists()
    assert store.has(root)
    assert manifest.root == root
    assert manifest.schema == LAYOUT.schema_digest
    chunks = [store.read_chunk(root, index) for index in range(manifest.chunks)]
    assert b"".join(chunks) == content == store.path(root).read_bytes()
    assert open_file(store.path(root))["w"][2] == 2.0
    assert store.verify(root)


def test_equal_tensors_have_one_name_and_one_file(store: BlobStore) -> None:
    assert add_model(store) == add_model(store)
    assert add_model(store, 2.0) != add_model(store)
    assert len(store.roots()) == 2
    assert store.total_bytes == 2 * LAYOUT.file_bytes


def test_raw_bytes_are_blobs_too(store: BlobStore) -> None:
    root = store.add_bytes(b'{"steps":3}')
    assert store.read_chunk(root, 0) == b'{"steps":3}'
    assert store.read_chunk(store.add_bytes(b""), 0) == b""


def test_the_directory_and_its_files_are_private(store: BlobStore) -> None:
    root = add_model(store)
    store.add_bytes(b"meta")
    store.partial(*foreign(b"x" * 9000), max_bytes=9000)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    modes = {file.stat().st_mode & 0o777 for file in store.directory.iterdir()}
    assert modes == {0o600}
    assert store.path(root).exists()


def test_a_reopened_store_holds_what_it_held(store: BlobStore) -> None:
    root = add_model(store)
    raw = store.add_bytes(b"meta")
    assert BlobStore(store.directory).roots() == {root, raw}


def test_a_file_that_is_not_canonical_is_refused_and_left(store: BlobStore) -> None:
    path = store.scratch("update")
    path.write_bytes(b"not a tensor file")
    with pytest.raises(BlobError):
        store.add(path)
    assert path.exists()
    assert store.roots() == frozenset()


def test_what_is_not_held_is_refused(store: BlobStore) -> None:
    root = add_model(store)
    for call in (
        lambda: store.read_chunk(NO_DIGEST, 0),
        lambda: store.manifest(NO_DIGEST),
        lambda: store.read_chunk(root, -1),
        lambda: store.read_chunk(root, 99),
    ):
        with pytest.raises(BlobError):
            call()


def foreign(content: bytes) -> tuple[Digest, Manifest]:
    manifest = Manifest.of_bytes(content)
    return manifest.root, manifest


def test_a_partial_takes_right_chunks_in_any_order_and_becomes_held(
    store: BlobStore, other: BlobStore
) -> None:
    root = add_model(store)
    manifest = store.manifest(root)
    partial = other.partial(root, manifest, max_bytes=LAYOUT.file_bytes)
    for index in reversed(range(manifest.chunks)):
        assert index in partial.missing
        partial.write_chunk(index, store.read_chunk(root, index))
    assert partial.missing == []
    assert not other.has(root)
    partial.finish()
    assert other.has(root)
    assert other.path(root).read_bytes() == store.path(root).read_bytes()
    assert not list(other.directory.glob("*.part"))
    partial.finish()  # again does no harm


def test_wrong_bytes_are_refused_and_change_nothing(store: BlobStore, other: BlobStore) -> None:
    root = add_model(store)
    manifest = store.manifest(root)
    partial = other.partial(root, manifest, max_bytes=LAYOUT.file_bytes)
    chunk = store.read_chunk(root, 1)
    for index, wrong in (
        (0, chunk),
        (1, chunk[:-1]),
        (1, chunk + b"\0"),
        (1, chunk[:-1] + bytes([chunk[-1] ^ 1])),
        (manifest.chunks, chunk),
        (-1, chunk),
    ):
        with pytest.raises(BlobError):
            partial.write_chunk(index, wrong)
    assert partial.missing == list(range(manifest.chunks))
    with pytest.raises(BlobError, match="lacks"):
        partial.finish()


def test_a_blob_whose_author_hashed_chunks_of_another_length_is_never_written(
    store: BlobStore,
) -> None:
    long = b"x" * 5000
    forged = msgspec.structs.replace(Manifest.of_bytes(b"short"), leaves=leaf_hash(long))
    partial = store.partial(forged.root, forged, max_bytes=5)
    with pytest.raises(BlobError, match="5000 bytes"):
        partial.write_chunk(0, long)
    assert partial.missing == [0]


def test_a_blob_in_the_making_already_serves_what_it_has(
    store: BlobStore, other: BlobStore
) -> None:
    root = add_model(store)
    partial = other.partial(root, store.manifest(root), max_bytes=LAYOUT.file_bytes)
    partial.write_chunk(2, store.read_chunk(root, 2))
    assert other.read_chunk(root, 2) == store.read_chunk(root, 2)
    with pytest.raises(ChunkPending, match="on its way"):
        other.read_chunk(root, 1)


def test_a_partial_goes_on_after_a_restart_with_the_right_chunks_only(
    store: BlobStore, other: BlobStore
) -> None:
    root = add_model(store)
    manifest = store.manifest(root)
    partial = other.partial(root, manifest, max_bytes=LAYOUT.file_bytes)
    for index in (1, 3):
        partial.write_chunk(index, store.read_chunk(root, index))
    with next(other.directory.glob("*.part")).open("r+b") as file:  # a torn write
        file.seek(3 * manifest.chunk_bytes + 7)
        file.write(b"torn")
    reopened = BlobStore(other.directory)
    assert reopened.unfinished() == {root: manifest}
    resumed = reopened.partial(root, manifest, max_bytes=LAYOUT.file_bytes)
    assert 1 not in resumed.missing
    assert 3 in resumed.missing
    for index in resumed.missing:
        resumed.write_chunk(index, store.read_chunk(root, index))
    resumed.finish()
    assert reopened.verify(root)


def test_a_manifest_over_the_limit_or_of_another_blob_is_refused(store: BlobStore) -> None:
    root, manifest = foreign(b"x" * 9000)
    with pytest.raises(BlobError, match="at most 8999"):
        store.partial(root, manifest, max_bytes=8999)
    with pytest.raises(BlobError, match="not that of"):
        store.partial(NO_DIGEST, manifest, max_bytes=9000)
    assert list(store.directory.iterdir()) == []


def test_a_blob_added_while_it_is_fetched_settles_the_fetch(
    store: BlobStore, other: BlobStore
) -> None:
    root = add_model(store)
    manifest = store.manifest(root)
    partial = other.partial(root, manifest, max_bytes=LAYOUT.file_bytes)
    partial.write_chunk(0, store.read_chunk(root, 0))
    assert add_model(other) == root
    partial.write_chunk(1, store.read_chunk(root, 1))
    partial.finish()
    assert other.verify(root)
    assert not list(other.directory.glob("*.part"))


def test_discard_deletes_what_is_named_and_says_how_much(store: BlobStore) -> None:
    kept, gone = add_model(store, 1.0), add_model(store, 2.0)
    part_kept, part_gone = foreign(b"a" * 9000), foreign(b"b" * 9000)
    store.partial(*part_kept, max_bytes=9000)
    store.partial(*part_gone, max_bytes=9000)
    mapped = open_file(store.path(gone))
    freed = store.discard({gone, part_gone[0]})
    assert freed == LAYOUT.file_bytes + 9000
    assert store.roots() == {kept}
    assert set(store.unfinished()) == {part_kept[0]}
    assert store.total_bytes == LAYOUT.file_bytes + 9000
    assert len(list(store.directory.iterdir())) == 4
    assert mapped["w"][1] == 2.0  # who has it mapped keeps it


def test_opening_clears_what_a_crash_left_and_nothing_of_others(store: BlobStore) -> None:
    root = add_model(store)
    directory = store.directory
    cut = store.add_bytes(b"cut short")
    store.path(cut).write_bytes(b"cut")
    orphan = store.add_bytes(b"without its manifest")
    (directory / f"{orphan.hex()}.manifest").unlink()
    (directory / f"{bytes(32).hex()}.manifest").write_bytes(b"garbage")
    (directory / f"{bytes(32).hex()}.part").write_bytes(b"garbage")
    (directory / "strange.blob").write_bytes(b"garbage")
    store.scratch("update").write_bytes(b"half")
    (directory / "README").write_text("the user's own")
    reopened = BlobStore(directory)
    assert reopened.roots() == {root}
    names = {file.name for file in directory.iterdir()}
    assert names == {f"{root.hex()}.blob", f"{root.hex()}.manifest", "README"}


def test_a_directory_that_cannot_be_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"cannot keep blobs: .*a folder belongs there"):
        BlobStore(tmp_path / "file" / "blobs")


def test_a_blob_that_was_cut_behind_the_stores_back_is_a_local_error(store: BlobStore) -> None:
    root = add_model(store)
    os.truncate(store.path(root), 5000)
    with pytest.raises(LocalError, match="shorter"):
        store.read_chunk(root, 1)


KILLED = """
import sys
from pathlib import Path
from swarm.blobs.store import BlobStore
source, target = BlobStore(Path(sys.argv[1])), BlobStore(Path(sys.argv[2]))
root = next(iter(source.roots()))
while True:
    manifest = source.manifest(root)
    partial = target.partial(root, manifest, max_bytes=manifest.length_bytes)
    for index in partial.missing:
        partial.write_chunk(index, source.read_chunk(root, index))
        print(index, flush=True)
    partial.finish()
    target.add_bytes(root)
    target.discard(target.roots())
"""


@pytest.mark.parametrize("lines", [1, 7, 30])
def test_a_kill_at_any_moment_leaves_a_store_that_goes_on(
    store: BlobStore, other: BlobStore, lines: int
) -> None:
    root = add_model(store)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.directory), str(other.directory)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    reopened = BlobStore(other.directory)
    assert all(reopened.verify(held) for held in reopened.roots())
    partial = reopened.partial(root, store.manifest(root), max_bytes=LAYOUT.file_bytes)
    for index in partial.missing:
        partial.write_chunk(index, store.read_chunk(root, index))
    partial.finish()
    assert reopened.verify(root)


def test_chunks_are_sent_from_the_mapped_file_and_outlive_its_deletion(store: BlobStore) -> None:
    root = add_model(store)
    manifest = store.manifest(root)
    views = [store.view_chunk(root, index) for index in range(manifest.chunks)]
    assert b"".join(views) == store.path(root).read_bytes()
    whole = b"".join(views)
    store.discard([root])
    assert b"".join(views) == whole
    with pytest.raises(BlobError):
        store.view_chunk(root, 0)


def test_an_empty_blob_and_one_in_the_making_are_sent_too(
    store: BlobStore, other: BlobStore
) -> None:
    assert store.view_chunk(store.add_bytes(b""), 0) == b""
    root = add_model(store)
    partial = other.partial(root, store.manifest(root), max_bytes=LAYOUT.file_bytes)
    partial.write_chunk(2, store.read_chunk(root, 2))
    assert other.view_chunk(root, 2) == store.view_chunk(root, 2)
    with pytest.raises(ChunkPending, match="on its way"):
        other.view_chunk(root, 1)


def test_a_file_that_lost_its_end_is_not_sent(store: BlobStore) -> None:
    root = add_model(store)
    os.truncate(store.path(root), 100)
    with pytest.raises(LocalError, match="shorter"):
        store.view_chunk(root, 0)


def test_a_blob_for_which_there_is_no_room_is_refused_before_it_is_fetched(
    store: BlobStore, other: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        f_bavail, f_frsize = 3, 4096

    root = add_model(store)
    monkeypatch.setattr(os, "fstatvfs", lambda _: Full)
    with pytest.raises(LocalError, match="free space"):
        other.partial(root, store.manifest(root), max_bytes=LAYOUT.file_bytes)
