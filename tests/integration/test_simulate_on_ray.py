"""`swarm simulate --ray`: the same workers as actors, the same digest. Needs `pip install
'swarm[ray]'`, which is not among what tests install: Ray is large, and few have a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.testnet.ray_workers import start_on
from swarm.testnet.simulate import Simulation, simulate

pytest.importorskip("ray", reason="Ray is not installed: pip install 'swarm[ray]'")

HEART = Path(__file__).parents[2] / "examples" / "heart"


def test_two_workers_on_a_local_ray_make_the_digest_of_one_here() -> None:
    asked = Simulation(HEART, clients=40, sample=8, drop=0.2, partition="dirichlet:0.3", rounds=2)
    here = simulate(asked, processes=1)
    with start_on("local") as start:
        there = simulate(asked, processes=2, start=start)
    assert there["final_model"]["digest"] == here["final_model"]["digest"]
    assert there["rounds"][-1]["metrics"] == here["rounds"][-1]["metrics"]
