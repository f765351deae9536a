"""A user's own script as a plan: plain PyTorch, Lightning and Hugging Face, on real rows."""

from __future__ import annotations

import difflib
import gc
import importlib.util
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import swarm
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.parameters.named_tensors import State
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.plans.settings import rules_of
from swarm.learning.scripts.reader import read_script
from swarm.learning.simulation.whole_run import open_sites, run_federated
from swarm.learning.training.loop import LocalTraining
from swarm.testnet.simulate import Simulation, simulate

SCRIPTS = Path(__file__).parents[2] / "examples" / "scripts"
NEEDS = {"lightning_fit": ["lightning"], "huggingface_trainer": ["transformers", "accelerate"]}
MOST_CHANGED_LINES = 5

SMALL = """\
import torch
import swarm

session = swarm.join(rounds=3, min_peers=2)
rows = len(open(session.site.path).readlines())
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for round in session.rounds(model, rows=rows):
    optimizer.zero_grad()
    model(torch.ones(1, 1) * torch.rand(1)).sum().backward()
    optimizer.step()
    session.submit(model, rows=rows, metrics={"loss": 0.5})
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    """The small script with some of its text replaced, and two sites' files beside it."""
    code = SMALL
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "north.csv").write_text("1\n" * 30)
    (folder / "data" / "south.csv").write_text("1\n" * 10)
    file = folder / "script.py"
    file.write_text(code)
    return file


def at_north(file: Path) -> LocalTraining:
    site = Site("north", file.parent / "data" / "north.csv")
    return LocalTraining(load_plan(file), site, file.parent, device="cpu")


def scripts_that_run() -> int:
    return sum(thread.name == "script" for thread in threading.enumerate())


def changed_lines(before: str, after: str) -> int:
    """How many lines of `after` are not in `before`."""
    told = difflib.ndiff(before.splitlines(), after.splitlines())
    return sum(line.startswith("+ ") and line != "+ " for line in told)


@pytest.mark.parametrize("name", ["plain", "lightning_fit", "huggingface_trainer"])
def test_a_script_becomes_a_member_by_five_changed_lines(name: str) -> None:
    before, after = SCRIPTS / "before" / f"{name}.py", SCRIPTS / f"{name}.py"
    assert 0 < changed_lines(before.read_text(), after.read_text()) <= MOST_CHANGED_LINES
    assert rules_of(load_plan(after)).min_peers == 3


@pytest.mark.parametrize("name", ["lightning_fit", "huggingface_trainer"])
def test_a_script_with_a_training_loop_of_others_trains_with_all_hospitals(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in NEEDS[name]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs `pip install {module}`, which is not here")
    monkeypatch.chdir(tmp_path)
    few = (SCRIPTS / f"{name}.py").read_text()
    for old, new in (("rounds=20", "rounds=2"), ("epochs=20", "epochs=2")):
        assert old in few
        few = few.replace(old, new)
    file = tmp_path / f"{name}.py"
    file.write_text(few)
    (tmp_path / "data").symlink_to(SCRIPTS / "data")
    run = run_federated(file)
    assert not torch.equal(*(next(iter(run.models[at].values())) for at in (0, -1)))
    site = run.sites[0]
    update = site.train(2, run.models[-1])  # its loop has ended: it runs anew from its first line
    assert 0 < update.metrics["eval_accuracy" if "hugging" in name else "accuracy"] <= 1
    assert (site.site.name, update.samples) == ("budapest", 196)


def test_hospitals_with_a_plain_script_are_better_together_than_alone() -> None:
    """All models on the validation rows of all four, which none was trained on. The script's own
    seed decides the model; the run's decides the batches."""
    file = SCRIPTS / "plain.py"
    tables = [
        np.genfromtxt(path, delimiter=",", skip_header=1, dtype=np.float32)
        for path in sorted((SCRIPTS / "data").glob("*.csv"))
    ]
    held = np.vstack([table[::3] for table in tables])
    x = np.hstack([np.nan_to_num(held[:, :13]), np.isnan(held[:, :13])]).astype(np.float32)

    def auc(site: LocalTraining, model: State) -> float:
        site.put(model, None)
        site.model.eval()
        with torch.no_grad():
            return swarm.metrics.auc(held[:, 14], site.model(torch.tensor(x))[:, 0])

    run = run_federated(file)
    together = auc(run.sites[0], run.models[-1])
    alone = []
    for site in open_sites(load_plan(file), file, seed=0):
        model = site.initial
        for round in range(1, 21):
            model = site.train(round, model).state
        alone.append(auc(site, model))
    assert together > max(alone) + 0.02
    assert together > np.mean(alone) + 0.08
    told = run.sites[0].measure_part(run.models[-1], None, "validation").numbers
    assert 0.5 < told["auc"] <= 1


def test_simulate_runs_a_script_with_the_digest_of_a_run_in_one_process(tmp_path: Path) -> None:
    report = simulate(Simulation(write(tmp_path)), processes=2)
    assert (report["plan"], report["devices"], report["clients"]) == ("Script", {"cpu": 1}, 2)
    again = simulate(Simulation(tmp_path / "script.py"), processes=1)
    assert report["final_model"] == again["final_model"]
    assert [round["loss"] for round in report["rounds"]] == [0.5] * 3


def test_rows_of_a_script_cannot_be_dealt_to_clients(tmp_path: Path) -> None:
    asked = Simulation(write(tmp_path), clients=10, partition="iid")
    with pytest.raises(PlanError, match="reads its site's rows itself"):
        simulate(asked, processes=1)


def test_a_script_goes_on_where_it_was_with_its_own_optimiser(tmp_path: Path) -> None:
    one, two = at_north(write(tmp_path)), at_north(tmp_path / "script.py")
    base = one.initial
    first = one.train(1, base).state
    with_momentum = one.train(2, base).state["weight"]
    assert torch.equal(two.train(1, base).state["weight"], first["weight"])
    three = at_north(tmp_path / "script.py")
    assert not torch.equal(three.train(2, base).state["weight"], with_momentum)


def test_a_script_that_does_not_tell_its_rows_is_counted_by_a_round(tmp_path: Path) -> None:
    silent = write(tmp_path, ("(model, rows=rows)", "(model)"))
    site, telling = at_north(silent), at_north(write(tmp_path / "told"))
    assert site.samples().train == 30
    base = telling.initial
    one, other = site.train(1, base), telling.train(1, base)
    assert torch.equal(one.state["weight"], other.state["weight"])  # counting has left no trace
    assert (one.samples, one.loss, one.metrics) == (30, 0.5, {"loss": 0.5})


def test_a_script_weighs_no_more_than_the_rows_it_told(tmp_path: Path) -> None:
    site = at_north(write(tmp_path, ("submit(model, rows=rows", "submit(model, rows=10 * rows")))
    assert site.train(1, site.initial).samples == 30


def test_a_script_may_submit_another_model_than_it_trained(tmp_path: Path) -> None:
    average = (
        "    session.submit(model,",
        "    import copy; other = copy.deepcopy(model)\n"
        "    torch.nn.init.constant_(other.weight, 7.0)\n"
        "    session.submit(other,",
    )
    site = at_north(write(tmp_path, average))
    assert float(site.train(1, site.initial).state["weight"]) == 7.0


def test_a_main_guard_runs(tmp_path: Path) -> None:
    head, body = SMALL.split("\n\n", 1)
    guarded = (
        head
        + '\n\nif __name__ == "__main__":\n'
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    file = write(tmp_path)
    file.write_text(guarded)
    site = at_north(file)
    assert site.train(1, site.initial).samples == 30


def test_a_script_ends_with_whoever_runs_it(tmp_path: Path) -> None:
    gc.collect()
    before = scripts_that_run()
    site = at_north(write(tmp_path))
    assert scripts_that_run() == before + 1
    site.train(1, site.initial)
    del site
    gc.collect()
    until = time.monotonic() + 5
    while scripts_that_run() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert scripts_that_run() == before


WRONG = {
    "no submission": (
        ("    session.submit(model, rows=rows, metrics={", "    ({"), ("0.5})", "0.5})"),
        "round 1 was not submitted",
    ),
    "no rows": (
        ("submit(model, rows=rows", "submit(model, rows=0"), ("0.5", "0.5"),
        "rows is 0: give the number",
    ),
    "no number": (
        ('"loss": 0.5', '"loss": [1, 2]'), ("x", "x"), "'loss' is a list",
    ),
    "an end": (
        ("    optimizer.zero_grad()", "    break"), ("x", "x"), "ended in round 1 without",
    ),
    "an error of its own": (
        ("    optimizer.zero_grad()", "    1 / 0"), ("x", "x"), r"script\.py:9 in .*ZeroDivision",
    ),
    "an exit": (
        ("    optimizer.zero_grad()", "    raise SystemExit(3)"), ("x", "x"),
        "asks to end the process",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_what_a_script_does_wrong_is_named(tmp_path: Path, fault: str) -> None:
    *changes, said = WRONG[fault]
    site = at_north(write(tmp_path, *(c for c in changes if c[0] != "x")))
    with pytest.raises(PlanError, match=said):
        site.train(1, site.initial)


JOINS = {
    "batch_size=8": "script.py:4: swarm.join does not take batch_size",
    "rounds=n": "script.py:4: rounds is computed: write the value itself",
    "**rules": r"script.py:4: swarm.join does not take \*\*",
    "3": "name what swarm.join is given",
    "name='a b'": "the name 'a b' is none",
}


@pytest.mark.parametrize("given", JOINS)
def test_rules_that_a_reader_cannot_see_are_refused_before_a_line_has_run(
    tmp_path: Path, given: str
) -> None:
    file = write(tmp_path, ("rounds=3, min_peers=2", given))
    with pytest.raises(PlanError, match=JOINS[given]):
        load_plan(file)


def test_a_rule_out_of_bounds_is_refused_by_name(tmp_path: Path) -> None:
    file = write(tmp_path, ("rounds=3", "rounds=0"))
    with pytest.raises(PlanError, match="rounds"):
        rules_of(load_plan(file))


def test_a_second_join_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, ("rows = len", "swarm.join()\nrows = len"))
    with pytest.raises(PlanError, match=r"script.py:5: swarm.join is called a second time"):
        load_plan(file)


def test_a_script_that_never_reaches_a_round_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, ("for round in session.rounds(model, rows=rows):", "for round in []:"))
    with pytest.raises(PlanError, match="ended without a round"):
        at_north(file)


@pytest.mark.parametrize("nested", [b"x" + b".a" * 4000 + b"()", b"-" * 5000 + b"1"])
def test_source_too_deep_to_be_read_is_no_script(nested: bytes) -> None:
    assert read_script(nested, "plan.py") is None


def test_a_plan_is_no_script_though_it_speaks_of_joining() -> None:
    assert (
        read_script(b'"""Not swarm.join(), but a plan."""\nx = "swarm.join()"\n', "plan.py") is None
    )
    assert read_script(b'"""No swarm.join()."""\nx = "swarm.join()"\n', "plan.py") is None
    assert read_script(b"this is no Python", "plan.py") is None


def test_outside_of_a_node_a_script_says_how_it_is_run() -> None:
    with pytest.raises(ConfigurationError, match="swarm plan propose FILE"):
        swarm.join(rounds=3)


def test_a_script_without_data_says_where_to_name_them(tmp_path: Path) -> None:
    file = write(tmp_path)
    with pytest.raises(PlanError, match=r"script.py:5 .*has no data: name its file"):
        LocalTraining(load_plan(file), Site("north"), tmp_path, device="cpu")
