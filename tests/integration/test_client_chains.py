"""The contract client on two real chains: the embedded one, and anvil as a foreign one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from eth_account import Account
from eth_hash.auto import keccak
from web3 import HTTPProvider
from web3.providers import BaseProvider

from swarm.chain import client as client_module
from swarm.chain import contract as codec
from swarm.chain.client import ConsortiumClient, EventFollower, InProcessProvider, deploy
from swarm.chain.engine import Engine
from swarm.chain.genesis import CONTRACT_ADDRESS, consortium_genesis
from swarm.chain.genesis import Founder as Card
from swarm.chain.pool import Pool
from swarm.chain.rpc import RpcMethods
from swarm.errors import ChainError, ConfigurationError, ContractError
from swarm.protocol.attestation import Attestation, domain_of, signer_of
from swarm.protocol.election import commitment_to
from swarm.protocol.ledger import Founder, Kind, Ledger
from swarm.protocol.state import Duty, Outcome, PlanStatus, RoundStatus, Rules, Terms
from swarm.types import Address, Digest, MemberId, PlanId, to_address

KEYS = [keccak(b"client test %d" % number) for number in range(3)]
ADDRESSES = [to_address(Account.from_key(key).address) for key in KEYS]
FOUNDERS = [Founder(address, address, f"site {i}") for i, address in enumerate(ADDRESSES)]
DIGEST, MODEL, MODEL_1, PROGRAM = (Digest(bytes([n]) * 32) for n in (1, 2, 3, 4))
PRE_FUNDED = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""The first account of every anvil: its key is public."""


@dataclass
class Chain:
    """A chain under test. `provide` makes a provider; `hold` stops blocks, `mine` makes one."""

    contract: Address
    provide: Callable[[], BaseProvider]
    hold: Callable[[], None]
    mine: Callable[[], None]
    drop: Callable[[Digest], None]

    def client(self, number: int | None) -> ConsortiumClient:
        key = None if number is None else KEYS[number]
        return ConsortiumClient.over(self.provide(), self.contract, key)


def on_anvil(url: str) -> Chain:
    provider = HTTPProvider(url)
    contract = deploy(provider, PRE_FUNDED, FOUNDERS)
    for address in ADDRESSES:
        provider.make_request("anvil_setBalance", ["0x" + address.hex(), hex(10**20)])
    return Chain(
        contract,
        lambda: HTTPProvider(url),
        lambda: provider.make_request("evm_setAutomine", [False]),
        lambda: [
            provider.make_request("evm_setAutomine", [True]),
            provider.make_request("evm_mine", []),
        ],
        lambda tx: provider.make_request("anvil_dropTransaction", ["0x" + tx.hex()]),
    )


class LoneValidator:
    """The embedded chain with one validator, which decides as soon as something waits."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pool = Pool(engine)
        self.held = False
        self.lock = threading.Lock()

    def submit(self, raw: bytes) -> Digest:
        name = self.pool.add(raw)
        if not self.held:
            self.mine()
        return name

    def mine(self) -> None:
        with self.lock:
            self.held = False
            engine = self.engine
            block = engine.build(self.pool.pending(), int(time.time()), engine.validators()[0])
            engine.commit(block, b"certificate")
            self.pool.prune()

    def hold(self) -> None:
        self.held = True

    def drop(self, tx: Digest) -> None:
        self.pool = Pool(self.engine)


@pytest.fixture(params=["embedded", "anvil"])
def chain(request: pytest.FixtureRequest, tmp_path: Path, anvil_url: str) -> Iterator[Chain]:
    if request.param == "anvil":
        yield on_anvil(anvil_url)
        return
    cards = [Card(f.name, f.account, f.node) for f in FOUNDERS]
    genesis = consortium_genesis(cards, int(time.time()) - 10)
    with Engine.open(tmp_path / "chain", genesis) as engine:
        lone = LoneValidator(engine)

        def handle(request: object) -> object:
            return RpcMethods(engine, lone.pool, lone.submit).handle(request)

        yield Chain(
            CONTRACT_ADDRESS, lambda: InProcessProvider(handle), lone.hold, lone.mine, lone.drop
        )


def propose(client: ConsortiumClient, rules: Rules) -> PlanId:
    receipt = client.transact(
        "proposePlan", "heart", DIGEST, PROGRAM, MODEL, rules, 0, 0, deadline_s=10
    )
    (event,) = receipt.events
    assert event.name == "PlanProposed"
    return PlanId(event.arguments["plan"])


def test_a_round_on_a_real_chain_reads_back_as_the_specification_says(chain: Chain) -> None:
    clients = [chain.client(n) for n in range(3)]
    reader = chain.client(None)
    first = clients[0]
    start = {m.seen_at for m in reader.members().values()}
    ledger = Ledger(FOUNDERS, start.pop())
    ledger.membership.signatures.domain = domain_of(first.chain_id, chain.contract)
    rules = Rules(2, 2, slot_s=60)

    def both(number: int, function: str, method: str, *arguments: object) -> None:
        clients[number].transact(function, *arguments, deadline_s=10)
        getattr(ledger, method)(ADDRESSES[number], reader.head()[1], *arguments)

    both(0, "proposePlan", "propose_plan", "heart", DIGEST, PROGRAM, MODEL, rules, 0, 0)
    plan = PlanId(reader.plan_count())
    secrets = [bytes([n + 1]) * 32 for n in range(3)]
    for n in range(3):
        terms = Terms(Duty.TRAIN, 100, commitment=commitment_to(secrets[n]))
        both(n, "consent", "consent", plan, DIGEST, terms)
    for n in range(3):
        both(n, "submit", "submit", plan, 1, 1, DIGEST, 10 + n, secrets[n], DIGEST, DIGEST, b"")
    current = reader.plan(plan).round
    assert current is not None
    assert current.status is RoundStatus.CLOSED
    leader = current.leader_at(reader.head()[1])
    assert reader.call("leaderAt", plan, 1, 1, reader.head()[1]) == leader
    merged = Outcome(MODEL_1, 0)
    both(leader, "merge", "merge", plan, 1, 1, merged, b"")
    other, carrier = (leader + 1) % 3, (leader + 2) % 3
    said = Attestation(plan, 1, 1, merged, 3, DIGEST)
    signature = clients[other].sign_attestation(said)
    assert signer_of(first.attestation_digest(said), signature) == ADDRESSES[other]
    both(carrier, "attestMany", "attest_many", plan, 1, 1, merged, 3, [DIGEST], [signature])

    assert reader.plan(plan) == ledger.plans[plan]
    assert reader.members() == ledger.members
    assert reader.present_members() == ledger.present_members
    assert reader.validators() == ledger.membership.validators()
    past = reader.past_round(plan, 1, 1)
    assert past is not None
    assert past.status is RoundStatus.FINAL
    assert past.candidates[0].model == MODEL_1
    assert reader.past_round(plan, 7, 1) is None
    snapshot = first.snapshot(plan)
    assert snapshot.members == 7
    assert snapshot.plan.model == MODEL_1
    assert snapshot.height >= reader.head()[0]


def test_proposals_and_admitted_members_read_back(chain: Chain) -> None:
    newcomer = Address(b"\x77" * 20)
    chain.client(0).transact(
        "propose", Kind.ADMIT, newcomer, newcomer, "site 3", 0, 0, deadline_s=10
    )
    (proposal,) = chain.client(None).proposals().values()
    assert (proposal.kind, proposal.name, proposal.ayes) == (Kind.ADMIT, "site 3", 1)
    chain.client(1).transact("vote", 1, True, deadline_s=10)
    assert chain.client(None).proposals()[1].admitted == MemberId(3)
    assert chain.client(None).members()[MemberId(3)].account == newcomer


def test_a_refusal_carries_the_contracts_error_and_its_fields(chain: Chain) -> None:
    client = chain.client(0)
    plan = propose(client, Rules(1, 2))
    with pytest.raises(ContractError, match="PlanDigestMismatch") as caught:
        client.check("consent", plan, MODEL, Terms(Duty.TRAIN, 1))
    assert caught.value.arguments == {"expected": DIGEST, "given": MODEL}
    with pytest.raises(ContractError, match="PlanUnknown"):
        client.plan(PlanId(99))
    with pytest.raises(ContractError, match="ConsortiumNotMember") as caught:
        ConsortiumClient.over(chain.provide(), chain.contract, b"\x05" * 32).check("leave")
    assert len(caught.value.arguments["sender"]) == 20


def test_a_transaction_that_reverts_in_its_block_is_a_contract_error(chain: Chain) -> None:
    client = chain.client(0)
    plan = propose(client, Rules(1, 2))
    tx = client.send("open", plan)
    with pytest.raises(ContractError, match="PlanNotParticipant"):
        client.wait(tx, 10)


def test_a_dated_transaction_that_came_too_late_has_no_effect(chain: Chain) -> None:
    client = chain.client(0)
    _, now = client.head()
    with pytest.raises(ContractError, match="Expired"):
        client.check("until", now - 1, codec.call_data("leave"))
    tx = client.send_until(now + 1000, "setStandby", Address(b"\x78" * 20))
    names = [event.name for event in client.wait(tx, 10).events]
    assert names == ["StandbyChanged"]
    chain.hold()
    late = client.send_until(int(time.time()) + 1, "setStandby", Address(bytes(20)))
    time.sleep(2.1)
    chain.mine()
    with pytest.raises(ContractError, match="Expired"):
        client.wait(late, 10)
    assert client.members()[MemberId(0)].standby == Address(b"\x78" * 20)


def test_several_transactions_may_be_in_flight_from_several_threads(chain: Chain) -> None:
    client = chain.client(0)
    chain.hold()
    sent: list[Digest] = []
    threads = [
        threading.Thread(target=lambda: sent.append(client.send("activate"))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    chain.mine()
    assert len(set(sent)) == 6
    assert len({client.wait(tx, 10).tx for tx in sent}) == 6


def test_a_transaction_that_the_endpoint_forgot_is_sent_again(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RESEND_S", 0.05)
    client = chain.client(0)
    chain.hold()
    lost = client.send("activate")
    chain.drop(lost)
    threading.Timer(0.5, chain.mine).start()
    assert client.wait(lost, 10).tx == lost


def test_a_transaction_whose_number_an_earlier_one_has_taken_is_given_up_at_once(
    chain: Chain,
) -> None:
    before, after = chain.client(0), chain.client(0)
    chain.hold()
    stale = after.send("activate")
    chain.drop(stale)  # as if the node's replica were still behind when it sent this
    first = before.send("leave")
    chain.mine()
    before.wait(first, 10)
    began = time.monotonic()
    with pytest.raises(ChainError, match="has the number of another one"):
        after.wait(stale, 30)
    assert time.monotonic() - began < 10


def test_after_a_lost_transaction_the_next_one_fills_its_gap(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RESEND_S", 1e9)
    client = chain.client(0)
    chain.hold()
    lost = client.send("activate")
    chain.drop(lost)
    chain.mine()
    with pytest.raises(ChainError, match=r"was not carried out within 0\.1 s"):
        client.wait(lost, 0.1)
    client.transact("activate", deadline_s=10)


def test_a_follower_reads_every_event_once_in_bounded_ranges(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_RANGE", 2)
    client = chain.client(0)
    follower = EventFollower(client, client.head()[0] + 1)
    assert follower.poll() == []
    plans = [propose(client, Rules(1, 3)) for _ in range(3)]
    for plan in plans:
        client.transact("consent", plan, DIGEST, Terms(Duty.TRAIN, 5), deadline_s=10)
    seen = []
    while found := follower.poll():
        assert len({event.height for event in found}) <= 2
        seen += [(event.name, event.arguments["plan"]) for event in found]
    assert seen == [("PlanProposed", p) for p in plans] + [("PlanConsented", p) for p in plans]
    assert len(client.events(0, client.head()[0])) >= len(seen)
    restarted = EventFollower(client, follower.next_height)
    client.transact("withdraw", plans[0], deadline_s=10)
    assert [event.name for event in restarted.poll()] == ["PlanWithdrawn"]
    assert client.plan(plans[0]).status is PlanStatus.PROPOSED


def test_an_unreachable_endpoint_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"Check that chain\.rpc_url"):
        ConsortiumClient.connect("http://127.0.0.1:9", CONTRACT_ADDRESS, timeout_s=2)


def test_an_address_without_code_is_a_configuration_error(chain: Chain) -> None:
    with pytest.raises(ConfigurationError, match="there is no contract 0x0101"):
        ConsortiumClient.over(chain.provide(), Address(b"\x01" * 20))


def test_another_contract_is_a_configuration_error(anvil_url: str) -> None:
    other = Address(b"\x0f" * 20)
    HTTPProvider(anvil_url).make_request("anvil_setCode", ["0x" + other.hex(), "0x00"])
    with pytest.raises(ConfigurationError, match="is not a consortium contract"):
        ConsortiumClient.connect(anvil_url, other)


def test_an_unknown_protocol_version_is_a_configuration_error(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "PROTOCOL_VERSIONS", frozenset({2, 3}))
    with pytest.raises(ConfigurationError, match=r"runs protocol version 1.*follows only 2, 3"):
        chain.client(0)


def test_a_client_without_a_key_only_reads(chain: Chain) -> None:
    with pytest.raises(ConfigurationError, match="only reads"):
        chain.client(None).send("activate")
    with pytest.raises(ConfigurationError, match="no function 'explode'"):
        chain.client(0).send("explode")
