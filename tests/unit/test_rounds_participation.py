"""A part in a plan, put together: what a new head does to its parts, in which order."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from swarm.blobs.store import BlobStore
from swarm.errors import TrainerError
from swarm.learning.supervisor.trainer_messages import Progress
from swarm.protocol import machine as m
from swarm.protocol.program import Program, Stage, federated_averaging
from swarm.protocol.state import (
    GATHERED_SLOT,
    Candidate,
    Member,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Submission,
)
from swarm.rounds.exchange import Exchange
from swarm.rounds.figures import write_figures
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.participation import Participation, open_participation
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.private_rounds import DataSet
from swarm.rounds.records import Records
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_hex

ME, OTHER, STRANGER = (Address(bytes([number]) * 20) for number in (1, 2, 3))
MEMBERS = {
    MemberId(i): Member(MemberId(i), node, node, f"m{i}") for i, node in enumerate((ME, OTHER))
}
PROGRAM = federated_averaging(9)
MODEL, UPDATE, CODE = (Digest(bytes([number]) * 32) for number in (7, 8, 9))


class DeadTrainer:
    pid = 4711

    async def describe(self) -> object:
        raise TrainerError("the trainer has ended")


class Chain:
    """Knows how one round ended, and refuses every transaction."""

    def __init__(self, past: Round | None = None) -> None:
        self.past = past
        self.sent: list[str] = []

    async def transact(
        self, function: str, *arguments: object, deadline_s: float, try_first: bool
    ) -> object:
        self.sent.append(function)
        await trio.sleep_forever()

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        await trio.lowlevel.checkpoint()
        return self.past


def plan_with(round: Round, model_round: int = 0) -> Plan:
    return Plan(
        PlanId(1), MemberId(0), "p", CODE, PROGRAM.digest, MODEL, Rules(9, 2),
        PlanStatus.RUNNING, 0b11, {}, outputs=(MODEL, NO_DIGEST, NO_DIGEST, NO_DIGEST),
        output_rounds=(model_round, 0, 0, 0), round=round,
    )  # fmt: skip


def part_in(
    directory: Path, chain: Chain, program: Program = PROGRAM
) -> tuple[Participation, Exchange]:
    store = BlobStore(directory / "blobs")
    exchange = Exchange(store, SimpleNamespace(), 10**6)  # type: ignore[arg-type]
    trainer: Any = DeadTrainer()
    part = open_participation(
        PlanId(1),
        MemberId(0),
        b"secret",
        program,
        chain=chain,
        store=store,
        exchange=exchange,
        requests=SimpleNamespace(),  # type: ignore[arg-type]
        carrier=SimpleNamespace(),  # type: ignore[arg-type]
        trainer=trainer,
        holder=trainer,
        records=Records(directory / "records.jsonl"),
        own_model=directory / "own",
        keep_models=2,
        kept_state=directory / "kept",
        privacy=PrivacyLedger(directory / "privacy.jsonl"),
        data_set=DataSet("data", lambda: ""),
        traffic=lambda: (100, 200),
        secrets=MaskedSecrets(directory / "masked", bytes(32)),
        genesis=NO_DIGEST,
    )
    return part, exchange


OPEN = Round(4, 1, RoundStatus.OPEN, opened_at=int(time.time()), roster=0b11)


def test_a_head_tells_where_the_round_stands_and_what_is_needed(tmp_path: Path) -> None:
    part, _ = part_in(tmp_path, Chain())
    assert part.stage is None
    assert not part.knows_needs
    trio.run(part.observe, plan_with(OPEN), MEMBERS, [])
    assert part.stage == (4, 1, RoundStatus.OPEN)
    assert part.knows_needs
    assert part.needed() == {MODEL}
    assert part.plan is None  # the round machine has not seen it yet
    assert part.names() == {0: "m0", 1: "m1"}
    assert part.trainer_pid == 4711


def test_a_round_that_ended_unseen_is_looked_up_and_recorded(tmp_path: Path) -> None:
    won = Candidate(MemberId(1), Outcome(MODEL, 0), 0b11, 1)
    submissions = {
        MemberId(i): Submission(MemberId(i), UPDATE, 5, NO_DIGEST, True) for i in range(2)
    }
    final = Round(
        4, 1, RoundStatus.FINAL, roster=0b11, submitted=0b11, submissions=submissions,
        candidates=[won],
    )  # fmt: skip
    part, _ = part_in(tmp_path, Chain(final))

    async def scenario() -> None:
        await part.observe(plan_with(OPEN), MEMBERS, [])
        part.machine.plan = plan_with(OPEN)
        later = Round(6, 1, RoundStatus.OPEN, opened_at=int(time.time()), roster=0b11)
        await part.observe(plan_with(later, 5), MEMBERS, [])

    trio.run(scenario)
    recorded = {record["round"]: record for record in part.rounds()}
    assert recorded[4]["leader"] == "m1"
    assert recorded[4]["contributors"] == ["m0", "m1"]
    assert 6 in recorded


def test_what_sites_told_of_their_own_models_outlasts_the_file_that_says_it(tmp_path: Path) -> None:
    personal = Stage("personal", "personalise", "sum", 1, GATHERED_SLOT)
    part, exchange = part_in(tmp_path, Chain(), Program((*PROGRAM.stages, personal)))
    file = tmp_path / "figures"
    write_figures(file, {"after": {"auc": 0.75}}, 10)
    told = exchange.store.add(file)
    number = part.program.rounds
    part.records.at(number).model = to_hex(told)
    outputs = (MODEL, NO_DIGEST, NO_DIGEST, told)
    plan = replace(plan_with(OPEN), outputs=outputs, output_rounds=(1, 0, 0, number))
    trio.run(part.observe, plan, MEMBERS, [])
    exchange.store.discard([told])
    trio.run(part.observe, plan, MEMBERS, [])
    assert part.rounds()[-1]["figures"] == {"sites": 1, "after": {"auc": 0.75}}
    assert Records(tmp_path / "records.jsonl").rounds[number].figures is not None


def test_the_exchange_serves_by_the_rules_of_the_plan_as_the_machine_sees_it(
    tmp_path: Path,
) -> None:
    part, exchange = part_in(tmp_path, Chain())
    submitted = {MemberId(i): Submission(MemberId(i), UPDATE, 5, NO_DIGEST, True) for i in range(2)}
    closed = Round(
        4, 1, RoundStatus.CLOSED, closed_at=int(time.time()), roster=0b11, submitted=0b11,
        submissions=submitted, eligible=(MemberId(1),),
    )  # fmt: skip

    def may(reader: Address) -> bool:
        return any(rule(reader, UPDATE) for rule in exchange.rules)

    trio.run(part.observe, plan_with(closed), MEMBERS, [])
    assert not may(OTHER)
    part.machine.handle(m.ChainObserved(plan_with(closed), 0b11), time.time())
    assert may(OTHER)
    assert not may(STRANGER)


@pytest.mark.parametrize(("status", "over"), [(RoundStatus.OPEN, 3), (RoundStatus.FINAL, 4)])
def test_a_head_ends_the_pulls_of_rounds_that_are_over(
    tmp_path: Path, status: RoundStatus, over: int
) -> None:
    part, _ = part_in(tmp_path, Chain())
    ended: list[int] = []
    part.collection.end_rounds = ended.append  # type: ignore[method-assign]
    trio.run(part.observe, plan_with(Round(4, 1, status, roster=0b11)), MEMBERS, [])
    assert ended == [over]


def test_progress_and_events_reach_the_machine_and_its_commands_the_parts(tmp_path: Path) -> None:
    chain = Chain()
    part, _ = part_in(tmp_path, chain)
    full = Round(
        4, 1, RoundStatus.OPEN, opened_at=int(time.time()) - 10**5, roster=0b11, trainers=0b11,
        submitted=0b11,
        min_peers_at=int(time.time()) - 10**5,
    )  # fmt: skip

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.run)
            part.training._progressed(Progress(fraction=0.25, epoch=1, loss=0.5))
            await part.observe(plan_with(full), MEMBERS, [])
            with trio.fail_after(5):
                while not chain.sent:  # noqa: ASYNC110 - the fake tells nobody
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(scenario)
    assert chain.sent == ["close"]
    assert part.machine._permille == 250
    assert part.progress is not None
