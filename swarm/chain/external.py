"""A chain's endpoint over HTTP, by web3.py: what only an external chain needs.

A module of its own, because web3.py imports much, and a node on the embedded chain uses none of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from web3 import HTTPProvider
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint


class OverHttp:
    """Without retries of its own: who calls knows what may be asked twice."""

    def __init__(self, rpc_url: str, timeout_s: float) -> None:
        kwargs = {"timeout": timeout_s}
        self._provider = HTTPProvider(rpc_url, kwargs, exception_retry_configuration=None)

    def make_request(self, method: str, params: Sequence[object]) -> object:
        """Raises OSError or ValueError if there is no answer that can be read."""
        try:
            return self._provider.make_request(RPCEndpoint(method), list(params))
        except Web3Exception as error:
            raise ValueError(str(error)) from None

    def __str__(self) -> str:
        return str(self._provider)
