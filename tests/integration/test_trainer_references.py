"""The references of a testnet, in their own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from harness.plans import write_tiny_plan

from swarm.errors import ConfigurationError
from swarm.learning.code import bundle
from swarm.learning.parameters.named_tensors import write_arrays, write_state
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.references import (
    Answer,
    Job,
    JobSite,
    merged_statistics,
    run,
    train_alone,
)
from swarm.learning.simulation.whole_run import open_sites, run_federated


def job(plan: Path, **settings: object) -> Job:
    sites = [JobSite(name=f.stem, data=str(f)) for f in sorted((plan / "data").iterdir())]
    return Job(plan=str(plan), sites=sites, device="cpu", **settings)  # type: ignore[arg-type]


def evaluated(*jobs: bytes) -> list[Answer]:
    """What a new evaluator process answers to these lines."""
    done = subprocess.run(
        [sys.executable, "-m", "swarm.learning.simulation.references"],
        input=b"".join(line + b"\n" for line in jobs),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [msgspec.json.decode(line, type=Answer) for line in done.stdout.splitlines()]


def test_the_process_scores_models_as_the_simulation_does(tmp_path: Path) -> None:
    chatty = ("import torch\n", "import torch\nprint('hello')\n")
    validated = (
        ", test=ready(*data.test)",
        ", validation=ready(*data.test), test=ready(*data.test)",
    )
    plan = write_tiny_plan(tmp_path / "plan", chatty, validated)
    federated = run_federated(plan)
    assert federated.statistics is not None
    models = []
    for round, state in enumerate(federated.models):
        write_state(tmp_path / f"{round}.safetensors", state)
        models.append(str(tmp_path / f"{round}.safetensors"))
    write_arrays(tmp_path / "sums", federated.statistics)
    asked = job(plan, models=models, statistics=str(tmp_path / "sums"))
    [answer] = evaluated(msgspec.json.encode(asked))
    result = answer.result
    assert result is not None, answer.error
    # The plan's validation rows are its test rows, here alone.
    assert [m["auc"] for m in result.progress] == [
        federated.score(round)["auc"] for round in range(4)
    ]
    assert result.swarm == federated.score()
    assert result.test_looks == 1 + 2 + 1
    assert set(result.local) == set(result.sites) == {"site0", "site1"}
    assert result.pooled is not None
    assert (result.pooled["auc"] or 0) > 0.7
    assert result.samples["site0"].test == 10


def test_the_references_repeat_to_the_last_digit(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    assert run(job(plan, rounds=2)) == run(job(plan, rounds=2))


def test_a_wrong_job_is_answered_with_one_sentence_and_the_next_job_is_done(
    tmp_path: Path,
) -> None:
    broken = write_tiny_plan(tmp_path / "broken", ("def loss", "def lose"))
    good = write_tiny_plan(tmp_path / "good")
    lines = (
        b'{"plan": "x"}',
        msgspec.json.encode(job(broken)),
        msgspec.json.encode(job(good, references=False)),
    )
    nonsense, plans_fault, done = evaluated(*lines)
    assert "not an evaluation job" in nonsense.error
    assert (plans_fault.exit_status, "did you mean loss" in plans_fault.error) == (2, True)
    assert "Traceback" not in plans_fault.error
    assert done.result is not None


def test_without_test_rows_the_references_say_so(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path, (", test=ready(*data.test)", ""))
    with pytest.raises(ConfigurationError, match="no site holds test rows"):
        run(job(plan))


def test_references_have_settings_of_their_own_and_one_that_fails_costs_no_other(
    tmp_path: Path,
) -> None:
    plan = write_tiny_plan(tmp_path)
    digest = bundle.read(plan).digest
    plain = run(job(plan, rounds=2))
    (plan / "references.toml").write_text(
        "[alone]\nlearning_rate = 1e30\n[pooled]\nlearning_rate = 1e-9\n"
    )
    assert bundle.read(plan).digest == digest
    tuned = run(job(plan, rounds=2))
    assert (plain.notes, plain.settings.pooled) == ([], {})
    assert (tuned.local, len(tuned.notes), tuned.settings.pooled) == (
        {},
        2,
        {"learning_rate": 1e-9},
    )
    assert tuned.notes[0].startswith("site0 cannot be trained alone: plan.py:")
    assert tuned.pooled != plain.pooled
    assert (plain.test_looks, tuned.test_looks) == (3, 1)
    for text, message in (
        ("[alone]\nlearnig_rate = 1\n", "no setting 'learnig_rate'"),
        ("[pooled]\nloss = 1\n", "no setting 'loss'"),
        ("[alone]\nepochs = 0\n", "epochs"),
        ("[swarm\n", r"references\.toml"),
    ):
        (plan / "references.toml").write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            run(job(plan, rounds=1))


def test_alone_and_pooled_see_the_rows_as_the_swarm_does(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path)
    sites = open_sites(load_plan(plan), plan, seed=0)
    sums = merged_statistics(sites)
    train_alone(sites[0], sites, 1, sums)
    seen = sites[0].prepared(sums).train[0]
    assert not torch.equal(seen, sites[0].prepared(sites[0].statistics()).train[0])
    train_alone(sites[0], sites, 1, sums)
    assert torch.equal(seen, sites[0].prepared(sums).train[0])
