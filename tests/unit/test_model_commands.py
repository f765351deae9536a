"""Commands about models mean the newest plan, and say of which they are."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import trio

from swarm import load
from swarm.errors import ConfigurationError
from swarm.learning.code.bundle import Bundle
from swarm.learning.code.bundle import read as read_bundle
from swarm.learning.models.card import Score, Scores
from swarm.learning.models.model_folder import read_folder
from swarm.learning.parameters.named_tensors import write_state
from swarm.learning.simulation.run_export import export_run
from swarm.learning.simulation.whole_run import run_federated
from swarm.node.commands.models import ModelCommands, joint_scores
from swarm.protocol.state import Plan, Rules
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

DIGEST, SUMS, OLD = (Digest(bytes([n]) * 32) for n in (2, 3, 4))
HEART = Path(__file__).parents[2] / "examples" / "heart"


class Store:
    def path(self, digest: Digest) -> Path:
        return Path("blobs") / digest.hex()

    def has(self, digest: Digest) -> bool:
        return digest == DIGEST

    def manifest(self, digest: Digest) -> Any:
        return SimpleNamespace(length_bytes=7)


def part(number: int, *rounds: int) -> Any:
    """A part in a plan, of which the models of these rounds are kept; the chain counts one more."""
    return SimpleNamespace(
        id=number,
        plan=SimpleNamespace(name=f"heart {number}", statistics=NO_DIGEST),
        program=SimpleNamespace(number_of=lambda of_chain: of_chain - 1),
        kept_file=None,
        chosen=None,
        models=lambda: dict.fromkeys((r + 1 for r in rounds), DIGEST),
    )


def commands(*parts: Any) -> ModelCommands:
    nothing: Any = None
    return ModelCommands(
        {p.id: p for p in parts},
        Store(),
        nothing,
        nothing,
        nothing,  # type: ignore[arg-type]
    )


def run(of: ModelCommands, plan: int | None) -> Any:
    return trio.run(of.models, plan)


def test_the_newest_plan_is_meant_in_whatever_order_plans_were_joined() -> None:
    joined = commands(part(2, 1, 2), part(11, 1), part(1, 4))
    assert run(joined, None)["plan"] == 11
    assert run(joined, 1)["plan"] == 1


def test_a_plan_that_has_made_no_model_yet_hides_none_of_another() -> None:
    assert run(commands(part(2, 1, 2), part(11)), None)["plan"] == 2
    assert run(commands(part(2), part(11)), None)["plan"] == 11


def test_a_card_tells_what_sites_say_together_and_not_what_one_says_alone() -> None:
    def score(sites: int, **figures: float) -> dict[str, Any]:
        told = {n: {"value": v, "low": v - 0.1, "high": None} for n, v in figures.items()}
        return {"figures": told, "sites": dict.fromkeys(map(str, range(sites)))}

    scores = {"roc": score(3, auc=0.5), "loss": score(2, loss=1), "own": score(1, x=2)}
    joint = {"validation": scores}
    assert joint_scores(joint) == (
        Scores("the validation rows of 3 sites together", {"auc": Score(0.5, 0.4, None)}),
        Scores("the validation rows of 2 sites together", {"loss": Score(1, 0.9, None)}),
    )
    assert joint_scores({}) == ()


def test_a_plan_that_is_not_taken_part_in_is_refused_with_those_that_are_in_order() -> None:
    with pytest.raises(ConfigurationError, match=r"no part in plan 7; .* part in: 1, 2, 11$"):
        run(commands(part(2), part(11), part(1)), 7)
    with pytest.raises(ConfigurationError, match="takes part in no plan yet: `swarm plan list`"):
        run(commands(), None)


class Shelf(Store):
    """A store and library with one run's model, statistics and code."""

    def __init__(self, model: Path, statistics: Path, code: Bundle) -> None:
        self._paths = {DIGEST: model, SUMS: statistics}
        self._code = code

    def path(self, digest: Digest) -> Path:
        return self._paths[digest]

    def read(self, digest: Digest) -> Bundle:
        assert digest == self._code.digest
        return self._code


class Trainer:
    async def describe(self) -> Any:
        return SimpleNamespace(licence="", keeps_state=False, rules=SimpleNamespace(privacy=None))


class Trainers:
    async def of(self, digest: Digest) -> Trainer:
        return Trainer()


def test_what_a_node_exports_predicts_by_its_statistics_and_code_and_overwrites_nothing(
    tmp_path: Path,
) -> None:
    rows = HEART / "data" / "cleveland.csv"
    run_ = run_federated(HEART, rounds=1)
    known = export_run(run_, tmp_path / "known")
    expected = list(load(known.path).predict(rows)["disease"])
    assert known.statistics is not None
    write_state(tmp_path / "whole", safetensors.torch.load_file(known.model))
    code = read_bundle(run_.sites[0].folder)
    shelf = Shelf(tmp_path / "whole", known.statistics, code)

    async def export(model: Digest, out: Path, own_parts: bool) -> None:
        shutil.copyfile(shelf.path(model), out)

    joined = part(3, 1)
    joined.export, joined.names, joined.rounds = export, dict, list
    joined.plan = SimpleNamespace(
        id=3, name="heart", digest=code.digest, statistics=SUMS, base=NO_DIGEST, consents={}
    )
    joined.program.training_rounds = 1
    client = SimpleNamespace(chain_id=7, contract=bytes(20))
    links: Any = SimpleNamespace(client=client), shelf, Trainers()
    node = ModelCommands({3: joined}, shelf, *links)  # type: ignore[dict-item, arg-type]
    out = tmp_path / "exported"
    trio.run(node.export, 3, 2, str(out), False)
    found = read_folder(out)
    assert found.statistics is not None
    assert (found.plan / "plan.py").is_file()
    assert list(load(out).predict(rows)["disease"]) == expected
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(ConfigurationError, match="--force"):
        trio.run(node.export, 3, 2, str(out), False)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"known", "whole", "exported"}


def test_what_another_plan_begins_with_is_the_chosen_model_or_the_newest(tmp_path: Path) -> None:
    given: list[tuple[Digest, bool]] = []

    async def export(model: Digest, out: Path, own_parts: bool) -> None:
        await trio.lowlevel.checkpoint()
        given.append((model, own_parts))

    joined = part(3, 1)
    joined.export, joined.holds = export, lambda model: model != SUMS
    joined.plan = Plan(PlanId(3), MemberId(0), "p", DIGEST, DIGEST, DIGEST, Rules(9, 2))
    node = commands(joined)
    for best, taken in ((NO_DIGEST, OLD), (DIGEST, DIGEST)):
        joined.plan.outputs = (OLD, NO_DIGEST, best, NO_DIGEST)
        trio.run(node.export_result, PlanId(3), tmp_path / "out")
        assert given.pop() == (taken, False)
    joined.plan.outputs = (OLD, NO_DIGEST, SUMS, NO_DIGEST)
    with pytest.raises(ConfigurationError, match="the model of plan 3 is not here yet"):
        trio.run(node.export_result, PlanId(3), tmp_path / "out")
