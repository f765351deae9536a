"""Local training: repeatable to the bit, resumable, and clear about what is wrong."""

from __future__ import annotations

import importlib.util
import marshal
import math
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.plans import write_tiny_plan
from torch import nn

import swarm
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.data.batches import as_tensors, batches, concatenate, rows_in, shuffled
from swarm.learning.parameters.named_tensors import (
    State,
    read_arrays,
    read_state,
    set_state,
    state_of,
    unpack_state,
    write_arrays,
    write_state,
)
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.settings import rules_of
from swarm.learning.simulation.whole_run import merge_states, run_federated
from swarm.learning.training import checkpoint
from swarm.learning.training.checkpoint import Workplace
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.site_plan import choose_device
from swarm.types import NO_DIGEST, Digest

CPU = torch.device("cpu")


def training(folder: Path, seed: int = 0, site: str = "site0") -> LocalTraining:
    location = folder / "data" / f"{site}.csv"
    return LocalTraining(
        load_plan(folder), swarm.Site(site, location), folder, seed=seed, device="cpu"
    )


def same(one: State, two: State) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class Interrupted(BaseException):
    """Stands for a SIGKILL."""


# Repeatable and resumable.


def test_the_same_round_gives_the_same_update_bit_for_bit(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    first, second = training(plan), training(plan)
    sums = first.statistics()
    one = first.train(1, first.initial, sums)
    np.random.seed(7)  # what happened before must not matter
    torch.rand(3)
    two = second.train(1, second.initial, sums)
    assert same(one.state, two.state)
    assert not same(one.state, first.train(2, first.initial, sums).state)
    assert not same(first.initial, training(plan, seed=1).initial)


def test_all_sites_begin_from_the_same_model(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    assert same(training(plan, site="site0").initial, training(plan, site="site1").initial)


@pytest.mark.parametrize("optimizer_state", ["reset", "keep"])
def test_an_interrupted_round_resumes_to_the_same_bits(
    tmp_path: Path, optimizer_state: str
) -> None:
    change = ("batch_size = 8", f'batch_size = 8\n    optimizer_state = "{optimizer_state}"')
    plan = write_tiny_plan(tmp_path / "plan", change)
    keep = optimizer_state == "keep"

    def two_rounds(folder: Path, stop_in_epoch: int | None) -> tuple[State, int]:
        folder.mkdir()
        workplace = Workplace(folder, Digest(b"p" * 32), keep)
        local = training(plan)
        sums = local.statistics()
        base = local.train(1, local.initial, sums, workplace=workplace).state

        def interrupt(fraction: float, epoch: int, loss: float) -> None:
            if epoch == stop_in_epoch:
                raise Interrupted

        if stop_in_epoch is not None:
            with pytest.raises(Interrupted):
                local.train(2, base, sums, workplace=workplace, progress=interrupt)
            local = training(plan)
        update = local.train(2, base, sums, workplace=workplace)
        return update.state, update.resumed_epochs

    undisturbed, none = two_rounds(tmp_path / "a", None)
    resumed, epochs = two_rounds(tmp_path / "b", 2)
    assert (none, epochs) == (0, 2)
    assert same(undisturbed, resumed)


def test_optimiser_state_is_kept_only_when_the_plan_says_so(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path / "plan")
    local = training(plan)
    sums = local.statistics()
    results = []
    for keep in (False, True):
        folder = tmp_path / str(keep)
        folder.mkdir()
        workplace = Workplace(folder, NO_DIGEST, keep)
        local.train(1, local.initial, sums, workplace=workplace)
        results.append(local.train(2, local.initial, sums, workplace=workplace).state)
        assert bool(list(folder.glob("optimizer-*"))) == keep
    assert not same(*results)


def test_a_checkpoint_of_another_base_is_not_resumed(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    local = training(plan)
    sums = local.statistics()
    workplace = Workplace(tmp_path, NO_DIGEST, False)
    local.train(1, local.initial, sums, base_digest=b"one", workplace=workplace)
    again = local.train(1, local.initial, sums, base_digest=b"two", workplace=workplace)
    assert again.resumed_epochs == 0


def test_a_damaged_checkpoint_costs_time_only(tmp_path: Path) -> None:
    file = tmp_path / "round.checkpoint"
    for content in (b"", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}"):
        file.write_bytes(content)
        assert checkpoint.read(file, "key") is None
    assert checkpoint.read(tmp_path / "none", "key") is None


# The model's state.


def test_buffers_and_integers_travel_and_tied_tensors_travel_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.encode = nn.Linear(3, 3, bias=False)
            self.decode = nn.Linear(3, 3, bias=False)
            self.decode.weight = self.encode.weight
            self.coarse = nn.Parameter(torch.randn(2, dtype=torch.bfloat16))
            self.register_buffer("mask", torch.tensor([True, False]))
            self.register_buffer("empty", torch.zeros(0, 3))

    model = Tied()
    model.norm(torch.randn(5, 3))
    state = state_of(model)
    assert "decode.weight" not in state
    assert int(state["norm.num_batches_tracked"]) == 1
    write_state(tmp_path / "model.safetensors", state)
    other = Tied()
    set_state(other, read_state(tmp_path / "model.safetensors"))
    assert same(state_of(other), state)
    assert other.decode.weight is other.encode.weight


def test_the_update_opens_with_the_safetensors_library(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = state_of(nn.Linear(3, 2))
    write_state(tmp_path / "m.safetensors", state)
    assert same(load_file(tmp_path / "m.safetensors"), state)


def test_what_cannot_be_merged_is_refused_by_name() -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"words": 3}

    complex_model = nn.Linear(2, 2).to(torch.complex64)
    with pytest.raises(PlanError, match="_extra_state"):
        state_of(Extra(2, 2))
    with pytest.raises(PlanError, match=r"'weight' is torch\.complex64"):
        state_of(complex_model)
    with pytest.raises(PlanError, match="no values yet"):
        state_of(nn.LazyLinear(2))
    with pytest.raises(PlanError, match="no parameters"):
        state_of(nn.ReLU())


def test_a_model_file_of_another_shape_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"'weight' is torch\.float32 \[2, 3\] in the model file"):
        set_state(nn.Linear(4, 2), state_of(nn.Linear(3, 2)))
    with pytest.raises(PlanError, match="'bias' is not in the plan's model"):
        set_state(nn.Linear(3, 2, bias=False), state_of(nn.Linear(3, 2)))


def test_statistics_are_finite_float64(tmp_path: Path) -> None:
    write_arrays(tmp_path / "s", {"count": 3, "sum": torch.ones(2), "table": [[1, 2]]})
    found = read_arrays(tmp_path / "s")
    assert {name: value.shape for name, value in found.items()} == {
        "count": (),
        "sum": (2,),
        "table": (1, 2),
    }
    with pytest.raises(PlanError, match="'sum' is NaN"):
        write_arrays(tmp_path / "t", {"sum": [float("nan")]})
    with pytest.raises(PlanError, match="no array of numbers"):
        write_arrays(tmp_path / "t", {"sum": "many"})
    assert not (tmp_path / "t").exists()


# Batches.


def test_batches_are_balanced_and_cover_every_row_once() -> None:
    part = as_tensors((np.arange(33.0), np.arange(33)))
    sizes, rows = [], []
    for x, y in batches(part, 32, shuffled(33, seed=1), CPU):
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        sizes.append(len(x))
        rows += y.tolist()
    assert sizes == [17, 16]
    assert sorted(rows) == list(range(33))
    assert rows != list(range(33))


def test_dicts_datasets_and_single_tensors_are_data_too() -> None:
    rows = torch.utils.data.TensorDataset(torch.arange(4.0), torch.arange(4))
    x, _ = next(batches(rows, 4, [2, 0], CPU))
    assert x.tolist() == [2.0, 0.0]
    table = as_tensors({"x": np.ones((3, 2)), "y": np.array([True, False, True])})
    assert next(batches(table, 2, [0, 1, 2, 1], CPU))["x"].shape == (2, 2)
    assert rows_in(concatenate([table, table, None])) == 6
    assert rows_in(concatenate([rows, rows])) == 8
    assert next(batches(as_tensors(np.ones((3, 2))), 9, [1], CPU)).shape == (1, 2)


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(PlanError, match="different lengths"):
        as_tensors((np.ones(3), np.ones(4)))
    with pytest.raises(PlanError, match="no number"):
        as_tensors((np.array(["a", "b"]),))


# What a plan may get wrong.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("x, y = batch", "x, y = batch\n        1 / 0", r"plan\.py:\d+ in loss.*ZeroDivision"),
        ("loss(self, model, batch)", "_lose(self, model, batch)", "write `def loss"),
        ("loss(self, model, batch)", "lose(self, model, batch)", "did you mean loss"),
        ("(model(x)[:, 0], y)", "(model(x)[:, 0], y) * float('nan')", "the loss is nan in round"),
        ("(model(x)[:, 0], y)", "(model(x)[:, 0], y).item()", "scalar tensor, not float"),
        ("learning_rate = 0.05", "learning_rate = 1e30", r"NaN or infinite|the loss is"),
        ('"auc": swarm.metrics.auc(y, model(x))', '"auc": "good"', "a dict of numbers"),
        ("return swarm.Data(train=ready", "return dict(train=ready", "swarm.Data, not dict"),
        ("return swarm.moments(data.train[0])", "return {}", "statistics are empty"),
        ('table.numbers("a", "b")', 'table.numbers("a", "c")', "no column 'c'"),
        ("nn.Linear(2, 4)", "nn.Linear(3, 4)", r"plan\.py:\d+ in loss.*RuntimeError"),
    ],
)
def test_a_plans_fault_is_one_sentence_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    plan = write_tiny_plan(tmp_path, (old, new))

    def one_round() -> None:
        local = training(plan)
        sums = local.statistics()
        local.evaluate(local.train(1, local.initial, sums).state, sums)

    with pytest.raises(ConfigurationError, match=message) as caught:
        one_round()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "import swarm\n",
            "exactly one subclass of swarm.Plan, or call swarm.join as a script does; it has none",
        ),
        (
            "import swarm\nclass A(swarm.Plan): ...\nclass B(swarm.Plan): ...\n",
            "or call swarm.join as a script does; it has A, B",
        ),
        ("def broken(:\n", r"plan\.py:1: while importing"),
        ("import nothing_like_it\n", r"plan\.py:1 in <module>.*nothing_like_it"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "plan.py").write_text(code)
    with pytest.raises(PlanError, match=message):
        load_plan(tmp_path)


def test_a_plan_may_build_on_another_class_and_on_its_own_modules(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("WIDTH = 3\n")
    (tmp_path / "plan.py").write_text(
        "import swarm\nfrom features import WIDTH\n"
        "class Base(swarm.Plan): ...\nclass Mine(Base):\n    rounds = WIDTH\n"
    )
    assert load_plan(tmp_path).rounds == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "features.py").write_text("WIDTH = 4\n")
    (tmp_path / "other" / "plan.py").write_text(
        "import swarm\nfrom features import WIDTH\nclass Mine(swarm.Plan):\n    rounds = WIDTH\n"
    )
    assert load_plan(tmp_path / "other").rounds == 4


def test_only_source_that_the_digest_covers_is_ever_run(tmp_path: Path) -> None:
    """Not a compiled file in its place, whose times fit, and not what lies in data/."""
    (tmp_path / "features.py").write_text("WIDTH = 3\n")
    (tmp_path / "plan.py").write_text(
        "import swarm\nfrom features import WIDTH\n"
        "try:\n    import data.more\nexcept ImportError:\n    pass\n"
        "class Mine(swarm.Plan):\n    rounds = WIDTH\n"
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "more.py").write_text("raise SystemExit('code that nobody read runs')\n")
    for name in ("features", "plan"):
        source = tmp_path / f"{name}.py"
        evil = compile("raise SystemExit('code that nobody read runs')", str(source), "exec")
        times = struct.pack("<III", 0, int(source.stat().st_mtime), source.stat().st_size)
        compiled = importlib.util.MAGIC_NUMBER + times + marshal.dumps(evil)
        cached = Path(importlib.util.cache_from_source(str(source)))
        cached.parent.mkdir(exist_ok=True)
        for place in (cached, source.with_suffix(".pyc")):
            place.write_bytes(compiled)
        source.with_suffix(".so").write_bytes(b"no library, but found first by Python")
    assert load_plan(tmp_path).rounds == 3


def test_a_plans_packages_are_imported_from_its_bundle(tmp_path: Path) -> None:
    for name, code in {
        "parts/__init__.py": "from .widths import WIDTH\n",
        "parts/widths.py": "from lib.deep import WIDTH\n",
        "lib/deep.py": "WIDTH = 5\n",  # without __init__.py
        "plan.py": "import swarm, parts\nclass Mine(swarm.Plan):\n    rounds = parts.WIDTH\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    plan = load_plan(tmp_path)
    assert plan.rounds == 5
    assert Path(sys.modules["lib.deep"].__file__ or "") == tmp_path / "lib" / "deep.py"


def test_code_that_differs_from_the_consented_digest_is_refused(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    with pytest.raises(PlanError, match="the consortium consented to 0x0101"):
        load_plan(plan, Digest(b"\1" * 32))


@pytest.mark.parametrize(
    ("name", "value"),
    [("rounds", 0), ("min_peers", 1), ("verify", "never"), ("seed", -1), ("epochs", "3")],
)
def test_a_rule_out_of_bounds_is_named(tmp_path: Path, name: str, value: object) -> None:
    plan = load_plan(write_tiny_plan(tmp_path))
    setattr(plan, name, value)
    with pytest.raises(PlanError, match=f"Tiny: .*{name}"):
        rules_of(plan)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(PlanError, match=r'cannot be used: .*"auto"'):
        choose_device("abacus")


def test_a_plan_may_own_its_whole_loop(tmp_path: Path) -> None:
    own = (
        "    def train(self, model, data, round):\n"
        "        with torch.no_grad():\n"
        "            model[0].weight += torch.rand(4, 2)\n\n"
        "    def loss(self"
    )
    plan = write_tiny_plan(tmp_path, ("    def loss(self", own))
    local = training(plan)
    sums = local.statistics()
    one = local.train(1, local.initial, sums)
    assert not torch.equal(one.state["0.weight"], local.initial["0.weight"])
    assert math.isfinite(one.loss)
    assert same(one.state, training(plan).train(1, local.initial, sums).state)


# A whole run.


def test_a_federated_run_learns_and_repeats_to_the_bit(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    one, two = run_federated(plan), run_federated(plan)
    assert same(one.models[-1], two.models[-1])
    auc = one.score()["auc"]
    assert auc is not None
    assert auc > 0.7
    assert auc > (one.score(0)["auc"] or 0)


def test_merging_states_is_the_weighted_mean() -> None:
    states = [
        {"w": torch.tensor([1.0, 5.0]), "n": torch.tensor(3), "h": torch.ones(1).bfloat16()},
        {"w": torch.tensor([4.0, 5.0]), "n": torch.tensor(2), "h": torch.ones(1).bfloat16() * 4},
    ]
    merged = unpack_state(merge_states(states, [2, 1]))
    assert merged["w"].tolist() == [2.0, 5.0]
    assert int(merged["n"]) == 3
    assert merged["h"].item() == 2.0
