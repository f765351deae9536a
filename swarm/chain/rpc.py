"""Ethereum's JSON-RPC over the embedded chain: what web3.py, cast and wallets ask.

`RpcMethods.handle` is a function from request to response, with or without HTTP around it. Method
names, encodings and errors follow the execution-apis specification and EIP-1474; where these leave
a choice, go-ethereum's answer is given, because that is what clients were tested against.

All blocks are final when they appear: `latest`, `safe` and `finalized` are the same. `pending` is
the block that would come next, at the present time: the tag for trying a transaction out.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping

import msgspec
from eth_abi.abi import decode as decode_abi
from eth_abi.exceptions import DecodingError

from swarm.chain import codec, evm
from swarm.chain.engine import At, Engine
from swarm.chain.filters import Filters, LogFilter
from swarm.chain.pool import Pool
from swarm.chain.rpc_format import (
    RpcFault,
    block_object,
    data_hex,
    log_objects,
    pending_transaction_object,
    quantity,
    read_address,
    read_data,
    read_digest,
    read_quantity,
    receipt_object,
    transaction_object,
)
from swarm.chain.store import StoredBlock
from swarm.errors import UNREADABLE, ChainError, LocalError
from swarm.types import Address, Digest

MAX_BODY_BYTES = 1024 * 1024
MAX_BATCH = 100
MAX_LOGS = 10_000
BATCH_S = 20.0
"""What of a batch has not been answered by then is refused: a thread cannot be taken back."""
PRECOMPILES = 2**16
"""Below: the EVM's built-in functions. Some take minutes in Python for the gas of a second; the
contract uses none, so nothing is lost by not serving them."""
_MAX_FEE_BLOCKS = 1024
# py-evm raises Python's recursion limit to a depth at which decoding nested JSON overruns the C
# stack and kills the process: nesting is bounded before anything is decoded.
_MAX_BRACKETS = 2000
_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD, _BAD_PARAMS, _SERVER = (
    -32700,
    -32600,
    -32601,
    -32602,
    -32000,
)
_TOO_MANY, _INTERNAL = -32005, -32603
_REVERTED = 3
_ERROR_STRING, _PANIC = bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")
_PANICS = {
    0x01: "assert(false)",
    0x11: "arithmetic underflow or overflow",
    0x12: "division or modulo by zero",
    0x21: "enum conversion error",
    0x22: "invalid encoded storage byte array accessed",
    0x31: "out-of-bounds array access; popping on an empty array",
    0x32: "array accessed at an out-of-bounds or negative index",
    0x41: "out of memory",
    0x51: "uninitialized function",
}


class RpcMethods:
    """The methods, over one engine and its pool.

    `submit` takes a raw transaction and returns its name, or raises ChainError. `now` gives
    seconds since 1970, for the pending block.
    """

    def __init__(
        self,
        engine: Engine,
        pool: Pool,
        submit: Callable[[bytes], Digest],
        *,
        now: Callable[[], float] = time.time,
        client_version: str = "swarm",
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._submit = submit
        self._now = now
        self._filters = Filters(engine)
        self._methods: dict[str, Callable[..., object]] = {
            "web3_clientVersion": lambda: client_version,
            "net_version": lambda: str(engine.chain_id),
            "net_listening": lambda: True,
            "eth_chainId": lambda: quantity(engine.chain_id),
            "eth_syncing": lambda: False,
            "eth_accounts": lambda: [],
            "eth_gasPrice": lambda: quantity(0),
            "eth_maxPriorityFeePerGas": lambda: quantity(0),
            "eth_blockNumber": lambda: quantity(engine.head.height),
            "eth_feeHistory": self._fee_history,
            "eth_getBalance": self._balance,
            "eth_getCode": self._code,
            "eth_getStorageAt": self._storage,
            "eth_getTransactionCount": self._transaction_count,
            "eth_getBlockByNumber": self._block_by_number,
            "eth_getBlockByHash": self._block_by_hash,
            "eth_getTransactionByHash": self._transaction_by_hash,
            "eth_getTransactionReceipt": self._receipt,
            "eth_sendRawTransaction": self._send,
            "eth_call": self._call,
            "eth_estimateGas": self._estimate_gas,
            "eth_getLogs": self._logs,
            "eth_newFilter": self._new_filter,
            "eth_newBlockFilter": self._new_block_filter,
            "eth_getFilterChanges": self._filter_changes,
            "eth_getFilterLogs": self._filter_logs,
            "eth_uninstallFilter": self._uninstall_filter,
        }
        self._signatures = {name: inspect.signature(f) for name, f in self._methods.items()}

    def handle_bytes(self, body: bytes) -> bytes:
        """Answer one HTTP body; empty if there is nothing to answer (notifications only)."""
        if len(body) > MAX_BODY_BYTES:
            fault = RpcFault(_INVALID_REQUEST, f"the request has more than {MAX_BODY_BYTES} bytes")
            return msgspec.json.encode(_error(None, fault))
        if body.count(b"[") + body.count(b"{") > _MAX_BRACKETS:
            fault = RpcFault(_INVALID_REQUEST, "the request is nested too deeply or has too much")
            return msgspec.json.encode(_error(None, fault))
        try:
            request = msgspec.json.decode(body)
        except UNREADABLE as error:
            return msgspec.json.encode(_error(None, RpcFault(_PARSE_ERROR, str(error))))
        response = self.handle(request)
        return b"" if response is None else msgspec.json.encode(response)

    def handle(self, request: object) -> object:
        """Answer a decoded request or batch; None for notifications. Never raises for its fault."""
        if not isinstance(request, list):
            return self._handle_one(request)
        if not 0 < len(request) <= MAX_BATCH:
            return _error(None, RpcFault(_INVALID_REQUEST, f"a batch has 1 to {MAX_BATCH} calls"))
        until_s = time.monotonic() + BATCH_S
        answers = [self._handle_one(item, until_s) for item in request]
        return [answer for answer in answers if answer is not None] or None

    def _handle_one(self, request: object, until_s: float = math.inf) -> object:
        if not isinstance(request, Mapping):
            return _error(None, RpcFault(_INVALID_REQUEST, "a request is a JSON object"))
        name = request.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int | float | None):
            return _error(None, RpcFault(_INVALID_REQUEST, "the id is a string or a number"))
        try:
            if time.monotonic() > until_s:
                raise RpcFault(_TOO_MANY, f"the batch takes over {BATCH_S:g} s: ask for less")
            result = self._dispatch(request)
        except RpcFault as fault:
            return _error(name, fault)
        except ChainError as error:
            return _error(name, RpcFault(_SERVER, str(error)))
        except LocalError as error:
            return _error(name, RpcFault(_INTERNAL, str(error)))
        if "id" not in request:
            return None
        return {"jsonrpc": "2.0", "id": name, "result": result}

    def _dispatch(self, request: Mapping[str, object]) -> object:
        name, params = request.get("method"), request.get("params") or []
        if request.get("jsonrpc") != "2.0" or not isinstance(name, str):
            raise RpcFault(_INVALID_REQUEST, 'a request has "jsonrpc": "2.0" and a method')
        method = self._methods.get(name)
        if method is None:
            raise RpcFault(_NO_METHOD, f"the method {name[:64]} does not exist/is not available")
        if not isinstance(params, list):
            raise RpcFault(_BAD_PARAMS, "the parameters are a list")
        try:
            self._signatures[name].bind(*params)
        except TypeError as error:
            raise RpcFault(_BAD_PARAMS, f"{name}: {error}") from None
        return method(*params)

    # State

    def _balance(self, address: object, at: object = "latest") -> str:
        read_address(address)
        self._state_tag(at)
        return quantity(0)

    def _code(self, address: object, at: object = "latest") -> str:
        return data_hex(self._engine.code(read_address(address), self._state_tag(at)))

    def _storage(self, address: object, slot: object, at: object = "latest") -> str:
        number = read_quantity(slot, padded=True)
        value = self._engine.storage(read_address(address), number, self._state_tag(at))
        return data_hex(value.to_bytes(32, "big"))

    def _transaction_count(self, address: object, at: object = "latest") -> str:
        account, tag = read_address(address), self._state_tag(at)
        if tag == "pending":
            return quantity(self._pool.next_nonce(account))
        return quantity(self._engine.nonce(account, tag))

    # Blocks and transactions

    def _block_by_number(self, at: object, full: object = False) -> object:
        stored = self._stored(at)
        return None if stored is None else block_object(stored, full=_flag(full))

    def _block_by_hash(self, name: object, full: object = False) -> object:
        stored = self._engine.stored_block_named(read_digest(name))
        return None if stored is None else block_object(stored, full=_flag(full))

    def _transaction_by_hash(self, name: object) -> object:
        digest = read_digest(name)
        found = self._find(digest)
        if found is not None:
            return transaction_object(*found)
        waiting = self._pool.get(digest)
        return None if waiting is None else pending_transaction_object(waiting)

    def _receipt(self, name: object) -> object:
        found = self._find(read_digest(name))
        return None if found is None else receipt_object(*found)

    def _find(self, name: Digest) -> tuple[StoredBlock, int] | None:
        place = self._engine.find_transaction(name)
        if place is None:
            return None
        stored = self._engine.stored_block(place[0])
        return None if stored is None else (stored, place[1])

    def _send(self, raw: object) -> str:
        return data_hex(self._submit(read_data(raw)))

    def _fee_history(self, count: object, newest: object, percentiles: object = None) -> object:
        last = self._height(newest)
        if last > self._engine.head.height:
            raise RpcFault(_SERVER, "request beyond head block")
        number = count if isinstance(count, int) else read_quantity(count)
        wanted = min(number, _MAX_FEE_BLOCKS, last + 1)
        blocks = [self._engine.stored_block(h) for h in range(last - wanted + 1, last + 1)]
        headers = [codec.stored_body(stored.payload).header for stored in blocks if stored]
        history: dict[str, object] = {
            "oldestBlock": quantity(last - wanted + 1),
            "baseFeePerGas": [quantity(0)] * (len(headers) + 1),
            "gasUsedRatio": [header.gas_used / header.gas_limit for header in headers],
        }
        if isinstance(percentiles, list) and percentiles:
            if len(percentiles) > 100:
                raise RpcFault(_BAD_PARAMS, "at most 100 percentiles")
            history["reward"] = [[quantity(0)] * len(percentiles) for _ in headers]
        return history

    # Execution

    def _call(self, call: object, at: object = "latest", overrides: object = None) -> str:
        to, sender, data, gas = self._read_call(call, overrides)
        result = self._simulate(to, sender, data, at, gas)
        if result.failure is not None:
            raise _execution_fault(result)
        return data_hex(result.output)

    def _estimate_gas(self, call: object, at: object = "pending", overrides: object = None) -> str:
        """The least gas limit that suffices, within about 2 %."""
        to, sender, data, gas = self._read_call(call, overrides)
        fixed = codec.intrinsic_gas(data)
        limit = min(gas or self._engine.rules.transaction_gas, self._engine.rules.transaction_gas)
        result = self._simulate(to, sender, data, at, limit - fixed)
        if result.failure is not None:
            raise _execution_fault(result)
        # Gas that a callee leaves unused is held back from it (EIP-150), and refunds come last:
        # the gas used is a lower bound of the limit that is needed.
        low, high = result.gas_used, limit - fixed
        trial = low + low // 63 + 1
        while low + low // 50 < high:
            if trial < high and self._simulate(to, sender, data, at, trial).failure is None:
                high = trial
            else:
                low = min(trial, high)
            trial = (low + high) // 2
        return quantity(fixed + high)

    def _simulate(
        self, to: Address, sender: Address | None, data: bytes, at: object, gas: int | None
    ) -> evm.CallResult:
        now = int(self._now())
        if gas is not None and gas < 0:
            return evm.CallResult(b"", 0, "intrinsic gas too low")
        return self._engine.simulate(to, data, sender, self._state_tag(at), timestamp=now, gas=gas)

    def _read_call(
        self, call: object, overrides: object
    ) -> tuple[Address, Address | None, bytes, int | None]:
        if not isinstance(call, Mapping):
            raise RpcFault(_BAD_PARAMS, "a call is an object with to and data")
        if overrides:
            raise RpcFault(_BAD_PARAMS, "state overrides are not supported")
        if call.get("to") is None:
            raise RpcFault(_SERVER, "contracts cannot be created on this chain")
        if call.get("value") is not None and read_quantity(call["value"]) != 0:
            raise RpcFault(_SERVER, "insufficient funds for transfer: nobody has any wei here")
        if int.from_bytes(read_address(call["to"]), "big") < PRECOMPILES:
            raise RpcFault(_SERVER, "the EVM's built-in functions are not served here")
        data = call.get("input", call.get("data"))
        sender, gas = call.get("from"), call.get("gas")
        return (
            read_address(call["to"]),
            None if sender is None else read_address(sender),
            b"" if data is None else read_data(data),
            None if gas is None else read_quantity(gas),
        )

    # Logs

    def _logs(self, criteria: object) -> list[object]:
        return self._select(self._log_filter(criteria))

    def _log_filter(self, criteria: object) -> LogFilter:
        if not isinstance(criteria, Mapping):
            raise RpcFault(_BAD_PARAMS, "a filter is an object")
        if criteria.get("blockHash") is not None:
            if criteria.get("fromBlock") is not None or criteria.get("toBlock") is not None:
                raise RpcFault(_BAD_PARAMS, "give either blockHash or fromBlock and toBlock")
            stored = self._engine.stored_block_named(read_digest(criteria["blockHash"]))
            if stored is None:
                raise RpcFault(_SERVER, "unknown block")
            first = last = stored.height
        else:
            first = self._height(criteria.get("fromBlock"))
            last = self._height(criteria.get("toBlock"))
        return LogFilter.read(first, last, criteria.get("address"), criteria.get("topics"))

    def _select(self, wanted: LogFilter) -> list[object]:
        if wanted.first > wanted.last:
            raise RpcFault(_BAD_PARAMS, "invalid block range params: fromBlock is after toBlock")
        found: list[object] = []
        head = self._engine.head.height
        if wanted.first > head:
            return found
        for height, bloom in self._engine.blooms(wanted.first, min(wanted.last, head)):
            if not wanted.may_match(bloom):
                continue
            stored = self._engine.stored_block(height)
            if stored is None:
                continue
            found.extend(log for log in log_objects(stored) if wanted.matches(log))
            if len(found) > MAX_LOGS:
                raise RpcFault(_TOO_MANY, f"query returned more than {MAX_LOGS} results")
        return found

    def _new_filter(self, criteria: object) -> str:
        return self._filters.add(self._log_filter(criteria))

    def _new_block_filter(self) -> str:
        return self._filters.add(None)

    def _filter_changes(self, name: object) -> list[object]:
        wanted, first, last = self._filters.advance(name)
        if first > last:
            return []
        if wanted is None:
            return [data_hex(self._engine.block(h).hash) for h in range(first, last + 1)]
        return self._select(wanted.between(first, last))

    def _filter_logs(self, name: object) -> list[object]:
        wanted = self._filters.get(name)
        if wanted is None:
            raise RpcFault(_SERVER, "filter not found")
        return self._select(wanted)

    def _uninstall_filter(self, name: object) -> bool:
        return self._filters.remove(name)

    # Tags

    def _state_tag(self, at: object) -> At:
        """Which state a method is asked about. Raises RpcFault if the block is not here."""
        if at == "pending":
            return "pending"
        if isinstance(at, Mapping):  # EIP-1898
            name = at.get("blockHash")
            at = at.get("blockNumber") if name is None else self._height_of(read_digest(name))
        height = at if isinstance(at, int) else self._height(at)
        if height > self._engine.head.height:
            raise RpcFault(_SERVER, "header not found")
        return height

    def _height_of(self, name: Digest) -> int:
        stored = self._engine.stored_block_named(name)
        if stored is None:
            raise RpcFault(_SERVER, "header not found")
        return stored.height

    def _height(self, at: object) -> int:
        if at in (None, "latest", "safe", "finalized", "pending"):
            return self._engine.head.height
        return 0 if at == "earliest" else read_quantity(at)

    def _stored(self, at: object) -> StoredBlock | None:
        height = self._height(at)
        return self._engine.stored_block(height) if height <= self._engine.head.height else None


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise RpcFault(_BAD_PARAMS, "the second parameter is true or false")
    return value


def _error(name: object, fault: RpcFault) -> dict[str, object]:
    error: dict[str, object] = {"code": fault.code, "message": fault.message}
    if fault.data is not None:
        error["data"] = fault.data
    return {"jsonrpc": "2.0", "id": name, "error": error}


def _execution_fault(result: evm.CallResult) -> RpcFault:
    if result.revert_data is None:
        return RpcFault(_SERVER, result.failure or "execution failed")
    reason = _revert_reason(result.revert_data)
    message = f"execution reverted: {reason}" if reason else "execution reverted"
    return RpcFault(_REVERTED, message, data_hex(result.revert_data))


def _revert_reason(data: bytes) -> str | None:
    selector, rest = data[:4], data[4:]
    try:
        if selector == _ERROR_STRING:
            return str(decode_abi(["string"], rest)[0])
        if selector == _PANIC:
            code = int(decode_abi(["uint256"], rest)[0])
            return _PANICS.get(code, f"unknown panic code: {code:#x}")
    except (DecodingError, UnicodeDecodeError, OverflowError, ValueError):
        return None
    return None
