"""Ethereum's JSON-RPC over the embedded chain: what web3.py, cast and wallets ask.

`RpcMethods.handle` is a function from request to response, with or without HTTP around it. Method
names, encodings and errors follow the execution-apis specification and EIP-1474; where these leave
a choice, go-ethereum's answer is given, because that is what clients were tested against.

All blocks are final when they appear: `latest`, `safe` and `finalized` are the same. `pending` is
the block that would come next, at the present time: the tag for trying a transaction out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import msgspec

from swarm.chain import codec, evm
from swarm.chain.engine import At, Engine
from swarm.chain.pool import Pool
from swarm.chain.rpc_filters import MAX_LOGS, Filters, find_logs
from swarm.chain.rpc_format import (
    access_list_object,
    block_object,
    data_hex,
    pending_transaction_object,
    proof_object,
    quantity,
    receipt_object,
    receipt_objects,
    transaction_object,
)
from swarm.chain.rpc_parameters import (
    SERVER,
    Call,
    Height,
    LogQuery,
    Parameter,
    RpcFault,
    read_address,
    read_call,
    read_count,
    read_data,
    read_digest,
    read_filter_name,
    read_flag,
    read_height,
    read_index,
    read_log_query,
    read_overrides,
    read_parameters,
    read_percentiles,
    read_place,
    read_slot,
    read_slots,
)
from swarm.chain.rpc_reverts import execution_fault
from swarm.chain.store import StoredBlock
from swarm.errors import UNREADABLE, ChainError, LocalError
from swarm.types import Address, Digest

log = logging.getLogger("swarm.chain")

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH = 100
BATCH_S = 20.0
"""What of a batch has not been answered by then is refused: a thread cannot be taken back."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Of one request, or of a batch, whose calls are refused once so much has been said."""
MAX_BLOCK_NAMES = 10_000
"""That a block filter reports at once; the next ones come when it is asked again."""
_MAX_FEE_BLOCKS = 1024
# py-evm raises Python's recursion limit to a depth at which decoding nested JSON overruns the C
# stack and kills the process: nesting is bounded before anything is decoded.
_MAX_BRACKETS = 2000
_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD = -32700, -32600, -32601
_TOO_MANY, _INTERNAL = -32005, -32603
_NO_KEYS = "the node keeps no keys for others: sign elsewhere, and use eth_sendRawTransaction"
_NO_PUSH = "this node pushes nothing: install a filter, and ask eth_getFilterChanges"
_NOTHING_MINED = "members decide the blocks by votes: nothing is mined"
UNSERVED: Mapping[str, str] = {
    "eth_sendTransaction": _NO_KEYS,
    "eth_signTransaction": _NO_KEYS,
    "eth_sign": _NO_KEYS,
    "eth_subscribe": _NO_PUSH,
    "eth_unsubscribe": _NO_PUSH,
    "eth_mining": _NOTHING_MINED,
    "eth_hashrate": _NOTHING_MINED,
    "eth_coinbase": _NOTHING_MINED,
    "eth_blobBaseFee": "this chain has the rules of London, without blobs",
}
"""Methods of other chains that have no meaning here, with what to say to whoever asks; as
docs/clients.md lists them."""


@dataclass(frozen=True)
class Method:
    """What answers to a name: called with the parameters as they were read."""

    answer: Callable[..., object]
    parameters: tuple[Parameter, ...] = ()


class RpcMethods:
    """The methods, over one engine and its pool.

    `submit` takes a raw transaction and returns its name, or raises ChainError. `now` gives
    seconds since 1970, for the pending block; `peers`, how many members are connected.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        submit: Callable[[bytes], Digest],
        *,
        now: Callable[[], float] = time.time,
        peers: Callable[[], int] = lambda: 0,
        client_version: str = "swarm",
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._submit = submit
        self._now = now
        self._filters = Filters(engine, pool)
        self._logged: set[tuple[str, str]] = set()
        address = Parameter("address", read_address)
        name = Parameter("hash", read_digest)
        block = Parameter("block", read_place, "latest")
        next_block = Parameter("block", read_place, "pending")
        index = Parameter("index", read_index)
        full = Parameter("full transactions", read_flag, False)
        criteria = Parameter("filter", read_log_query)
        installed = Parameter("filter id", read_filter_name)
        call = Parameter("call", read_call)
        overrides = Parameter("state overrides", read_overrides, None)
        self.methods: Mapping[str, Method] = {
            "web3_clientVersion": Method(lambda: client_version),
            "net_version": Method(lambda: str(engine.chain_id)),
            "net_listening": Method(lambda: True),
            "net_peerCount": Method(lambda: quantity(peers())),
            "eth_chainId": Method(lambda: quantity(engine.chain_id)),
            "eth_syncing": Method(lambda: False),
            "eth_accounts": Method(lambda: []),
            "eth_gasPrice": Method(lambda: quantity(0)),
            "eth_maxPriorityFeePerGas": Method(lambda: quantity(0)),
            "eth_blockNumber": Method(lambda: quantity(engine.head.height)),
            "eth_feeHistory": Method(
                self._fee_history,
                (
                    Parameter("block count", read_count),
                    Parameter("newest block", read_height),
                    Parameter("percentiles", read_percentiles, ()),
                ),
            ),
            "eth_getBalance": Method(self._balance, (address, block)),
            "eth_getCode": Method(self._code, (address, block)),
            "eth_getStorageAt": Method(
                self._storage, (address, Parameter("slot", read_slot), block)
            ),
            "eth_getProof": Method(
                self._prove, (address, Parameter("storage keys", read_slots), block)
            ),
            "eth_getTransactionCount": Method(self._transaction_count, (address, block)),
            "eth_getBlockByNumber": Method(
                self._block_by_number, (Parameter("block", read_height), full)
            ),
            "eth_getBlockByHash": Method(self._block_by_hash, (name, full)),
            "eth_getBlockTransactionCountByNumber": Method(
                self._block_size, (Parameter("block", read_height),)
            ),
            "eth_getBlockTransactionCountByHash": Method(self._block_size, (name,)),
            "eth_getBlockReceipts": Method(self._receipts, (Parameter("block", read_place),)),
            "eth_getTransactionByBlockNumberAndIndex": Method(
                self._transaction_at, (Parameter("block", read_height), index)
            ),
            "eth_getTransactionByBlockHashAndIndex": Method(self._transaction_at, (name, index)),
            "eth_getTransactionByHash": Method(self._transaction_by_hash, (name,)),
            "eth_getTransactionReceipt": Method(self._receipt, (name,)),
            "eth_sendRawTransaction": Method(self._send, (Parameter("transaction", read_data),)),
            "eth_call": Method(self._call, (call, block, overrides)),
            "eth_estimateGas": Method(self._estimate_gas, (call, next_block, overrides)),
            "eth_createAccessList": Method(self._list_accesses, (call, next_block, overrides)),
            "eth_getLogs": Method(self._logs, (criteria,)),
            "eth_newFilter": Method(self._filters.add, (criteria,)),
            "eth_newBlockFilter": Method(lambda: self._filters.add("blocks")),
            "eth_newPendingTransactionFilter": Method(lambda: self._filters.add("pending")),
            "eth_getFilterChanges": Method(self._filter_changes, (installed,)),
            "eth_getFilterLogs": Method(self._filter_logs, (installed,)),
            "eth_uninstallFilter": Method(self._filters.remove, (installed,)),
        }

    def handle_bytes(self, body: bytes) -> bytes:
        """Answer one HTTP body; empty if there is nothing to answer (notifications only)."""
        if len(body) > MAX_BODY_BYTES:
            return _refused_whole(f"the request has more than {MAX_BODY_BYTES} bytes")
        if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
            return _refused_whole("the request is nested too deeply or has too much")
        try:
            request = msgspec.json.decode(body)
        except UNREADABLE as error:
            return _refused_whole(str(error), _PARSE_ERROR)
        if isinstance(request, list):
            return self._handle_batch(request)
        return _encode(self.handle(request))

    def _handle_batch(self, requests: list[object]) -> bytes:
        if not 0 < len(requests) <= MAX_BATCH:
            return _refused_whole(f"a batch has 1 to {MAX_BATCH} calls")
        until_s = time.monotonic() + BATCH_S
        answers: list[bytes] = []
        size = 0
        for request in requests:
            has_room = size < MAX_ANSWER_BYTES and time.monotonic() < until_s
            encoded = _encode(self.handle(request, has_room))
            size += len(encoded)
            if encoded:
                answers.append(encoded)
        return b"[" + b",".join(answers) + b"]" if answers else b""

    def handle(self, request: object, has_room: bool = True) -> dict[str, object] | None:
        """Answer a decoded request; None for a notification, which has no `id`.

        Never raises for the request's fault, nor for one of ours that it brings to light. Without
        room, because its batch has taken too much already, it is refused.
        """
        if not isinstance(request, Mapping):
            return _error(None, RpcFault(_INVALID_REQUEST, "a request is a JSON object"))
        name = request.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int | float | None):
            return _error(None, RpcFault(_INVALID_REQUEST, "the id is a string or a number"))
        if request.get("jsonrpc") != "2.0" or not isinstance(request.get("method"), str):
            words = 'a request has "jsonrpc": "2.0" and a method'
            return _error(name, RpcFault(_INVALID_REQUEST, words))
        answer = self._answer(request["method"], request.get("params"), has_room)
        if "id" not in request:
            return None
        if isinstance(answer, RpcFault):
            return _error(name, answer)
        return {"jsonrpc": "2.0", "id": name, "result": answer}

    def _answer(self, name: str, params: object, has_room: bool) -> object:
        """The result, or an RpcFault."""
        method = self.methods.get(name)
        if method is None:
            shown = ascii(name[:64])[1:-1]
            why = f": {UNSERVED[name]}" if name in UNSERVED else ""
            return RpcFault(_NO_METHOD, f"the method {shown} does not exist/is not available{why}")
        try:
            if not has_room:
                raise RpcFault(_TOO_MANY, "the batch asks for too much at once: ask for less")
            return method.answer(*read_parameters(method.parameters, params))
        except RpcFault as fault:
            return fault
        except ChainError as error:
            return RpcFault(SERVER, str(error))
        except LocalError as error:
            return RpcFault(_INTERNAL, str(error))
        except Exception as error:
            # Whatever a stranger's request brings to light must end with the request: this is the
            # last place before the node itself.
            kind = (name, type(error).__name__)
            if kind not in self._logged:
                self._logged.add(kind)
                log.exception("%s failed; the next failures of this kind are not logged", name)
            return RpcFault(_INTERNAL, f"{name} failed inside the node; its log says more")

    # State

    def _balance(self, address: Address, place: Height | Digest) -> str:
        self._at(place)
        return quantity(0)

    def _code(self, address: Address, place: Height | Digest) -> str:
        return data_hex(self._engine.code(address, self._at(place)))

    def _storage(self, address: Address, slot: int, place: Height | Digest) -> str:
        value = self._engine.storage(address, slot, self._at(place))
        return data_hex(value.to_bytes(32, "big"))

    def _prove(self, address: Address, slots: list[int], place: Height | Digest) -> object:
        at = self._at(place)
        if not isinstance(at, int):
            raise RpcFault(SERVER, "a block to come has no state root: ask about latest")
        return proof_object(address, self._engine.prove(address, slots, at))

    def _transaction_count(self, address: Address, place: Height | Digest) -> str:
        at = self._at(place)
        if at == "pending":
            return quantity(self._pool.next_nonce(address))
        return quantity(self._engine.nonce(address, at))

    # Blocks and transactions

    def _block_by_number(self, at: Height, full: bool) -> object:
        stored = self._block(at)
        return None if stored is None else block_object(stored, full=full)

    def _block_by_hash(self, name: Digest, full: bool) -> object:
        stored = self._block(name)
        return None if stored is None else block_object(stored, full=full)

    def _block(self, place: Height | Digest) -> StoredBlock | None:
        if isinstance(place, bytes):
            return self._engine.stored_block_named(place)
        height = self._height(place)
        return self._engine.stored_block(height) if height <= self._head() else None

    def _block_size(self, place: Height | Digest) -> object:
        stored = self._block(place)
        return None if stored is None else quantity(_size_of(stored))

    def _receipts(self, place: Height | Digest) -> object:
        stored = self._block(place)
        return None if stored is None else receipt_objects(stored)

    def _transaction_at(self, place: Height | Digest, position: int) -> object:
        stored = self._block(place)
        if stored is None or position >= _size_of(stored):
            return None
        return transaction_object(stored, position)

    def _transaction_by_hash(self, name: Digest) -> object:
        found = self._find(name)
        if found is not None:
            return transaction_object(*found)
        waiting = self._pool.get(name)
        return None if waiting is None else pending_transaction_object(waiting)

    def _receipt(self, name: Digest) -> object:
        found = self._find(name)
        return None if found is None else receipt_object(*found)

    def _find(self, name: Digest) -> tuple[StoredBlock, int] | None:
        place = self._engine.find_transaction(name)
        if place is None:
            return None
        stored = self._engine.stored_block(place[0])
        return None if stored is None else (stored, place[1])

    def _send(self, raw: bytes) -> str:
        return data_hex(self._submit(raw))

    def _fee_history(self, count: int, newest: Height, percentiles: tuple[float, ...]) -> object:
        last = self._height(newest)
        if last > self._head():
            raise RpcFault(SERVER, "request beyond head block")
        wanted = min(count, _MAX_FEE_BLOCKS, last + 1)
        blocks = [self._engine.stored_block(h) for h in range(last - wanted + 1, last + 1)]
        headers = [codec.stored_body(stored.payload).header for stored in blocks if stored]
        history: dict[str, object] = {
            "oldestBlock": quantity(last - wanted + 1),
            "baseFeePerGas": [quantity(0)] * (len(headers) + 1),
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if percentiles:
            history["reward"] = [[quantity(0)] * len(percentiles) for _ in headers]
        return history

    # Execution

    def _call(self, call: Call, place: Height | Digest, overrides: None) -> str:
        result = self._simulate(call, self._at(place), call.gas)
        if result.failure is not None:
            raise execution_fault(result)
        return data_hex(result.output)

    def _estimate_gas(self, call: Call, place: Height | Digest, overrides: None) -> str:
        """The least gas limit that suffices, within about 2 %.

        Whoever asks about the newest block means the next one, which is where a transaction goes.
        """
        at = self._at(place)
        if at == self._head():
            at = "pending"
        fixed, limit = codec.intrinsic_gas(call.data), self._gas_limit(call)
        result = self._simulate(call, at, limit - fixed)
        if result.failure is not None:
            raise execution_fault(result)
        # Gas that a callee leaves unused is held back from it (EIP-150), and refunds come last:
        # the gas used is a lower bound of the limit that is needed.
        low, high = result.gas_used, limit - fixed
        trial = low + low // 63 + 1
        while low + low // 50 < high:
            if trial < high and self._simulate(call, at, trial).failure is None:
                high = trial
            else:
                low = min(trial, high)
            trial = (low + high) // 2
        return quantity(fixed + high)

    def _list_accesses(self, call: Call, place: Height | Digest, overrides: None) -> object:
        """The slots that a call reads or writes, and the gas that it uses if they are listed.

        Only storage is listed: there is no contract but the consortium's.
        """
        at, limit = self._at(place), self._gas_limit(call)
        listed = self._simulate(call, at, limit - codec.intrinsic_gas(call.data)).slots_read
        fixed = codec.intrinsic_gas(call.data, listed)
        result = self._simulate(call, at, limit - fixed, listed)
        used = fixed + result.gas_used
        answer: dict[str, object] = {
            "accessList": access_list_object(_by_contract(listed)),
            "gasUsed": quantity(used - min(result.refund, used // 5)),
        }
        if result.failure is not None:
            answer["error"] = execution_fault(result).message
        return answer

    def _gas_limit(self, call: Call) -> int:
        """That of a transaction that makes this call."""
        largest = self._engine.rules.transaction_gas
        return min(call.gas or largest, largest)

    def _simulate(
        self, call: Call, at: At, gas: int | None, access_list: Collection[evm.Slot] = ()
    ) -> evm.CallResult:
        if gas is not None and gas < 0:
            return evm.CallResult(b"", 0, "intrinsic gas too low")
        now = int(self._now())
        return self._engine.simulate(
            call.to, call.data, call.sender, at, timestamp=now, gas=gas, access_list=access_list
        )

    # Logs

    def _logs(self, query: LogQuery) -> object:
        first, last = self._range(query)
        if first > last:
            raise RpcFault(SERVER, "invalid block range: fromBlock is after toBlock")
        last = min(last, self._head())
        found, reached = find_logs(self._engine, query, first, last)
        if reached < last or len(found) > MAX_LOGS:
            raise RpcFault(_TOO_MANY, f"query returned more than {MAX_LOGS} results")
        return found

    def _range(self, query: LogQuery) -> tuple[int, int]:
        """The heights that a query means, now."""
        if query.block is not None:
            stored = self._engine.stored_block_named(query.block)
            if stored is None:
                raise RpcFault(SERVER, "unknown block")
            return stored.height, stored.height
        return self._height(query.first), self._height(query.last)

    def _filter_changes(self, name: str) -> object:
        query, first, following = self._filters.advance(name)
        if query == "pending":
            return [data_hex(arrival) for arrival in self._pool.arrivals(first, following)]
        last = following - 1
        if query == "blocks":
            reached = min(last, first + MAX_BLOCK_NAMES - 1)
            if reached < last:
                self._filters.go_back(name, reached + 1)
            return [data_hex(self._engine.block(h).hash) for h in range(first, reached + 1)]
        if query.block is not None:
            return []  # a block that was there already
        # The tags mean "without end" here: a filter reports what is new.
        first = max(first, query.first) if isinstance(query.first, int) else first
        wanted = min(last, query.last) if isinstance(query.last, int) else last
        if query.last == "earliest":
            wanted = 0
        found, reached = find_logs(self._engine, query, first, wanted)
        if reached < wanted:
            self._filters.go_back(name, reached + 1)
        return found

    def _filter_logs(self, name: str) -> object:
        query = self._filters.get(name)
        if not isinstance(query, LogQuery):
            raise RpcFault(SERVER, "filter not found")
        return self._logs(query)

    # Heights

    def _head(self) -> int:
        return self._engine.head.height

    def _at(self, place: Height | Digest) -> At:
        """Which state a method is asked about. Raises RpcFault if the block is not here."""
        if place == "pending":
            return "pending"
        if isinstance(place, bytes):
            stored = self._engine.stored_block_named(place)
            height = None if stored is None else stored.height
        else:
            height = self._height(place)
        if height is None or height > self._head():
            raise RpcFault(SERVER, "header not found")
        return height

    def _height(self, at: Height) -> int:
        if isinstance(at, int):
            return at
        return 0 if at == "earliest" else self._head()


def _encode(answer: dict[str, object] | None) -> bytes:
    """The JSON of an answer; of a refusal, if that would be too long."""
    if answer is None:
        return b""
    encoded = msgspec.json.encode(answer)
    if len(encoded) <= MAX_ANSWER_BYTES:
        return encoded
    words = f"the answer has {len(encoded)} bytes, more than {MAX_ANSWER_BYTES}: ask for less"
    return msgspec.json.encode(_error(answer["id"], RpcFault(_TOO_MANY, words)))


def _refused_whole(words: str, code: int = _INVALID_REQUEST) -> bytes:
    return msgspec.json.encode(_error(None, RpcFault(code, words)))


def _error(name: object, fault: RpcFault) -> dict[str, object]:
    error: dict[str, object] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": name, "error": error}


def _by_contract(slots: Collection[evm.Slot]) -> list[tuple[bytes, list[int]]]:
    """Slots (contract, slot) as the entries of an access list, in order."""
    contracts = sorted({contract for contract, _ in slots})
    return [(each, sorted(slot for at, slot in slots if at == each)) for each in contracts]


def _size_of(stored: StoredBlock) -> int:
    """How many transactions a block has."""
    return len(codec.stored_body(stored.payload).transactions)
