"""What a transaction costs, by the number of members: far below the chain's limit of 1,000,000.

`pytest -s tests/contracts/test_contract_gas.py` prints the table of docs/decisions/0001.
"""

from __future__ import annotations

import pytest
from harness.evm import EvmContract

from swarm.protocol.election import commitment_to
from swarm.protocol.ledger import Founder, Kind
from swarm.protocol.state import Rules
from swarm.types import NO_ADDRESS, Address, Digest, PlanId

DIGEST = Digest(b"\x11" * 32)
LIMIT = 400_000


def node(number: int) -> Address:
    return Address(b"\xb2" + number.to_bytes(19, "big"))


def costs(members: int) -> dict[str, int]:
    """The most that each kind of transaction took in a first round, a void and a second attempt."""
    book = EvmContract([Founder(node(n), node(n), f"site {n}") for n in range(members)], 1000)
    most: dict[str, int] = {}
    now = 1000

    def send(label: str, who: int, function: str, *arguments: object) -> None:
        book.send(node(who), now, function, *arguments)
        most[label] = max(most.get(label, 0), book.gas_used)

    plan = PlanId(1)
    rules = Rules(9, False, 2, max_round_s=600, slot_s=10)
    send("proposePlan", 0, "proposePlan", "a plan", DIGEST, DIGEST, DIGEST, 1, DIGEST, rules)
    for n in range(members):
        label = "consent" if n < members - 1 else "consent, which opens"
        send(label, n, "consent", plan, DIGEST, 100, commitment_to(bytes([n + 1]) * 32))
    send("checkIn", 0, "checkIn", plan, 1, 1, 500)
    for attempt in (1, 2):
        for n in range(members):
            reveal = bytes([n + 1 + 100 * (attempt - 1)]) * 32
            update = (DIGEST, 10, reveal, commitment_to(bytes([n + 101]) * 32), DIGEST)
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
        send(label, leader, "merge", plan, 1, 2, model, 0, b"")
    for n in [n for n in range(members) if n != leaders[-1]][: members // 2]:
        send("attest", n, "attest", plan, 1, 2, model, 0, 3, DIGEST)
    now += 10_000
    update = (DIGEST, 10, bytes(32), DIGEST, DIGEST)
    for n in (0, 1):
        send("submit, the others silent", n, "submit", plan, 2, 1, *update)
    send("propose", 0, "propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", members - 1, 0)
    for n in range(1, -(-2 * members // 3)):
        send("vote, which removes", n, "vote", 1, True)
    return most


@pytest.mark.parametrize("members", [4, 8, 24])
def test_every_transaction_stays_far_below_the_limit(members: int) -> None:
    for label, gas in costs(members).items():
        print(f"{members:3} {gas:8,} {label}")
        assert gas < LIMIT, label
