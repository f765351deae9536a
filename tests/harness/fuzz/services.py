"""Targets with a chain behind them: consensus at work, the JSON-RPC, the contract, the local HTTP.

Consensus is attacked where it matters: four validators run, the fourth's key is the attacker's, so
its votes carry good signatures over whatever the attacker likes, at the height that is being
decided. After each batch the four must still agree on a new transaction.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import trio
from eth_account import Account

from harness.chain import GENESIS_TIME_S, Member, found
from harness.fuzz.campaign import ACCEPTED, Session, Target
from swarm.chain import contract
from swarm.chain.client import ConsortiumClient
from swarm.chain.codec import read_transaction
from swarm.chain.endpoint import InProcessProvider
from swarm.chain.engine import Engine
from swarm.chain.genesis import CONTRACT_ADDRESS, consortium_genesis
from swarm.chain.messages import (
    COMMIT,
    PREPARE,
    PROPOSAL,
    Blocks,
    CertifiedBlock,
    Commit,
    GetBlocks,
    GetStatus,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    Transactions,
    encode,
    signing_digest,
    vote_digest,
)
from swarm.chain.pool import Pool
from swarm.chain.rpc import RpcMethods
from swarm.chain.rules import ChainRules
from swarm.chain.service import ChainService, open_chain
from swarm.chain.signer import NodeKeys
from swarm.chain.store import VoteStore
from swarm.errors import UNREADABLE, ChainError
from swarm.node.commands import control
from swarm.node.commands.control import Reply, open_control
from swarm.node.http_door import open_http
from swarm.protocol.ledger import Kind
from swarm.protocol.state import Duty, Outcome, Rules, Terms
from swarm.types import NO_ADDRESS, Address, Digest, PlanId, to_hex

VALIDATORS = 4
ANSWER_S = 10.0
BLOCKS_KEPT = 3
CALLS_PER_FORGERY = 10


def targets() -> list[Target]:
    """All of them."""
    return [
        Target("chain-service", "msgpack", _open_chain, deadline_s=5.0),
        Target("json-rpc", "json", _open_rpc, deadline_s=10.0),
        Target("calldata", "bytes", _open_contract, deadline_s=5.0),
        Target("http", "bytes", _open_http, deadline_s=8.0),
        Target("endpoint", "json", _open_endpoint, deadline_s=5.0),
        Target("control-socket", "json", _open_control, deadline_s=5.0),
    ]


# Consensus.


class _Wire:
    """One validator's transport, in memory. Nothing is sent to or for the attacker."""

    def __init__(self, running: dict[Address, ChainService], address: Address) -> None:
        self._running, self._address = running, address

    @property
    def connected(self) -> set[Address]:
        return set(self._running) - {self._address}

    def send(self, peer: Address, payload: bytes) -> None:
        if peer in self._running:
            self._running[peer].receive(self._address, payload)


@asynccontextmanager
async def _open_chain(directory: Path) -> AsyncIterator[Session]:
    genesis, members = found(VALIDATORS)
    honest, liar = members[:-1], members[-1]
    running: dict[Address, ChainService] = {}
    refusals: list[str] = []
    async with AsyncExitStack() as stack:
        engines: list[Engine] = []
        for number, member in enumerate(honest):
            engine = stack.enter_context(Engine.open(directory / str(number), genesis))
            votes = VoteStore(directory / str(number) / "votes.db")
            stack.callback(votes.close)
            service = await stack.enter_async_context(
                open_chain(
                    engine,
                    votes,
                    Pool(engine),
                    NodeKeys(member.secret),
                    _Wire(running, member.address),
                    refused=lambda peer, reason: refusals.append(reason),
                )
            )
            for peer, other in running.items():
                other.peer_connected(member.address)
                service.peer_connected(peer)
            running[member.address] = service
            engines.append(engine)
        forger = _Forger(engines[0], liar)

        async def offer(payload: bytes) -> str:
            refused = len(refusals)
            for service in running.values():
                service.receive(liar.address, payload)
            for _ in range(20):
                await trio.lowlevel.checkpoint()
            return ACCEPTED if len(refusals) == refused else "ProtocolViolation"

        async def check() -> None:
            """A new transaction is carried out everywhere, in the same chain."""
            asker, service = honest[0], running[honest[0].address]
            nonce = engines[0].nonce(asker.address)
            with trio.fail_after(4 * ANSWER_S):
                await service.submit(asker.sign(genesis.chain_id, nonce=nonce))
                for engine, each in zip(engines, running.values(), strict=True):
                    while engine.nonce(asker.address) <= nonce:
                        await each.wait_for_head(each.head.height, ANSWER_S)
            decided = min(engine.head.height for engine in engines)
            assert len({engine.block(decided).hash for engine in engines}) == 1

        yield Session(forger.messages, offer, check)


class _Forger:
    """Messages of a validator that signs what it likes, about the height that is being decided."""

    def __init__(self, engine: Engine, member: Member) -> None:
        self._engine = engine
        self._member = member
        self._keys = NodeKeys(member.secret)
        self._dice = random.Random(0)
        self._calls = 0
        self._forged: list[bytes] = []

    def nonce(self, member: Member) -> int:
        return self._engine.nonce(member.address)

    def messages(self) -> list[bytes]:
        """One of each kind, signed; new ones every few calls."""
        self._calls += 1
        if self._calls % CALLS_PER_FORGERY == 1:
            self._forged = self._forge()
        return self._forged

    def _forge(self) -> list[bytes]:
        engine, dice = self._engine, self._dice
        head = engine.head
        height = head.height + dice.choice([0, 1, 1, 1, 1, 2, 5, 2**53 - 2])
        round_number = dice.choice([0, 0, 0, 1, 2, 7, 2**53])
        block = engine.block(max(0, head.height - dice.randrange(3)))
        raw = self._member.sign(engine.chain_id, nonce=self.nonce(self._member))
        if dice.random() < 0.5:
            block = engine.build([raw], head.timestamp, self._member.address)
        sign = partial(signing_digest, engine.genesis_hash)
        place = (height, round_number, block.hash)
        prepare = Prepare(*place, self._sign(sign(PREPARE, *place)))
        commit = Commit(*place, self._sign(sign(COMMIT, *place)))
        change = RoundChange(height, round_number, 0, bytes(32), bytes(65))
        if dice.random() < 0.5:
            change = RoundChange(
                height, round_number, 1, block.hash, bytes(65), block.payload, (prepare,)
            )
        signature = self._sign(vote_digest(engine.genesis_hash, change))
        change = msgspec.structs.replace(change, signature=signature)
        proposal = Proposal(
            height,
            round_number,
            block.payload,
            self._sign(sign(PROPOSAL, *place)),
            (change.bare(),) * dice.choice([0, 1, 3]),
            (prepare,) * dice.choice([0, 1, 3]),
        )
        stored = [
            CertifiedBlock(engine.block(h).payload, engine.certificate(h))
            for h in range(1, head.height + 1)[-BLOCKS_KEPT:]
        ]
        return [
            encode(message)
            for message in (
                *(prepare, commit, change, proposal, Transactions((raw,)), GetStatus()),
                *(Status(height, height + 1, commit), GetBlocks(dice.randrange(3))),
                Blocks(height, tuple(stored)),
            )
        ]

    def _sign(self, digest: bytes) -> bytes:
        return self._keys.sign(digest)


# JSON-RPC and contract, over a chain with the real contract and one plan.


@contextmanager
def consortium(directory: Path) -> Iterator[tuple[Engine, RpcMethods, list[Member]]]:
    """One validating member, two more, a plan that runs; a transaction is a block at once."""
    members = [Member(number) for number in range(3)]
    cards = [member.card for member in members]
    genesis = consortium_genesis(cards, GENESIS_TIME_S)
    with ExitStack() as stack:
        engine = stack.enter_context(Engine.open(directory / "chain", genesis))
        pool = Pool(engine)

        def submit(raw: bytes) -> Digest:
            """Into the pool, as a node would; blocks are made by `_carry_out` alone."""
            return pool.add(raw)

        for member, data in _beginnings(members):
            _carry_out(engine, member, data)
        yield engine, RpcMethods(engine, pool, submit, now=lambda: GENESIS_TIME_S + 100.0), members


def _carry_out(engine: Engine, member: Member, data: bytes) -> None:
    raw = _signed(engine, member, data)
    read_transaction(raw, engine.chain_id, CONTRACT_ADDRESS, ChainRules())
    block = engine.build([raw], engine.head.timestamp + 1, member.address)
    engine.commit(block, b"")


def _signed(engine: Engine, member: Member, data: bytes) -> bytes:
    transaction = {
        "chainId": engine.chain_id,
        "nonce": engine.nonce(member.address),
        "to": to_hex(CONTRACT_ADDRESS),
        "value": 0,
        "gas": 900_000,
        "gasPrice": 0,
        "data": data,
    }
    return bytes(Account.sign_transaction(transaction, member.secret).raw_transaction)


def _beginnings(members: Sequence[Member]) -> Iterator[tuple[Member, bytes]]:
    name = b"\1" * 32
    rules, terms = Rules(3, 2), Terms(Duty.TRAIN, 100)
    call = contract.call_data
    yield members[0], call("proposePlan", "plan", name, name, name, rules, 0, 0)
    for member in members:
        yield member, call("consent", 1, name, terms)
    yield members[0], call("submit", 1, 1, 1, name, 10, bytes(32), name, name, b"")


def _calls() -> list[bytes]:
    """One call of every function that changes something, and some views."""
    name, call = b"\2" * 32, contract.call_data
    at = (1, 1, 1)
    outcome = Outcome(Digest(name), 3)
    node = Address(b"\7" * 20)
    return [
        call("propose", Kind.ADMIT, node, node, "Basel", 0, 0),
        call("propose", Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", 2, 0),
        call("propose", Kind.UPGRADE, NO_ADDRESS, NO_ADDRESS, "", 2, 100),
        call("vote", 1, True),
        call("leave"),
        call("setNode", node, bytes(65)),
        call("activate"),
        call("retire", 2),
        call("cancel", 1),
        call("setStandby", node),
        call("setContact", b"\1\2\3"),
        call("proposePlan", "p", name, name, name, Rules(3, 2), 3, 2**40),
        call("consent", 1, b"\1" * 32, Terms(7, 100)),
        call("decline", 1),
        call("withdraw", 1),
        call("stop", 1),
        call("open", 1),
        call("checkIn", *at, 500),
        call("submit", *at, name, 10, bytes(32), name, name, b"keys"),
        call("close", *at),
        call("merge", *at, outcome, b"\1\2"),
        call("attest", *at, outcome, 3, name),
        call("attestMany", *at, outcome, 3, [name, name], [bytes(65), b"\1" * 65]),
        call("finalise", *at, outcome),
        call("void", *at),
        call("until", 2**40, call("activate")),
        call("masked", *at, 0, name, b"macs"),
        call("unmask", *at, 3, b"shares"),
        call("getSnapshot", 1),
        call("getRoundAt", *at),
        call("getProposals", 1, 64),
        call("getMembers", 0, 64),
        call("leaderAt", *at, 10),
    ]


@asynccontextmanager
async def _open_contract(directory: Path) -> AsyncIterator[Session]:
    """Calldata as a member's transaction: executed in a block, with the block's bounds on gas."""
    with consortium(directory) as (engine, _, members):
        head = engine.head

        async def offer(data: bytes) -> str:
            result = engine.simulate(
                CONTRACT_ADDRESS,
                data,
                members[0].address,
                "pending",
                gas=engine.rules.transaction_gas,
            )
            if result.failure is None:
                return ACCEPTED
            if result.revert_data is None:
                # Solidity's own checks revert; this is out of gas, or worse.
                return result.failure.split(":")[0]
            return contract.revert(result.revert_data).name

        async def check() -> None:
            assert engine.head == head
            snapshot = engine.call(CONTRACT_ADDRESS, contract.call_data("getSnapshot", 1))
            assert contract.snapshot(contract.result("getSnapshot", snapshot)).plan.id == 1

        calls = _calls()
        yield Session(lambda: calls, offer, check)


def questions(engine: Engine, members: Sequence[Member]) -> list[bytes]:
    me, there = to_hex(members[0].address), to_hex(CONTRACT_ADDRESS)
    call = {
        "to": there,
        "from": me,
        "data": to_hex(contract.call_data("getMembers", 0, 64)),
        "gas": "0xf4240",
    }
    block, head = to_hex(engine.block(1).hash), hex(engine.head.height)
    (name, *_) = engine.transactions(engine.block(1))
    raw = _signed(engine, members[1], contract.call_data("activate"))
    asked: list[tuple[str, list[object]]] = [
        ("eth_blockNumber", []),
        ("eth_getBalance", [me, "latest"]),
        ("eth_getCode", [there, {"blockHash": block}]),
        ("eth_getStorageAt", [there, "0x0", head]),
        ("eth_getTransactionCount", [me, "pending"]),
        ("eth_getBlockByNumber", [head, True]),
        ("eth_getBlockByHash", [block, False]),
        ("eth_getTransactionByHash", [to_hex(name)]),
        ("eth_getTransactionReceipt", [to_hex(name)]),
        ("eth_feeHistory", ["0x5", "latest", [25, 75]]),
        ("eth_call", [call, "latest"]),
        ("eth_estimateGas", [call | {"data": to_hex(contract.call_data("activate"))}]),
        ("eth_sendRawTransaction", [to_hex(raw)]),
        ("eth_getLogs", [{"fromBlock": "0x0", "toBlock": "latest", "topics": [None, [block]]}]),
        ("eth_newFilter", [{"address": [there]}]),
        ("eth_newBlockFilter", []),
        ("eth_getFilterChanges", ["0x1"]),
        ("eth_getFilterLogs", ["0x1"]),
        ("eth_uninstallFilter", ["0x1"]),
    ]
    each = [
        {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        for number, (method, params) in enumerate(asked)
    ]
    return [msgspec.json.encode(question) for question in [*each, each[:3]]]


class _Answer(msgspec.Struct):
    """What a JSON-RPC answer must look like."""

    jsonrpc: str
    result: object = msgspec.UNSET
    error: dict[str, object] | msgspec.UnsetType = msgspec.UNSET


def verdict(answer: bytes) -> str:
    if not answer:
        return ACCEPTED  # a notification
    decoded = msgspec.json.decode(answer, type=_Answer | list[_Answer])
    first = decoded[0] if isinstance(decoded, list) else decoded
    return ACCEPTED if first.error is msgspec.UNSET else f"{first.error['code']}"


@asynccontextmanager
async def _open_rpc(directory: Path) -> AsyncIterator[Session]:
    with consortium(directory) as (engine, rpc, members):
        asked = questions(engine, members)

        async def offer(data: bytes) -> str:
            return verdict(await trio.to_thread.run_sync(rpc.handle_bytes, data))

        async def check() -> None:
            assert verdict(rpc.handle_bytes(asked[0])) == ACCEPTED
            assert len(rpc._filters._filters) <= 64

        yield Session(lambda: asked, offer, check)


# HTTP.


@asynccontextmanager
async def _open_http(directory: Path) -> AsyncIterator[Session]:
    with consortium(directory) as (engine, rpc, members):
        async with open_http("127.0.0.1:0", rpc, lambda: {"height": engine.head.height}) as url:
            port = int(url.rpartition(":")[2])
            question = questions(engine, members)[0]
            requests = [_request(port, question), *_odd_requests(port, question)]

            async def offer(data: bytes) -> str:
                return status(await _exchange(port, data))

            async def check() -> None:
                with trio.fail_after(ANSWER_S):
                    assert status(await _exchange(port, requests[0])) == ACCEPTED

            yield Session(lambda: requests, offer, check)


def _request(port: int, body: bytes, *headers: str, target: str = "POST / HTTP/1.1") -> bytes:
    lines = [target, f"Host: 127.0.0.1:{port}", "Connection: close", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def _odd_requests(port: int, body: bytes) -> list[bytes]:
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return [
        _request(port, b"", target="GET /status HTTP/1.1"),
        _request(port, body, "Origin: http://evil.example"),
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        _request(port, b"", "Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Connection: upgrade"),
        _request(port, b"", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
    ]


async def _exchange(port: int, data: bytes) -> bytes:
    """Send it all, end our side, and read to the end, or for a moment where none comes."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    answer = b""
    async with stream:
        try:
            await stream.send_all(data)
            await stream.send_eof()
            with trio.move_on_after(2.0):
                while piece := await stream.receive_some(65536):
                    answer += piece
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # closed in the middle: refused
    return answer


def status(answer: bytes) -> str:
    head = answer.split(b" ", 2)
    if len(head) < 2 or not head[0].startswith(b"HTTP/"):
        return "closed"
    return ACCEPTED if head[1] == b"200" else f"HTTP {head[1].decode(errors='replace')[:3]}"


# What an external chain's endpoint answers to a node.


@asynccontextmanager
async def _open_endpoint(directory: Path) -> AsyncIterator[Session]:
    with consortium(directory) as (_, rpc, _members):
        answers: list[bytes] = []
        lie: bytes | None = None

        def handle(request: object) -> object:
            """The truth, which is noted, or else the lie."""
            if lie is None:
                answer = rpc.handle(request)
                answers.append(msgspec.json.encode(answer))
                return answer
            try:
                return msgspec.json.decode(lie)
            except UNREADABLE as error:
                raise ValueError(f"no JSON: {error}") from None  # as web3's provider does

        client = ConsortiumClient.over(InProcessProvider(handle), CONTRACT_ADDRESS)
        asked: list[Callable[[], object]] = [
            *(client.head, client.members, client.present_members, client.validators),
            *(client.proposals, client.plan_count, partial(client.snapshot, PlanId(1))),
            *(partial(client.past_round, PlanId(1), 1, 1), partial(client.events, 0, 10)),
            partial(client.receipt, Digest(bytes(32))),
        ]

        async def offer(data: bytes) -> str:
            nonlocal lie
            lie, faults = data, set()
            try:
                for question in asked:
                    try:
                        question()
                    except ChainError as error:
                        faults.add(type(error).__name__)
            finally:
                lie = None
            return ACCEPTED if not faults else " and ".join(sorted(faults))

        async def check() -> None:
            for question in asked:
                question()

        await check()
        samples = answers[:]
        yield Session(lambda: samples, offer, check)


# The command line's socket.


@asynccontextmanager
async def _open_control(directory: Path) -> AsyncIterator[Session]:
    async def vote(proposal: int, support: bool) -> object:
        return {"proposal": proposal, "support": support}

    async def status() -> object:
        return {"height": 7}

    async with open_control(directory, {"vote": vote, "status": status}) as path:

        async def offer(data: bytes) -> str:
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(len(data).to_bytes(4, "big") + data)
                await stream.send_eof()
                answer = b""
                while piece := await stream.receive_some(65536):
                    answer += piece
            reply = msgspec.json.decode(answer[4:], type=Reply)
            return f"status {reply.exit_status}" if reply.error else ACCEPTED

        async def check() -> None:
            assert await offer(asked[0]) == ACCEPTED

        asked = [
            msgspec.json.encode(control.Request("status")),
            msgspec.json.encode(control.Request("vote", {"proposal": 1, "support": True})),
        ]
        yield Session(lambda: asked, offer, check)
