"""What travels: only what training may change, rounded once to the plan's wire type."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.merging import merge_files
from harness.plans import write_tiny_plan
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from swarm.blobs.manifest import Manifest
from swarm.blobs.tree import HASH_BYTES
from swarm.errors import PlanError, SchemaMismatch
from swarm.learning.parameters.named_tensors import (
    State,
    first_non_finite,
    read_state,
    set_state,
    specs_of,
    state_of,
    write_state,
)
from swarm.learning.parameters.travel import Types, completed, to_wire, ways_of
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.whole_run import open_sites, run_federated
from swarm.learning.training import checkpoint
from swarm.learning.training.checkpoint import Workplace
from swarm.rounds.chunk_merge import check_update
from swarm.tensors import Layout, open_file
from swarm.types import Digest

MODEL = "return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))"
FROZEN = (
    MODEL,
    MODEL.replace("return", "model =")
    + "\n        for layer in model[:2]:\n            layer.requires_grad_(False)"
    + "\n        return model",
)
BF16 = ("rounds = 3\n", 'rounds = 3\n    wire_dtype = "bf16"\n')


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())


def travelling_of(model: nn.Module, state: State, wire: str) -> Types:
    return ways_of(model, state, wire).travels


def test_by_default_everything_travels_as_it_is() -> None:
    model = small_model()
    state = state_of(model)
    assert travelling_of(model, state, "fp32") == {name: t.dtype for name, t in state.items()}


def test_parameters_are_narrowed_while_buffers_and_integers_are_not() -> None:
    model = small_model()
    types = travelling_of(model, state_of(model), "fp16")
    assert types["0.weight"] == types["2.weight"] == torch.float16
    assert types["1.running_var"] == torch.float32
    assert types["1.num_batches_tracked"] == torch.int64


def test_a_parameter_that_is_narrow_already_stays_what_it_is() -> None:
    model = nn.Linear(3, 2).to(torch.float16)
    assert set(travelling_of(model, state_of(model), "bf16").values()) == {torch.float16}


def test_frozen_parameters_stay_at_home_and_their_buffers_travel() -> None:
    model = small_model()
    model[:2].requires_grad_(False)
    types = travelling_of(model, state_of(model), "fp32")
    assert {name for name in types if name[0] != "1"} == {"2.weight", "2.bias"}
    assert {name for name in types if name[0] == "1"} == {
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }


def test_a_model_without_anything_to_train_is_refused() -> None:
    model = small_model().requires_grad_(False)
    with pytest.raises(PlanError, match="requires gradients"):
        travelling_of(model, state_of(model), "fp32")


def test_a_wire_type_that_does_not_exist_is_refused() -> None:
    model = small_model()
    with pytest.raises(PlanError, match="'int8': choose one of fp32, bf16, fp16"):
        travelling_of(model, state_of(model), "int8")


def test_rounding_is_to_nearest_with_ties_to_even() -> None:
    ulp = 2.0**-7  # of bfloat16 just above 1
    values = torch.tensor([1 + 0.5 * ulp, 1 + 1.5 * ulp, 1 + 0.5001 * ulp, -1 - 0.5 * ulp])
    rounded = to_wire({"w": values}, {"w": torch.bfloat16})["w"]
    assert rounded.tolist() == [1.0, 1 + 2 * ulp, 1 + ulp, -1.0]


@pytest.mark.parametrize(("wire", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_files_hold_the_rounded_values_and_training_begins_from_them(
    wire: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = small_model()
    state = state_of(model)
    types = travelling_of(model, state, wire)
    write_state(tmp_path / "update", to_wire(state, types))
    read = read_state(tmp_path / "update")
    assert {name: t.dtype for name, t in read.items()} == types
    other = small_model()
    set_state(other, completed(read, state), types)
    assert other[2].weight.dtype == torch.float64
    assert torch.equal(other[2].weight, model[2].weight.to(dtype).to(torch.float64))


def test_a_value_that_the_wire_type_cannot_hold_is_named() -> None:
    state = {"head.weight": torch.tensor([1.0, 70000.0])}
    with pytest.raises(PlanError, match=r"'head.weight' .*float16.* wire_dtype = \"bf16\""):
        to_wire(state, {"head.weight": torch.float16})
    assert to_wire(state, {"head.weight": torch.bfloat16})["head.weight"][1] == 70144


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_wherever_it_is(
    bad: float, dtype: torch.dtype
) -> None:
    for place in (0, 500, 1000):
        state = {
            "counter": torch.tensor(3),
            "empty": torch.empty(0, dtype=dtype),
            "largest": torch.full((7, 3), torch.finfo(dtype).max, dtype=dtype),
            "w": torch.linspace(-1, 1, 1001).to(dtype),
        }
        assert first_non_finite(state) is None
        state["w"][place] = bad
        assert first_non_finite(state) == "w"


def test_a_model_may_be_set_to_its_own_tensors() -> None:
    model = small_model()
    before = {name: value.clone() for name, value in state_of(model).items()}
    set_state(model, state_of(model))
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())


def test_half_the_bytes_travel(tmp_path: Path) -> None:
    model = nn.Linear(1000, 250)
    state = state_of(model)
    write_state(tmp_path / "whole", state)
    write_state(tmp_path / "half", to_wire(state, travelling_of(model, state, "bf16")))
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "half")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.01)


def test_an_update_of_another_type_is_refused_before_its_bytes_and_after_them(
    tmp_path: Path,
) -> None:
    model = small_model()
    state = state_of(model)
    wanted = Layout.from_specs(specs_of(state, travelling_of(model, state, "bf16")))
    write_state(tmp_path / "update", state)
    sent = Layout.read(tmp_path / "update")
    manifest = Manifest.of_tensors(sent, b"\0" * HASH_BYTES * sent.chunks)
    with pytest.raises(SchemaMismatch, match="does not hold the expected tensors"):
        manifest.require(max_bytes=10**6, layout=wanted)
    with pytest.raises(SchemaMismatch, match=r"is F(32|64) .* but must be BF16"):
        check_update(tmp_path / "update", wanted)


def test_a_merge_of_rounded_updates_is_the_mean_of_what_travelled_rounded_once(
    tmp_path: Path,
) -> None:
    weights, samples = [torch.randn(500, generator=torch.manual_seed(s)) for s in (1, 2)], [3, 8]
    for number, weight in enumerate(weights):
        write_state(tmp_path / f"u{number}", {"w": weight.bfloat16()})
    paths = [tmp_path / "u0", tmp_path / "u1"]
    merge_files(paths, samples, tmp_path / "merged")
    first, second = (w.bfloat16().double() for w in weights)
    mean = (first * 3 + second * 8) / 11
    merged = read_state(tmp_path / "merged")["w"]
    assert merged.dtype == torch.bfloat16
    # The neighbours on both sides are no nearer.
    bits = merged.view(torch.int16)
    for step in (-1, 1):
        neighbour = (bits + step).view(torch.bfloat16).double()
        assert bool(((merged.double() - mean).abs() <= (neighbour - mean).abs()).all())


def test_a_frozen_trunk_is_the_initial_one_in_every_model(tmp_path: Path) -> None:
    folder = write_tiny_plan(tmp_path / "tiny", FROZEN, BF16)
    run = run_federated(folder)
    first, last = run.models[0], run.models[-1]
    assert set(last) == set(first)
    for name in ("0.weight", "0.bias", "1.weight", "1.bias"):
        assert torch.equal(last[name], first[name]), name
    assert last["3.weight"].dtype == torch.bfloat16
    assert not torch.equal(last["3.weight"].float(), first["3.weight"])
    assert not torch.equal(last["1.running_mean"], first["1.running_mean"])
    assert (run.score()["auc"] or 0) > 0.5


def test_an_interrupted_round_with_a_frozen_trunk_resumes_to_the_same_update(
    tmp_path: Path,
) -> None:
    folder = write_tiny_plan(tmp_path / "tiny", FROZEN)
    plan = load_plan(folder)
    workplace = Workplace(tmp_path, Digest(b"\x01" * 32), keep_optimizer=False)

    def update(stop_in_epoch: int | None = None) -> dict[str, torch.Tensor]:
        def progress(fraction: float, epoch: int, loss: float) -> None:
            if epoch == stop_in_epoch:
                raise KeyboardInterrupt

        (site, *_) = open_sites(plan, folder, seed=0)
        sums = site.statistics()
        return site.train(1, site.initial, sums, workplace=workplace, progress=progress).state

    whole = update()
    workplace.round_file().unlink()
    with pytest.raises(KeyboardInterrupt):
        update(stop_in_epoch=1)
    kept = checkpoint.read(workplace.round_file(), _key_in(workplace.round_file()))
    assert kept is not None
    assert kept.epochs == 1
    assert "0.weight" not in kept.model
    resumed = update()
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def _key_in(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str(json.loads(file.metadata()["swarm"])["key"])


def test_a_model_of_another_plan_cannot_be_completed() -> None:
    with pytest.raises(PlanError, match="'adapter' is not in the initial model"):
        completed({"adapter": torch.zeros(1)}, {"trunk": torch.zeros(1)})


def test_the_wire_layout_is_a_file_that_anybody_opens(tmp_path: Path) -> None:
    model = small_model()
    state = state_of(model)
    write_state(tmp_path / "update", to_wire(state, travelling_of(model, state, "bf16")))
    file = open_file(tmp_path / "update")
    assert file["0.weight"].dtype == np.uint16
    assert load_file(tmp_path / "update")["0.weight"].dtype == torch.bfloat16
