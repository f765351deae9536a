"""No tensor is lost: whatever a model keeps is merged and put back, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness.clumsy_models import odd_model, odd_plan, write_plan

import swarm
from swarm.errors import PlanError
from swarm.learning.parameters.named_tensors import State, read_state, unpack_state, write_state
from swarm.learning.parameters.travel import completed, to_wire
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.whole_run import merge_states
from swarm.learning.training.checkpoint import Workplace
from swarm.learning.training.loop import LocalTraining
from swarm.types import NO_DIGEST


def at(folder: Path, site: str = "a") -> LocalTraining:
    return LocalTraining(load_plan(folder), swarm.Site(site), folder, device="cpu")


def two_rounds(folder: Path) -> tuple[list[LocalTraining], State]:
    """Two sites with different rows, through checkpoints and model files as on the network."""
    sites = [at(folder, name) for name in ("a", "bbbbb")]
    initial = sites[0].make_initial()
    write_state(folder / "0.model", initial)
    model = read_state(folder / "0.model")
    for round in (1, 2):
        sent = []
        for site in sites:
            home = folder / site.site.name
            home.mkdir(exist_ok=True)
            workplace = Workplace(home, NO_DIGEST, keep_optimizer=True)
            update = site.train(round, model, workplace=workplace, own_copy=False)
            sent.append(to_wire(update.state, site.travels))
        merged = unpack_state(merge_states(sent, [33, 33]))
        write_state(folder / f"{round}.model", merged)
        model = completed(read_state(folder / f"{round}.model"), initial)
    return sites, model


SOUND = {
    "a memory format": odd_plan("""
        def model(self):
            layers = nn.Unflatten(1, (4, 1, 1)), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten()
            return nn.Sequential(*layers, nn.Linear(4, 1)).to(memory_format=torch.channels_last)
    """),
    "a transposed parameter": odd_model(
        "self.w = nn.Parameter(torch.randn(4, 4).t())", "super().forward(x @ self.w)"
    ),
    "an expanded buffer": odd_model(
        "self.register_buffer('scale', torch.ones(1).expand(4))", "super().forward(x * self.scale)"
    ),
    "an expanded parameter": odd_model(
        "self.scale = nn.Parameter(torch.ones(1).expand(4))", "super().forward(x * self.scale)"
    ),
    "a trainable tensor tied to a frozen one": odd_model(
        "self.a = nn.Linear(4, 4, bias=False).requires_grad_(False)\n"
        "self.b = nn.Linear(4, 4, bias=False)\n"
        "self.b.weight.data = self.a.weight.data",
        "self[0](self.b(torch.relu(self.a(x))))",
    ),
    "copies in the state_dict": odd_model(
        "def copies(module, state, prefix, meta):\n"
        "    for name in list(state):\n"
        "        state[name] = state[name].detach().clone()\n"
        "self._register_state_dict_hook(copies)"
    ),
    "no dimension, and no elements": odd_model(
        "self.t = nn.Parameter(torch.tensor(1.0))\n"
        "self.e = nn.Parameter(torch.zeros(0, 3))\n"
        "self.register_buffer('n', torch.tensor(0))",
        "super().forward(x) * self.t + self.e.sum()",
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_the_merged_model_reaches_the_tensors_that_the_model_computes_with(
    tmp_path: Path, kind: str
) -> None:
    sites, model = two_rounds(write_plan(tmp_path, SOUND[kind]))
    rows = sites[0].prepared(None).validation
    scores = [site.score(model, rows) for site in sites]
    assert scores[0] == scores[1]
    kept = [{n: t.clone() for n, t in site.model.named_parameters()} for site in sites]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    moved = [n for n, t in sites[0].initial.items() if not torch.equal(t, model[n])]
    assert moved, "training changed nothing"


def test_extra_state_that_is_a_tensor_is_merged_and_set_again(tmp_path: Path) -> None:
    code = odd_model("self.amax = 0.0", "self.seen(x)").replace(
        "    def forward",
        "    def seen(self, x):\n"
        "        if self.training:\n"
        "            self.amax = max(self.amax, float(x.abs().max()))\n"
        "        return super().forward(x)\n\n"
        "    def get_extra_state(self):\n        return torch.tensor([self.amax])\n\n"
        "    def set_extra_state(self, state):\n        self.amax = float(state)\n\n"
        "    def forward",
    )
    code += "\n    def metrics(self, model, data):\n        return {'amax': model.amax}\n"
    sites, model = two_rounds(write_plan(tmp_path, code))
    rows = sites[0].prepared(None).validation
    assert [site.score(model, rows)["amax"] for site in sites] == [float(model["_extra_state"])] * 2
    assert float(model["_extra_state"]) > 1


REFUSED = {
    r"plan\.py:\d+ in model: the model's tensor '_extra_state' cannot be put back": odd_model(
        "self.amax = 1.0"
    ).replace(
        "    def forward",
        "    def get_extra_state(self):\n        return torch.tensor([self.amax])\n\n"
        "    def set_extra_state(self, state):\n        self.amax = 2.0\n\n    def forward",
    ),
    r"plan\.py:\d+ in train: training has changed the frozen tensor 'teacher\.weight'": odd_model(
        "self.teacher = copy.deepcopy(self[0]).requires_grad_(False)", "self[0](x)"
    )
    + """
    def train(self, model, data, round):
        with torch.no_grad():
            model[0].weight += 1
            model.teacher.weight.lerp_(model[0].weight, 0.5)
""",
    r"in model: the model's buffer 'mask' has NaN or infinite.*persistent=False": odd_model(
        "self.register_buffer('mask', torch.full((4, 4), float('-inf')).triu(1))"
    ),
    r"in train: training has changed what tensors .*'2\.weight' F32 \[1, 8\] has become": odd_plan(
        "def train(self, model, data, round):\n    model[2] = nn.Linear(8, 2)"
    ),
    r"in train: training has changed what tensors .* has become '0\.bias'": odd_plan(
        "def train(self, model, data, round):\n    import torch.nn.utils.prune as prune\n"
        "    prune.l1_unstructured(model[0], 'weight', amount=0.5)"
    ),
    r"in train: training has changed .* has become '0\.weight' F16": odd_plan(
        "def train(self, model, data, round):\n    model.half()"
    ),
    r"in loss: training has changed what tensors .*'seen' F32 \[0, 4\] has become": odd_model(
        "self.register_buffer('seen', torch.zeros(0, 4))", "self.grown(x)"
    ).replace(
        "    def forward",
        "    def grown(self, x):\n        if self.training:\n"
        "            self.seen = torch.cat([self.seen, x.detach()])\n"
        "        return super().forward(x)\n\n    def forward",
    ),
    r"in model: the model cannot be written .*'d\.x+' cannot name a tensor": odd_model(
        "self.d = nn.ModuleDict({'x' * 600: nn.Linear(4, 1)})"
    ),
    r"in model: the model cannot be written .* has control characters": odd_model(
        r"self.d = nn.ModuleDict({'a\tb': nn.Linear(4, 1)})"
    ),
    r"in model: the model cannot be written to a file: a file holds 1 to 32768": odd_model(
        "self.many = nn.ParameterList([nn.Parameter(torch.zeros(1)) for _ in range(33_000)])"
    ),
    r"in model: model must return a torch\.nn\.Module, not NoneType": odd_plan(
        "def model(self):\n    nn.Linear(4, 1)"
    ),
    r"in model: model must return a torch\.nn\.Module, not type": odd_plan(
        "def model(self):\n    return nn.ReLU"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_be_lost_is_refused_by_name_and_place(tmp_path: Path, message: str) -> None:
    folder = write_plan(tmp_path, REFUSED[message])
    with pytest.raises(PlanError, match=message):
        two_rounds(folder)
