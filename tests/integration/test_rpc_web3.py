"""The JSON-RPC as web3.py sees it: over real HTTP, on a chain of one validator."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from harness.chain import GENESIS_TIME_S, Member, calldata, found
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractCustomError, ContractLogicError, Web3RPCError

from swarm.chain.engine import Engine
from swarm.chain.pool import Pool
from swarm.chain.rpc import RpcMethods
from swarm.errors import ConfigurationError
from swarm.node.http_door import HttpLimits, open_http
from swarm.types import Digest, to_hex

GENESIS, _ = found(4)
PROBE_ABI = [
    {
        "type": "function",
        "name": "note",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "text", "type": "bytes"}],
        "outputs": [],
    },
    {
        "type": "function",
        "name": "count",
        "stateMutability": "view",
        "inputs": [],
        "outputs": [{"name": "", "type": "uint256"}],
    },
    {
        "type": "function",
        "name": "say",
        "stateMutability": "pure",
        "inputs": [{"name": "why", "type": "string"}],
        "outputs": [],
    },
    {
        "type": "function",
        "name": "refuse",
        "stateMutability": "view",
        "inputs": [{"name": "code", "type": "uint256"}],
        "outputs": [],
    },
    {
        "type": "function",
        "name": "clock",
        "stateMutability": "view",
        "inputs": [],
        "outputs": [{"name": "", "type": "uint256"}, {"name": "", "type": "uint256"}],
    },
    {
        "type": "event",
        "name": "Noted",
        "anonymous": False,
        "inputs": [
            {"name": "who", "type": "address", "indexed": True},
            {"name": "number", "type": "uint256", "indexed": True},
            {"name": "text", "type": "bytes", "indexed": False},
        ],
    },
]


class LoneValidator:
    """A chain that decides alone: what is submitted is in the next block at once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pool = Pool(engine)
        self.holding = False

    def submit(self, raw: bytes) -> Digest:
        name = self.pool.add(raw)
        if not self.holding:
            self.decide()
        return name

    def decide(self) -> None:
        proposer = self.engine.validators()[0]
        block = self.engine.build(self.pool.pending(), self.engine.head.timestamp + 1, proposer)
        self.engine.commit(block, b"certificate")
        self.pool.prune()


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[LoneValidator]:
    with Engine.open(tmp_path, GENESIS) as engine:
        yield LoneValidator(engine)


@pytest.fixture
def url(chain: LoneValidator) -> Iterator[str]:
    """A server in a thread of its own, since web3's HTTPProvider blocks."""
    methods = RpcMethods(
        chain.engine, chain.pool, chain.submit, now=lambda: float(GENESIS_TIME_S + 5000)
    )
    started = threading.Event()
    place: list[object] = []

    async def serve() -> None:
        async with open_http("127.0.0.1:0", methods, lambda: {"height": 0}) as address:
            stop = trio.Event()
            place.extend([address, trio.lowlevel.current_trio_token(), stop])
            started.set()
            await stop.wait()

    server = threading.Thread(target=trio.run, args=(serve,))
    server.start()
    assert started.wait(10)
    address, token, stop = place
    yield address  # type: ignore[misc]
    token.run_sync_soon(stop.set)  # type: ignore[attr-defined]
    server.join(5)
    assert not server.is_alive()


@pytest.fixture
def w3(url: str) -> Web3:
    return Web3(HTTPProvider(url))


@pytest.fixture
def probe(w3: Web3, chain: LoneValidator):
    return w3.eth.contract(Web3.to_checksum_address(chain.engine.contract), abi=PROBE_ABI)


@pytest.fixture
def member() -> Member:
    return Member(0)


def test_web3_builds_signs_and_sends_a_transaction_and_reads_its_receipt(w3, probe, member):
    account = w3.eth.account.from_key(member.secret)
    transaction = probe.functions.note(b"first").build_transaction({"from": account.address})
    assert transaction["maxFeePerGas"] == transaction["maxPriorityFeePerGas"] == 0
    transaction["nonce"] = w3.eth.get_transaction_count(account.address)
    signed = account.sign_transaction(transaction)
    receipt = w3.eth.wait_for_transaction_receipt(
        w3.eth.send_raw_transaction(signed.raw_transaction), timeout=5
    )
    assert receipt.status == 1
    assert receipt.blockNumber == w3.eth.block_number == 1
    (event,) = probe.events.Noted().process_receipt(receipt)
    assert (event.args.who, event.args.number, event.args.text) == (account.address, 1, b"first")
    assert probe.functions.count().call() == 1
    found = w3.eth.get_transaction(receipt.transactionHash)
    assert (found["from"], found.input) == (account.address, calldata("note(bytes)", b"first"))
    assert w3.eth.get_transaction_count(account.address) == 1


def test_web3_reads_blocks(w3, chain, member):
    name = w3.eth.send_raw_transaction(member.sign(GENESIS.chain_id))
    block = w3.eth.get_block("latest", full_transactions=True)
    assert block.hash == chain.engine.head.hash
    assert block.parentHash == chain.engine.genesis_hash
    assert block.baseFeePerGas == 0
    assert [t.hash for t in block.transactions] == [name]
    assert w3.eth.get_block(block.hash).transactions == [name]
    for tag in ("safe", "finalized", "pending"):
        assert w3.eth.get_block(tag).hash == block.hash
    assert w3.eth.get_block("earliest").number == 0


def test_the_small_questions_are_answered(w3, chain, member):
    address = Web3.to_checksum_address(member.address)
    assert w3.is_connected()
    assert w3.eth.chain_id == GENESIS.chain_id
    assert w3.net.version == str(GENESIS.chain_id)
    assert w3.client_version == "swarm"
    assert w3.eth.gas_price == w3.eth.max_priority_fee == 0
    assert w3.eth.get_balance(address) == 0
    assert w3.eth.syncing is False
    assert list(w3.eth.accounts) == []
    assert len(w3.eth.get_code(Web3.to_checksum_address(chain.engine.contract))) > 1000
    storage = w3.eth.get_storage_at(Web3.to_checksum_address(chain.engine.contract), 2)
    assert int.from_bytes(storage, "big") == 0
    w3.eth.send_raw_transaction(member.sign(GENESIS.chain_id))
    history = w3.eth.fee_history(4, "latest", [50])
    assert (history.oldestBlock, history.baseFeePerGas) == (0, [0, 0, 0])
    assert history.reward == [[0], [0]]


def test_web3_reads_proofs_access_lists_and_what_waits(w3, chain, probe, member):
    waiting = w3.eth.filter("pending")
    chain.holding = True
    name = w3.eth.send_raw_transaction(member.sign(GENESIS.chain_id))
    assert waiting.get_new_entries() == [name]
    chain.decide()
    assert waiting.get_new_entries() == []
    proof = w3.eth.get_proof(probe.address, [2], "latest")
    assert proof.storageProof[0].value.hex().lstrip("0") == "1"
    assert w3.keccak(proof.accountProof[0]) == w3.eth.get_block("latest").stateRoot
    told = w3.eth.create_access_list({"to": probe.address, "data": probe.encode_abi("count")})
    assert [entry.address for entry in told.accessList] == [probe.address]
    assert w3.net.peer_count == 0


def test_events_are_found_by_topic_block_and_filter(w3, probe, member):
    other = Member(1)
    noted = probe.events.Noted.create_filter(from_block="latest")
    blocks = w3.eth.filter("latest")
    sent = [member.sign(GENESIS.chain_id), other.sign(GENESIS.chain_id)]
    sent.append(member.sign(GENESIS.chain_id, "setBroken(bool)", False))
    for raw in [*sent, member.sign(GENESIS.chain_id, "note(bytes)", b"last")]:
        w3.eth.send_raw_transaction(raw)
    events = probe.events.Noted.get_logs(from_block=0)
    assert [event.args.number for event in events] == [1, 2, 3]
    of_other = {"who": Web3.to_checksum_address(other.address)}
    (event,) = probe.events.Noted.get_logs(from_block=0, argument_filters=of_other)
    assert (event.args.number, event.blockNumber, event.logIndex) == (2, 2, 0)
    block = w3.eth.get_block(4).hash
    assert [e.args.text for e in probe.events.Noted.get_logs(block_hash=block)] == [b"last"]
    assert [event.args.number for event in noted.get_new_entries()] == [1, 2, 3]
    assert noted.get_new_entries() == []
    assert blocks.get_new_entries() == [w3.eth.get_block(n).hash for n in (1, 2, 3, 4)]
    assert w3.eth.uninstall_filter(noted.filter_id)
    with pytest.raises(Web3RPCError, match="filter not found"):
        noted.get_new_entries()


def test_reverts_carry_reason_and_data(w3, probe, member):
    with pytest.raises(ContractLogicError, match="execution reverted: not today"):
        probe.functions.say("not today").call()
    with pytest.raises(ContractCustomError) as refused:
        probe.functions.refuse(7).call({"from": Web3.to_checksum_address(member.address)})
    expected = calldata("Refused(address,uint256)", to_hex(member.address), 7)
    assert refused.value.data == to_hex(expected)
    with pytest.raises(ContractLogicError, match="execution reverted"):
        probe.functions.say("no").estimate_gas()


def test_a_call_on_pending_sees_the_present_time(probe):
    assert probe.functions.clock().call() == [0, GENESIS_TIME_S]
    assert probe.functions.clock().call(block_identifier="pending") == [1, GENESIS_TIME_S + 5000]


def test_the_estimated_gas_suffices_and_is_not_far_too_much(w3, chain, probe, member):
    estimate = probe.functions.note(b"x" * 300).estimate_gas()
    raw = member.sign(GENESIS.chain_id, "note(bytes)", b"x" * 300, gas=estimate)
    receipt = w3.eth.get_transaction_receipt(w3.eth.send_raw_transaction(raw))
    assert receipt.status == 1
    assert receipt.gasUsed <= estimate <= receipt.gasUsed * 1.05


@pytest.mark.parametrize("place", ["latest", "pending"])
def test_an_estimate_holds_wherever_it_is_asked_for(w3, chain, probe, member, place):
    call = {"to": probe.address, "data": probe.encode_abi("note", [b"x" * 300])}
    asked = w3.provider.make_request("eth_estimateGas", [call, place])["result"]
    raw = member.sign(GENESIS.chain_id, "note(bytes)", b"x" * 300, gas=int(asked, 16))
    assert w3.eth.get_transaction_receipt(w3.eth.send_raw_transaction(raw)).status == 1


def test_a_price_that_is_offered_is_shown_and_not_paid(w3, chain, probe, member):
    raw = member.sign(GENESIS.chain_id, maxFeePerGas=3, maxPriorityFeePerGas=1)
    receipt = w3.eth.get_transaction_receipt(w3.eth.send_raw_transaction(raw))
    assert (receipt.status, receipt.effectiveGasPrice) == (1, 0)
    assert w3.eth.get_transaction(receipt.transactionHash).maxFeePerGas == 3


def test_a_failed_transaction_has_status_zero(w3, member):
    raw = member.sign(GENESIS.chain_id, "say(string)", "no")
    receipt = w3.eth.get_transaction_receipt(w3.eth.send_raw_transaction(raw))
    assert (receipt.status, receipt.logs) == (0, [])


def test_a_refused_transaction_says_why(w3):
    with pytest.raises(Web3RPCError, match="not a member"):
        w3.eth.send_raw_transaction(Member(9).sign(GENESIS.chain_id))


def test_a_waiting_transaction_is_shown_and_counted_as_pending(w3, chain, member):
    chain.holding = True
    name = w3.eth.send_raw_transaction(member.sign(GENESIS.chain_id))
    address = Web3.to_checksum_address(member.address)
    assert w3.eth.get_transaction(name).blockNumber is None
    assert w3.eth.get_transaction_count(address, "pending") == 1
    assert w3.eth.get_transaction_count(address) == 0
    chain.decide()
    assert w3.eth.get_transaction(name).blockNumber == 1


def ask(url: str, method: str, path: str, body: bytes | None = None, **headers: str):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(content) if content else None


CHAIN_ID_CALL = b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}'


def test_the_status_is_shown(url):
    assert ask(url, "GET", "/status") == (200, {"height": 0})
    assert ask(url, "GET", "/else")[0] == 404


def test_pages_of_other_sites_are_kept_out(url):
    port = urlsplit(url).port
    assert ask(url, "POST", "/", CHAIN_ID_CALL, Origin="https://evil.example")[0] == 403
    assert ask(url, "POST", "/", CHAIN_ID_CALL, Origin="null")[0] == 403
    assert ask(url, "POST", "/", CHAIN_ID_CALL, Host="evil.example")[0] == 403
    assert ask(url, "GET", "/status", Host=f"evil.example:{port}")[0] == 403
    assert ask(url, "POST", "/", CHAIN_ID_CALL, Host=f"localhost:{port}")[0] == 200
    same = f"127.0.0.1:{port}"
    assert ask(url, "POST", "/", CHAIN_ID_CALL, Origin=f"http://{same}", Host=same)[0] == 200


def test_bodies_are_bounded_and_damage_is_answered(url):
    assert ask(url, "POST", "/", b"x" * (1024 * 1024 + 1))[0] == 413
    assert ask(url, "POST", "/", b"{")[1]["error"]["code"] == -32700
    assert ask(url, "POST", "/", b"\xff\xfe")[1]["error"]["code"] == -32700


def test_a_port_in_use_is_a_configuration_error(chain):
    methods = RpcMethods(chain.engine, chain.pool, chain.submit)

    async def serve(listen: str) -> None:
        async with open_http(listen, methods, dict):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"cannot listen on {place}.*another port"):
            trio.run(serve, place)
    for nonsense in ("8545", "127.0.0.1:", "127.0.0.1:99999", "no such host:1"):
        with pytest.raises(ConfigurationError, match="cannot listen on"):
            trio.run(serve, nonsense)


def test_the_server_ends_quickly_and_quietly_with_a_client_connected(chain, caplog):
    methods = RpcMethods(chain.engine, chain.pool, chain.submit)

    async def serve() -> float:
        async with open_http("127.0.0.1:0", methods, dict) as url:
            stream = await trio.open_tcp_stream("127.0.0.1", urlsplit(url).port or 0)
            await stream.send_all(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            began = trio.current_time()
        return trio.current_time() - began

    with caplog.at_level(logging.INFO):
        assert trio.run(serve) < 2
    assert caplog.records == []


def test_clients_that_say_nothing_or_read_nothing_are_cut_off_and_counted(chain):
    class Verbose:
        def handle_bytes(self, body: bytes) -> bytes:
            return b"x" * 2**24

    limits = HttpLimits(connections=3, head_s=0.3, body_s=0.3, send_s=0.3, linger_s=0.1)
    head = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n"

    async def ends(stream: trio.SocketStream) -> bytes:
        answer = b""
        with trio.fail_after(5):
            while piece := await stream.receive_some(65536):
                answer += piece
        return answer

    async def serve() -> None:
        async with open_http("127.0.0.1:0", Verbose(), dict, limits=limits) as url:
            port = urlsplit(url).port or 0
            silent, slow, deaf = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(3)]
            fourth = await trio.open_tcp_stream("127.0.0.1", port)
            assert await ends(fourth) == b""
            await slow.send_all(head + b"{")
            await deaf.send_all(head + b"{}")
            assert await ends(silent) == b""
            assert (await ends(slow)).startswith(b"HTTP/1.1 408")
            await trio.sleep(0.5)
            with suppress(trio.BrokenResourceError):
                assert len(await ends(deaf)) < 2**24
            again = await trio.open_tcp_stream("127.0.0.1", port)
            await again.send_all(b"HEAD /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"404" in await again.receive_some(65536)

    trio.run(serve)


def post(body: bytes) -> bytes:
    head = f"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_a_fault_inside_a_request_is_answered_with_500_and_ends_nothing_else(chain, caplog):
    class Faulty:
        def handle_bytes(self, body: bytes) -> bytes:
            raise OverflowError("int too large")

    def no_status() -> object:
        raise KeyError("peers")

    async def serve() -> None:
        async with open_http("127.0.0.1:0", Faulty(), no_status) as url:
            port = urlsplit(url).port or 0
            for _ in range(2):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                for request in (post(b"{}"), b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
                    await stream.send_all(request)
                    assert (await stream.receive_some(65536)).startswith(b"HTTP/1.1 500")

    trio.run(serve)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_what_is_held_for_all_clients_together_is_bounded(chain):
    class Verbose:
        def handle_bytes(self, body: bytes) -> bytes:
            return b"x" * 2**22

    limits = HttpLimits(held_bytes=2**22 + 2**20)

    async def serve() -> None:
        async with open_http("127.0.0.1:0", Verbose(), dict, limits=limits) as url:
            port = urlsplit(url).port or 0
            deaf = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(4)]
            codes = []
            for stream in deaf:
                await stream.send_all(post(b"{}"))
                codes.append((await stream.receive_some(12))[9:12])
            assert codes == [b"200", b"503", b"503", b"503"]
            with suppress(trio.BrokenResourceError):  # the deaf one goes, and takes its share along
                await deaf[0].aclose()
            await trio.sleep(0.1)
            again = await trio.open_tcp_stream("127.0.0.1", port)
            await again.send_all(post(b"{}"))
            assert (await again.receive_some(12))[9:12] == b"200"

    trio.run(serve)
