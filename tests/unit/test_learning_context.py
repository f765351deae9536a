"""What a plan's methods are given: contexts, schedules, weights by name; and FedProx."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.clumsy_models import HEAD, odd_plan, write_plan
from safetensors.torch import save_file

from swarm import Context
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.parameters.named_tensors import State
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.plans.settings import learning_rate_in, rules_of
from swarm.learning.training.loop import LocalTraining

FIRST = HEAD.count("\n") + 2

CURIOUS = """
seen: list = []

def optimizer(self, model, context):
    self.seen.append(("optimizer", context))
    return torch.optim.SGD(model.parameters(), lr=context.learning_rate)

def loss(self, model, batch, context):
    self.seen.append(("loss", context))
    return super().loss(model, batch)

def metrics(self, model, data, context):
    self.seen.append(("metrics", context))
    return super().metrics(model, data, context)

def statistics(self, data):
    return {"n": float(len(data.train[0]))}
"""


def at_site(folder: Path, body: str, **options: Any) -> LocalTraining:
    folder = write_plan(folder, odd_plan(body))
    return LocalTraining(load_plan(folder), Site("north", None, options), folder, device="cpu")


def trained(training: LocalTraining, round: int = 1, base: State | None = None) -> State:
    return training.train(round, training.initial if base is None else base).state


def test_methods_that_name_a_context_are_told_where_and_when_they_run(tmp_path: Path) -> None:
    training = at_site(tmp_path, CURIOUS, ward="icu")
    training.train(3, training.initial, {"n": torch.ones(1).numpy()}, round_in_all=4)
    training.evaluate(training.initial, {"n": torch.ones(1).numpy()})
    plan: Any = training.plan
    assert {name for name, _ in plan.seen} == {"optimizer", "loss", "metrics"}
    told: Context = next(context for name, context in plan.seen if name == "loss")
    assert (told.site.name, told.options, told.round, told.round_in_all) == (
        "north", {"ward": "icu"}, 3, 4,
    )  # fmt: skip
    assert told.learning_rate == 1e-3
    assert told.statistics["n"] == 1
    for name, tensor in training.initial.items():
        assert torch.equal(told.base[name], tensor)
    scored = next(context for name, context in plan.seen if name == "metrics")
    assert scored.round == 0


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("def loss(self, model):\n    return 0", "loss takes model: write `def loss"),
        ("def loss(self, model, batch, extra):\n    return 0", "loss takes model, batch, extra"),
        ("def loss(self, model, batch, *, scale):\n    return 0", "loss takes model, batch, scale"),
        ("def metrics(self, data):\n    return {}", "metrics takes data"),
        ("def optimizer(self):\n    return None", "optimizer takes nothing"),
        ("def train(self, model):\n    pass", "train takes model"),
        ("def train(self, model, data, context, more):\n    pass", "train takes .*more"),
    ],
)
def test_a_signature_that_nobody_would_call_is_refused_with_its_line(
    tmp_path: Path, method: str, words: str
) -> None:
    folder = write_plan(tmp_path, odd_plan(f"# one line more\n{method}"))
    with pytest.raises(PlanError, match=rf"^plan\.py:{FIRST + 1}: Odd\.{words}"):
        load_plan(folder)


@pytest.mark.parametrize(
    "method",
    [
        "def train(self, model, data, round):\n    self.got = round",
        "def train(self, model, data, number=0):\n    self.got = number",
        "def train(self, model, data, context):\n    self.got = context.round",
        "def train(self, *given):\n    self.got = given[2]",
    ],
)
def test_a_plan_that_owns_its_loop_takes_the_round_or_a_context(
    tmp_path: Path, method: str
) -> None:
    training = at_site(tmp_path, f"got: int = 0\n{method}")
    trained(training, 7)
    assert training.plan.got == 7  # type: ignore[attr-defined]


def test_a_loss_with_a_parameter_of_its_own_that_has_a_default_is_called_as_before(
    tmp_path: Path,
) -> None:
    same = at_site(
        tmp_path / "a",
        "def loss(self, model, batch, scale=1.0):\n    return scale * super().loss(model, batch)",
    )
    plain = at_site(tmp_path / "b", "pass")
    for name, tensor in trained(plain).items():
        assert torch.equal(tensor, trained(same)[name])


SCHEDULES = [
    ("learning_rate = [0.1, 0.01]", [0.1, 0.01, 0.01]),
    ("def learning_rate(self, round):\n    return 0.1 / round", [0.1, 0.05, 0.1 / 3]),
    ("learning_rate = 0.1", [0.1, 0.1, 0.1]),
]


@pytest.mark.parametrize(("line", "rates"), SCHEDULES)
def test_the_learning_rate_may_be_a_schedule_over_rounds(
    tmp_path: Path, line: str, rates: list[float]
) -> None:
    training = at_site(tmp_path, line)
    rules_of(training.plan)
    assert [learning_rate_in(training.plan, n) for n in (1, 2, 3)] == rates
    fixed = at_site(tmp_path / "fixed", f"learning_rate = {rates[1]!r}")
    for name, tensor in trained(fixed, 2).items():
        assert torch.equal(tensor, trained(training, 2)[name])


@pytest.mark.parametrize(
    "line", ["learning_rate = []", "learning_rate = [0.1, -1]", "proximal = -1"]
)
def test_a_schedule_that_cannot_be_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    plan = load_plan(write_plan(tmp_path, odd_plan(line)))
    with pytest.raises(PlanError, match=rf"^plan\.py:{FIRST}: Odd: .* is .*: give a number"):
        rules_of(plan)


def test_a_schedule_that_gives_no_rate_is_refused_in_its_round(tmp_path: Path) -> None:
    training = at_site(tmp_path, "def learning_rate(self, round):\n    return 2 - round")
    trained(training, 2)
    with pytest.raises(PlanError, match=r"learning_rate is -1: .* for round 3"):
        trained(training, 3)


def moved(state: State, base: State) -> float:
    return float(sum((state[n] - base[n]).square().sum() for n in state))


def test_fedprox_holds_a_site_near_the_model_of_the_round(tmp_path: Path) -> None:
    """By hand, with SGD: each step also goes learning_rate · proximal · (w − w₀) back."""
    rate, strength = 0.1, 0.5
    sgd = (
        f"def optimizer(self, model):\n    return torch.optim.SGD(model.parameters(), lr={rate})\n"
        "epochs = 2\nbatch_size = 64\n"
    )
    held = at_site(tmp_path / "held", sgd + f"proximal = {strength}")
    free = at_site(tmp_path / "free", sgd)
    base = free.initial
    first = trained(at_site(tmp_path / "once", sgd.replace("epochs = 2", "epochs = 1")))
    for name, tensor in trained(held).items():
        # The first step starts at w₀, where the pull is nothing; the second one is pulled back.
        step = trained(free)[name] - first[name]
        by_hand = first[name] + step - rate * strength * (first[name] - base[name])
        torch.testing.assert_close(tensor, by_hand, rtol=1e-4, atol=1e-6)
    strong = at_site(tmp_path / "strong", sgd + "proximal = 5.0")
    assert moved(trained(strong), base) < moved(trained(held), base) < moved(trained(free), base)


def test_mixed_precision_rounds_the_loss_and_leaves_parameters_as_they_are(tmp_path: Path) -> None:
    plain = trained(at_site(tmp_path / "plain", "epochs = 1"))
    mixed = trained(at_site(tmp_path / "mixed", 'epochs = 1\nprecision = "bf16"'))
    for name, tensor in mixed.items():
        assert tensor.dtype == plain[name].dtype
        torch.testing.assert_close(tensor, plain[name], rtol=0.05, atol=0.01)
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in mixed.items())


def test_weights_lie_where_the_sites_option_says_and_are_those_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "trunk.safetensors"
    save_file({"w": torch.arange(3.0)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    context = Context(Site("north", None, {"trunk": str(file), "bins": 3}))
    assert torch.equal(context.weights("trunk")["w"], torch.arange(3.0))
    assert torch.equal(context.weights("trunk", digest)["w"], torch.arange(3.0))
    with pytest.raises(ConfigurationError, match=f"SHA-256 {digest}, and the plan asks for 00"):
        context.weights("trunk", 32 * "00")
    with pytest.raises(ConfigurationError, match=r"no option 'head' .*: bins, trunk"):
        context.weights("head")
    with pytest.raises(ConfigurationError, match="no option 'bins' that names a file"):
        context.weights("bins")
    file.write_bytes(b"no tensors")
    with pytest.raises(ConfigurationError, match="cannot be read as safetensors"):
        context.weights("trunk")
