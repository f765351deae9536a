"""`swarm simulate`: the digests of nodes, whatever the workers are and however many."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness.plans import plan_with

from swarm.errors import LocalError, PlanError
from swarm.learning.simulation.messages import Begin, OpenPlan, decode_request
from swarm.learning.simulation.whole_run import run_federated
from swarm.learning.supervisor.trainer_process import REPEATABLE
from swarm.testnet.simulate import Simulation, simulate
from swarm.testnet.workers import WorkerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
MANY = Simulation(
    EXAMPLES / "heart", clients=300, sample=0.05, drop=0.2, partition="dirichlet:0.3", rounds=2
)

FEDERATED = """
import sys
from pathlib import Path
from swarm.blobs.store import name_of
from swarm.learning.simulation.whole_run import run_federated
run = run_federated(Path(sys.argv[1]), rounds=2)
Path(sys.argv[2]).write_bytes(run.file.raw.tobytes())
print(name_of(Path(sys.argv[2])).hex(), run.score()["auc"])
"""


SELECTED = """
import sys
from pathlib import Path
from swarm.blobs.store import name_of
from swarm.learning.parameters.named_tensors import pack_state
from swarm.learning.simulation.whole_run import run_federated
run = run_federated(Path(sys.argv[1]))
assert run.is_over and run.best == len(run.models) - 2
Path(sys.argv[2]).write_bytes(pack_state(run.models[run.best]).raw.tobytes())
print(name_of(Path(sys.argv[2])).hex(), run.score(run.best)["auc"])
"""


def digest_of(report: dict[str, Any]) -> str:
    return str(report["final_model"]["digest"])


def federated(plan: Path, scratch: Path, code: str = FEDERATED) -> tuple[str, float]:
    """The digest and the AUC of two rounds in one process, with the arithmetic of trainers."""
    command = [sys.executable, "-c", code, str(plan), str(scratch)]
    done = subprocess.run(
        command, env=os.environ | REPEATABLE, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    digest, auc = done.stdout.split()
    return "0x" + digest, float(auc)


def test_training_stops_at_the_best_model_as_without_workers(tmp_path: Path) -> None:
    stages = "*swarm.train_and_select('auc', rounds=20, every=1, stop=True)"
    plan = plan_with(tmp_path / "tiny", stages)
    report = simulate(Simulation(plan), processes=1)
    digest, auc = federated(plan, tmp_path / "m", SELECTED)
    assert digest_of(report) == digest
    assert report["swarm"]["auc"] == pytest.approx(auc, abs=1e-12)
    assert len(report["rounds"]) < 20


OTHER_FOLDS = """    tensors = {
        "2.*": swarm.local(),
        "*": swarm.shared(swarm.median(), step=swarm.nesterov(lr=0.9)),
    }
"""


def test_folds_steps_and_parts_that_stay_at_sites_are_those_of_nodes(tmp_path: Path) -> None:
    plan = shutil.copytree(EXAMPLES / "heart", tmp_path / "heart")
    code = (plan / "plan.py").read_text()
    (plan / "plan.py").write_text(code.replace("    rounds = 20\n", OTHER_FOLDS))
    report = simulate(Simulation(plan, rounds=2), processes=2)
    digest, auc = federated(plan, tmp_path / "m")
    assert digest_of(report) == digest
    assert report["swarm"]["auc"] == pytest.approx(auc, abs=1e-12)
    with pytest.raises(PlanError, match="give --partition sites"):
        simulate(Simulation(plan, clients=20, partition="iid", rounds=1), processes=1)


def test_all_sites_of_a_plan_make_the_model_of_a_federated_run(tmp_path: Path) -> None:
    report = simulate(Simulation(EXAMPLES / "heart", rounds=2), processes=2, out=tmp_path / "out")
    assert digest_of(report) == federated(EXAMPLES / "heart", tmp_path / "m")[0]
    assert [r["contributors"] for r in report["rounds"]] == [4, 4]
    assert (tmp_path / "out" / "statistics.safetensors").exists()


class DyingWorker(WorkerProcess):
    """A worker that is gone after a dozen answers."""

    answers = 0

    def ask(self, raw: bytes) -> bytes:
        self.answers += 1
        if self.answers > 12 and not isinstance(decode_request(raw), OpenPlan | Begin):
            self.end()
            raise LocalError("gone")
        return super().ask(raw)


def test_many_clients_make_the_same_model_in_one_process_and_in_two_dying_ones() -> None:
    one = simulate(MANY, processes=1)
    assert 2 <= min(r["contributors"] for r in one["rounds"]) <= 15
    assert any(r["lost"] for r in one["rounds"])
    assert digest_of(simulate(MANY, processes=2, start=DyingWorker)) == digest_of(one)
    assert "too few for 300 clients" in one["notes"][0]


def test_a_round_that_cannot_have_enough_updates_is_refused_at_once() -> None:
    few = Simulation(EXAMPLES / "heart", clients=10, sample=2, partition="iid")
    with pytest.raises(PlanError, match="min_peers is 3: sample more"):
        simulate(few, processes=1)


def test_the_command_tells_programs_everything_and_draws_a_plot(tmp_path: Path) -> None:
    words = [
        "simulate",
        EXAMPLES / "heart",
        "--clients",
        "20,40",
        "--sample",
        "10",
        "--rounds",
        "2",
    ]
    command = [sys.executable, "-m", "swarm", *words, "--json", "--plot", tmp_path / "p.png"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert [run["clients"] for run in runs] == [20, 40]
    assert all(0 < run["swarm"]["auc"] < 1 for run in runs)
    assert (tmp_path / "p.png").stat().st_size > 5000
    drawn = json.loads((tmp_path / "p.json").read_text())
    assert drawn["metric"] == "auc"
    assert [line["clients"] for line in drawn["runs"]] == [20, 40]
    for line, run in zip(drawn["runs"], runs, strict=True):
        assert line["values"] == [r["metrics"]["auc"] for r in run["rounds"]]


def test_copies_that_sites_fine_tune_have_the_scores_of_a_federated_run(tmp_path: Path) -> None:
    plan = shutil.copytree(EXAMPLES / "heart", tmp_path / "heart")
    stages = "    stages = [swarm.statistics(), swarm.train(1), swarm.personalise(epochs=2)]\n"
    code = (plan / "plan.py").read_text()
    (plan / "plan.py").write_text(code.replace("    rounds = 20\n", stages))
    report = simulate(Simulation(plan), processes=2)
    [own] = report["personal"]
    told = run_federated(plan).personal.values()
    rows = sum(each.rows for each in told)
    assert own["figures"]["sites"] == len(told) == 4
    for when, scores in (("before", [t.before for t in told]), ("after", [t.after for t in told])):
        mean = sum(s["loss"] * t.rows for s, t in zip(scores, told, strict=True)) / rows
        assert own["figures"][when]["loss"] == pytest.approx(mean, rel=1e-5)
    assert own["figures"]["after"]["loss"] < own["figures"]["before"]["loss"]
    with pytest.raises(PlanError, match="hold none back: give --partition sites"):
        simulate(Simulation(plan, clients=20, partition="iid"), processes=1)
