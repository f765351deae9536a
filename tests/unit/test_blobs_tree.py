"""Blob names and manifests: pinned, and nothing that differs in one byte has the same name."""

from __future__ import annotations

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from swarm.blobs.manifest import MAX_MANIFEST_BYTES, Manifest
from swarm.blobs.tree import HASH_BYTES, leaf_hash, tree_top
from swarm.errors import BlobError
from swarm.tensors import Layout, TensorSpec
from swarm.types import NO_DIGEST, Digest

CONTENT = bytes(range(256)) * 40  # 10,240 bytes: two chunks of 4 KiB and a half


def test_the_name_of_given_bytes_is_pinned() -> None:
    assert Manifest.of_bytes(b"").root.hex() == (
        "907b0d9ca242246e77d24ae4b6112b6b657c9cc82d40ce8d8e85c08a68d577f3"
    )
    assert Manifest.of_bytes(b"a" * 10_000).root.hex() == (
        "dd3b8751f6013ba931d243c19e070ebd59840efb4d93704468c96b54e375c2ab"
    )


def test_the_tree_is_the_one_that_the_documentation_states() -> None:
    def keyed(domain: str, data: bytes) -> bytes:
        return blake3(data, derive_key_context=f"swarm 2026 blob {domain} v1").digest()

    first, second, third = (keyed("leaf", CONTENT[at : at + 4096]) for at in (0, 4096, 8192))
    top = keyed("node", keyed("node", first + second) + third)
    header = msgspec.msgpack.encode([1, "full", "raw", bytes(32), bytes(32), 10_240, 4096])
    manifest = Manifest.of_bytes(CONTENT)
    assert manifest.leaves == first + second + third
    assert manifest.root == keyed("root", header + top)


def test_a_tree_of_five_leaves_lets_the_odd_one_move_up() -> None:
    leaves = [bytes([number]) * HASH_BYTES for number in range(5)]
    four = tree_top(b"".join(leaves[:4]))
    assert tree_top(b"".join(leaves)) == tree_top(four + leaves[4])
    assert tree_top(leaves[0]) == leaves[0]


def test_a_chunk_cannot_pass_for_a_node() -> None:
    pair = leaf_hash(b"left") + leaf_hash(b"right")
    assert leaf_hash(pair) != tree_top(pair)


def test_a_manifest_decodes_to_itself() -> None:
    manifest = Manifest.of_bytes(CONTENT)
    assert Manifest.decode(manifest.encode(), manifest.root) == manifest
    assert [manifest.chunk_range(index) for index in range(3)] == [
        (0, 4096),
        (4096, 8192),
        (8192, 10_240),
    ]
    with pytest.raises(BlobError, match="no chunk 3 of 3"):
        manifest.chunk_range(3)
    with pytest.raises(BlobError):
        manifest.chunk_range(-1)


@given(st.data())
def test_no_change_of_a_manifest_keeps_its_root(data: st.DataObject) -> None:
    manifest = Manifest.of_bytes(CONTENT)
    forged = bytearray(manifest.encode())
    index = data.draw(st.integers(0, len(forged) - 1))
    forged[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != forged[index]))
    with pytest.raises(BlobError):
        Manifest.decode(bytes(forged), manifest.root)


@given(st.binary(max_size=400))
def test_garbage_is_no_manifest(garbage: bytes) -> None:
    with pytest.raises(BlobError):
        Manifest.decode(garbage, NO_DIGEST)


def changed(**fields: object) -> Manifest:
    return msgspec.structs.replace(Manifest.of_bytes(CONTENT), **fields)


@pytest.mark.parametrize(
    "manifest",
    [
        changed(chunk_bytes=5000, leaves=bytes(96)),
        changed(chunk_bytes=2048),
        changed(length_bytes=4097),
        changed(leaves=bytes(64)),
        changed(leaves=bytes(97)),
        changed(base=bytes(31)),
        changed(version=2),
        changed(kind="other"),
        changed(codec=""),
        changed(length_bytes=1 << 60),
    ],
)
def test_a_manifest_that_is_badly_formed_is_refused_under_its_own_root(manifest: Manifest) -> None:
    with pytest.raises(BlobError):
        Manifest.decode(manifest.encode(), manifest.root)


def test_kinds_and_codecs_of_later_versions_fit_the_format() -> None:
    for kind in ("delta", "masked"):
        manifest = changed(kind=kind, base=Digest(b"b" * 32), codec="int8")
        assert Manifest.decode(manifest.encode(), manifest.root) == manifest
        assert manifest.root != Manifest.of_bytes(CONTENT).root


def test_an_oversized_manifest_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(BlobError, match="over the limit"):
        Manifest.decode(bytes(MAX_MANIFEST_BYTES + 1), NO_DIGEST)


def test_a_manifest_of_other_tensors_or_another_length_is_refused() -> None:
    layout = Layout.from_specs([TensorSpec("w", "F32", (3,))])
    other = Layout.from_specs([TensorSpec("w", "F32", (4,))])
    manifest = Manifest.of_tensors(layout, bytes(32) * layout.chunks)
    manifest.require(max_bytes=layout.file_bytes, layout=layout)
    with pytest.raises(BlobError, match="at most 4107"):
        manifest.require(max_bytes=layout.file_bytes - 1)
    with pytest.raises(BlobError, match="does not hold the expected tensors"):
        manifest.require(max_bytes=1 << 20, layout=other)
    masked = msgspec.structs.replace(manifest, kind="masked")
    with pytest.raises(BlobError, match="it is masked"):
        masked.require(max_bytes=1 << 20, layout=layout)
