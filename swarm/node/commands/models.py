"""What people may ask about the rounds and models of the plans in which this node takes part."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import ConfigurationError
from swarm.learning.code.bundle import Bundle
from swarm.learning.models.card import Card, CardPrivacy, CardSite, Score, Scores, describe_plan
from swarm.learning.models.model_folder import check_free, write_folder
from swarm.learning.supervisor.trainer_messages import Rules
from swarm.node.chain.link import ChainLink
from swarm.node.commands.control import Handler
from swarm.node.plans.library import Library
from swarm.node.plans.trainers import Trainers
from swarm.privacy.accountant import epsilon_of
from swarm.protocol.program import Program
from swarm.protocol.state import Plan
from swarm.rounds.participation import Participation
from swarm.rounds.private_rounds import round_mechanism
from swarm.types import NO_DIGEST, Digest, PlanId, to_hex


@dataclass(frozen=True)
class ModelCommands:
    """`participations` fills while the node runs."""

    participations: Mapping[PlanId, Participation]
    store: BlobStore
    chain: ChainLink
    library: Library
    trainers: Trainers

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "records": self.records,
            "models": self.models,
            "evaluate": self.evaluate,
            "export": self.export,
        }

    async def records(self, plan: int) -> object:
        part = self._part_in(plan)
        await part.read_table()
        return part.rounds(tables=True)

    async def models(self, plan: int | None) -> object:
        """Of the newest plan of which a model is kept here, unless one is named."""
        if plan is None and not self.participations:
            raise ConfigurationError(
                "this node takes part in no plan yet: `swarm plan list` shows what is proposed"
            )
        if plan is None:
            made = [number for number, part in self.participations.items() if part.models()]
            plan = max(made or self.participations)
        part = self._part_in(plan)
        statistics = NO_DIGEST if part.plan is None else part.plan.statistics
        return {
            "plan": plan,
            "models": [
                {
                    "round": number,
                    "number": part.program.number_of(number),
                    "digest": to_hex(digest),
                    "path": str(self.store.path(digest)),
                    "bytes": self.store.manifest(digest).length_bytes,
                }
                for number, digest in part.models().items()
            ],
            "chosen": part.chosen,
            "kept": None if part.kept_file is None else str(part.kept_file),
            "statistics": str(self.store.path(statistics)) if self.store.has(statistics) else None,
        }

    async def export(self, plan: int, round: int, path: str, force: bool) -> object:
        """Write a model's folder."""
        out, part = Path(path), self._part_in(plan)
        await trio.to_thread.run_sync(check_free, out, force)
        model, found = _model(part, round), part.plan
        if found is None:
            raise ConfigurationError(f"plan {plan} is not known here yet")
        code = await trio.to_thread.run_sync(self.library.read, found.digest)
        card = await self._card(part, found, round, code)
        has_sums = found.statistics != NO_DIGEST
        sums = self.store.path(found.statistics) if has_sums else None
        with tempfile.TemporaryDirectory(prefix=".swarm-export-", dir=out.parent) as folder:
            whole = Path(folder) / "whole"
            await part.export(model, whole, own_parts=True)
            await trio.to_thread.run_sync(write_folder, out, whole, sums, code, card, force)
        return {}

    async def export_result(self, plan: PlanId, path: Path) -> None:
        """Write a plan's model to the new file `path`, whole, for all members: the best where the
        plan has chosen one, or the newest.

        Raises ConfigurationError if this node takes no part in the plan or does not hold it.
        """
        part = self._part_in(plan)
        if part.plan is None or not part.holds(part.plan.result):
            raise ConfigurationError(f"the model of plan {plan} is not here yet: try again")
        await part.export(part.plan.result, path, own_parts=False)

    async def _card(self, part: Participation, plan: Plan, round: int, code: Bundle) -> Card:
        """What this node knows of a model; of scores, those of all together and no member's own."""
        loaded = await (await self.trainers.of(plan.digest)).describe()
        names, client = part.names(), self.chain.client
        record = next((r for r in part.rounds() if r["round"] == round), {})
        contributors = record.get("contributors", [])
        sites = [
            CardSite(names[m], consent.max_samples, names[m] in contributors)
            for m, consent in sorted(plan.consents.items())
            if m in names
        ]
        return Card(
            name=plan.name,
            about=describe_plan(code),
            licence=loaded.licence,
            chain_id=client.chain_id,
            contract=to_hex(client.contract),
            plan_id=plan.id,
            plan=to_hex(plan.digest),
            base=to_hex(plan.base),
            model=to_hex(_model(part, round)),
            own_parts=loaded.keeps_state,
            statistics="" if plan.statistics == NO_DIGEST else to_hex(plan.statistics),
            chain_round=round,
            round=part.program.number_of(round) or 0,
            rounds=part.program.training_rounds,
            sites=tuple(sites),
            scores=joint_scores(record.get("joint", {})),
            privacy=_privacy(loaded.rules, part.program, sites, part.program.number_of(round) or 0),
        )

    async def evaluate(self, plan: int, round: int) -> object:
        part = self._part_in(plan)
        model = _model(part, round)
        if part.plan is None:
            raise ConfigurationError(f"plan {plan} is not known here yet")
        return {"metrics": await part.evaluate(round, model, part.plan.statistics)}

    def _part_in(self, plan: int) -> Participation:
        part = self.participations.get(PlanId(plan))
        if part is None:
            known = ", ".join(map(str, sorted(self.participations))) or "none"
            raise ConfigurationError(
                f"this node takes no part in plan {plan}; it takes part in: {known}"
            )
        return part


def joint_scores(joint: Mapping[str, Any]) -> tuple[Scores, ...]:
    """What the rows of two sites or more say together of a round's model, for its card; `joint` is
    that of its record."""
    found = []
    for part, scores in joint.items():
        told = {name: score for name, score in scores.items() if len(score["sites"]) > 1}
        for count in sorted({len(score["sites"]) for score in told.values()}, reverse=True):
            metrics = {
                name: Score(figure["value"], figure["low"], figure["high"])
                for score in told.values()
                if len(score["sites"]) == count
                for name, figure in score["figures"].items()
            }
            found.append(Scores(f"the {part} rows of {count} sites together", metrics))
    return tuple(found)


def _privacy(
    rules: Rules, program: Program, sites: Sequence[CardSite], rounds: int
) -> CardPrivacy | None:
    """What so many rounds have spent at the site with most: it follows from what sites declared."""
    promised = rules.privacy
    if promised is None:
        return None
    each = [round_mechanism(rules, program, site.rows) for site in sites if site.rows]
    spent = [epsilon_of([one] * rounds, promised.delta) for one in each if one is not None]
    return CardPrivacy(
        epsilon=promised.epsilon, delta=promised.delta, spent=max(spent, default=0.0)
    )


def _model(part: Participation, round: int) -> Digest:
    model = part.models().get(round)
    if model is None:
        raise ConfigurationError(f"no model of round {round} is kept here")
    return model
