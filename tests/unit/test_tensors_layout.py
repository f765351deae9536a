"""The canonical safetensors layout: one file for given tensors, and nothing else is accepted."""

from __future__ import annotations

import resource
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from swarm import tensors
from swarm.errors import BlobError, LocalError
from swarm.tensors import (
    NUMPY_DTYPES,
    Layout,
    TensorSpec,
    chunk_bytes_for,
    create_file,
    open_file,
)

SPECS = (
    TensorSpec("layer.weight", "F32", (3, 4)),
    TensorSpec("layer.bias", "F32", (4,)),
    TensorSpec("batches", "I64", ()),
    TensorSpec("half", "F16", (5,)),
    TensorSpec("brain", "BF16", (2, 2)),
    TensorSpec("mask", "BOOL", (3,)),
    TensorSpec("empty", "F64", (0, 7)),
)

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
specs = st.lists(
    st.builds(
        TensorSpec,
        name=names.filter(lambda name: name != "__metadata__"),
        dtype=st.sampled_from(sorted(NUMPY_DTYPES)),
        shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda spec: spec.name,
)


def json_of(layout: Layout) -> bytes:
    return layout.header[8:].rstrip(b" ")


def with_json(layout: Layout, text: bytes) -> bytes:
    """The header with another JSON, padded to the same length."""
    return layout.header[:8] + text.ljust(layout.data_start - 8, b" ")


def test_the_bytes_of_a_header_are_pinned() -> None:
    layout = Layout.from_specs(SPECS)
    assert json_of(layout) == (
        b'{"batches":{"dtype":"I64","shape":[],"data_offsets":[0,8]},'
        b'"empty":{"dtype":"F64","shape":[0,7],"data_offsets":[8,8]},'
        b'"layer.bias":{"dtype":"F32","shape":[4],"data_offsets":[8,24]},'
        b'"layer.weight":{"dtype":"F32","shape":[3,4],"data_offsets":[24,72]},'
        b'"brain":{"dtype":"BF16","shape":[2,2],"data_offsets":[72,80]},'
        b'"half":{"dtype":"F16","shape":[5],"data_offsets":[80,90]},'
        b'"mask":{"dtype":"BOOL","shape":[3],"data_offsets":[90,93]}}'
    )
    assert layout.schema_digest.hex() == (
        "ac156f10dc5377c1a10238d82a8f1f587efea4d71809a423b78d4b15895fce56"
    )
    assert (layout.data_start, layout.file_bytes, layout.chunk_bytes) == (4096, 4189, 4096)


def test_the_safetensors_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weight = np.arange(12, dtype=np.float32).reshape(3, 4)
    with create_file(path, Layout.from_specs(s for s in SPECS if s.dtype != "BF16")) as file:
        file["layer.weight"][...] = weight
        file["batches"][...] = 41
        file["mask"][1] = True
    read = safetensors.numpy.load_file(path)
    assert np.array_equal(read["layer.weight"], weight)
    assert read["batches"] == 41
    assert read["mask"].tolist() == [False, True, False]
    assert read["empty"].shape == (0, 7)
    assert path.stat().st_mode & 0o777 == 0o600


def test_open_file_maps_what_create_file_wrote(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with create_file(path, Layout.from_specs(SPECS)) as file:
        file["brain"][...] = 0x3F80
        file["half"][...] = 1.5
    opened = open_file(path)
    assert list(opened) == [spec.name for spec in opened.layout.specs]
    assert opened["brain"].dtype == np.uint16
    assert opened["half"].tolist() == [1.5] * 5
    assert not opened["half"].flags.writeable


def test_nothing_is_left_when_writing_fails_in_the_middle(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        create_file(tmp_path / "model", Layout.from_specs(SPECS)) as file,
    ):
        file["half"][...] = 1 / 0
    assert list(tmp_path.iterdir()) == []


def test_the_disk_space_of_a_new_file_is_reserved_before_it_is_written(tmp_path: Path) -> None:
    layout = Layout.from_specs([TensorSpec("w", "F32", (1 << 20,))])
    with create_file(tmp_path / "m", layout):
        (temporary,) = tmp_path.iterdir()
        assert temporary.stat().st_blocks * 512 >= layout.file_bytes


def test_a_full_disk_is_a_local_error_before_anything_is_mapped(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # the kernel's EFBIG stands for full
    try:
        with (
            pytest.raises(LocalError, match="free space"),
            create_file(tmp_path / "m", Layout.from_specs([TensorSpec("w", "F32", (1 << 20,))])),
        ):
            pytest.fail("the file was mapped")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@given(specs)
def test_any_layout_parses_back_whatever_the_order_of_its_specs(given: list[TensorSpec]) -> None:
    layout = Layout.from_specs(given)
    assert Layout.from_specs(reversed(given)) == layout
    assert Layout.parse(layout.header, layout.file_bytes) == layout
    assert {spec.name for spec in layout.specs} == {spec.name for spec in given}


@given(specs)
def test_chunk_edges_are_element_edges_and_segments_cover_the_data(given: list[TensorSpec]) -> None:
    layout = Layout.from_specs(given)
    covered = layout.data_start
    for chunk in range(layout.chunks):
        for dtype, start, stop in layout.segments(chunk):
            assert start == covered
            assert (stop - start) % NUMPY_DTYPES[dtype].itemsize == 0
            assert start // layout.chunk_bytes == (stop - 1) // layout.chunk_bytes == chunk
            covered = stop
    assert covered == layout.file_bytes


def test_chunks_of_a_large_layout_hold_whole_elements_of_each_type() -> None:
    layout = Layout.from_specs(
        [TensorSpec("a", "F64", (300_001,)), TensorSpec("b", "F16", (3_000_003,))]
    )
    assert layout.chunk_bytes == 65536
    sizes = {"F64": 0, "F16": 0}
    for chunk in range(layout.chunks):
        for dtype, start, stop in layout.segments(chunk):
            sizes[dtype] += stop - start
    assert sizes == {"F64": 8 * 300_001, "F16": 2 * 3_000_003}
    with pytest.raises(IndexError):
        layout.segments(layout.chunks)


def test_a_header_of_thousands_of_tensors_is_padded_to_a_chunk_edge() -> None:
    layout = Layout.from_specs(TensorSpec(f"t{i}", "F32", (2,)) for i in range(5000))
    assert layout.data_start > 40 * layout.chunk_bytes
    assert layout.data_start % layout.chunk_bytes == 0
    assert layout.segments(0) == []
    assert len(layout.runs) == 1
    assert Layout.parse(layout.header, layout.file_bytes) == layout


@pytest.mark.parametrize(
    ("data_bytes", "chunk_bytes"),
    [
        (0, 4096),
        (1, 4096),
        (1 << 20, 4096),
        ((1 << 20) + 1, 8192),
        (100_000_000, 1 << 19),
        (1 << 28, 1 << 20),
        (1 << 35, 1 << 20),
    ],
)
def test_the_chunk_size_follows_from_the_size_of_the_data(
    data_bytes: int, chunk_bytes: int
) -> None:
    assert chunk_bytes_for(data_bytes) == chunk_bytes


def test_tensor_at_names_the_tensor_of_a_byte() -> None:
    layout = Layout.from_specs(SPECS)
    assert layout.tensor_at(layout.data_start).name == "batches"
    assert layout.tensor_at(layout.data_start + 8).name == "layer.bias"  # not the empty one
    assert layout.tensor_at(layout.file_bytes - 1).name == "mask"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"dtype":"I64"', b'"dtype":"I65"', "cannot be read"),
        (b"[0,8]", b"[0,9]", "not canonical"),
        (b'"shape":[4]', b'"shape":[5]', "not canonical"),
        (b'"shape":[4]', b'"shape":[-4]', "cannot be read"),
        (b'"shape":[4]', b'"shape":[68719476737]', "cannot be read"),
        (b'"shape":[4]', b'"shape":[68719476736,0]', "too large"),
        (b'"batches":', b'"batches" :', "not canonical"),
        (b'"batches":', b'"b\\u0061tches":', "not canonical"),
        (b'"batches":', b'"b\\u0000tches":', "control characters"),
        (b'"batches":', b'"":', "cannot name"),
        (b'"batches":', b'"__metadata__":', "cannot name"),
        (b'"batches":', b'"zatches":', "ordered by"),
        (b'{"batches"', b'{"__metadata__":{"a":"b"},"batches"', "cannot be read"),
        (b'"shape":[],', b'"shape":[],"more":1,', "cannot be read"),
        (
            b'"batches":',
            b'"batches":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"batches":',
            "not canonical",
        ),
        (b'"batches":', b'"\xff":', "cannot be read"),
    ],
)
def test_a_header_that_is_not_canonical_is_refused(old: bytes, new: bytes, message: str) -> None:
    layout = Layout.from_specs(SPECS)
    assert old in layout.header
    forged = with_json(layout, json_of(layout).replace(old, new, 1))
    with pytest.raises(BlobError, match=message):
        Layout.parse(forged, layout.file_bytes)


def test_another_length_padding_or_prefix_is_refused() -> None:
    layout = Layout.from_specs(SPECS)
    for forged, size in (
        (layout.header, layout.file_bytes + 1),
        (layout.header + b" " * 4096, layout.file_bytes + 4096),
        (layout.header[:-1] + b"\t", layout.file_bytes),
        (bytes(8) + layout.header[8:], layout.file_bytes),
        (b"", 0),
    ):
        with pytest.raises(BlobError):
            Layout.parse(forged, size)


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{" * 100, b"{}" * 9]
)
def test_garbage_is_no_tensor_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage"
    path.write_bytes(content)
    with pytest.raises(BlobError):
        open_file(path)


@given(st.data())
def test_no_change_of_one_byte_in_a_header_is_accepted(data: st.DataObject) -> None:
    layout = Layout.from_specs(SPECS)
    forged = bytearray(layout.header)
    index = data.draw(st.integers(0, len(json_of(layout)) + 20))
    forged[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != forged[index]))
    try:
        parsed = Layout.parse(bytes(forged), layout.file_bytes)
    except BlobError:
        return
    # Only another name, type or shape that needs the same places makes another canonical file.
    assert parsed.header == bytes(forged) != layout.header
    assert parsed.schema_digest != layout.schema_digest


def test_layouts_that_cannot_be_are_refused() -> None:
    for impossible in (
        [],
        [TensorSpec("a", "F32", (1,)), TensorSpec("a", "I8", (1,))],
        [TensorSpec("x" * 513, "F32", (1,))],
        [TensorSpec("\ud800", "F32", (1,))],
        [TensorSpec("big", "F64", (1 << 20, 1 << 20))],
        [TensorSpec(str(i), "U8", ()) for i in range(tensors.MAX_TENSORS + 1)],
    ):
        with pytest.raises(ValueError):
            Layout.from_specs(impossible)


def test_specs_travel_as_messages() -> None:
    packed = msgspec.msgpack.encode(SPECS)
    assert msgspec.msgpack.decode(packed, type=tuple[TensorSpec, ...]) == SPECS
