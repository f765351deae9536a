"""One JSON-RPC endpoint of a chain: questions out, plain results or our errors back.

A provider as web3.py has them carries the bytes. Results are read raw, without its formatters: they
would cost more than the call itself, and they refuse the long `extraData` of foreign QBFT chains,
of which nothing here reads a byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

from swarm.chain import contract
from swarm.errors import ChainError
from swarm.types import Address, Digest

_REVERTED = 3
MAX_QUANTITY_CHARS = 2 + 64


class EndpointFault(ChainError):
    """The endpoint answered with an error of its own, or not at all."""


class Provider(Protocol):
    """As much of a web3 provider as is needed here."""

    def make_request(self, method: Any, params: Any) -> Any:
        """The response as JSON has it. Raises OSError or ValueError if there is none."""
        ...


class InProcessProvider:
    """A provider over a function from request to response, without HTTP between."""

    def __init__(self, handle: Callable[[object], object]) -> None:
        self._handle = handle
        self._ids = itertools.count(1)

    def make_request(self, method: Any, params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        return self._handle(request)

    def __str__(self) -> str:
        return "this node's own chain"


class Endpoint:
    """Asks through one provider. Blocks the calling thread; any thread may call."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    @classmethod
    def at(cls, rpc_url: str, timeout_s: float) -> Endpoint:
        """Over HTTP."""
        from swarm.chain.external import OverHttp

        return cls(OverHttp(rpc_url, timeout_s))

    def __str__(self) -> str:
        return str(self._provider)

    def ask(self, method: str, *params: object) -> Any:
        """The result of one call.

        Raises ContractError if it reverted, EndpointFault for any other error or no answer.
        """
        try:
            answer: object = self._provider.make_request(method, list(params))
        except (OSError, ValueError) as error:
            raise EndpointFault(f"{self} did not answer {method}: {error}") from None
        if not isinstance(answer, dict):
            raise EndpointFault(f"{self} answered {method} with something that is no JSON-RPC")
        fault = answer.get("error")
        if fault is None and "result" in answer:
            return answer["result"]
        if not isinstance(fault, dict):
            raise EndpointFault(f"{self} answered {method} without a result: {fault!r}"[:500])
        message, data = str(fault.get("message", ""))[:500], fault.get("data")
        reverted = fault.get("code") == _REVERTED or "revert" in message.lower()
        if reverted and method in ("eth_call", "eth_estimateGas"):
            raise contract.revert(read_bytes(data) if isinstance(data, str) else b"")
        raise EndpointFault(f"{self} refused {method}: {message}")


def read_number(value: object) -> int:
    """A quantity below 2**256: `0x`-prefixed hexadecimal. Raises EndpointFault."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= MAX_QUANTITY_CHARS:
        try:
            return int(value, 16)
        except ValueError:
            pass  # Named below, like everything else that is no quantity.
    raise EndpointFault(f"the endpoint answered {value!r}"[:200] + " where a quantity belongs")


def read_bytes(value: object) -> bytes:
    """Data: `0x`-prefixed hexadecimal of whole bytes. Raises EndpointFault."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass  # Named below, like everything else that is no data.
    raise EndpointFault(f"the endpoint answered {value!r}"[:200] + " where data belong")


def read_digest(value: object) -> Digest:
    """Data of 32 bytes. Raises EndpointFault."""
    return Digest(_of_size(value, 32))


def read_address(value: object) -> Address:
    """Data of 20 bytes. Raises EndpointFault."""
    return Address(_of_size(value, 20))


def _of_size(value: object, size: int) -> bytes:
    data = read_bytes(value)
    if len(data) != size:
        raise EndpointFault(f"the endpoint answered {value!r}"[:200] + f", not {size} bytes")
    return data


def read_object(value: object, *keys: str) -> dict[str, Any]:
    """An object with these keys. Raises EndpointFault."""
    if isinstance(value, dict) and all(key in value for key in keys):
        return value
    raise EndpointFault(f"the endpoint answered {value!r}"[:200] + f" without {', '.join(keys)}")
