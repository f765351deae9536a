"""From a transaction that is sent to one node to its receipt at all of them.

A testnet of real nodes trains nothing; this process signs `activate` (the contract's smallest
transaction: a member's node shows life) with the nodes' own keys, before the clock runs, and sends
it over JSON-RPC. A block is final when a node has it, so the receipt is there from the moment that
the node's head is at that height: each node tells so by itself, over its control socket, and nobody
polls.

First one transaction at a time, to one node after the other: the latency. Then many in flight, from
all nodes: the rate.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.signers.local import LocalAccount
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from swarm.bench.rounds import RoundOptions, write_plan
from swarm.chain import contract as codec
from swarm.chain.client import TRANSACTION_GAS
from swarm.chain.endpoint import Endpoint, read_number
from swarm.errors import LocalError, SwarmError
from swarm.node.commands.control import ask
from swarm.node.home.keys import load_key, read_password
from swarm.testnet.processes import stop_nodes
from swarm.testnet.run import Testnet, bring_up
from swarm.types import to_hex

WARM_UP = 5
DEADLINE_S = 120.0
RPC_TIMEOUT_S = 30.0
SMALL_BYTES = 1000


@dataclass(frozen=True)
class ChainOptions:
    """What to measure: so many one by one, then so many with `in_flight` under way."""

    peers: int
    one_by_one: int = 40
    in_flight: int = 50
    at_once: int = 400


@dataclass
class Heads:
    """When each node had which height; and at which height each transaction is."""

    endpoint: Endpoint
    reached: dict[str, list[tuple[float, int]]]
    """By node: moments (monotonic seconds) and heights, both growing."""
    heights: dict[str, int] = field(default_factory=dict)
    """By transaction, of the blocks that were read."""
    changed: threading.Condition = field(default_factory=threading.Condition)
    read: int = 0
    """The height up to which blocks were read."""

    def wait_for(self, tx: str) -> float:
        """Wait until all nodes have a transaction; return when the last one had it."""
        self._wait(lambda: tx in self.heights, f"transaction {tx}")
        height = self.heights[tx]
        self._wait(lambda: all(s and s[-1][1] >= height for s in self.reached.values()), tx)
        with self.changed:
            return max(
                next(at for at, reached in seen if reached >= height)
                for seen in self.reached.values()
            )

    def wait_for_more(self, wanted: set[str], than: int) -> int:
        """Wait until the first node has more of these transactions; return how many."""
        self._wait(lambda: len(wanted & self.heights.keys()) > than, "the next transaction")
        return len(wanted & self.heights.keys())

    def note(self, name: str, height: int) -> None:
        """A node has this head; the first one's blocks are read."""
        with self.changed:
            self.reached[name].append((time.monotonic(), height))
        if name == next(iter(self.reached)):
            for number in range(self.read + 1, height + 1):
                block = self.endpoint.ask("eth_getBlockByNumber", hex(number), False)
                with self.changed:
                    self.heights |= dict.fromkeys(block["transactions"], number)
            self.read = height
        with self.changed:
            self.changed.notify_all()

    def _wait(self, happened: Any, what: str) -> None:
        with self.changed:
            if not self.changed.wait_for(happened, DEADLINE_S):
                raise LocalError(f"{what} was not final everywhere within {DEADLINE_S:.0f} s")


@dataclass
class Sender:
    """One node's key, used from outside: signs now, sends later."""

    endpoint: Endpoint
    account: LocalAccount
    chain_id: int
    contract: str
    nonce: int

    def sign(self) -> tuple[str, str]:
        """The next transaction: its name, and its bytes for the endpoint."""
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "to": to_checksum_address(self.contract),
            "value": 0,
            "data": codec.call_data("activate"),
            "gas": TRANSACTION_GAS,
            "maxFeePerGas": 0,
            "maxPriorityFeePerGas": 0,
        }
        self.nonce += 1
        raw = bytes(self.account.sign_transaction(fields).raw_transaction)
        return to_hex(keccak(raw)), to_hex(raw)

    def send(self, raw: str) -> None:
        self.endpoint.ask("eth_sendRawTransaction", raw)


def measure_chain(options: ChainOptions, directory: Path) -> dict[str, Any]:
    """Bring up the nodes in `directory`, send, and return the figures.

    Raises LocalError if the chain halts. All processes have ended when it returns.
    """
    plan = write_plan(directory / "plan", RoundOptions(options.peers, SMALL_BYTES))
    testnet = bring_up(directory / "nodes", plan, options.peers, seed=0)
    try:
        _wait_connected(testnet)
        senders = [_sender(testnet, index) for index in range(options.peers)]
        with _watch_heads(testnet) as heads:
            latencies_s = _one_by_one(options, senders, heads)
            first_block = heads.read
            per_second = _at_once(options, senders, heads)
            blocks = heads.read - first_block
    finally:
        stop_nodes(testnet.file, testnet.processes)
    return {
        "peers": options.peers,
        "one_by_one": options.one_by_one,
        "median_s": round(statistics.median(latencies_s), 4),
        "p95_s": round(statistics.quantiles(latencies_s, n=20)[-1], 4),
        "worst_s": round(max(latencies_s), 4),
        "in_flight": options.in_flight,
        "at_once": options.at_once,
        "per_second": round(per_second, 1),
        "transactions_per_block": round(options.at_once / max(1, blocks), 1),
    }


def _one_by_one(options: ChainOptions, senders: list[Sender], heads: Heads) -> list[float]:
    latencies_s = []
    for number in range(WARM_UP + options.one_by_one):
        sender = senders[number % len(senders)]
        tx, raw = sender.sign()
        began = time.monotonic()
        sender.send(raw)
        latencies_s.append(heads.wait_for(tx) - began)
    return latencies_s[WARM_UP:]


def _at_once(options: ChainOptions, senders: list[Sender], heads: Heads) -> float:
    """Transactions per second, from the first one sent to the last one final everywhere."""
    share = -(-options.at_once // len(senders))
    signed = [[sender.sign() for _ in range(share)] for sender in senders]
    room = threading.Semaphore(options.in_flight)

    def send(index: int) -> None:
        for _, raw in signed[index]:
            if not room.acquire(timeout=DEADLINE_S):
                raise LocalError("the chain takes no more transactions")
            senders[index].send(raw)

    waiting = {tx for each in signed for tx, _ in each}
    total, done = len(waiting), 0
    began = time.monotonic()
    with ThreadPoolExecutor(len(senders)) as pool:
        sending = [pool.submit(send, index) for index in range(len(senders))]
        while done < total:
            carried_out = heads.wait_for_more(waiting, done)
            room.release(carried_out - done)
            done = carried_out
        for future in sending:
            future.result()
    return total / (max(map(heads.wait_for, waiting)) - began)


@contextmanager
def _watch_heads(testnet: Testnet) -> Iterator[Heads]:
    """One thread a node, each waiting for that node's next head."""
    first = testnet.statuses()[0]
    endpoint = Endpoint.at(first["rpc_url"], RPC_TIMEOUT_S)
    heads = Heads(endpoint, {node.name: [] for node in testnet.file.nodes})
    stop = threading.Event()

    def follow(index: int) -> None:
        height = -1
        while not stop.is_set():
            try:
                height = int(ask(testnet.home(index), "wait_for_head", above=height))
            except SwarmError:
                return  # the node has ended
            heads.note(testnet.file.nodes[index].name, height)

    threads = [
        threading.Thread(target=follow, args=(index,), daemon=True, name=f"heads {index}")
        for index in range(len(testnet.file.nodes))
    ]
    for thread in threads:
        thread.start()
    try:
        yield heads
    finally:
        stop.set()  # they end with the nodes


def _sender(testnet: Testnet, index: int) -> Sender:
    home, status = testnet.home(index), testnet.statuses()[index]
    key = load_key(home / "key.json", read_password(home / "password"))
    account = Account.from_key(key)
    endpoint = Endpoint.at(status["rpc_url"], RPC_TIMEOUT_S)
    nonce = read_number(endpoint.ask("eth_getTransactionCount", account.address, "pending"))
    return Sender(endpoint, account, status["chain_id"], status["contract"], nonce)


def _wait_connected(testnet: Testnet) -> None:
    until = time.monotonic() + DEADLINE_S
    others = len(testnet.file.nodes) - 1
    while any(len(status.get("connected", [])) < others for status in testnet.statuses()):
        if time.monotonic() > until:
            raise LocalError(f"the nodes have not found each other within {DEADLINE_S:.0f} s")
        time.sleep(0.2)
