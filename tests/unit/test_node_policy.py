"""What a site's policy refuses of a plan, and in which words."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from eth_account import Account
from harness.admission import OWN, admission_by
from harness.joined import joined_plans
from msgspec import structs

from swarm.errors import ConfigurationError, LocalError, PeerUnreachable
from swarm.learning.code.import_reader import Import
from swarm.learning.supervisor.trainer_messages import Loaded, Rules, Tensor
from swarm.node.chain.seen import Seen
from swarm.node.consent.answering import RETRY_S, Answering
from swarm.node.consent.confirmations import sign
from swarm.node.home.config import Policy, load_config
from swarm.privacy.charges import Budget
from swarm.privacy.guarantee import Guarantee, dp
from swarm.protocol import state
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Member, Plan, PlanStatus
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId, to_hex

KYOTO = Member(MemberId(1), Address(b"\x01" * 20), Address(b"\x01" * 20), "Kyoto")
MARY = Member(MemberId(0), OWN, OWN, "St. Mary")
MEMBERS = {m.id: m for m in (KYOTO, MARY)}


def plan_of(number: int = 3, rounds: int = 20, **changes: Any) -> Plan:
    fields: dict[str, Any] = {"status": PlanStatus.PROPOSED, "consents": {}} | changes
    return Plan(
        PlanId(number), KYOTO.id, "Heart", Digest(b"\x05" * 32), NO_DIGEST, Digest(b"\x06" * 32),
        state.Rules(rounds, 2), fields["status"], 0b11, fields["consents"],
        declined=changes.get("declined", 0),
    )  # fmt: skip


def loaded_with(shape: tuple[int, ...]) -> Loaded:
    rules = Rules(
        rounds=20, min_peers=2, verify="auto", max_round_s=60.0, seed=0, epochs=1, batch_size=1,
        optimizer_state="reset", threads=1,
    )  # fmt: skip
    tensor = Tensor(name="w", dtype="F32", shape=shape)
    return Loaded(
        name="Heart", digest=b"", rules=rules, program=b"", tensors=(tensor,), device="cpu"
    )


# One sentence each: the value, the place and the remedy.


def test_nothing_is_refused_without_a_policy() -> None:
    policy = admission_by().policy
    assert policy.of_proposal(plan_of(rounds=10**6), KYOTO) == []
    assert policy.of_imports([Import("socket", "plan.py", 1)]) == []
    assert policy.of_description(loaded_with((10**9,))) == []
    assert policy.of_rows(1) == []


def test_a_proposer_whom_the_policy_does_not_name_is_refused() -> None:
    policy = admission_by(Policy(proposers=("Charité",))).policy
    (refusal,) = policy.of_proposal(plan_of(), KYOTO)
    assert refusal == (
        "plan 3 was proposed by Kyoto, whom `policy.proposers` in hospital/node.toml does not "
        "name: add the name there and restart the node, or `swarm plan decline 3`"
    )
    for named in (("Kyoto",), (to_hex(KYOTO.account),)):
        assert admission_by(Policy(proposers=named)).policy.of_proposal(plan_of(), KYOTO) == []


def test_more_rounds_than_the_policy_allows_are_refused() -> None:
    policy = admission_by(Policy(max_rounds=10)).policy
    (refusal,) = policy.of_proposal(plan_of(rounds=20), KYOTO)
    assert (
        "plan 3 has 20 rounds, and `policy.max_rounds` in hospital/node.toml allows 10" in refusal
    )
    assert policy.of_proposal(plan_of(rounds=10), KYOTO) == []


def test_imports_that_the_policy_does_not_name_are_refused_with_their_places() -> None:
    policy = admission_by(Policy(imports=("torch", "numpy.linalg"))).policy
    allowed = [
        Import("torch.nn", "plan.py", 1),
        Import("numpy", "plan.py", 2, ("linalg",)),
        Import("numpy.linalg", "plan.py", 3, ("inv",)),
        Import("__future__", "plan.py", 4, ("annotations",)),
    ]
    assert policy.of_imports(allowed) == []
    foreign = [Import("numpy", "plan.py", 5), Import("torchvision", "net.py", 6)]
    (refusal,) = policy.of_imports([*allowed, *foreign])
    assert "imports numpy (plan.py:5), torchvision (net.py:6), which `policy.imports`" in refusal
    (many,) = policy.of_imports([Import(f"m{i}", "plan.py", i) for i in range(100)])
    assert "and 95 more" in many


def test_an_update_that_is_larger_than_the_policy_allows_is_refused() -> None:
    policy = admission_by(Policy(max_round_mb=1.0)).policy
    (refusal,) = policy.of_description(loaded_with((500, 1000)))
    assert "an update of Heart has 2008192 bytes" in refusal
    assert "`policy.max_round_mb` in hospital/node.toml allows 1 MB" in refusal
    assert policy.of_description(loaded_with((200, 1000))) == []


def test_a_site_with_few_rows_does_not_train_but_may_test() -> None:
    policy = admission_by(Policy(min_rows=50)).policy
    assert "has 49 training rows" in policy.of_rows(49)[0]
    assert policy.of_rows(50) == policy.of_rows(0) == []


def test_what_holds_while_a_plan_runs_is_in_the_units_of_the_rounds() -> None:
    policy = Policy(max_round_minutes=1.5, max_round_mb=0.5, min_rows=7, min_count=10)
    limits = admission_by(policy).site_limits
    assert (limits.train_s, limits.round_bytes) == (90.0, 500_000)
    assert (limits.min_rows, limits.min_count) == (7, 10)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('consent = "automatic"', "`policy.proposers` and `policy.imports` must say to what"),
        ('consent = "automatic"\nproposers = ["Kyoto"]', "`policy.imports` must say to what"),
        (
            'consent = "automatic"\nproposers = ["Kyoto"]\nimports = ["torch"]\n'
            f'confirmers = ["0x{"01" * 20}"]',
            "asks for a second person",
        ),
        ('consent = "always"', "`policy.consent`"),
        ('confirmers = ["anna"]', "`swarm plan signer FILE` makes an account"),
        ('imports = ["torch nn"]', "`policy.imports[0]`"),
        ("max_rounds = 0", "`policy.max_rounds`"),
        ("max_round_mb = 0", "`policy.max_round_mb`"),
        ("min_count = -1", "`policy.min_count`"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused_at_start(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "node.toml").write_text(f'name = "x"\n[policy]\n{text}\n')
    with pytest.raises(ConfigurationError) as raised:
        load_config(tmp_path)
    assert words in str(raised.value)


# A second person's word.

ANNA, EVE = (Account.from_key(bytes([n]) * 32) for n in (1, 2))


def test_a_plan_needs_a_second_persons_word_where_the_policy_names_one(
    tmp_path: Path,
) -> None:
    policy = Policy(confirmers=(ANNA.address,))
    admission, plan = admission_by(policy, tmp_path), plan_of()
    with pytest.raises(ConfigurationError, match=r"asks for a second person's word on plan 3"):
        admission.require_proposal(plan, MEMBERS)
    words = admission.confirmations
    sentence = words.sentence(plan)
    assert "that St. Mary takes part in plan 3 (Heart)" in sentence
    assert to_hex(plan.digest) in sentence
    with pytest.raises(ConfigurationError, match=f"signed by {EVE.address.lower()}"):
        words.add(plan, sign(sentence, bytes(EVE.key)))
    with pytest.raises(ConfigurationError, match="no signature of 65 bytes"):
        words.add(plan, "0x1234")
    with pytest.raises(ConfigurationError, match="asks for a second person"):
        admission.require_proposal(plan, MEMBERS)
    assert to_hex(words.add(plan, sign(sentence, bytes(ANNA.key)))) == ANNA.address.lower()
    admission_by(policy, tmp_path).require_proposal(plan, MEMBERS)  # also after a restart


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (PlanStatus.RUNNING, "asks for a second person's word on plan 3"),
        (PlanStatus.COMPLETED, "its part was opened"),
        (PlanStatus.STOPPED, "its part was opened"),
    ],
)
def test_a_policy_that_is_changed_hides_no_plan_that_is_over(
    tmp_path: Path, status: PlanStatus, words: str
) -> None:
    async def bring(*_: object) -> Any:
        return federated_averaging(20)

    async def open_part(*_: object) -> Any:
        raise LocalError("its part was opened")

    async def scenario() -> str:
        consent: Any = None
        plan = plan_of(status=status, consents={MARY.id: consent})
        joined = joined_plans(
            Seen(OWN, MEMBERS, {plan.id: plan}), programs=SimpleNamespace(bring=bring)
        )
        joined.admission = admission_by(Policy(confirmers=(ANNA.address,)), tmp_path)
        joined.open_part = open_part
        async with trio.open_nursery() as nursery:
            await joined.observe(plan, [], nursery)
        return joined.refused[plan.id]

    assert words in trio.run(scenario)


def test_the_word_is_about_one_plan_its_code_and_its_rules(tmp_path: Path) -> None:
    policy = Policy(confirmers=(ANNA.address,))
    admission = admission_by(policy, tmp_path)
    words = admission.confirmations
    words.add(plan_of(), sign(words.sentence(plan_of()), bytes(ANNA.key)))
    for other in (plan_of(number=4), plan_of(rounds=21)):
        with pytest.raises(ConfigurationError, match="second person"):
            admission.require_proposal(other, MEMBERS)
    other_site = admission_by(Policy(confirmers=(EVE.address,)), tmp_path)
    with pytest.raises(ConfigurationError, match="second person"):
        other_site.require_proposal(plan_of(), MEMBERS)


@pytest.mark.parametrize("text", [b"", b"{", b'{"signatures": [3]}', b'{"signatures": ["0xaa"]}'])
def test_a_damaged_confirmation_is_none(tmp_path: Path, text: bytes) -> None:
    admission = admission_by(Policy(confirmers=(ANNA.address,)), tmp_path)
    (tmp_path / "confirmations").mkdir()
    (tmp_path / "confirmations" / "plan-3.json").write_bytes(text)
    assert admission.confirmations.missing(plan_of())


# Consent by policy.


class Consenting:
    """Fails so many times, as a node does whose peers are away; then raises, or not."""

    def __init__(self, failures: int = 0, refusal: str = "") -> None:
        self.failures, self.refusal = failures, refusal
        self.asked: list[int] = []

    async def __call__(self, plan: PlanId, path: str | None) -> object:
        self.asked.append(plan)
        await trio.lowlevel.checkpoint()
        if len(self.asked) <= self.failures:
            raise PeerUnreachable("nobody has the code yet")
        if self.refusal:
            raise ConfigurationError(self.refusal)
        return {}


def observed(policy: Policy, consenting: Consenting | None, *plans: Plan) -> Answering:
    seen = Seen(OWN, dict(MEMBERS))
    answering = Answering(seen, admission_by(policy), consenting)

    async def observe() -> None:
        async with trio.open_nursery() as nursery:
            for plan in plans:
                seen.plans[plan.id] = plan
                answering.consider(plan, MARY, nursery)

    trio.run(observe, clock=trio.testing.MockClock(autojump_threshold=0))
    return answering


def test_a_plan_that_the_policy_allows_is_consented_to_once_and_by_itself() -> None:
    consenting = Consenting()
    answering = observed(Policy(proposers=("Kyoto",)), consenting, plan_of(), plan_of())
    assert consenting.asked == [3]
    assert answering.against_policy == {}


def test_without_automatic_consent_nothing_is_consented_to() -> None:
    assert observed(Policy(proposers=("Kyoto",)), None, plan_of()).against_policy == {}


def test_what_the_policy_refuses_is_never_asked_for_and_told() -> None:
    consenting = Consenting()
    answering = observed(Policy(proposers=("Charité",)), consenting, plan_of())
    assert consenting.asked == []
    assert "proposed by Kyoto, whom `policy.proposers`" in answering.against_policy[PlanId(3)]


def test_a_plan_that_was_declined_is_not_consented_to_behind_its_back() -> None:
    consenting = Consenting()
    observed(Policy(), consenting, plan_of(declined=1))
    assert consenting.asked == []


def test_consent_by_policy_is_tried_again_while_peers_are_away_and_ends_with_a_refusal() -> None:
    consenting = Consenting(failures=3, refusal="the plan's code imports socket")
    answering = observed(Policy(), consenting, plan_of())
    assert RETRY_S == 10
    assert consenting.asked == [3, 3, 3, 3]
    assert answering.against_policy == {3: "the plan's code imports socket"}


# The budget of privacy.


def described(privacy: Guarantee | None) -> Loaded:
    said = loaded_with((3,))
    return structs.replace(said, rules=structs.replace(said.rules, privacy=privacy, batch_size=20))


def test_a_site_with_a_budget_refuses_what_has_no_privacy_or_asks_for_too_much(
    tmp_path: Path,
) -> None:
    admission = admission_by(home=tmp_path, budget=Budget(4.0))
    program = federated_averaging(3)
    admission.require_privacy(described(dp(epsilon=3)), program, 200)
    admission.require_privacy(described(None), program, 0)  # it only tests
    with pytest.raises(ConfigurationError, match="no differential privacy"):
        admission.require_privacy(described(None), program, 200)
    with pytest.raises(ConfigurationError, match=r"`privacy\.epsilon` in node\.toml allows 4"):
        admission.require_privacy(described(dp(epsilon=8)), program, 200)
    admission_by(home=tmp_path).require_privacy(described(None), program, 200)
