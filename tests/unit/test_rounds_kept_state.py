"""What a site keeps becomes current with its round, and with nothing else, whoever is killed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from swarm.errors import LocalError
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import (
    Candidate,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    Submission,
)
from swarm.rounds.kept_state import KeptState
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

ME = MemberId(1)
ALL = 0b111
BASE = Digest(b"b" * 32)


def update(number: int, which: int = 0) -> Digest:
    return Digest(bytes([number, which]) * 16)


def round_of(
    number: int,
    status: RoundStatus = RoundStatus.FINAL,
    *,
    attempt: int = 1,
    omitted: int = 0,
    mine: Digest | None = None,
) -> Round:
    mine = mine or update(number)
    submissions = {
        MemberId(i): Submission(
            MemberId(i), mine if i == ME else update(number, 9 + i), 5, NO_DIGEST, True
        )
        for i in range(3)
    }
    candidate = Candidate(MemberId(0), Outcome(BASE, omitted), ALL, 0)
    return Round(
        number, attempt, status, roster=ALL, trainers=ALL, submitted=ALL, base=BASE,
        submissions=submissions, candidates=[candidate],
    )  # fmt: skip


def plan_at(round: Round) -> Plan:
    program = federated_averaging(9)
    return Plan(
        PlanId(1), MemberId(0), "p", BASE, program.digest, BASE, Rules(9, 2),
        PlanStatus.RUNNING, ALL, {}, round=round,
    )  # fmt: skip


@dataclass
class Chain:
    past: dict[tuple[int, int], Round] = field(default_factory=dict)
    asked: int = 0

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self.past.get((number, attempt))


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def kept(tmp_path: Path, chain: Chain) -> KeptState:
    return KeptState(ME, tmp_path / "kept", chain)


def train(kept: KeptState, number: int, made: Digest | None = None, text: str = "") -> None:
    kept.scratch().write_text(text or f"after {number}")
    kept.note(number, made or update(number))


def see(kept: KeptState, round: Round, *ended: Round) -> None:
    trio.run(kept.observe, plan_at(round), ALL, list(ended))


def current(kept: KeptState) -> str | None:
    return None if kept.current is None else kept.current.read_text()


def files(kept: KeptState) -> list[str]:
    return sorted(path.name.split("-")[0] for path in kept.folder.iterdir())


def test_what_is_left_is_pending_until_the_round_is_final(kept: KeptState) -> None:
    train(kept, 1)
    for status in (RoundStatus.OPEN, RoundStatus.CLOSED):
        see(kept, round_of(1, status))
        assert current(kept) is None
    see(kept, round_of(1))
    assert current(kept) == "after 1"
    assert files(kept) == ["current.safetensors"]


def test_a_site_that_was_left_out_goes_on_from_what_it_had(kept: KeptState) -> None:
    train(kept, 1)
    see(kept, round_of(1))
    train(kept, 2)
    see(kept, round_of(2, omitted=1 << ME))
    assert current(kept) == "after 1"
    assert files(kept) == ["current.safetensors"]


def test_of_two_trainings_of_a_round_the_submitted_one_counts(kept: KeptState) -> None:
    train(kept, 1, update(1, 1), "first")
    train(kept, 1, update(1, 2), "second")
    see(kept, round_of(1, mine=update(1, 1)))
    assert current(kept) == "first"
    assert files(kept) == ["current.safetensors"]


def test_a_node_that_was_down_when_its_round_ended_asks_the_chain(
    kept: KeptState, chain: Chain
) -> None:
    train(kept, 1)
    chain.past[1, 1] = round_of(1, RoundStatus.VOID)
    chain.past[1, 2] = round_of(1, attempt=2)
    again = KeptState(ME, kept.folder, chain)  # another life of the node
    see(again, round_of(4, RoundStatus.OPEN))
    assert current(again) == "after 1"
    asked = chain.asked
    see(again, round_of(5, RoundStatus.OPEN))
    assert chain.asked == asked  # nothing is pending


def test_rounds_that_ended_between_two_looks_settle_in_their_order(
    kept: KeptState, chain: Chain
) -> None:
    train(kept, 1)
    train(kept, 2)
    see(kept, round_of(3, RoundStatus.OPEN), round_of(2), round_of(1))
    assert current(kept) == "after 2"
    assert chain.asked == 0


def test_a_kill_in_the_middle_leaves_the_last_whole_file(kept: KeptState) -> None:
    train(kept, 1)
    see(kept, round_of(1))
    kept.scratch().write_text("half")  # killed while it trained: nobody noted it
    see(kept, round_of(2))
    assert current(kept) == "after 1"
    assert not kept.scratch().exists()


def test_no_training_begins_from_what_is_about_to_be_replaced(
    kept: KeptState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(kept, 1)
    kept.check_settled(1)
    with pytest.raises(LocalError, match="not in its place yet"):
        kept.check_settled(2)

    def full(*_: object) -> None:
        raise LocalError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(KeptState, "_settle", full)
        see(kept, round_of(1))
    assert "the disk is full" in caplog.text
    with pytest.raises(LocalError, match="not in its place yet"):
        kept.check_settled(2)
    see(kept, round_of(2, RoundStatus.OPEN), round_of(1))
    kept.check_settled(2)
    assert current(kept) == "after 1"


def test_files_of_another_name_are_left_alone(kept: KeptState) -> None:
    train(kept, 1)
    (kept.folder / "pending-x-y.safetensors").write_text("?")
    (kept.folder / "notes.txt").write_text("mine")
    see(kept, round_of(1))
    assert (kept.folder / "notes.txt").exists()
    assert current(kept) == "after 1"
