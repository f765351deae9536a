"""What a call that failed tells its caller: go-ethereum's words, and the data it reverted with."""

from __future__ import annotations

from eth_abi.abi import decode as decode_abi
from eth_abi.exceptions import DecodingError

from swarm.chain.evm import CallResult
from swarm.chain.rpc_format import data_hex
from swarm.chain.rpc_parameters import SERVER, RpcFault

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


def execution_fault(result: CallResult) -> RpcFault:
    """The error for a call that failed: code 3 and its data if it reverted."""
    if result.revert_data is None:
        return RpcFault(SERVER, result.failure or "execution failed")
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
