"""What members put on the chain, or an external chain holds, that no release of ours wrote.

Names that are no UTF-8, values that this release does not know, programs that no code has: each is
shown as what it is, hides nothing else, and ends no node.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from harness.evm import EvmContract
from harness.joined import joined_plans

from swarm.chain import contract
from swarm.chain.contract import MAX_TEXT_BYTES, UnreadableAnswer
from swarm.errors import ChainError, PeerUnreachable, PlanError
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.node.chain.link import ChainLink
from swarm.node.chain.seen import Seen
from swarm.node.commands.members import MemberCommands
from swarm.node.commands.plans import PlanCommands
from swarm.node.plans.joined import JoinedPlans
from swarm.protocol.membership import Founder, Kind
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Consent, Duty, Member, Plan, Rules, VerifyLevel
from swarm.rounds.participation import Participation
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

ANNA, MALLORY = (Address(bytes([number]) * 20) for number in (1, 2))
NOT_UTF8 = b"\xff\xfe" + b"N" * 6
CODE, BASE = (Digest(bytes([number]) * 32) for number in (1, 2))
PROGRAM = federated_averaging(5)
RULES = Rules(rounds=5, min_peers=2, verify_level=VerifyLevel.FULL)


# Reading.


@pytest.fixture(scope="module")
def book() -> EvmContract:
    """Two members, two plans and a proposal, some of them called NAMENAME."""
    founders = [Founder(ANNA, ANNA, "anna"), Founder(MALLORY, MALLORY, "NAMENAME")]
    book = EvmContract(founders)
    for name in ("NAMENAME", "honest"):
        what = (name, CODE, PROGRAM.digest, BASE, RULES, 0, 0)
        book.send(MALLORY, 10, "proposePlan", *what)
    fresh = Address(bytes([9]) * 20)
    book.send(MALLORY, 10, "propose", Kind.ADMIT, fresh, fresh, "NAMENAM2", 0, 0)
    book.send(ANNA, 10, "propose", Kind.REMOVE, bytes(20), bytes(20), "", 1, 0)
    return book


def answer(book: EvmContract, function: str, *arguments: object, name: bytes = NOT_UTF8) -> Any:
    """The contract's answer, as a chain gives it that let another name in."""
    raw = book._execute(ANNA, 10, contract.call_data(function, *arguments))
    for old in (b"NAMENAME", b"NAMENAM2"):
        raw = raw.replace(old, name)
    return contract.result(function, raw)


def test_names_that_are_no_utf8_are_read_with_marks_in_their_place(book: EvmContract) -> None:
    shown = "\ufffd\ufffdNNNNNN"
    assert contract.snapshot(answer(book, "getSnapshot", 1)).plan.name == shown
    assert [m.name for m in contract.members(answer(book, "getMembers", 0, 8)).values()] == [
        "anna",
        shown,
    ]
    proposal = contract.proposals(answer(book, "getProposals", 1, 8), 1)[1]
    assert not isinstance(proposal, UnreadableAnswer)
    assert proposal.name == shown


@pytest.mark.parametrize("raw", [b"\xed\xa0\x80ab\0\x1b[", b"\0" * 8, b"\xe2\x80\xae" + b"x" * 5])
def test_whatever_eight_bytes_a_name_has_it_is_text_that_travels_on(
    book: EvmContract, raw: bytes
) -> None:
    name = contract.snapshot(answer(book, "getSnapshot", 1, name=raw)).plan.name
    assert name.encode("utf-8")


def test_a_name_without_end_is_read_as_far_as_its_bound() -> None:
    text = contract._codec.decode(["string"], contract._codec.encode(["bytes"], [b"x" * 100_000]))
    assert text == ("x" * MAX_TEXT_BYTES + "…",)


def test_a_proposal_of_a_kind_that_nobody_knows_hides_no_other(book: EvmContract) -> None:
    rows = [list(row) for row in answer(book, "getProposals", 1, 8)]
    rows[0][0] = 200
    found = contract.proposals(rows, 1)
    assert isinstance(found[1], UnreadableAnswer)
    assert "200" in str(found[1])
    assert not isinstance(found[2], UnreadableAnswer)


# Following.


def plan_number(number: int, program: Digest = PROGRAM.digest) -> Plan:
    consents = {MemberId(0): Consent(MemberId(0), Duty.TRAIN, 100, NO_DIGEST)}
    return Plan(
        PlanId(number), MemberId(1), f"plan{number}", CODE, program, BASE, RULES,
        participants=1, consents=consents,
    )  # fmt: skip


class Client:
    """Three plans, of which the second cannot be read; and three proposals, likewise."""

    def __init__(self, fails_with: ChainError | None = None) -> None:
        self.error = fails_with or UnreadableAnswer("200 is not a valid PlanStatus")

    def head(self) -> tuple[int, int]:
        return 10, 60

    def call(self, function: str, height: int) -> int:
        assert function == "planCount"
        return 3

    def plan_count(self) -> int:
        return 3

    def plan(self, number: PlanId, height: int) -> Plan:
        if number == 2:
            raise self.error
        return plan_number(number)

    def snapshot(self, number: PlanId) -> Any:
        return SimpleNamespace(plan=self.plan(number, 10))

    def members(self) -> dict[MemberId, Member]:
        return {MemberId(i): Member(MemberId(i), a, a, f"m{i}") for i, a in enumerate((ANNA,))}

    def proposals(self) -> dict[int, Any]:
        raw = EvmContract([Founder(ANNA, ANNA, "anna"), Founder(MALLORY, MALLORY, "m")])
        raw.send(ANNA, 10, "propose", Kind.REMOVE, bytes(20), bytes(20), "", 1, 0)
        return {1: raw.proposals()[1], 2: UnreadableAnswer("200 is not a valid Kind")}


def link(client: Client | None = None) -> ChainLink:
    async def wait(above: int) -> int:
        raise AssertionError("nobody waits here")

    return ChainLink(client or Client(), wait)  # type: ignore[arg-type]


def test_a_plan_that_cannot_be_read_is_told_and_hides_no_other() -> None:
    news = trio.run(link().news, -1, {}, {})
    assert list(news.plans) == [1, 3]
    assert news.unreadable == {2: "200 is not a valid PlanStatus"}


def test_an_endpoint_that_does_not_answer_makes_no_plan_unreadable() -> None:
    silent = link(Client(ChainError("the endpoint does not answer")))
    with pytest.raises(ChainError, match="does not answer"):
        trio.run(silent.news, -1, {}, {})


def test_plans_that_can_be_read_are_listed_beside_one_that_cannot() -> None:
    nothing: Any = None
    programs: Any = SimpleNamespace(find=lambda digest: None)
    commands = PlanCommands(link(), nothing, programs, *[nothing] * 8)
    listed: Any = trio.run(commands.plans)
    assert [p.get("name", p.get("unreadable")) for p in listed] == [
        "plan1",
        "200 is not a valid PlanStatus",
        "plan3",
    ]


def test_proposals_that_can_be_read_are_listed_beside_one_that_cannot() -> None:
    listed: Any = trio.run(MemberCommands(link()).members)
    assert listed["proposals"][0]["what"].startswith("remove")
    assert listed["proposals"][1] == {"id": 2, "unreadable": "200 is not a valid Kind"}


# Taking part.


class Trainer:
    """Describes a plan of five rounds, or raises."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def describe(self) -> Loaded:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        return SimpleNamespace(program=PROGRAM.blob)  # type: ignore[return-value]


class Part(Participation):
    """A participation of which only what the node asks of it is there."""

    def __init__(self, machine: Any, driver: Any) -> None:
        nothing: Any = SimpleNamespace()
        super().__init__(machine, driver, *[nothing] * 14)
        self.blobs: Any = SimpleNamespace(are_known=False)
        self.observed = 0

    async def observe(self, plan: Plan, members: Any, ended: Any) -> None:
        """Count, as long as it is not halted."""
        self.observed += self._fault is None


def plans_with(*errors: Exception | None) -> JoinedPlans:
    """A node that knows two members, and trainers that raise these, one a plan."""
    trainers = iter([Trainer(error) for error in errors])

    async def of(code: Digest) -> Trainer:
        return next(trainers)

    async def bring(digest: Digest, *_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise PeerUnreachable("nobody sent the program")

    programs = SimpleNamespace(bring=bring, add=lambda program: None)
    return joined_plans(Seen(ANNA, Client().members()), of, programs=programs)


async def join(joined: JoinedPlans, *plans: Plan) -> None:
    async with trio.open_nursery() as nursery:
        for plan in plans:
            joined.seen.plans[plan.id] = plan
            await joined.observe(plan, [], nursery)
            await trio.testing.wait_all_tasks_blocked()


def test_a_plan_with_a_program_that_no_release_knows_ends_no_node() -> None:
    joined = plans_with(None, PlanError("plan.py raises KeyError"))
    trio.run(join, joined, plan_number(1, Digest(b"?" * 32)), plan_number(2))
    assert "stages other than its code says" in joined.refused[PlanId(1)]
    assert joined.refused[PlanId(2)] == "plan.py raises KeyError"


def test_a_fault_that_nobody_thought_of_halts_one_plan_with_a_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    joined = plans_with(KeyError("odd"), PlanError("plan.py raises ValueError"))
    trio.run(join, joined, plan_number(1), plan_number(2))
    assert "KeyError: 'odd'" in joined.refused[PlanId(1)]
    assert "please report it" in joined.refused[PlanId(1)]
    assert joined.refused[PlanId(2)] == "plan.py raises ValueError"
    told = [r for r in caplog.records if "plan 1 is halted" in r.message]
    assert len(told) == 1
    assert told[0].levelno == logging.ERROR
    assert told[0].exc_info is not None


@pytest.fixture
def part() -> Part:
    """Runs until an event comes, and then fails as no code of ours should."""

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep(0.01)
            raise ZeroDivisionError("division by zero")

    machine = SimpleNamespace(plan=plan_number(1), halted=None)
    return Part(machine, SimpleNamespace(run=run))


def test_a_task_of_a_plan_that_fails_halts_it_and_what_comes_later_is_not_taken_in(
    part: Part,
) -> None:
    joined = plans_with()

    async def scenario() -> None:
        joined.parts[PlanId(1)] = part
        async with trio.open_nursery() as nursery:
            with joined.contained(PlanId(1)):
                await part.run()
            assert part.halted is not None
            assert "ZeroDivisionError: division by zero" in part.halted
            for _ in range(1000):  # an inbox that nobody empties has room for fewer
                await joined.observe(plan_number(1), [], nursery)
        assert part.observed == 0
        assert part.knows_needs
        assert joined.refused == {}

    trio.run(scenario)


def test_a_fault_while_a_block_is_taken_in_ends_that_plans_work_only(part: Part) -> None:
    joined = plans_with()

    async def fail(*arguments: object) -> None:
        raise TypeError("unsupported")

    async def scenario() -> None:
        part.driver = SimpleNamespace(run=trio.sleep_forever)  # type: ignore[assignment]
        part.observe = fail  # type: ignore[method-assign]
        joined.parts[PlanId(1)] = part
        async with trio.open_nursery() as nursery:
            nursery.start_soon(part.run)
            await joined.observe(plan_number(1), [], nursery)
            # The nursery ends by itself: the work of the halted plan does.
        assert "TypeError: unsupported" in str(part.halted)

    trio.run(scenario)


def test_a_chain_that_does_not_answer_halts_no_plan(part: Part) -> None:
    joined = plans_with()

    async def fail(*arguments: object) -> None:
        raise ChainError("the endpoint does not answer")

    async def scenario() -> None:
        part.observe = fail  # type: ignore[method-assign]
        joined.parts[PlanId(1)] = part
        async with trio.open_nursery() as nursery:
            await joined.observe(plan_number(1), [], nursery)

    with pytest.raises(ExceptionGroup) as raised:
        trio.run(scenario)
    assert raised.group_contains(ChainError)
    assert part.halted is None
