"""From updates to the next file: two layouts, any fold, chunk by chunk as well as whole."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np
import pytest
from harness.merging import inputs_of, merge_files

import swarm
from swarm.errors import BlobError, PlanError
from swarm.learning.folds.reduce import ByDistance
from swarm.learning.folds.step import Step
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import Placement, placement_of
from swarm.rounds.chunk_merge import UnusableUpdate, check_update, find_wrong_chunk
from swarm.tensors import Layout, TensorFile, TensorSpec, create_file, open_file

UP = Layout.from_specs(
    [
        TensorSpec("a.bias", "F64", (3,)),
        TensorSpec("body.1", "F32", (90, 50)),
        TensorSpec("body.2", "F32", (40, 50)),
        TensorSpec("norm.mean", "F32", (7,)),
        TensorSpec("z.half", "BF16", (333,)),
        TensorSpec("seen", "I64", ()),
        TensorSpec("mask", "BOOL", (5,)),
        TensorSpec("score", "F32", (2, 2)),
        TensorSpec("none", "F32", (0,)),
    ]
)
STEPS: list[Step] = [swarm.momentum(), swarm.nesterov(), swarm.adam(), swarm.yogi()]


def write(path: Path, layout: Layout, seed: int) -> Path:
    random = np.random.default_rng(seed)
    with create_file(path, layout) as file:
        for spec in layout.specs:
            values = random.standard_normal(spec.shape)
            if spec.dtype == "BF16":
                file[spec.name][...] = values.astype("<f4").view("<u4") >> 16
            elif spec.dtype == "BOOL":
                file[spec.name][...] = values > 0
            else:
                file[spec.name][...] = values * (10 if spec.dtype == "I64" else 1)
    return path


def updates_in(folder: Path, count: int) -> list[Path]:
    return [write(folder / f"update{seed}", UP, seed) for seed in range(count)]


def placed(**places: object) -> Placement:
    return placement_of({"norm.*": swarm.shared(), "score": swarm.gathered(), **places})


def whole(paths: list[Path], placement: Placement, base: Path) -> TensorFile:
    files = [open_file(path) for path in paths]
    contributions = [Contribution(i, 10 + i, file.raw) for i, file in enumerate(files)]
    return fold_whole(Folding(placement, UP), contributions, open_file(base))


def test_without_steps_and_rows_both_layouts_are_the_same() -> None:
    assert Folding(Placement(), UP).down(5) == UP


def test_the_next_file_holds_the_steps_state_and_every_row() -> None:
    down = Folding(placed(**{"*": swarm.shared(step=swarm.adam())}), UP).down(4)
    specs = {spec.name: (spec.dtype, spec.shape) for spec in down.specs}
    assert specs["~step/mean/z.half"] == specs["~step/square/z.half"] == ("F32", (333,))
    assert specs["~step/mean/a.bias"] == ("F64", (3,))
    assert specs["~step/taken"] == ("I64", ())
    assert specs["~row/score"] == ("F32", (4, 2, 2))
    assert specs["~members"] == ("I64", (4,))
    assert "score" not in specs
    assert not {"~step/mean/seen", "~step/mean/norm.mean", "~step/mean/mask"} & specs.keys()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_rounds_of_a_step_are_what_the_step_says_element_by_element(
    step: Step, tmp_path: Path
) -> None:
    placement = placed(**{"*": swarm.shared(step=step)})
    base = write(tmp_path / "base", UP, 99)
    expected = {name: open_file(base)[name].astype(np.float64).copy() for name in ("body.1",)}
    model = expected["body.1"].astype("<f4").reshape(-1)
    state = [np.zeros(model.size, "<f4") for _ in step.slots]
    for taken in range(3):
        paths = [write(tmp_path / f"{taken}-{i}", UP, 10 * taken + i) for i in range(3)]
        reduced = np.empty(model.size, "<f4")
        inputs = [open_file(path)["body.1"].reshape(-1) for path in paths]
        swarm.mean().merge("F32", inputs, [10, 11, 12], reduced)
        out, after = np.empty_like(model), [np.empty_like(slot) for slot in state]
        step.advance("F32", model, reduced, state, taken, out, after)
        model, state = out, after
        base = tmp_path / f"model{taken}"
        earlier = tmp_path / ("base" if taken == 0 else f"model{taken - 1}")
        merge_files(paths, [10, 11, 12], base, placement, earlier)
        found = open_file(base)
        assert found["body.1"].tobytes() == model.tobytes()
        for slot, values in zip(step.slots, state, strict=True):
            assert found[f"~step/{slot}/body.1"].tobytes() == values.tobytes()
        assert found["~step/taken"] == taken + 1
        assert found["norm.mean"].tobytes() != open_file(paths[0])["norm.mean"].tobytes()


def test_every_contributors_row_is_kept_with_its_number(tmp_path: Path) -> None:
    paths = updates_in(tmp_path, 3)
    merge_files(paths, [1, 2, 3], tmp_path / "next", placed())
    found = open_file(tmp_path / "next")
    assert found["~members"].tolist() == [0, 1, 2]
    for row, path in zip(found["~row/score"], paths, strict=True):
        assert row.tolist() == open_file(path)["score"].tolist()


MIXED = placed(
    **{
        "body.*": swarm.shared(swarm.krum(1), step=swarm.adam()),
        "z.*": swarm.shared(swarm.median(), step=swarm.nesterov()),
        "a.*": swarm.shared(swarm.geometric_median()),
        "seen": swarm.shared(swarm.sum()),
    }
)


def test_a_merge_by_chunks_is_the_merge_of_whole_files(tmp_path: Path) -> None:
    paths, base = updates_in(tmp_path, 5), write(tmp_path / "base", UP, 77)
    merge_files(paths, [10, 11, 12, 13, 14], tmp_path / "next", MIXED, base)
    expected = whole(paths, MIXED, base)
    assert (tmp_path / "next").read_bytes() == expected.raw.tobytes()
    check_update(tmp_path / "next", Folding(MIXED, UP).down(5))


def test_distances_are_those_of_the_tensors_with_that_rule_alone(tmp_path: Path) -> None:
    rule = swarm.multi_krum(1, 2)
    paths, base = updates_in(tmp_path, 5), write(tmp_path / "base", UP, 77)
    found = whole(paths, placed(**{"body.*": swarm.shared(rule)}), base)
    from swarm.learning.folds.gram import Elements, find_gram

    files, old = [open_file(path) for path in paths], open_file(base)
    parts = [
        Elements("F32", old[name].reshape(-1), [file[name].reshape(-1) for file in files])
        for name in ("body.1", "body.2")
    ]
    assert isinstance(rule, ByDistance)
    weights = rule.weigh(find_gram(lambda: parts))
    out = np.empty(90 * 50, "<f4")
    rule.merge("F32", parts[0].inputs, weights, out)
    assert found["body.1"].tobytes() == out.tobytes()


def test_whoever_rechecks_a_chunk_sees_what_is_wrong_in_any_tensor_it_folds_into(
    tmp_path: Path,
) -> None:
    placement = placed(**{"*": swarm.shared(swarm.trimmed(0.2), step=swarm.adam())})
    paths, base = updates_in(tmp_path, 4), write(tmp_path / "base", UP, 77)
    samples = [10, 11, 12, 13]
    merge_files(paths, samples, tmp_path / "next", placement, base)
    right = (tmp_path / "next").read_bytes()
    down = Layout.read(tmp_path / "next")
    inputs = inputs_of(paths, samples, placement, base)
    chunks = range(UP.chunks)
    assert find_wrong_chunk(inputs, tmp_path / "next", chunks, Event()) is None
    for spec, start in zip(down.specs, down.starts, strict=True):
        if not spec.size_bytes:
            continue
        wrong = bytearray(right)
        wrong[start + spec.size_bytes // 2] ^= 1
        (tmp_path / "wrong").write_bytes(wrong)
        found = [find_wrong_chunk(inputs, tmp_path / "wrong", [c], Event()) for c in chunks]
        assert any(f is not None for f in found), spec.name
        if spec.name not in ("~step/taken", "~members"):
            assert len({f for f in found if f is not None}) == 1, spec.name


def test_a_base_in_the_models_own_types_is_rounded_as_it_travels(tmp_path: Path) -> None:
    up = Layout.from_specs([TensorSpec("w", "BF16", (50,))])
    wide = Layout.from_specs([TensorSpec("w", "F32", (50,)), TensorSpec("other", "F32", (9,))])
    base = write(tmp_path / "base", wide, 1)
    narrow = write(tmp_path / "narrow", up, 2)
    with create_file(tmp_path / "rounded", up) as file:
        bits = open_file(base)["w"].view("<u4").astype(np.uint64)
        file["w"][...] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    placement = placement_of({"*": swarm.shared(step=swarm.nesterov())})
    results = []
    for old in (base, tmp_path / "rounded"):
        raw = open_file(narrow).raw
        folded = fold_whole(Folding(placement, up), [Contribution(0, 5, raw)], open_file(old))
        results.append(folded.raw.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("rule", [swarm.krum(1), swarm.median(), swarm.mean()])
def test_an_update_that_is_not_finite_is_named_by_any_rule(tmp_path: Path, rule: object) -> None:
    paths, base = updates_in(tmp_path, 5), write(tmp_path / "base", UP, 77)
    with create_file(tmp_path / "bad", UP) as file:
        file["body.2"][3, 3] = np.nan
    placement = placement_of({"*": swarm.shared(rule)})  # type: ignore[arg-type]
    with pytest.raises(UnusableUpdate, match=r"'body.2': element 153 is not finite") as raised:
        merge_files([*paths[:4], tmp_path / "bad"], [1] * 5, tmp_path / "next", placement, base)
    assert raised.value.contributor == 4


def test_a_base_of_another_plan_is_refused_by_name(tmp_path: Path) -> None:
    other = Layout.from_specs([TensorSpec("body.1", "F32", (4,))])
    base = write(tmp_path / "base", other, 1)
    placement = placed(**{"*": swarm.shared(step=swarm.adam())})
    with pytest.raises(BlobError, match=r"the round's base has no tensor 'a.bias' of shape"):
        whole(updates_in(tmp_path, 2), placement, base)


def test_what_does_not_travel_cannot_be_in_an_update() -> None:
    with pytest.raises(PlanError, match=r"'body.1' does not travel"):
        Folding(placement_of({"body.*": swarm.local()}), UP).down(1)
    long = Layout.from_specs([TensorSpec("n" * 505, "F32", (1,))])
    with pytest.raises(PlanError, match="cannot be exchanged as its tensors say"):
        Folding(placement_of({"*": swarm.shared(step=swarm.adam())}), long).down(1)
