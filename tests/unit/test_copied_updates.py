"""An update names who made it: a copy of its digest counts for nobody, however early it stands."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from harness.rounds import Consortium, Vice

from swarm.blobs.manifest import Manifest, Origin
from swarm.errors import BlobError, NotItsOwn, SchemaMismatch
from swarm.protocol.state import Omission, Rules, VerifyLevel
from swarm.tensors import Layout, TensorSpec
from swarm.types import Digest

RULES = Rules(rounds=3, min_peers=2, liveness_s=10)
LAYOUT = Layout.from_specs([TensorSpec("w", "F32", (3,))])
LEAVES = bytes(32) * LAYOUT.chunks
ORIGIN = Origin(plan=1, round=2, member=3)
UPDATE = Manifest.of_tensors(LAYOUT, LEAVES, ORIGIN)


def test_equal_tensors_of_two_members_have_two_names_and_a_model_has_a_third() -> None:
    origins = (None, ORIGIN, ORIGIN._replace(member=4), ORIGIN._replace(round=3), Origin(2, 2, 3))
    roots = [Manifest.of_tensors(LAYOUT, LEAVES, origin).root for origin in origins]
    assert len(set(roots)) == len(origins)


def test_an_update_keeps_its_origin_on_the_way() -> None:
    assert Manifest.decode(UPDATE.encode(), UPDATE.root) == UPDATE


def test_an_update_cannot_be_passed_on_under_another_origin() -> None:
    forged = Manifest.of_tensors(LAYOUT, LEAVES, ORIGIN._replace(member=4))
    with pytest.raises(BlobError, match="not that of blob"):
        Manifest.decode(forged.encode(), UPDATE.root)


@pytest.mark.parametrize(
    "wanted",
    [None, ORIGIN._replace(member=4), ORIGIN._replace(round=1), ORIGIN._replace(plan=2)],
)
def test_another_origin_than_the_wanted_is_refused_and_named(wanted: Origin | None) -> None:
    with pytest.raises(NotItsOwn, match="member 3's of round 2 of plan 1, not"):
        UPDATE.require(max_bytes=1 << 20, layout=LAYOUT, origin=wanted)
    UPDATE.require(max_bytes=1 << 20, layout=LAYOUT, origin=ORIGIN)


def test_an_update_of_other_tensors_is_of_a_wrong_schema_whosever_it_is() -> None:
    other = Layout.from_specs([TensorSpec("w", "F32", (4,))])
    with pytest.raises(SchemaMismatch):
        UPDATE.require(max_bytes=1 << 20, layout=other, origin=ORIGIN)


@pytest.mark.parametrize("origin", [(1, 2), (1, 2, -1), (1, 2, 2**63), ("1", 2, 3), 5])
def test_what_is_no_origin_is_refused(origin: object) -> None:
    forged = replace_origin(UPDATE, origin)
    with pytest.raises(BlobError, match="cannot be read"):
        Manifest.decode(forged, Digest(bytes(32)))


def replace_origin(manifest: Manifest, origin: object) -> bytes:
    fields = msgspec.msgpack.decode(manifest.encode())
    return msgspec.msgpack.encode([*fields[:-1], origin])


@pytest.mark.parametrize("level", list(VerifyLevel))
@pytest.mark.parametrize("copier", [0, 3])
def test_a_copier_is_left_out_and_never_who_was_copied(level: VerifyLevel, copier: int) -> None:
    world = Consortium(4, replace(RULES, verify_level=level))
    world.nodes[copier].vices = frozenset({Vice.COPIES})
    world.nodes[copier].train_s = 1.0  # before all others, as a block's builder could arrange
    world.consent()
    assert world.run_rounds(3, 400)
    assert world.counted["copied updates"] >= 3
    merges = [t[4] for t in world.executed if t[3] == "merge" and t[5] is None]
    assert len(merges) >= 3
    for *_, outcome, reasons in merges:
        assert outcome.omitted == 1 << copier
        assert reasons == bytes([Omission.NOT_ITS_OWN])
