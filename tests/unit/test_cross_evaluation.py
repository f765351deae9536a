"""Every site scores every site's own model: what is sent and counted, and what a table says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from harness.plans import plan_with, write_tiny_plan

import swarm
from swarm import run_federated
from swarm.errors import PlanError
from swarm.learning.metrics.counts import MAX_ROWS, Counts
from swarm.learning.metrics.matrix import SHARED, Matrix, OfCopies, read_matrix, write_counts
from swarm.learning.metrics.wire import merge_all
from swarm.learning.parameters.next_file import Contribution, Folding, fold_whole
from swarm.learning.parameters.placement import read_placement
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.simulation.worker import Worker
from swarm.learning.training.crossing import score_copies, take_copy
from swarm.rounds.evaluating import Evaluating
from swarm.tensors import TensorFile, open_file
from swarm.testnet.simulate import Simulation, simulate
from swarm.types import to_hex

LOCAL = ("    epochs = 3\n", '    epochs = 3\n    tensors = {"3.*": swarm.local()}\n')
STATE = (
    "    epochs = 3\n",
    "    epochs = 3\n\n    def state(self, model):\n"
    "        self.seen = {'seen': torch.zeros(1)}\n        return self.seen\n",
)
CROSS = "swarm.cross_evaluate()"


class WorkerHere(Worker):
    """A worker of `swarm simulate` in this process."""

    def ask(self, raw: bytes) -> bytes:
        return self.answer(raw)

    def end(self) -> None:
        pass


def stages_of(folder: Path, stages: str, *changes: tuple[str, str]) -> list[str]:
    program = program_of(load_plan(plan_with(folder, stages, *changes)))
    return [stage.name for stage in program.stages]


def test_copies_are_sent_where_sites_have_models_of_their_own_and_else_the_shared_one_is_scored(
    tmp_path: Path,
) -> None:
    assert stages_of(tmp_path / "a", f"swarm.train(1), {CROSS}") == [
        "statistics",
        "training",
        "cross-evaluation",
    ]
    with_copies = ["statistics", "training", "copies", "cross-evaluation"]
    assert stages_of(tmp_path / "b", f"swarm.train(1), {CROSS}", LOCAL) == with_copies
    assert stages_of(tmp_path / "c", f"swarm.train(1), {CROSS}", STATE) == with_copies
    own = stages_of(tmp_path / "d", f"swarm.train(1), swarm.personalise(), {CROSS}")
    assert own == ["statistics", "training", "personal", "copies", "cross-evaluation"]


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [
        (f"{CROSS}, swarm.train(1)", (), "a stage comes after it: put it last"),
        (f"swarm.train(1), {CROSS}", ("secure = True",), "no stage in which each site tells"),
        (
            f"*swarm.train_and_select('auc', rounds=4, every=2, stop=True), {CROSS}",
            (),
            "comes after a training that may end the plan early",
        ),
    ],
)
def test_a_cross_evaluation_that_cannot_be_is_refused_with_what_to_do(
    tmp_path: Path, stages: str, changes: tuple[str, ...], words: str
) -> None:
    more = [("    epochs = 3\n", f"    epochs = 3\n    {change}\n") for change in changes]
    with pytest.raises(PlanError, match=words):
        program_of(load_plan(plan_with(tmp_path, stages, *more)))


def test_each_sites_copy_is_scored_at_each_site_and_the_shared_model_beside_them(
    tmp_path: Path,
) -> None:
    plan = plan_with(tmp_path, f"swarm.train(2), swarm.personalise(epochs=4), {CROSS}")
    run = run_federated(plan)
    assert run.matrix is not None
    assert [set(of) for of in run.matrix.sites.values()] == [{SHARED, 0, 1}] * 2
    for number, site in enumerate(run.sites):
        of = run.matrix.sites[number]
        assert of[SHARED] == site.count(run.models[-1], run.statistics, "test")
        for other, whose in enumerate(run.sites):
            model = run.personal[whose.site.name].model
            assert of[other] == site.count(model, run.statistics, "test")
    table = run.table()
    assert table is not None
    told = table["metrics"]["auc"]
    assert [m["model"] for m in told["models"]] == ["shared", "site0", "site1"]
    assert told["own"]["value"] == float(run.result()["auc"])
    ours = told["models"][1]
    assert ours["others"] == ours["sites"]["site1"]
    assert ours["all"]["rows"] == sum(cell["rows"] for cell in ours["sites"].values())


@pytest.mark.parametrize("change", [LOCAL, STATE])
def test_what_stays_at_a_site_goes_with_its_copy(tmp_path: Path, change: tuple[str, str]) -> None:
    run = run_federated(plan_with(tmp_path, f"swarm.train(2), {CROSS}", change))
    assert run.matrix is not None
    assert set(run.matrix.sites[0]) == {0, 1}, "no shared model without what sites keep"
    kept = run.kept[-1]
    for number, site in enumerate(run.sites):
        for other in (0, 1):
            told = site.count(run.models[-1], run.statistics, "test", kept[other])
            assert run.matrix.sites[number][other] == told
            for name, value in (kept[other] or {}).items():
                assert torch.equal(run.copies[name][other], value)


def test_simulated_clients_come_to_the_same_table(tmp_path: Path) -> None:
    stages = f"swarm.train(1), swarm.personalise(epochs=2), {CROSS}"
    plan = plan_with(tmp_path / "a", stages)
    report = simulate(Simulation(plan), processes=1, start=WorkerHere)
    assert report["table"] == run_federated(plan).table()
    local = plan_with(tmp_path / "b", f"swarm.train(1), {CROSS}", LOCAL)
    report = simulate(Simulation(local), processes=1, start=WorkerHere)
    assert report["table"] == run_federated(local).table()


def test_a_copy_that_gives_no_numbers_costs_nothing_but_its_row(tmp_path: Path) -> None:
    run = run_federated(plan_with(tmp_path, "swarm.train(1), swarm.personalise()"))
    site = run.sites[0]
    own = {n: v.clone() for n, v in take_copy(site, run.models[-1], None).items()}
    broken = {n: v * 3e38 if v.is_floating_point() else v for n, v in own.items()}
    rows = {name: {4: own[name], 7: broken[name]} for name in own}
    told = score_copies(site, run.models[-1], rows, run.statistics)
    assert told[4] == told[SHARED]
    assert told[7]["auc"].measure == told[4]["auc"].measure
    assert told[7]["auc"].rows == 0 < told[4]["auc"].rows


def test_a_plan_that_counts_nothing_is_told_what_to_return(tmp_path: Path) -> None:
    stages = f"    stages = [swarm.statistics(), swarm.train(1), {CROSS}]\n"
    folder = write_tiny_plan(tmp_path / "plan", ("    rounds = 3\n", stages))
    with pytest.raises(PlanError, match=r"such as swarm\.metrics\.roc"):
        run_federated(folder)


# The file.


def right(rows: int, of: int = 10) -> Counts:
    y = np.zeros(of)
    return swarm.metrics.confusion(y, np.eye(2)[[0] * rows + [1] * (of - rows)], 2)


TOLD: dict[int, OfCopies] = {
    2: {SHARED: {"right": right(7)}, 2: {"right": right(9)}, 5: {"right": right(5)}},
    5: {SHARED: {"right": right(6)}, 2: {"right": right(4)}, 5: {"right": right(8)}},
}


def gathered(folder: Path, told: dict[int, OfCopies], *broken: int) -> TensorFile:
    """What a merge makes of what the sites have written; `broken` ones have lied."""
    folder.mkdir(exist_ok=True)
    given = []
    for member, counts in told.items():
        path = folder / f"told-{member}"
        write_counts(path, counts)
        raw = np.fromfile(path, np.uint8)
        if member in broken:
            raw[-8:] = 255
        given.append(Contribution(member, 1, raw))
    layout = open_file(folder / f"told-{member}").layout
    return fold_whole(Folding(read_placement("gather"), layout), given, None)


def name(member: int) -> str:
    return f"member {member}"


def test_what_the_sites_have_written_is_read_from_what_a_merge_makes_of_it(tmp_path: Path) -> None:
    matrix = read_matrix(gathered(tmp_path, TOLD))
    assert matrix == Matrix(TOLD)
    told = matrix.table(name)["metrics"]["right"]
    assert [m["model"] for m in told["models"]] == ["shared", "member 2", "member 5"]
    ours = told["models"][1]
    assert {site: cell["value"] for site, cell in ours["sites"].items()} == {
        "member 2": 0.9,
        "member 5": 0.4,
    }
    assert ours["others"]["value"] == 0.4
    assert ours["all"]["value"] == 0.65
    whole = merge_all([{"right": right(9)}, {"right": right(4)}])["right"].figure
    assert (ours["all"]["low"], ours["all"]["high"], ours["all"]["rows"]) == (
        whole.low,
        whole.high,
        20,
    )
    assert told["own"]["value"] == 0.85


def test_a_site_that_tells_impossible_counts_tells_nothing(tmp_path: Path) -> None:
    matrix = read_matrix(gathered(tmp_path, TOLD, 5))
    assert (set(matrix.sites), matrix.silent) == ({2}, (5,))
    table = matrix.table(name)
    assert table["silent"] == ["member 5"]
    assert table["metrics"]["right"]["models"][2]["others"]["value"] == 0.5


def test_a_site_of_other_copies_than_most_is_left_out_of_the_table(tmp_path: Path) -> None:
    other: OfCopies = {SHARED: TOLD[2][SHARED], 2: TOLD[2][2], 6: TOLD[2][5]}
    matrix = read_matrix(gathered(tmp_path, {**TOLD, 6: other}))
    assert (set(matrix.sites), matrix.silent) == ({2, 5}, (6,))


def test_who_tells_nothing_has_zeros_in_the_table_and_no_figure(tmp_path: Path) -> None:
    silent: OfCopies = {
        copy: {n: c.withheld_below(MAX_ROWS + 1) for n, c in of.items()}
        for copy, of in TOLD[5].items()
    }
    told = read_matrix(gathered(tmp_path, {2: TOLD[2], 5: silent})).table(name)
    ours = told["metrics"]["right"]["models"][1]
    assert ours["sites"]["member 5"]["value"] is None
    assert ours["all"]["value"] == ours["sites"]["member 2"]["value"]


def test_names_and_sizes_that_cannot_travel_are_the_plans_fault(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="names of the plan's metrics cannot travel"):
        write_counts(tmp_path / "a", {SHARED: {"\0": right(3)}})
    roc = swarm.metrics.roc(np.arange(4) % 2, np.arange(4.0), bits=6)
    many = {copy: {str(n): roc for n in range(32)} for copy in range(64)}
    with pytest.raises(PlanError, match="of 64 models is more than 8388608 numbers"):
        write_counts(tmp_path / "b", many)


def test_a_table_is_computed_once_and_what_is_no_table_is_none(tmp_path: Path) -> None:
    place = tmp_path / "made"
    place.write_bytes(gathered(tmp_path, TOLD).raw.tobytes())
    other = tmp_path / "told-2"
    made, wrong = to_hex(b"\1" * 32), to_hex(b"\2" * 32)
    store = SimpleNamespace(path=lambda root: place if root == b"\1" * 32 else other)
    nobody: Any = None
    evaluating = Evaluating(nobody, store, *[nobody] * 5)  # type: ignore[arg-type]
    first = evaluating.table_of(made, name)
    assert first == Matrix(TOLD).table(name)
    place.unlink()
    assert evaluating.table_of(made, name) is first
    assert evaluating.table_of(wrong, name) is None
