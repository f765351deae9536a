"""Privacy is charged before it is used, and once, whatever is killed; and is never forgotten."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel

import swarm
from swarm.blobs.store import BlobStore
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.supervisor.trainer_messages import Rules, Trained
from swarm.node.home.data_set import data_set_in
from swarm.privacy.accountant import epsilon_of
from swarm.privacy.charges import Budget, Charged, Made
from swarm.privacy.guarantee import Mechanism
from swarm.protocol import machine as m
from swarm.protocol import state
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Consent, Plan, PlanStatus, Round, RoundStatus, Submission
from swarm.rounds.inbox import Inbox
from swarm.rounds.kept_state import KeptState
from swarm.rounds.metas import Meta, decode_meta, encode_meta
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.private_rounds import DataSet, PrivateRounds
from swarm.rounds.records import Records
from swarm.rounds.retention import PlanBlobs
from swarm.rounds.streams import Streams
from swarm.rounds.training import Training
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId, to_hex

ME, PLAN, ROUNDS, ROWS = MemberId(1), PlanId(7), 4, 200
PROGRAM = federated_averaging(ROUNDS)
BASE, OTHER = Digest(b"\x01" * 32), Digest(b"\x02" * 32)
PROMISE = swarm.dp(epsilon=2)
RULES = Rules(
    rounds=ROUNDS, min_peers=2, verify="auto", max_round_s=60.0, seed=0, epochs=1, batch_size=20,
    optimizer_state="reset", threads=1, privacy=PROMISE,
)  # fmt: skip
STEPS = Mechanism(noise=1.0, rate=0.1, steps=10)


def charged(number: int = 1, **changes: Any) -> Charged:
    fields = {
        "plan": PLAN, "round": number, "base": to_hex(BASE), "data_set": "data", "data": "ab",
        "mechanism": STEPS,
    }  # fmt: skip
    return Charged(**(fields | changes))


def plan_at(round: Round | None = None) -> Plan:
    consent = Consent(ME, 1, ROWS, NO_DIGEST)
    return Plan(
        PLAN, ME, "p", NO_DIGEST, PROGRAM.digest, BASE, state.Rules(ROUNDS, 2), PlanStatus.RUNNING,
        0b11, {ME: consent}, round=round,
    )  # fmt: skip


class Nothing:
    """A chain on which this plan has no round yet."""

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        return None


def private_in(folder: Path, budget: float | None = None, chain: Any = None) -> PrivateRounds:
    """As after a start: all that it knows is on the disk."""
    return PrivateRounds(
        PLAN,
        ME,
        PROGRAM,
        BlobStore(folder / "blobs"),
        chain or Nothing(),
        PrivacyLedger(folder / "privacy.jsonl", Budget(budget)),
        DataSet("data", lambda: "ab"),
        plan_at,
    )


class Trainer:
    """Writes another update each time, as chance does; may be killed at its first step."""

    pid = None

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.is_killed = False

    async def describe(self) -> Any:
        return SimpleNamespace(keeps_state=False, rules=RULES)

    async def train(self, round: int, base: Path, out: Path, **rest: Any) -> Trained:
        self.asked.append(rest["noise"])
        if self.is_killed:
            raise KeyboardInterrupt
        with create_file(out, Layout.from_specs([TensorSpec("n", "F64", (1,))])) as file:
            file["n"][...] = len(self.asked)
        return Trained(samples=187, steps=10, loss=0.5, metrics={}, train_s=1.0, resumed_epochs=0)


async def no_initial() -> None:
    return None


def train(
    folder: Path,
    trainer: Trainer,
    number: int = 1,
    base: Digest = BASE,
    budget: float | None = None,
) -> m.Event:
    """One training in a process of its own, so to speak."""
    nobody: Any = None
    private = private_in(folder, budget)
    records = Records(folder / "records.jsonl")
    collection: Any = SimpleNamespace(initial_model=no_initial)
    told: Any = trainer
    training = Training(
        PLAN, ME, told, private.store, collection, PlanBlobs(private.store, records, PROGRAM, 1),
        KeptState(ME, folder / "kept", nobody), records, Inbox(), private,
        Streams(*(nobody for _ in range(8))), nobody, folder / "own",
    )  # fmt: skip
    return trio.run(training.train, m.Train(number, 1, "train", base, NO_DIGEST, number))


# Before the first step.


def test_a_round_is_charged_on_disk_before_the_trainer_is_asked(tmp_path: Path) -> None:
    trainer = Trainer()
    trainer.is_killed = True
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, trainer)
    (charge,) = PrivacyLedger(tmp_path / "privacy.jsonl").charges_of(PLAN)
    assert (charge.round, charge.base, charge.mechanism) == (1, to_hex(BASE), trainer.asked[0])


def test_kills_and_resumes_spend_nothing_twice_and_never_nothing(tmp_path: Path) -> None:
    trainer = Trainer()
    for number in range(1, ROUNDS + 1):
        trainer.is_killed = True
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path, trainer, number)
        trainer.is_killed = False
        made = train(tmp_path, trainer, number)
        asked = len(trainer.asked)
        assert train(tmp_path, trainer, number) == made  # a later attempt, or after a start
        assert len(trainer.asked) == asked
    ledger = PrivacyLedger(tmp_path / "privacy.jsonl")
    assert len(ledger.charges_of(PLAN)) == ROUNDS
    assert 0.98 * PROMISE.epsilon < ledger.spent("data", "") <= PROMISE.epsilon


def test_an_update_that_was_lost_after_it_may_have_left_is_charged_again(tmp_path: Path) -> None:
    trainer = Trainer()
    first = train(tmp_path, trainer)
    assert isinstance(first, m.TrainingFinished)
    BlobStore(tmp_path / "blobs").discard([first.update])
    second = train(tmp_path, trainer)
    assert isinstance(second, m.TrainingFinished)
    assert second.update != first.update
    assert len(PrivacyLedger(tmp_path / "privacy.jsonl").charges_of(PLAN)) == 2


def test_the_same_round_on_another_base_is_another_charge(tmp_path: Path) -> None:
    trainer = Trainer()
    train(tmp_path, trainer, base=BASE)
    train(tmp_path, trainer, base=OTHER)
    assert len(PrivacyLedger(tmp_path / "privacy.jsonl").charges_of(PLAN)) == 2


def test_an_update_weighs_what_the_site_declared_and_tells_what_was_spent(tmp_path: Path) -> None:
    made = train(tmp_path, Trainer())
    assert isinstance(made, m.TrainingFinished)
    assert made.samples == ROWS  # and not 187
    raw = BlobStore(tmp_path / "blobs").path(made.meta).read_bytes()
    meta = decode_meta(raw)
    assert isinstance(meta.epsilon, float)
    assert 0 < meta.epsilon < PROMISE.epsilon
    assert meta.delta == PROMISE.delta
    plain = encode_meta(Meta(to_hex(BASE), "train"))
    assert b"epsilon" not in plain
    assert decode_meta(plain) == Meta(to_hex(BASE), "train")


# The budget of a data set.


def test_a_spent_budget_ends_the_plan_with_one_sentence_and_trains_nothing(tmp_path: Path) -> None:
    trainer = Trainer()
    assert isinstance(train(tmp_path, trainer, 1, budget=1.5), m.TrainingFinished)
    event = train(tmp_path, trainer, 2, budget=1.0)
    assert isinstance(event, m.TrainingFailed)
    assert event.fault_of_plan
    assert "`privacy.epsilon` in node.toml allows 1" in event.reason
    assert len(trainer.asked) == 1


def test_plans_of_the_same_rows_share_their_budget_under_whatever_name(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "p.jsonl", Budget(5.0))
    ledger.charge(charged(plan=1))
    ledger.charge(charged(plan=2, data="cd"))
    both = epsilon_of([STEPS, STEPS], 1e-5)
    assert ledger.spent("data", "") == both
    assert ledger.spent("renamed", "ab") == epsilon_of([STEPS], 1e-5)
    assert ledger.spent("of others", "ef") == 0
    with pytest.raises(PlanError, match=r"has spent ε = .* over all plans"):
        ledger.charge(charged(plan=3, mechanism=Mechanism(noise=0.5, rate=0.5, steps=50)))
    assert ledger.spent("data", "") == both


def test_what_is_spent_only_grows_on_disk_and_a_torn_last_line_was_not_used(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    PrivacyLedger(path).charge(charged())
    path.write_bytes(path.read_bytes() + b'{"type":"Charged","pl')
    again = PrivacyLedger(path)
    assert len(again.charges_of(PLAN)) == 1
    again.charge(charged(2))
    assert [c.round for c in PrivacyLedger(path).charges_of(PLAN)] == [1, 2]


def test_a_list_that_cannot_be_read_is_refused_because_more_may_be_spent(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"type":"Charged"}\n')
    with pytest.raises(ConfigurationError, match="line 1, is no line of the list"):
        PrivacyLedger(path)


# After a backup.


class Chain:
    """In round 1, attempts 1 and 2 each had an update of this site; in round 2, none."""

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None:
        if number != 1 or attempt > 2:
            return None
        sent = Submission(ME, Digest(bytes([attempt]) * 32), ROWS, NO_DIGEST, True)
        return Round(1, attempt, RoundStatus.FINAL, base=BASE, submissions={ME: sent})


def test_a_list_from_an_older_copy_is_brought_up_to_what_the_chain_shows(tmp_path: Path) -> None:
    now = plan_at(Round(2, 1, RoundStatus.OPEN))
    for known in range(3):
        folder = tmp_path / str(known)
        private = private_in(folder, chain=Chain())
        for number in range(known):
            private.list_of_charges.add(charged())
            made = Made(plan=PLAN, round=1, base=to_hex(BASE), update=f"0x{number}", meta="")
            private.list_of_charges.add(made)
        trio.run(private.recount, now, RULES)
        trio.run(private_in(folder, chain=Chain()).recount, now, RULES)
        charges = PrivacyLedger(folder / "privacy.jsonl").charges_of(PLAN)
        assert [c.from_chain for c in charges] == [False] * known + [True] * (2 - known)


def test_a_charge_known_from_the_chain_covers_no_new_training(tmp_path: Path) -> None:
    ledger = PrivacyLedger(tmp_path / "p.jsonl")
    ledger.add(charged(from_chain=True))
    ledger.charge(charged())
    ledger.charge(charged())
    assert [c.from_chain for c in ledger.charges_of(PLAN)] == [True, False]


# The digest of the rows.


def test_the_digest_of_a_data_set_follows_its_bytes_and_not_their_place(tmp_path: Path) -> None:
    folder, moved = tmp_path / "a", tmp_path / "b"
    for each, name in ((folder, "x.csv"), (moved, "y.csv")):
        each.mkdir()
        (each / name).write_text("1,2\n")
    one, two = (data_set_in("d", f).digest for f in (folder, moved))
    assert one() == two()
    (moved / "y.csv").write_text("1,2\n3,4\n")
    assert one() != two()
    assert data_set_in("d", None).digest() == ""
