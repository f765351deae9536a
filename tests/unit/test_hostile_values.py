"""What fuzzing found, each under a name: values that once ended a process, or made it hang."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import msgspec
import pytest
import rlp
from harness.chain import GENESIS_TIME_S, Member, found

from swarm.chain import rpc as rpc_module
from swarm.chain.block import InvalidTransaction
from swarm.chain.client import ConsortiumClient
from swarm.chain.codec import read_transaction
from swarm.chain.endpoint import Endpoint, InProcessProvider
from swarm.chain.engine import Engine
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.chain.pool import Pool
from swarm.chain.rpc import RpcMethods
from swarm.chain.rules import ChainRules
from swarm.errors import ChainError, ConfigurationError, PlanError, ProtocolViolation
from swarm.learning.code import bundle
from swarm.learning.simulation.dealing import deal
from swarm.node.commands.control import read_running
from swarm.node.home.config import load_config
from swarm.node.home.keys import RANDOM_PASSWORD_COST, create_key, load_key
from swarm.types import PlanId

PASSWORD = "long enough"


@pytest.mark.parametrize("field", [0, 1, 2, 4, 6, 7, 8])
def test_a_number_of_more_digits_than_python_prints_is_refused_and_not_printed(field: int) -> None:
    """It came from any member's gossip, and the error's own text ended the node."""
    fields = rlp.decode(Member(0).sign(7, gasPrice=0, nonce=0))
    assert rlp.encode(fields) == Member(0).sign(7, gasPrice=0, nonce=0)
    fields[field] = b"\x01" + bytes(2000)
    with pytest.raises(InvalidTransaction, match="256 bits"):
        read_transaction(rlp.encode(fields), 7, CONTRACT_ADDRESS, ChainRules())


def test_a_plan_whose_file_names_are_not_utf8_is_refused() -> None:
    packed = bundle.Bundle({"plan.py": b""}).pack().replace(b"plan.py", b"pl\xffn.py")
    with pytest.raises(ProtocolViolation):
        bundle.unpack(packed)


def keystore(path: Path) -> dict[str, dict[str, dict[str, object]]]:
    create_key(path, PASSWORD, cost=RANDOM_PASSWORD_COST)
    document: dict[str, dict[str, dict[str, object]]] = json.loads(path.read_text())
    return document


@pytest.mark.parametrize(
    "changed", [{"n": 2**40}, {"n": 2**20, "r": 2**20}, {"p": 10**9}, {"n": -1}, {"dklen": 10**9}]
)
def test_a_key_file_that_asks_for_endless_work_is_refused_at_once(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    document = keystore(tmp_path / "made.json")
    document["crypto"]["kdfparams"] |= changed
    path = tmp_path / "key.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ConfigurationError, match=str(path)):
        load_key(path, PASSWORD)


def test_a_key_file_of_brackets_is_refused_and_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text("[" * 60_000)
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        load_key(path, PASSWORD)


def test_a_key_file_of_an_unknown_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    path.write_text(json.dumps(keystore(tmp_path / "made.json") | {"version": 9}))
    with pytest.raises(ConfigurationError, match="keystore v3"):
        load_key(path, PASSWORD)


@pytest.mark.parametrize(
    "line",
    [
        '[data]\npath = "' + "x" * 5000 + '"',
        '[data]\npath = "a\\u0000b"',
        '[chain]\nrpc_url = "http://[::1"\ncontract = "0x' + "00" * 20 + '"',
        '[http]\nlisten = "127.0.0.1:' + "9" * 5000 + '"',
        "[training]\nseed = " + "9" * 5000,
        "[data]\noptions = " + "[" * 5000,
    ],
)
def test_a_configuration_that_python_cannot_take_is_refused_in_words(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "node.toml").write_text(f'name = "Kyoto"\n{line}\n')
    with pytest.raises(ConfigurationError, match=r"node\.toml"):
        load_config(tmp_path)


@pytest.mark.parametrize("path", ["x" * 5000, "a\\u0000b"])
def test_a_site_at_a_path_that_no_disk_holds_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "sites.toml").write_text(f'[[site]]\nname = "one"\npath = "{path}"\n')
    with pytest.raises(PlanError, match=r"sites\.toml"):
        deal(tmp_path)


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_a_process_number_that_is_none_is_refused(tmp_path: Path, pid: int) -> None:
    text = f'{{"pid": {pid}, "control": "c", "rpc_url": "r", "p2p": []}}'
    (tmp_path / "running.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"running\.json"):
        read_running(tmp_path)


def ask(directory: Path, body: object) -> object:
    genesis, _ = found(1)
    with Engine.open(directory, genesis) as engine:
        pool = Pool(engine)
        methods = RpcMethods(engine, pool, pool.add, now=lambda: float(GENESIS_TIME_S))
        return msgspec.json.decode(methods.handle_bytes(msgspec.json.encode(body)))


def call(to: str, data: str) -> dict[str, object]:
    params = [{"to": to, "data": data}, "latest"]
    return {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": params}


@pytest.mark.parametrize("number", [5, 8, 9])
def test_the_evms_slow_functions_are_not_served_to_anybody(tmp_path: Path, number: int) -> None:
    """One call of the pairing check could hold a worker thread for minutes."""
    answer = ask(tmp_path, call(f"0x{number:040x}", "0x" + "00" * 213))
    assert answer["error"]["code"] == -32000  # type: ignore[index]


def test_a_batch_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_module, "BATCH_S", -1.0)
    question = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId"}
    answers = ask(tmp_path, [question] * 3)
    assert [answer["error"]["code"] for answer in answers] == [-32005] * 3  # type: ignore[attr-defined]


class Liar:
    """An endpoint that answers every question in the same way."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def handle(self, request: object) -> object:
        return {"jsonrpc": "2.0", "id": 1, "result": self.answer}


HUGE = "0x" + f"{32:064x}" + f"{1:064x}" + f"{2**250:064x}" * 8
LOG = {
    "topics": [],
    "data": "0x",
    "blockNumber": "0x1",
    "transactionHash": "0x" + "00" * 32,
    "logIndex": "0x0",
}


@pytest.mark.parametrize(
    "answer",
    [
        *(HUGE, "0x", None, 7, [], {}, "0x" + "ff" * 5000, "0x" + "9" * 5000, "text"),
        *([LOG | {"topics": 5}], [LOG | {"transactionHash": "0x12"}], [LOG | {"data": "1"}]),
    ],
)
def test_an_external_chains_endpoint_that_lies_is_refused(answer: object) -> None:
    """A length of 2**250 in an answer once ended the node."""
    liar = Liar("0x1")
    client = ConsortiumClient(Endpoint(InProcessProvider(liar.handle)), CONTRACT_ADDRESS)
    liar.answer = answer
    questions = (client.head, client.members, partial(client.snapshot, PlanId(1)))
    refused = 0
    for question in (*questions, partial(client.events, 0, 1), client.proposals, client.validators):
        try:
            question()
        except ChainError:
            refused += 1
    assert refused >= 5  # an empty list is a good answer to a question for events
