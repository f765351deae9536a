"""`swarm bench round`, small: what it counts must be what a round has to move."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def test_a_round_without_training_is_measured_on_real_nodes(swarm: Any, tmp_path: Path) -> None:
    arguments = (
        "--peers",
        3,
        "--size",
        "1MB",
        "--rounds",
        2,
        "--wire",
        "bf16",
        "--json",
        tmp_path / "round.json",
    )
    shown = swarm("bench", "round", *arguments, "--dir", tmp_path / "nodes").stdout
    assert "s/round" in shown
    assert list((tmp_path / "nodes").iterdir()) == []  # everything is cleared away

    (result,) = json.loads((tmp_path / "round.json").read_text())["results"]
    assert (result["peers"], result["verify"], result["rounds"]) == (3, "held", 2)
    assert 500_000 <= result["model_bytes"] < 510_000  # half of what the parameters take in fp32
    assert (
        0 < result["seconds"]["least"] <= result["seconds"]["median"] <= result["seconds"]["most"]
    )
    # Two updates to the leader and two models from it, whoever passes them on.
    assert result["models_moved"]["all_sent"] == pytest.approx(4, abs=1.5)
    assert 20e6 < result["main_peak_bytes"] < 300e6
    assert 0 < result["main_cpu_s"] < 10
    # Three submissions, one merge, and the attestations that a quorum needs.
    assert result["transactions"] >= 5
    # The submissions come before the merge; what is gathered together shares a block.
    assert result["blocks"] >= 2
