"""A misspelt setting or method of a plan is refused, with its line and the likely name."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.clumsy_models import HEAD, odd_plan, write_plan

from swarm.errors import PlanError
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.settings import rules_of

FIRST = HEAD.count("\n") + 2
"""The line of the class's first name."""


@pytest.mark.parametrize(
    ("line", "likely"),
    [
        ("batchsize = 8", "batch_size"),
        ("learnig_rate = 0.01", "learning_rate"),
        ("learnig_rate: float = 0.01", "learning_rate"),
        ("epoch: int = 3", "epochs"),
        ("Rounds = 3", "rounds"),
        ("def metric(self, model, data):\n    return {}", "metrics"),
        ("def datas(self, site):\n    return None", "data"),
        ("def optimiser(self, model):\n    return None", "optimizer"),
        ("def training(self, model, data, round):\n    return None", "train"),
        ("metric = print", "metrics"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_likely_one(
    tmp_path: Path, line: str, likely: str
) -> None:
    folder = write_plan(tmp_path, odd_plan(f"# one line more\n{line}"))
    with pytest.raises(
        PlanError, match=rf"^plan\.py:{FIRST + 1}: Odd\.\w+ .*did you mean {likely}\?"
    ):
        load_plan(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr = 0.1", "if it is your own, declare it by its type: lr: float = 0.1"),
        ("hidden: int", "declared without a value"),
        ("model = nn.Linear(4, 1)", "must be a method: write `def model"),
        ("loss = nn.CrossEntropyLoss", "must be a method: write `def loss"),
        ("def epochs(self):\n    return 3", "must be a value, not a method"),
    ],
)
def test_what_is_no_setting_of_a_plan_must_be_declared(
    tmp_path: Path, line: str, message: str
) -> None:
    with pytest.raises(PlanError, match=rf"^plan\.py:{FIRST}: Odd\.\w+ .*{message}"):
        load_plan(write_plan(tmp_path, odd_plan(line)))


def test_settings_and_methods_of_ones_own_are_free_once_declared(tmp_path: Path) -> None:
    code = odd_plan("""
        hidden: int = 16
        rate_of_head: float = 0.1
        _private = 3

        def encoder(self):
            return nn.Linear(4, self.hidden)

        def _helper(self):
            return self._private
    """)
    assert load_plan(write_plan(tmp_path, code)).hidden == 16  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("learning_rate = '1e-3'", "learning_rate is '1e-3'"),
        ("learning_rate = -1.0", "learning_rate is -1.0"),
        ("weight_decay = float('nan')", "weight_decay is nan"),
        ("min_rows = 0", "min_rows"),
        ("batch_size = 8.5", "batch_size"),
    ],
)
def test_a_setting_that_cannot_be_is_named(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(PlanError, match=f"Odd: .*{message}"):
        rules_of(load_plan(write_plan(tmp_path, odd_plan(setting))))
