"""The plans in docs/plans.md, and tables of made-up patients for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "plans.md"


def page_plans() -> dict[str, str]:
    """The code of every plan on the page, by the folder that the page gives it."""
    block = r"<!-- file: (\w+)/plan\.py -->\n```python\n(.*?)```"
    return dict(re.findall(block, PAGE.read_text(), re.DOTALL))


def write_patients(path: Path, seed: int) -> None:
    """A hospital's table with gaps, in which age, CRP and ward decide who dies."""
    generator = np.random.default_rng(seed)
    lines = ["age,crp,ward,died"]
    for _ in range(80):
        age, crp = generator.integers(30, 95), generator.gamma(2, 20)
        ward = "icu" if generator.random() < 0.3 else "general"
        risk = (age - 65) / 10 + (crp - 40) / 30 + (ward == "icu") + generator.normal()
        told = "" if generator.random() < 0.2 else f"{crp:.1f}"
        lines.append(f"{age},{told},{ward},{int(risk > 0.5)}")
    path.write_text("\n".join(lines) + "\n")
