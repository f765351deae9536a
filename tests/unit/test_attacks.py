"""The attacks find what is there to find, and nothing where rows are protected."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from swarm.learning.attacks.audit import CONFIDENCE, epsilon_refuted, guess
from swarm.learning.attacks.measure import Job, measure
from swarm.learning.attacks.membership import auc_of
from swarm.privacy.guarantee import dp

OVERFITTED = '''
import numpy as np
import swarm
from torch import nn


class Overfitted(swarm.Plan):
    """More numbers than rows, labels that are coins, and many passes: it learns rows by heart."""

    rounds = 2
    epochs = 25
    batch_size = 20
    learning_rate = 1e-2
    min_peers = 2

    def model(self):
        return nn.Sequential(nn.Linear(60, 32), nn.ReLU(), nn.Linear(32, 1))

    def data(self, site):
        rows = np.loadtxt(site.path, delimiter=",", dtype=np.float32)
        x, y = rows[:, 1:], rows[:, 0]
        half = len(x) // 2
        return swarm.Data(train=(x[:half], y[:half]), test=(x[half:], y[half:]))

    def loss(self, model, batch):
        x, y = batch
        return nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y)
'''


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overfitted")
    (folder / "plan.py").write_text(OVERFITTED)
    (folder / "data").mkdir()
    chance = np.random.default_rng(3)
    for name in ("north", "south"):
        x, y = chance.normal(size=(120, 60)), chance.integers(0, 2, (120, 1))
        np.savetxt(folder / "data" / f"{name}.csv", np.hstack([y, x]), delimiter=",")
    return folder


def test_a_plan_that_learns_rows_by_heart_is_caught_and_privacy_makes_it_a_coin(
    overfitted: Path,
) -> None:
    bare, private = measure(Job(str(overfitted), (0,), dp(epsilon=1)))
    assert bare.model_auc is not None
    assert private.model_auc is not None
    assert private.update_auc is not None
    assert bare.update_auc is not None
    assert bare.model_auc > 0.7
    assert bare.update_auc > 0.8
    assert bare.audited_epsilon > 0
    # 60 rows against 60, at two sites: a coin's AUC has a standard error of .04 at both together,
    # and the noise is another each time. So five of them. (At ε = 8 a plan that learns by heart is
    # no coin: .72 was seen, and the promise allows it.)
    assert abs(private.model_auc - 0.5) < 0.2
    assert abs(private.update_auc - 0.5) < 0.2
    assert private.audited_epsilon <= 1.0


def test_an_auc_counts_ties_by_half() -> None:
    assert auc_of(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == 0.875


def test_an_audit_refutes_no_epsilon_that_holds_in_200_runs() -> None:
    """Coins that fall right as often as ε allows: the worst that a private training may do."""
    epsilon, canaries = 2.0, 300
    chance = np.random.default_rng(0)
    right = chance.binomial(canaries, 1 / (1 + math.exp(-epsilon)), 200)
    assert all(
        epsilon_refuted(int(k), canaries, canaries, 0.0, CONFIDENCE) <= epsilon for k in set(right)
    )
    assert epsilon_refuted(canaries, canaries, canaries, 0.0, CONFIDENCE) > 3.0
    assert epsilon_refuted(canaries // 2, canaries, canaries, 0.0, CONFIDENCE) == 0.0
    exact = epsilon_refuted(250, canaries, canaries, 0.0, CONFIDENCE)
    assert epsilon_refuted(250, canaries, canaries, 1e-5, CONFIDENCE) < exact


def test_guesses_are_of_the_highest_and_the_lowest_scores() -> None:
    scores = np.array([9.0, 8.0, 5.0, 4.0, 1.0, 0.0])
    present = np.array([True, False, True, False, False, False])
    assert guess(scores, present) == (3, 4)
