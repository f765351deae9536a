"""Plans with places, in one process: what travels, what stays, what comes back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.plans import write_tiny_plan
from safetensors.torch import save_file

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.parameters.named_tensors import State, unpack_state, write_state
from swarm.learning.parameters.next_file import STEP
from swarm.learning.parameters.travel import to_wire
from swarm.learning.plans.loading import load_plan
from swarm.learning.plans.plan import Site
from swarm.learning.simulation import references as evaluate
from swarm.learning.simulation.whole_run import FederatedRun, run_federated
from swarm.learning.training.loop import LocalTraining

BATCHNORM = ', "1.*": swarm.shared()'


def run_with(folder: Path, tensors: str, *changes: tuple[str, str], sites: int = 3) -> FederatedRun:
    return run_federated(plan_with(folder, tensors, *changes, sites=sites))


def plan_with(folder: Path, tensors: str, *changes: tuple[str, str], sites: int = 3) -> Path:
    """The tiny plan (a linear layer, BatchNorm, a linear head) with these places."""
    placed = ("    epochs = 3\n", f"    epochs = 3\n    tensors = {{{tensors}}}\n")
    return write_tiny_plan(folder, placed, *changes, sites=sites)


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_places_that_say_what_is_so_anyway_change_nothing(tmp_path: Path) -> None:
    plain = run_federated(write_tiny_plan(tmp_path / "plain", sites=3))
    said = run_with(tmp_path / "said", '"*": swarm.shared(swarm.mean(), by="samples")')
    assert same(plain.models[-1], said.models[-1])


def test_every_site_keeps_a_head_of_its_own_and_shares_the_rest(tmp_path: Path) -> None:
    run = run_with(tmp_path, '"3.*": swarm.local()')
    heads = [kept["3.weight"] for kept in run.kept[-1] if kept]
    assert len({head.numpy().tobytes() for head in heads}) == 3
    assert torch.equal(run.models[-1]["3.weight"], run.models[0]["3.weight"])
    assert not torch.equal(run.models[-1]["0.weight"], run.models[0]["0.weight"])
    assert "3.weight" not in unpack_state(run.file)
    assert run.site_scores().keys() == {"site0", "site1", "site2"}
    assert 0 < (run.score()["auc"] or 0) <= 1


def test_a_site_goes_on_from_what_it_kept(tmp_path: Path) -> None:
    run = run_with(tmp_path, '"3.*": swarm.local()')
    site, base, kept = run.sites[0], run.models[-1], run.kept[-1][0]
    again = [site.train(9, base, run.statistics, kept=start).kept for start in (kept, kept, None)]
    assert same(again[0], again[1])
    assert not same(again[0], again[2])


COUNTING = (
    "    def loss(self, model, batch):\n",
    "    def state(self, model):\n"
    "        own = torch.zeros_like(model[0].weight)\n"
    "        self.seen = {'batches': torch.zeros(1), 'c.weight': own}\n"
    "        return self.seen\n\n"
    "    def loss(self, model, batch):\n"
    "        if model.training:\n"
    "            self.seen['batches'] += 1\n",
)


def test_tensors_beside_the_model_last_at_each_site(tmp_path: Path) -> None:
    run = run_with(tmp_path, "", COUNTING)
    counts = [[kept and kept["~state/batches"].item() for kept in each] for each in run.kept]
    assert counts == [[None] * 3, [12.0] * 3, [24.0] * 3, [36.0] * 3]
    assert not any(name.startswith("~state") for name in unpack_state(run.file))


def test_a_site_that_a_round_leaves_out_goes_on_from_what_it_kept_before(tmp_path: Path) -> None:
    plan = plan_with(tmp_path, "", COUNTING)
    run = run_federated(plan, contributors={3: {"site0", "site2"}})  # after statistics
    counts = [[kept and kept["~state/batches"].item() for kept in each] for each in run.kept]
    assert counts == [[None] * 3, [12.0] * 3, [24.0, 12.0, 24.0], [36.0, 24.0, 36.0]]
    everybody = run_federated(plan)
    assert same(run.models[1], everybody.models[1])
    assert not same(run.models[2], everybody.models[2])


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("[1]", "state must return a dict of tensors, not list"),
        ("{'a': 3}", "'a' is int"),
        ("{'a': torch.ones(2, dtype=torch.complex64)}", "state.*complex64"),
        ("{'a' * 600: torch.ones(2)}", "cannot be written"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_place(
    tmp_path: Path, returned: str, words: str
) -> None:
    state = f"    def state(self, model):\n        return {returned}\n\n    def loss("
    plan = write_tiny_plan(tmp_path, ("    def loss(", state))
    with pytest.raises(PlanError, match=words) as raised:
        LocalTraining(load_plan(plan), Site("a"), plan)
    assert "plan.py:" in str(raised.value)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ('"hed.*": swarm.local()', r"'hed\.\*' comes to no tensor of the model.*0\.weight"),
        ('"*": swarm.local()', "no tensor of the model travels"),
        ('"*.weight": swarm.shared(), "0.*": swarm.local(), "0.bias": swarm.local()', r"'0\.bias'"),
        ('"*": swarm.shared(swarm.krum(1))', "krum needs 5 updates.*set min_peers to 5"),
        ('"*": swarm.shared(swarm.median())', "median needs 3 updates"),
        ('"*": swarm.shared(step=swarm.adam())', "running_mean' is a buffer, and adam is for par"),
        ('"*": swarm.at("server")', "which is no role of the plan"),
        ('"*": swarm.mean()', "must be a place"),
        ('"*": swarm.shared(swarm.sum(), step=swarm.adam())', "a sum of models"),
    ],
)
def test_places_that_cannot_be_are_refused_in_one_sentence_with_their_line(
    tmp_path: Path, tensors: str, words: str
) -> None:
    with pytest.raises(PlanError, match=words) as raised:
        run_with(tmp_path, tensors)
    assert "plan.py:" in str(raised.value)
    assert "\n" not in str(raised.value)


FIVE = "rounds = 1\n    min_peers = 5"


def test_a_rule_by_distance_asks_for_full_checks_if_the_plan_says_nothing_else(
    tmp_path: Path,
) -> None:
    krum, peers = (
        '"*": swarm.shared(swarm.krum(1))',
        ("rounds = 3", FIVE),
    )
    run = run_with(tmp_path / "auto", krum, peers, sites=5)
    assert len(run.models) == 2
    shared = (peers[0], peers[1] + '\n    verify = "shared"')
    with pytest.raises(PlanError, match="set verify to 'full' instead of 'shared'"):
        run_with(tmp_path / "shared", krum, shared, sites=5)


def test_a_step_goes_on_from_its_state_in_the_model_file(tmp_path: Path) -> None:
    step = '"1.running*": swarm.shared(), "*": swarm.shared(step=swarm.nesterov())'
    run = run_with(tmp_path, step)
    file = unpack_state(run.file)
    assert file["~step/taken"].item() == 3
    assert file[STEP + "velocity/0.weight"].shape == (4, 2)
    assert STEP + "velocity/1.running_mean" not in file
    assert not any(name.startswith("~") for name in run.models[-1])


GATHERING = (
    ("nn.Linear(4, 1))", 'nn.Linear(4, 1))\n        model.register_buffer("figure", torch.zeros(2))'
     "\n        return model"),
    ("return nn.Sequential", "model = nn.Sequential"),
    ("def loss(self, model, batch):\n", "def loss(self, model, batch, context):\n"
     "        was = context.rows.get('figure', {})\n"
     "        old = sum(float(v[0]) for v in was.values())\n"
     "        model.figure[:] = torch.tensor([len(was), old])\n"),
)  # fmt: skip


def test_gathered_tensors_come_back_as_rows_by_member(tmp_path: Path) -> None:
    run = run_with(tmp_path, '"figure": swarm.gathered()', *GATHERING)
    file = unpack_state(run.file)
    assert file["~members"].tolist() == [0, 1, 2]
    assert file["~row/figure"].tolist() == [[3.0, 9.0]] * 3  # three saw three rows of 3 each
    assert run.models[-1]["figure"].tolist() == [0.0, 0.0]


def frozen_plan(folder: Path, sha256: str, option: str = "trunk") -> Path:
    place = f'swarm.frozen(file="{option}", sha256="{sha256}")'
    return plan_with(folder, f'"0.*": {place}')


def at(plan: Path, site: Site, **how: Any) -> LocalTraining:
    return LocalTraining(load_plan(plan), site, plan, device="cpu", **how)


def test_frozen_tensors_come_from_the_sites_file_and_never_travel(tmp_path: Path) -> None:
    file = tmp_path / "trunk.safetensors"
    trunk = {"0.weight": torch.arange(8.0).reshape(4, 2).half(), "0.bias": torch.ones(4)}
    save_file(trunk, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    plan = frozen_plan(tmp_path / "plan", digest)
    site = Site("a", tmp_path / "plan" / "data" / "site0.csv", {"trunk": str(file)})
    training = at(plan, site)
    initial = training.make_initial()
    assert not {"0.weight", "0.bias"} & {*initial, *training.travels, *training.stays}
    update = training.train(1, initial, training.statistics())
    assert "0.weight" not in update.state
    assert torch.equal(training.model[0].weight, trunk["0.weight"].float())  # type: ignore[index]
    assert not training.model[0].weight.requires_grad  # type: ignore[index]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"0.weight": torch.ones(4, 2)}, r"'trunk' has no tensor '0\.bias'"),
        ({"0.weight": torch.ones(2, 4), "0.bias": torch.ones(4)}, r"'0\.weight' is .*\[2, 4\]"),
        ({"0.weight": torch.ones(4, 2) / 0, "0.bias": torch.ones(4)}, "NaN or infinite in its"),
    ],
)
def test_a_frozen_file_of_another_model_is_refused_by_name(
    tmp_path: Path, content: State, words: str
) -> None:
    save_file(content, tmp_path / "trunk")
    digest = hashlib.sha256((tmp_path / "trunk").read_bytes()).hexdigest()
    plan = frozen_plan(tmp_path / "plan", digest)
    with pytest.raises(PlanError, match=words):
        at(plan, Site("a", tmp_path))  # a folder of data: the file lies there


def test_a_frozen_file_that_is_not_there_or_is_another_is_refused(tmp_path: Path) -> None:
    plan = frozen_plan(tmp_path / "plan", "ab" * 32)
    with pytest.raises(ConfigurationError, match=r"'trunk'.*data\.options"):
        at(plan, Site("a"))
    save_file({"x": torch.ones(1)}, tmp_path / "trunk")
    with pytest.raises(ConfigurationError, match=r"has the SHA-256 .* and the plan asks for abab"):
        at(plan, Site("a", options={"trunk": str(tmp_path / "trunk")}))


def test_a_local_update_file_holds_nothing_of_what_stays(tmp_path: Path) -> None:
    """Its bytes are looked through for every value of the head."""

    run = run_with(tmp_path, '"3.*": swarm.local()', COUNTING)
    update = run.sites[0].train(4, run.models[-1], run.statistics, kept=run.kept[-1][0])
    write_state(tmp_path / "update", to_wire(update.state, run.sites[0].travels))
    raw = (tmp_path / "update").read_bytes()
    assert update.state["0.weight"][0].numpy().tobytes() in raw
    for name, value in update.kept.items():
        assert name.encode() not in raw
        if value.abs().max() > 1e-3:
            assert value.contiguous().numpy().tobytes() not in raw, name


def test_each_site_of_a_report_is_scored_with_what_it_kept(tmp_path: Path) -> None:
    plan = plan_with(tmp_path / "plan", '"3.*": swarm.local()', COUNTING)
    run = run_federated(plan)
    write_state(tmp_path / "model", unpack_state(run.file))
    sites, kept = [], {}
    for site, state in zip(run.sites, run.kept[-1], strict=True):
        assert state is not None
        write_state(tmp_path / site.site.name, state)
        kept[site.site.name] = str(tmp_path / site.site.name)
        data = str(plan / "data" / f"{site.site.name}.csv")
        sites.append(evaluate.JobSite(name=site.site.name, data=data))
    job = evaluate.Job(plan=str(plan), sites=sites, models=[str(tmp_path / "model")], kept=kept)
    found = evaluate.run(job)
    assert found.sites == run.site_scores()
    assert found.swarm == run.score()
    assert found.local.keys() == kept.keys()
