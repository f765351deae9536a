"""What a transaction costs, by the number of members: far below the chain's limit of 1,000,000.

`pytest -s tests/contracts/test_contract_gas.py` prints the table of docs/decisions/0001.
"""

from __future__ import annotations

import hashlib

import pytest
from harness.evm import DOMAIN, EvmContract

from swarm.chain.signer import NodeKeys
from swarm.protocol.attestation import Attestation, attestation_digest, sign
from swarm.protocol.election import commitment_to
from swarm.protocol.masking import KEYS_BYTES
from swarm.protocol.membership import Founder, Kind
from swarm.protocol.state import Outcome, Rules, Terms
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, PlanId

DIGEST = Digest(b"\x11" * 32)
LIMIT = 500_000


SECRETS = [bytes([n + 1]) * 32 for n in range(24)]
NODES = [NodeKeys(secret).address for secret in SECRETS]


def node(number: int) -> Address:
    return NODES[number]


def costs(members: int) -> dict[str, int]:
    """The most that each kind of transaction took in a first round, a void and a second attempt."""
    book = EvmContract([Founder(node(n), node(n), f"site {n}") for n in range(members)], 1000)
    most: dict[str, int] = {}
    now = 1000

    def send(label: str, who: int, function: str, *arguments: object) -> None:
        book.send(node(who), now, function, *arguments)
        most[label] = max(most.get(label, 0), book.gas_used)

    plan = PlanId(1)
    rules = Rules(9, 2, max_round_s=600, slot_s=10, holder=1)
    send("proposePlan", 0, "proposePlan", "a plan", DIGEST, DIGEST, DIGEST, rules, 0, 0)
    for n in range(members):
        label = "consent" if n < members - 1 else "consent, which opens"
        secret = commitment_to(bytes([n + 1]) * 32)
        terms = Terms(3, 100, DIGEST, now + 10**6, secret, DIGEST, DIGEST)
        send(label, n, "consent", plan, DIGEST, terms)
    send("checkIn", 0, "checkIn", plan, 1, 1, 500)
    for attempt in (1, 2):
        for n in range(members):
            reveal = bytes([n + 1 + 100 * (attempt - 1)]) * 32
            update = (DIGEST, 10, reveal, commitment_to(bytes([n + 101]) * 32), DIGEST, b"")
            label = "submit" if n < members - 1 else "submit, which closes"
            send(label, n, "submit", plan, 1, attempt, *update)
        if attempt == 1:
            now += 3 * 10 * members
            send("void, which opens", 0, "void", plan, 1, 1)
    current = book.plan(plan).round
    assert current is not None
    slot_s = current.slot_s
    leaders = [book.ask("leaderAt", plan, 1, 2, now + slot_s * n) for n in range(members)]
    for place, leader in enumerate(leaders):
        now += slot_s * (place > 0)
        model = bytes([place + 1]) * 32
        label = "merge" if place == 0 else "merge, the last of all"
        send(label, leader, "merge", plan, 1, 2, Outcome(model, 0), b"")
    last = Outcome(model, 0)
    voters = [n for n in range(members) if n != leaders[-1]][: members // 2]
    send("attest", voters[0], "attest", plan, 1, 2, last, 3, DIGEST)
    said = attestation_digest(DOMAIN, Attestation(plan, 1, 2, last, 3, DIGEST))
    carried = [sign(SECRETS[n], said) for n in voters[1:-1]]
    if carried:
        arguments = (last, 3, [DIGEST] * len(carried), carried)
        send(f"attestMany, {len(carried)}", voters[0], "attestMany", plan, 1, 2, *arguments)
    dated = ("attest", plan, 1, 2, last, 3, DIGEST)
    send("until, attest, which ends the round", voters[-1], "until", now, *dated)
    now += 10_000
    update = (DIGEST, 10, bytes(32), DIGEST, DIGEST, b"")
    for n in (0, 1):
        send("submit, the others silent", n, "submit", plan, 2, 1, *update)
    send("setContact", 0, "setContact", bytes(range(256)) * 2)
    send("propose", 0, "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", members - 1, 0)
    for n in range(1, -(-2 * members // 3)):
        send("vote, which removes", n, "vote", 1, True)
    return most


def masked_costs(members: int) -> dict[str, int]:
    """The most that each kind of transaction took in a masked round, over its second epoch."""
    book = EvmContract([Founder(node(n), node(n), f"site {n}") for n in range(members)], 1000)
    most: dict[str, int] = {}
    now, everybody = 1000, (1 << members) - 1

    def send(label: str, who: int, function: str, *arguments: object) -> None:
        book.send(node(who), now, function, *arguments)
        most[label] = max(most.get(label, 0), book.gas_used)

    plan = PlanId(1)
    rules = Rules(9, 3, colluders=1, max_round_s=600, slot_s=10)
    book.send(node(0), 1000, "proposePlan", "a plan", DIGEST, DIGEST, DIGEST, rules, 0, 0)
    terms = Terms(3, 100, DIGEST, now + 10**6, DIGEST, DIGEST, DIGEST)
    for n in range(members):
        send("consent, which opens", n, "consent", plan, DIGEST, terms)
    for n in range(members):
        keys = hashlib.shake_256(bytes([n])).digest(KEYS_BYTES)
        update = (NO_DIGEST, 10, bytes(32), DIGEST, DIGEST, keys)
        label = "submit" if n < members - 1 else "submit, which closes"
        send(label, n, "submit", plan, 1, 1, *update)
    here = (plan, 1, 1)
    for n in range(members):
        send("good", n, "good", *here, everybody ^ (n == 0), int(n == 0))
    send("answer", 0, "answer", *here, 0, 0, bytes(32))
    contributors = members
    for epoch in (0, 1):
        codes = bytes(range(256))[: 8 * (contributors - 1)].ljust(8 * (contributors - 1), b"c")
        for n in range(members - 1):
            send("masked", n, "masked", *here, epoch, DIGEST, codes)
        if epoch == 0:
            now += 1000
            send("nextEpoch", 0, "nextEpoch", *here)
            contributors = members - 1
    for status in ("lock", "final"):
        current = book.plan(plan).round
        assert current is not None
        leader, outcome = current.leader_at(now), Outcome(DIGEST, 0)
        send(f"merge, to {status}", leader, "merge", *here, outcome, b"")
        voters = [n for n in range(members - 1) if n != leader]
        for n in voters[: (members if status == "final" else members - 1) // 2]:
            send(f"attest, to {status}", n, "attest", *here, outcome, 3, DIGEST)
        if status == "lock":
            shares = bytes(range(1, 33)) * (members - 1)
            for n in range(members):
                owners = everybody ^ 1 << (members - 1)
                send("unmask", n, "unmask", *here, owners, shares)
    assert book.plan(plan).place == (2, 1)
    return most


def openings(members: int) -> dict[str, int]:
    """What the transactions that open a round, or make it final, cost in a plan without a role."""
    book = EvmContract([Founder(node(n), node(n), f"site {n}") for n in range(members)], 1000)
    spent: dict[str, int] = {}

    def send(label: str, who: int, now: int, function: str, *arguments: object) -> None:
        book.send(node(who), now, function, *arguments)
        spent[label] = book.gas_used

    plan, rules = PlanId(1), Rules(9, 2, max_round_s=600, slot_s=10)
    book.send(node(0), 1000, "proposePlan", "a plan", DIGEST, DIGEST, DIGEST, rules, 0, 0)
    terms = Terms(3, 100, DIGEST, 10**6, DIGEST, DIGEST, DIGEST)
    for n in range(members):
        send("consent, which opens", n, 1000, "consent", plan, DIGEST, terms)
    send("void, which opens", 0, 1600, "void", plan, 1, 1)
    for n in range(members):
        update = (DIGEST, 10, bytes(32), DIGEST, DIGEST, b"")
        send("submit, which closes", n, 1600, "submit", plan, 1, 2, *update)
    leader, outcome = book.ask("leaderAt", plan, 1, 2, 1600), Outcome(DIGEST, 0)
    send("merge", leader, 1600, "merge", plan, 1, 2, outcome, b"")
    for n in [n for n in range(members) if n != leader][: members // 2]:
        send("attest, which opens", n, 1600, "attest", plan, 1, 2, outcome, 3, DIGEST)
    assert book.plan(plan).place == (2, 1)
    return spent


def test_what_opens_a_round_or_makes_it_final_costs_the_same_with_many_members() -> None:
    few, many = openings(4), openings(24)
    for label, gas in few.items():
        assert abs(many[label] - gas) < 200, label


def test_masked_rounds_cost_little_more_with_many_members() -> None:
    """What grows is what is sent: a code for each pair, a share for each contributor."""
    few, many = masked_costs(5), masked_costs(24)
    for label, gas in few.items():
        print(f"{gas:8,} {many[label]:8,} {label}")
        sent = {"masked": 8 * 19, "unmask": 32 * 19}.get(label, 0)
        assert many[label] - gas < 20_000 + 30 * sent, label
        assert many[label] < LIMIT, label


@pytest.mark.parametrize("members", [4, 8, 24])
def test_every_transaction_stays_far_below_the_limit(members: int) -> None:
    for label, gas in costs(members).items():
        print(f"{members:3} {gas:8,} {label}")
        assert gas < LIMIT, label
