"""The plan in docs/plans.md works as it stands there, on a table made on the fly."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from swarm.learning.federated import run_federated
from swarm.learning.messages import Rules
from swarm.learning.plan import Plan

PAGE = (Path(__file__).parents[2] / "docs" / "plans.md").read_text()


def write_patients(path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lines = ["age,crp,ward,died"]
    for _ in range(80):
        age, crp = generator.integers(30, 95), generator.gamma(2, 20)
        ward = "icu" if generator.random() < 0.3 else "general"
        risk = (age - 65) / 10 + (crp - 40) / 30 + (ward == "icu") + generator.normal()
        told = "" if generator.random() < 0.2 else f"{crp:.1f}"
        lines.append(f"{age},{told},{ward},{int(risk > 0.5)}")
    path.write_text("\n".join(lines) + "\n")


def test_the_plan_on_the_page_runs_and_learns(tmp_path: Path) -> None:
    found = re.search(r"<!-- file: sepsis/plan\.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    data = tmp_path / "sepsis" / "data"
    data.mkdir(parents=True)
    (tmp_path / "sepsis" / "plan.py").write_text(found[1])
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
        told = f'`"{default}"`' if isinstance(default, str) else f"{default:g}"
        assert f"| `{name}` | {told} |" in PAGE, f"{name} = {default} is not on the page"


def test_the_partial_plan_on_the_page_runs_and_keeps_its_trunk(tmp_path: Path) -> None:
    found = re.search(r"<!-- file: adapter/plan\.py -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    data = tmp_path / "adapter" / "data"
    data.mkdir(parents=True)
    (tmp_path / "adapter" / "plan.py").write_text(found[1])
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
