"""The plan in docs/plans.md works as it stands there, on a table made on the fly."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from harness.patients import PAGE as FILE
from harness.patients import page_plans, write_patients

from swarm.learning.plans.plan import Plan
from swarm.learning.simulation.whole_run import run_federated
from swarm.learning.supervisor.trainer_messages import Rules

PAGE = FILE.read_text()


def test_the_plan_on_the_page_runs_and_learns(tmp_path: Path) -> None:
    data = tmp_path / "sepsis" / "data"
    data.mkdir(parents=True)
    (tmp_path / "sepsis" / "plan.py").write_text(page_plans()["sepsis"])
    for seed, site in enumerate(["north", "south", "west"]):
        write_patients(data / f"{site}.csv", seed)
    run = run_federated(tmp_path / "sepsis")
    assert [site.site.name for site in run.sites] == ["north", "south", "west"]
    assert (run.score()["auc"] or 0) > 0.8


def test_the_page_names_every_method_and_setting_with_its_default() -> None:
    for name in [n for n, v in vars(Plan).items() if callable(v) and not n.startswith("_")]:
        assert re.search(rf"^\| `{name}\(", PAGE, re.MULTILINE), f"{name} is not on the page"
    for name in Rules.__struct_fields__:
        default = getattr(Plan, name)
        told = f'`"{default}"`' if isinstance(default, str) else f"{default or 0:g}"
        told = "none" if default is None else "off" if default is False else told
        assert f"| `{name}` | {told} |" in PAGE, f"{name} = {default} is not on the page"


def test_the_partial_plan_on_the_page_runs_and_keeps_its_trunk(tmp_path: Path) -> None:
    data = tmp_path / "adapter" / "data"
    data.mkdir(parents=True)
    (tmp_path / "adapter" / "plan.py").write_text(page_plans()["adapter"])
    for seed, site in enumerate(["north", "south"]):
        write_patients(data / f"{site}.csv", seed)
    run = run_federated(tmp_path / "adapter")
    first, last = run.models[0], run.models[-1]
    assert torch.equal(last["0.linear.weight"], first["0.linear.weight"])
    assert not torch.equal(last["0.up.weight"], first["0.up.weight"])
    assert {name for name, value in last.items() if value.dtype == torch.bfloat16} == {
        "0.down.weight",
        "0.up.weight",
        "2.weight",
        "2.bias",
    }
