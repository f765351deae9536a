"""A plan with privacy: noise from the system, rows by chance, and nothing beside the accounting."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import swarm
from swarm.errors import LocalError, PlanError
from swarm.learning.parameters.named_tensors import state_of
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import rules_of
from swarm.learning.training import private_steps
from swarm.learning.training.checkpoint import Workplace
from swarm.learning.training.loop import LocalTraining
from swarm.learning.training.private_steps import BatchesByChance, fill_with_entropy
from swarm.privacy.guarantee import Mechanism
from swarm.types import NO_DIGEST

ROWS = 60
HERE = Path(__file__).parent


class Private(swarm.Plan):
    privacy = swarm.dp(epsilon=8)
    rounds = 3
    epochs = 2
    batch_size = 20
    learning_rate = 0.1

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))

    def data(self, site: swarm.Site) -> swarm.Data:
        chance = np.random.default_rng(1)
        x = chance.normal(size=(ROWS, 4)).astype(np.float32)
        return swarm.Data(train=(x, (x[:, 0] > 0).astype(np.float32)))

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)


def at_site(plan: swarm.Plan) -> LocalTraining:
    return LocalTraining(plan, swarm.Site("site"), HERE, device="cpu")


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.values()])


# What leaves.


def test_two_trainings_of_the_same_round_differ_because_no_seed_is_the_plans() -> None:
    site = at_site(Private())
    one, two = (site.train(1, site.initial).state for _ in range(2))
    assert not torch.equal(flat(one), flat(two))
    assert site.initial.keys() == one.keys()


def test_what_a_row_does_to_a_step_is_bounded_whatever_the_row() -> None:
    """Without noise to speak of: each row's gradient is clipped, and divided by the mean size."""

    class Wild(Private):
        epochs = 1
        rounds = 1

        def data(self, site: swarm.Site) -> swarm.Data:
            found = super().data(site).train
            found[0][0] = 1e6
            return swarm.Data(train=found)

        def optimizer(self, model: nn.Module, context: Any = None) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=1.0)

    site = at_site(Wild())
    quiet = Mechanism(noise=1e-9, rate=1.0, steps=1)
    moved = flat(site.train(1, site.initial, noise=quiet).state) - flat(site.initial)
    assert 0 < float(moved.norm()) <= ROWS / Wild.batch_size + 1e-4


def test_noise_is_as_large_as_the_mechanism_says() -> None:
    class Still(Private):
        epochs = 1

        def model(self) -> nn.Module:
            return nn.Linear(4000, 1)

        def data(self, site: swarm.Site) -> swarm.Data:
            return swarm.Data(train=(np.zeros((ROWS, 4000), np.float32), np.ones(ROWS, np.float32)))

        def optimizer(self, model: nn.Module, context: Any = None) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=1.0)

    site = at_site(Still())
    noise = Mechanism(noise=3.0, rate=1.0, steps=1)
    moved = site.train(1, site.initial, noise=noise).state["weight"] - site.initial["weight"]
    assert float(moved.std()) == pytest.approx(3.0 / Still.batch_size, rel=0.1)


def test_rows_are_drawn_by_chance_and_steps_do_not_depend_on_how_many_there_are() -> None:
    part = (torch.arange(ROWS),)
    noise = Mechanism(noise=1.0, rate=0.05, steps=400)
    given = BatchesByChance(part, noise, 2, 3, torch.device("cpu"))
    drawn = [[] if batch is None else batch[0].tolist() for batch in given.draw()]
    sizes = [len(rows) for rows in drawn]
    assert len(drawn) == given.in_epoch == 200
    assert 0 in sizes
    assert max(sizes) > 4
    assert np.mean(sizes) == pytest.approx(3.0, abs=0.8)


def test_a_step_in_which_no_row_was_drawn_has_noise_all_the_same() -> None:
    site = at_site(Private())
    empty = Mechanism(noise=1.0, rate=0.0, steps=2)
    update = site.train(1, site.initial, noise=empty)
    assert update.steps == 2
    assert not torch.equal(flat(update.state), flat(site.initial))


def test_the_model_is_as_it_was_after_private_steps() -> None:
    site = at_site(Private())
    site.train(1, site.initial)
    assert not any(hasattr(p, "grad_sample") for p in site.model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in site.model.modules())


def test_an_interrupted_round_goes_on_with_fresh_noise_and_a_finished_one_is_not_done_again(
    tmp_path: Path,
) -> None:
    class Stopped(BaseException):
        pass

    def stop(fraction: float, epoch: int, loss: float) -> None:
        if epoch == 1:
            raise Stopped

    site, workplace = at_site(Private()), Workplace(tmp_path, NO_DIGEST, False)
    with pytest.raises(Stopped):
        site.train(1, site.initial, workplace=workplace, progress=stop)
    resumed = site.train(1, site.initial, workplace=workplace)
    again = site.train(1, site.initial, workplace=workplace)
    assert (resumed.resumed_epochs, again.resumed_epochs) == (1, 2)
    assert torch.equal(flat(resumed.state), flat(again.state))


# The system's entropy.


def test_a_generators_whole_state_comes_from_the_system() -> None:
    one, two = torch.Generator(), torch.Generator()
    fill_with_entropy(one)
    fill_with_entropy(two)
    words = [g.get_state()[24 : 24 + 8 * 624].view(torch.int64) for g in (one, two)]
    assert int((words[0] == words[1]).sum()) < 3
    draws = torch.normal(0.0, 1.0, (20_000,), generator=one)
    assert float(draws.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(draws.std()) == pytest.approx(1.0, rel=0.05)


def test_a_torch_that_writes_states_in_another_way_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(private_steps, "_STATE_BYTES", 16)
    with pytest.raises(LocalError, match="32 bits"):
        fill_with_entropy(torch.Generator())


# What a plan with privacy may not do.


class OwnLoop(Private):
    def train(self, model: nn.Module, data: Any, context: Any) -> None:
        pass


class Sums(Private):
    def statistics(self, data: swarm.Data) -> dict[str, Any]:
        return {"n": 1}


class Controls(Private):
    def state(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return {"control": torch.zeros(1)}


class Held(Private):
    proximal = 0.1


class Mixed(Private):
    precision = "bf16"


class Asking(OwnLoop):
    roles: ClassVar[Any] = {"head": swarm.elected()}


class Personal(Private):
    stages = (swarm.train(rounds=2), swarm.personalise())


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Asking, "a role, whose holder is sent"),
        (OwnLoop, "a `train` of its own"),
        (Sums, "exact sums: scale in `prepare`"),
        (Controls, "as SCAFFOLD does"),
        (Held, "proximal, which is not clipped"),
        (Mixed, "`precision`, with which each row's gradient is not told apart"),
        (Personal, "the stage 'personal'"),
    ],
)
def test_what_would_leave_without_noise_is_refused_with_what_to_do(
    plan: type[swarm.Plan], words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        rules_of(plan())


class ScaledTogether(Private):
    """Its rows are scaled by their own mean, as many plans do where no noise is asked for."""

    def prepare(self, data: swarm.Data, statistics: Any) -> swarm.Data:
        return data.map(lambda x, y: ((x - x.mean(0)) / x.std(0), y))


class ScaledAlone(Private):
    def prepare(self, data: swarm.Data, statistics: Any) -> swarm.Data:
        return data.map(lambda x, y: ((x - x.mean(1, keepdims=True)) / 10, y))


def test_a_row_that_is_in_what_others_become_is_refused_where_privacy_is_promised() -> None:
    with pytest.raises(PlanError, match=r"training row 0 comes out of `prepare` otherwise"):
        at_site(ScaledTogether()).prepared(None)
    ScaledTogether.privacy, kept = None, ScaledTogether.privacy
    try:
        at_site(ScaledTogether()).prepared(None)
    finally:
        ScaledTogether.privacy = kept
    at_site(ScaledAlone()).prepared(None)


def model_of(*layers: nn.Module) -> swarm.Plan:
    class Layers(Private):
        def model(self) -> nn.Module:
            return nn.Sequential(nn.Linear(4, 3), *layers)

    return Layers()


@pytest.mark.parametrize(
    ("layer", "instead"),
    [
        (nn.BatchNorm1d(3), r"layer '1' is a BatchNorm1d.*GroupNorm"),
        (nn.BatchNorm1d(3, affine=False), "GroupNorm"),
        (nn.LSTM(3, 3), "DPLSTM"),
        (nn.GRU(3, 3), "DPGRU"),
        (nn.MultiheadAttention(4, 2), "DPMultiheadAttention"),
    ],
)
def test_a_layer_that_cannot_be_told_row_by_row_is_named_with_what_to_use(
    layer: nn.Module, instead: str
) -> None:
    with pytest.raises(PlanError, match=instead):
        at_site(model_of(layer))


def test_layers_that_look_at_one_row_are_trained() -> None:
    site = at_site(model_of(nn.LayerNorm(3), nn.Dropout(0.5), nn.Linear(3, 1)))
    assert site.train(1, site.initial).steps == 6


def test_a_loss_in_which_rows_see_each_other_is_refused_without_their_numbers() -> None:
    class Contrast(Private):
        def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
            x, _ = batch
            z = model(x)
            return ((z - z.mean()) ** 2).mean() + z.mean()

    site = at_site(Contrast())
    with pytest.raises(PlanError, match="not the mean of their losses") as refused:
        site.train(1, site.initial)
    assert "0." not in str(refused.value).partition("the loss of a few")[2]


def test_a_buffer_that_training_changes_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 1)
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen += len(x)
            out: torch.Tensor = self.inner(x)
            return out

    class Counts(Private):
        def model(self) -> nn.Module:
            return Counting()

    site = at_site(Counts())
    with pytest.raises(PlanError, match="buffer 'seen', which has no noise"):
        site.train(1, site.initial)


def test_a_parameter_that_the_loss_leaves_out_is_refused() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 1), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.used(x)
            return out

    class Idle(Private):
        def model(self) -> nn.Module:
            return Half()

    site = at_site(Idle())
    with pytest.raises(PlanError, match="leaves out a parameter"):
        site.train(1, site.initial)


def test_privacy_is_among_the_rules_that_a_plan_says_of_itself() -> None:
    assert rules_of(Private()).privacy == swarm.dp(epsilon=8)
    assert program_of(Private()).training_rounds == 3
    with pytest.raises(PlanError, match="privacy"):
        rules_of(type("Wrong", (Private,), {"privacy": 8})())


def test_a_model_with_shared_weights_is_clipped_as_one() -> None:
    class Tied(Private):
        def model(self) -> nn.Module:
            layer = nn.Linear(4, 4)
            return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(4, 1))

    site = at_site(Tied())
    assert set(site.train(1, site.initial).state) == set(state_of(site.model))
