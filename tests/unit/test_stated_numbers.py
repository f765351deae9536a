"""What docs/security.md says one party can take from a node is what the code allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.chain.rules import ChainRules
from swarm.dashboard import pages, serving
from swarm.network.bulk import SENDERS_AT_ONCE
from swarm.network.limits import KIB, MIB, NetworkLimits
from swarm.network.tickets import MAX_TICKETS_PER_MEMBER
from swarm.node.commands import control
from swarm.node.http_door import HttpLimits
from swarm.protocol.ledger import MAX_OPEN_PLANS
from swarm.protocol.membership import MAX_A_DAY

NETWORK, HTTP, CHAIN = NetworkLimits(), HttpLimits(), ChainRules()
TEXT = " ".join((Path(__file__).parents[2] / "docs" / "security.md").read_text().split())


@pytest.mark.parametrize(
    "said",
    [
        f"{NETWORK.max_half_open} half-open, {NETWORK.max_half_open_per_subnet} from a network",
        f"{NETWORK.max_half_open_per_host} from a host, for {NETWORK.handshake_s:g} s each",
        f"{NETWORK.max_connections} connections, of which 1 stays",
        f"and {NETWORK.max_bulk_connections} for blobs",
        f"{NETWORK.max_inbound_requests} for requests, 2 for each of {NETWORK.max_inbound_streams}",
        f"{NETWORK.max_bulk_connections} that send blobs, of {SENDERS_AT_ONCE}",
        f"received: {NETWORK.max_buffered_bytes // MIB} MiB not yet read",
        f"{NETWORK.max_inbound_requests} requests of {NETWORK.max_payload_bytes // MIB} MiB",
        f"{NETWORK.max_queued_message_bytes // MIB} MiB of messages",
        f"{MAX_TICKETS_PER_MEMBER} tokens",
        f"a stream without room for 64 KiB: {NETWORK.take_stall_s:g} s",
        f"{HTTP.connections}, {HTTP.head_s:g} s without a request",
        f"{HTTP.held_bytes // MIB} MiB of bodies and answers",
        f"an answer {HTTP.answer_s:g} s",
        f"{CHAIN.sender_transactions} transactions in a block, of",
        f"a block has {CHAIN.block_bytes // MIB} MiB and {CHAIN.block_gas // 10**6} million gas",
        f"may send **{CHAIN.member_day_bytes // MIB} MiB** of transactions",
        f"{MAX_OPEN_PLANS} open plans, and {MAX_A_DAY} plans and {MAX_A_DAY} membership proposals",
        f"the dashboard takes {serving.MAX_CONNECTIONS} connections, {pages.MAX_STREAMS} of them",
        f"can open, takes {control.MAX_CONNECTIONS} connections",
        f"one request of {control.MAX_MESSAGE_BYTES // MIB} MiB each",
    ],
)
def test_a_stated_number_is_the_one_that_holds(said: str) -> None:
    assert said.lower() in TEXT.lower()


def test_a_transaction_is_no_larger_than_stated() -> None:
    assert f"of {CHAIN.transaction_bytes // KIB} KiB, {CHAIN.calldata_bytes // KIB} KiB" in TEXT
