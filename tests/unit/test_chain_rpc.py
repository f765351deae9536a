from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rlp
from eth_hash.auto import keccak
from harness.chain import GENESIS_TIME_S, Member, calldata, found
from harness.fuzz import rpc_grammar
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trie import HexaryTrie
from trie.exceptions import BadTrieProof

from swarm.chain import codec
from swarm.chain.engine import Engine
from swarm.chain.pool import Pool
from swarm.chain.rpc import MAX_BATCH, UNSERVED, RpcMethods
from swarm.chain.rpc_filters import MAX_FILTERS
from swarm.chain.rpc_parameters import MAX_SLOTS
from swarm.types import to_hex

GENESIS, MEMBERS = found(4)
ANN = to_hex(MEMBERS[0].address)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path, GENESIS) as engine:
        yield engine


@pytest.fixture
def rpc(engine: Engine) -> RpcMethods:
    pool = Pool(engine)
    return RpcMethods(engine, pool, pool.add, now=lambda: float(GENESIS_TIME_S))


def note(engine: Engine, *members: Member) -> None:
    raws = [m.sign(GENESIS.chain_id, nonce=engine.nonce(m.address)) for m in members]
    engine.commit(engine.build(raws, engine.head.timestamp + 1, MEMBERS[0].address), b"c")


def ask(rpc: RpcMethods, method: str, *params: object) -> object:
    answer = rpc.handle({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)})
    assert isinstance(answer, dict)
    assert answer["id"] == 1
    return answer["result"] if "result" in answer else answer["error"]


def code(rpc: RpcMethods, method: str, *params: object) -> int:
    error = ask(rpc, method, *params)
    assert isinstance(error, dict)
    return error["code"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", -32700),
        (b"[" * 100_000, -32600),
        (b"[" * 1_000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "eth_chainId"}', -32600),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "eth_chainId"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 5}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_mine"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "__init__"}', -32601),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": {}}', None),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": {"a": 1}}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [1]}', -32602),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "eth_getCode", "params": []}', -32602),
    ],
)
def test_a_request_that_is_not_one_is_answered_with_its_code(rpc, body, expected):
    answer = json.loads(rpc.handle_bytes(body))
    assert answer.get("error", {}).get("code") == expected


def test_a_batch_is_answered_in_order_without_its_notifications(rpc):
    calls = [
        {"jsonrpc": "2.0", "id": "a", "method": "eth_blockNumber"},
        {"jsonrpc": "2.0", "method": "eth_blockNumber"},
        {"jsonrpc": "2.0", "id": None, "method": "nonsense"},
    ]
    answers = json.loads(rpc.handle_bytes(json.dumps(calls).encode()))
    assert [answer["id"] for answer in answers] == ["a", None]
    assert rpc.handle_bytes(json.dumps(calls[1:2]).encode()) == b""
    too_many = json.loads(rpc.handle_bytes(json.dumps(calls[:1] * (MAX_BATCH + 1)).encode()))
    assert too_many["error"]["code"] == -32600


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("eth_getBalance", ["0x12", "latest"]),
        ("eth_getBalance", [ANN[2:], "latest"]),
        ("eth_getBalance", [ANN, "newest"]),
        ("eth_getBalance", [7, "latest"]),
        ("eth_getBlockByNumber", ["0x01", False]),
        ("eth_getBlockByNumber", ["0x", False]),
        ("eth_getBlockByNumber", ["0xg", False]),
        ("eth_getBlockByNumber", ["0x0", "yes"]),
        ("eth_getBlockByHash", ["0x12", False]),
        ("eth_getStorageAt", [ANN, "0x" + "0" * 65, "latest"]),
        ("eth_sendRawTransaction", ["c0"]),
        ("eth_call", ["0x", "latest"]),
        ("eth_call", [{"to": ANN, "data": "0x1"}, "latest"]),
        ("eth_call", [{"to": ANN}, "latest", {ANN: {}}]),
        ("eth_getLogs", [{"topics": [["0x12"]]}]),
        ("eth_getLogs", [{"topics": [None] * 5}]),
        ("eth_getLogs", [{"address": [ANN] * 65}]),
        ("eth_getLogs", [{"blockHash": "0x" + "00" * 32, "fromBlock": "0x0"}]),
        ("eth_getLogs", [{"fromBlock": "0x2", "toBlock": "0x1"}]),
        ("eth_feeHistory", ["0x1", "latest", [50] * 101]),
    ],
)
def test_bad_parameters_are_named(rpc, method, params):
    assert code(rpc, method, *params) == -32602


def test_what_does_not_exist_is_null_and_a_state_that_does_not_exist_is_an_error(rpc):
    nowhere = "0x" + "11" * 32
    far = hex(2**63 - 1)  # go-ethereum counts no further
    assert code(rpc, "eth_getBlockByNumber", hex(2**63)) == -32602
    assert ask(rpc, "eth_getBlockByNumber", "0x9", False) is None
    assert ask(rpc, "eth_getBlockByNumber", far, False) is None
    assert ask(rpc, "eth_getBlockByHash", nowhere, False) is None
    assert ask(rpc, "eth_getTransactionByHash", nowhere) is None
    assert ask(rpc, "eth_getTransactionReceipt", nowhere) is None
    assert code(rpc, "eth_getBalance", ANN, "0x9") == -32000
    assert code(rpc, "eth_getBalance", ANN, {"blockHash": nowhere}) == -32000
    assert code(rpc, "eth_getFilterChanges", "0x1") == -32000
    assert code(rpc, "eth_feeHistory", "0x1", far) == -32000
    assert ask(rpc, "eth_getLogs", {"fromBlock": "0x0", "toBlock": far}) == []
    assert ask(rpc, "eth_getLogs", {"fromBlock": "0x9", "toBlock": far}) == []


def test_a_state_is_asked_for_by_number_hash_or_object(rpc, engine):
    note(engine, MEMBERS[0])
    name = to_hex(engine.head.hash)
    nonce = MEMBERS[0]
    for at, expected in [
        ("latest", "0x1"),
        ("0x0", "0x0"),
        ("earliest", "0x0"),
        ({"blockNumber": "0x0"}, "0x0"),
        ({"blockHash": name}, "0x1"),
    ]:
        assert ask(rpc, "eth_getTransactionCount", to_hex(nonce.address), at) == expected


def test_a_revert_has_code_three_and_its_data(rpc, engine):
    call = {"to": to_hex(engine.contract), "from": ANN}
    panic = ask(rpc, "eth_call", call | {"data": to_hex(calldata("divide(uint256)", 0))})
    assert panic == {
        "code": 3,
        "message": "execution reverted: division or modulo by zero",
        "data": "0x4e487b71" + "12".rjust(64, "0"),
    }
    custom = ask(rpc, "eth_call", call | {"input": to_hex(calldata("refuse(uint256)", 5))})
    assert isinstance(custom, dict)
    assert (custom["code"], custom["message"]) == (3, "execution reverted")
    assert custom["data"][:10] == to_hex(calldata("Refused(address,uint256)", ANN, 5))[:10]


def test_a_call_without_end_is_an_error_and_no_revert(rpc, engine):
    call = {"to": to_hex(engine.contract), "data": to_hex(calldata("burn()")), "gas": "0x30d40"}
    error = ask(rpc, "eth_call", call)
    assert isinstance(error, dict)
    assert error["code"] == -32000
    assert "data" not in error


def test_value_and_creation_are_refused_in_calls(rpc, engine):
    assert code(rpc, "eth_call", {"to": ANN, "value": "0x1"}) == -32000
    assert code(rpc, "eth_estimateGas", {"data": "0x"}) == -32000


def test_logs_know_their_place(rpc, engine):
    note(engine, *MEMBERS[:3])
    logs = ask(rpc, "eth_getLogs", {"fromBlock": "earliest"})
    assert isinstance(logs, list)
    places = [(log["transactionIndex"], log["logIndex"]) for log in logs]
    assert places == [("0x0", "0x0"), ("0x1", "0x1"), ("0x2", "0x2")]
    receipt = ask(rpc, "eth_getTransactionReceipt", logs[1]["transactionHash"])
    assert isinstance(receipt, dict)
    assert receipt["logs"] == [logs[1]]
    assert int(receipt["cumulativeGasUsed"], 16) > int(receipt["gasUsed"], 16)


def test_a_blocks_transactions_are_counted_and_told_one_by_one_and_with_their_receipts(rpc, engine):
    note(engine, *MEMBERS[:3])
    block = ask(rpc, "eth_getBlockByNumber", "latest", True)
    assert isinstance(block, dict)
    names = [sent["hash"] for sent in block["transactions"]]
    assert len(names) == 3
    for kind, place in (("Number", "latest"), ("Hash", block["hash"])):
        assert ask(rpc, f"eth_getBlockTransactionCountBy{kind}", place) == "0x3"
        told = [ask(rpc, f"eth_getTransactionByBlock{kind}AndIndex", place, hex(i)) for i in (0, 2)]
        assert told == [block["transactions"][0], block["transactions"][2]]
        assert ask(rpc, f"eth_getTransactionByBlock{kind}AndIndex", place, "0x3") is None
    receipts = ask(rpc, "eth_getBlockReceipts", "latest")
    assert isinstance(receipts, list)
    assert receipts == [ask(rpc, "eth_getTransactionReceipt", name) for name in names]
    assert ask(rpc, "eth_getBlockReceipts", {"blockHash": block["hash"]}) == receipts
    assert ask(rpc, "eth_getBlockTransactionCountByNumber", "0x9") is None
    assert ask(rpc, "eth_getBlockReceipts", {"blockHash": "0x" + "11" * 32}) is None


def proven(root: bytes, place: bytes, nodes: list[str]) -> bytes:
    """What lies at keccak(place) in the trie with this root, by its proof alone."""
    decoded = [rlp.decode(bytes.fromhex(node[2:])) for node in nodes]
    return HexaryTrie.get_from_proof(root, keccak(place), decoded)


def test_a_proof_shows_an_account_and_its_storage_against_the_blocks_state_root(rpc, engine):
    note(engine, *MEMBERS[:3])
    note(engine, MEMBERS[0])
    notes = int.from_bytes(keccak((0).to_bytes(32, "big") + (4).to_bytes(32, "big")), "big")
    slots = [2, notes, 99]  # the count, the first note, nothing
    for height, count, nonces in ((0, 0, 0), (1, 3, 1), (2, 4, 2)):
        block = ask(rpc, "eth_getBlockByNumber", hex(height))
        assert isinstance(block, dict)
        root = bytes.fromhex(block["stateRoot"][2:])
        proof = ask(
            rpc, "eth_getProof", to_hex(engine.contract), [hex(s) for s in slots], hex(height)
        )
        assert isinstance(proof, dict)
        told = [
            int(proof[key], 16).to_bytes(1, "big").lstrip(b"\0") for key in ("nonce", "balance")
        ]
        told += [bytes.fromhex(proof[key][2:]) for key in ("storageHash", "codeHash")]
        assert rlp.decode(proven(root, engine.contract, proof["accountProof"])) == told
        assert told[3] == keccak(engine.code(engine.contract))
        for slot, shown in zip(slots, proof["storageProof"], strict=True):
            assert shown["key"] == hex(slot)
            value = int(shown["value"], 16)
            assert value == int(
                ask(rpc, "eth_getStorageAt", proof["address"], hex(slot), hex(height)), 16
            )
            encoded = rlp.encode(value) if value else b""
            assert proven(told[2], slot.to_bytes(32, "big"), shown["proof"]) == encoded
        assert int(proof["storageProof"][0]["value"], 16) == count
        sender = ask(rpc, "eth_getProof", ANN, [], hex(height))
        assert isinstance(sender, dict)
        assert sender["nonce"] == hex(nonces)
        account = proven(root, MEMBERS[0].address, sender["accountProof"])
        assert (rlp.decode(account)[0] if account else b"") == rlp.decode(rlp.encode(nonces))


def test_a_proof_shows_that_nothing_is_there_and_fails_when_a_node_of_it_is_changed(rpc, engine):
    note(engine, MEMBERS[0])
    root = codec.stored_body(engine.head.payload).header.state_root
    nowhere = ask(rpc, "eth_getProof", "0x" + "11" * 20, ["0x0"])
    assert isinstance(nowhere, dict)
    assert proven(root, bytes.fromhex("11" * 20), nowhere["accountProof"]) == b""
    assert (nowhere["nonce"], nowhere["codeHash"]) == ("0x0", to_hex(keccak(b"")))
    assert nowhere["storageProof"] == [{"key": "0x0", "value": "0x0", "proof": []}]
    proof = ask(rpc, "eth_getProof", to_hex(engine.contract), [])
    assert isinstance(proof, dict)
    *path, last = proof["accountProof"]
    changed = last[:-1] + ("0" if last[-1] != "0" else "1")
    with pytest.raises(BadTrieProof):
        proven(root, engine.contract, [*path, changed])


def test_a_proof_is_of_a_decided_block_and_of_a_bounded_number_of_slots(rpc, engine):
    contract = to_hex(engine.contract)
    most = ask(rpc, "eth_getProof", contract, ["0x0"] * MAX_SLOTS)
    assert isinstance(most, dict)
    assert len(most["storageProof"]) == MAX_SLOTS
    assert code(rpc, "eth_getProof", contract, ["0x0"] * (MAX_SLOTS + 1)) == -32602
    assert code(rpc, "eth_getProof", contract, [], "pending") == -32000
    assert code(rpc, "eth_getProof", contract, [], "0x1") == -32000


def test_a_transaction_with_the_access_list_that_is_told_uses_the_gas_that_is_told(rpc, engine):
    note(engine, MEMBERS[0])
    data = calldata("note(bytes)", b"x" * 100)
    told = ask(
        rpc,
        "eth_createAccessList",
        {"to": to_hex(engine.contract), "from": ANN, "data": to_hex(data)},
    )
    assert isinstance(told, dict)
    (entry,) = told["accessList"]
    assert entry["address"] == to_hex(engine.contract)
    assert f"0x{2:064x}" in entry["storageKeys"]  # the count
    raw = MEMBERS[0].sign(
        GENESIS.chain_id, "note(bytes)", b"x" * 100, nonce=1, accessList=told["accessList"]
    )
    engine.commit(engine.build([raw], engine.head.timestamp + 1, MEMBERS[0].address), b"c")
    (receipt,) = ask(rpc, "eth_getBlockReceipts", "latest")  # type: ignore[misc]
    assert receipt["status"] == "0x1"
    assert receipt["gasUsed"] == told["gasUsed"]


def test_the_gas_with_an_access_list_counts_what_a_cleared_slot_gives_back(rpc, engine):
    breaking = MEMBERS[0].sign(GENESIS.chain_id, "setBroken(bool)", True, nonce=0)
    engine.commit(engine.build([breaking], engine.head.timestamp + 1, MEMBERS[0].address), b"c")
    data = to_hex(calldata("setBroken(bool)", False))
    told = ask(
        rpc, "eth_createAccessList", {"to": to_hex(engine.contract), "from": ANN, "data": data}
    )
    assert isinstance(told, dict)
    listed = MEMBERS[0].sign(
        GENESIS.chain_id, "setBroken(bool)", False, nonce=1, accessList=told["accessList"]
    )
    engine.commit(engine.build([listed], engine.head.timestamp + 1, MEMBERS[0].address), b"c")
    (receipt,) = ask(rpc, "eth_getBlockReceipts", "latest")  # type: ignore[misc]
    assert receipt["gasUsed"] == told["gasUsed"]


def test_an_access_list_of_a_call_that_reverts_says_why(rpc, engine):
    call = {"to": to_hex(engine.contract), "data": to_hex(calldata("say(string)", "not today"))}
    told = ask(rpc, "eth_createAccessList", call)
    assert isinstance(told, dict)
    assert told["error"] == "execution reverted: not today"
    assert told["accessList"] == []
    burning = {"to": to_hex(engine.contract), "data": to_hex(calldata("burn()"))}
    endless = ask(rpc, "eth_createAccessList", burning | {"gas": "0x30d40"})
    assert isinstance(endless, dict)
    assert endless["gasUsed"] == "0x30d40"
    tight = ask(rpc, "eth_createAccessList", burning | {"gas": "0x1"})
    assert isinstance(tight, dict)
    assert tight["error"] == "intrinsic gas too low"


def test_a_pending_filter_tells_each_transaction_once_as_it_comes_in(rpc, engine):
    send = [to_hex(member.sign(GENESIS.chain_id, nonce=0)) for member in MEMBERS]
    before = ask(rpc, "eth_sendRawTransaction", send[0])
    follower = ask(rpc, "eth_newPendingTransactionFilter")
    assert ask(rpc, "eth_getFilterChanges", follower) == []
    names = [ask(rpc, "eth_sendRawTransaction", raw) for raw in send[1:3]]
    late = ask(rpc, "eth_newPendingTransactionFilter")
    assert ask(rpc, "eth_sendRawTransaction", send[2]) == names[1]  # again: it waits already
    assert ask(rpc, "eth_getFilterChanges", follower) == names
    names.append(ask(rpc, "eth_sendRawTransaction", send[3]))
    note(engine, *MEMBERS)  # what came in and is in a block now is told as well
    assert ask(rpc, "eth_getFilterChanges", follower) == names[2:]
    assert ask(rpc, "eth_getFilterChanges", follower) == []
    assert ask(rpc, "eth_getFilterChanges", late) == names[2:]
    assert before not in names
    assert code(rpc, "eth_getFilterLogs", follower) == -32000
    assert ask(rpc, "eth_uninstallFilter", follower) is True


def test_a_pending_filter_that_is_not_asked_keeps_the_newest_names_only(engine, monkeypatch):
    monkeypatch.setattr("swarm.chain.pool.MAX_ARRIVALS", 2)
    pool = Pool(engine)
    rpc = RpcMethods(engine, pool, pool.add)
    slow = ask(rpc, "eth_newPendingTransactionFilter")
    names = [to_hex(pool.add(member.sign(GENESIS.chain_id, nonce=0))) for member in MEMBERS]
    assert ask(rpc, "eth_getFilterChanges", slow) == names[-2:]
    assert ask(rpc, "eth_getFilterChanges", slow) == []


def test_the_peer_count_is_that_of_the_members_who_are_connected(engine):
    pool = Pool(engine)
    assert ask(RpcMethods(engine, pool, pool.add, peers=lambda: 3), "net_peerCount") == "0x3"


def test_methods_that_make_no_sense_here_say_why_and_the_docs_list_them(rpc):
    page = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()
    for method, why in UNSERVED.items():
        error = ask(rpc, method, "0x")
        assert isinstance(error, dict)
        assert error["code"] == -32601
        assert error["message"].endswith(why)
        assert f"`{method}`" in page
    assert UNSERVED.keys().isdisjoint(rpc.methods)


def test_topics_select_by_position_and_alternative(rpc, engine):
    note(engine, *MEMBERS[:3])

    def select(*topics: object, address: object = None) -> list[int]:
        criteria = {"fromBlock": "0x0", "topics": list(topics), "address": address}
        logs = ask(rpc, "eth_getLogs", criteria)
        assert isinstance(logs, list)
        return [int(log["topics"][2], 16) for log in logs]

    def word(number: int) -> str:
        return f"0x{number:064x}"

    who = ["0x" + MEMBERS[i].address.hex().rjust(64, "0") for i in range(4)]
    assert select() == [1, 2, 3]
    assert select(None, who[1]) == [2]
    assert select(None, [who[0], who[2]]) == [1, 3]
    assert select(None, [], word(3)) == [3]
    assert select(None, who[0], word(3)) == []
    assert select(None, None, None, word(1)) == []
    assert select(None, who[3]) == []
    assert select(address=to_hex(engine.contract)) == [1, 2, 3]
    assert select(address=[ANN]) == []


def test_the_oldest_filter_gives_way(rpc):
    names = [ask(rpc, "eth_newBlockFilter") for _ in range(MAX_FILTERS + 1)]
    assert code(rpc, "eth_getFilterChanges", names[0]) == -32000
    assert ask(rpc, "eth_getFilterChanges", names[1]) == []
    assert ask(rpc, "eth_uninstallFilter", names[1]) is True
    assert ask(rpc, "eth_uninstallFilter", names[1]) is False


def test_a_refused_transaction_says_why(rpc):
    error = ask(rpc, "eth_sendRawTransaction", to_hex(Member(9).sign(GENESIS.chain_id)))
    assert isinstance(error, dict)
    assert error["code"] == -32000
    assert "not a member" in error["message"]


def test_a_notification_is_never_answered_even_where_it_fails(rpc):
    for method, params in (("eth_getCode", [7]), ("nonsense", []), ("eth_blockNumber", [])):
        call = {"jsonrpc": "2.0", "method": method, "params": params}
        assert rpc.handle_bytes(json.dumps(call).encode()) == b""
    assert json.loads(rpc.handle_bytes(b'{"jsonrpc": "2.0", "method": 5}'))["id"] is None


def test_a_fault_of_ours_ends_its_request_and_is_logged_once(rpc, monkeypatch, caplog):
    def overflow(*_: object) -> bytes:
        raise OverflowError("int too large")

    monkeypatch.setattr(Engine, "code", overflow)
    for _ in range(3):
        assert code(rpc, "eth_getCode", ANN) == -32603
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert ask(rpc, "eth_blockNumber") == "0x0"


def test_a_block_is_a_number_a_tag_or_an_object_and_nothing_else(rpc):
    for nonsense in (True, False, {}, 1, 0, -(2**70), 2**70, 1.5, [], ["latest"], "1", "-0x1", ""):
        for method in ("eth_getCode", "eth_getBalance", "eth_getTransactionCount"):
            error = ask(rpc, method, ANN, nonsense)
            assert isinstance(error, dict)
            assert error["code"] == -32602
            assert error["message"].startswith("block: ")
        assert code(rpc, "eth_getBlockByNumber", nonsense, False) == -32602
        assert code(rpc, "eth_feeHistory", "0x1", nonsense) == -32602
    both = {"blockNumber": "0x0", "blockHash": "0x" + "11" * 32}
    assert code(rpc, "eth_getCode", ANN, both) == -32602
    assert ask(rpc, "eth_getCode", ANN, None) == ask(rpc, "eth_getCode", ANN, "latest") == "0x"


def test_the_fee_history_takes_no_nonsense(rpc):
    for count in (-1, 0, True, 1.5, "1", "0x0", 2**70, None, []):
        assert code(rpc, "eth_feeHistory", count, "latest") == -32602
    for percentiles in ("50", [-1], [101], [50, 25], [True], ["50"], {}, [None]):
        assert code(rpc, "eth_feeHistory", 1, "latest", percentiles) == -32602
    history = ask(rpc, "eth_feeHistory", 4, "latest", [25, 50.5])
    assert isinstance(history, dict)
    assert history["reward"] == [["0x0", "0x0"]]


def test_a_filter_keeps_its_tags_and_ends_where_it_says(rpc, engine):
    growing = ask(rpc, "eth_newFilter", {"fromBlock": "latest"})
    ended = ask(rpc, "eth_newFilter", {"fromBlock": "0x0", "toBlock": "0x1"})
    later = ask(rpc, "eth_newFilter", {"fromBlock": "0x2"})
    note(engine, MEMBERS[0])
    note(engine, MEMBERS[1])

    def heights(method: str, name: object) -> list[str]:
        logs = ask(rpc, method, name)
        assert isinstance(logs, list)
        return [log["blockNumber"] for log in logs]

    assert heights("eth_getFilterLogs", growing) == ["0x2"]  # "latest" is the head of now
    assert heights("eth_getFilterChanges", growing) == ["0x1", "0x2"]
    assert heights("eth_getFilterChanges", growing) == []
    assert heights("eth_getFilterChanges", ended) == ["0x1"]
    assert heights("eth_getFilterChanges", later) == ["0x2"]


def test_what_is_too_much_for_one_answer_comes_in_parts(rpc, engine, monkeypatch):
    monkeypatch.setattr("swarm.chain.rpc_filters.MAX_LOGS", 1)
    monkeypatch.setattr("swarm.chain.rpc.MAX_LOGS", 1)
    monkeypatch.setattr("swarm.chain.rpc.MAX_BLOCK_NAMES", 2)
    logs, blocks = ask(rpc, "eth_newFilter", {}), ask(rpc, "eth_newBlockFilter")
    for _ in range(3):
        note(engine, MEMBERS[0])

    def parts(name: object) -> list[int]:
        return [len(rpc.methods["eth_getFilterChanges"].answer(name)) for _ in range(3)]

    assert code(rpc, "eth_getLogs", {"fromBlock": "0x0"}) == -32005
    assert parts(logs) == [2, 1, 0]
    assert parts(blocks) == [2, 1, 0]


def test_answers_are_bounded_alone_and_in_a_batch(rpc, monkeypatch):
    call = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["0x0"]}
    size = len(rpc.handle_bytes(json.dumps(call).encode()))
    monkeypatch.setattr("swarm.chain.rpc.MAX_ANSWER_BYTES", 2 * size)
    answers = json.loads(rpc.handle_bytes(json.dumps([call] * 5).encode()))
    assert [a.get("error", {}).get("code") for a in answers] == [None, None] + 3 * [-32005]
    monkeypatch.setattr("swarm.chain.rpc.MAX_ANSWER_BYTES", size - 1)
    assert json.loads(rpc.handle_bytes(json.dumps(call).encode()))["error"]["code"] == -32005


def test_every_method_answers_whatever_its_parameters_are(rpc, caplog):
    """Each position of each method, with each value of the grammar."""
    tried = 0
    for method, position, params in rpc_grammar.calls(rpc.methods):
        request = {"jsonrpc": "2.0", "id": tried, "method": method, "params": params}
        answer = json.loads(rpc.handle_bytes(json.dumps(request).encode()))
        assert answer["id"] == tried
        assert ("result" in answer) != ("error" in answer)
        if "error" in answer:
            wrong, message = answer["error"]["code"], answer["error"]["message"]
            assert wrong in (-32602, -32000, 3)
            assert message.isprintable()
            assert len(message) < 400
            names = [each.name for each in rpc.methods[method].parameters]
            if wrong == -32602:
                assert message.startswith(names[position] if position < len(names) else "params")
        tried += 1
    assert tried > 5000
    assert caplog.records == []
    assert ask(rpc, "eth_blockNumber") == "0x0"


WORDS = st.sampled_from(
    ["0x", "0x0", "0x1", "0x01", "latest", "pending", "earliest", ANN, "0x" + "11" * 32, "\ud800"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
CALL_KEYS = ["to", "from", "data", "input", "gas", "value"]
FILTER_KEYS = ["address", "topics", "fromBlock", "toBlock", "blockHash", "blockNumber", "x"]
KEYS = st.sampled_from([*CALL_KEYS, *FILTER_KEYS])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(JSON)
def test_no_request_brings_the_server_down(rpc, request_):
    rpc.handle(request_)
