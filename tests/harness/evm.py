"""The consortium contract and its executable specification behind one interface, for tests.

`EvmContract` is the Solidity contract on a bare EVM: one transaction a call, any sender, any time,
no blocks. py-evm executes by the rules of the embedded chain (London); a chain, a pool and
signatures would only be in the way. `LedgerContract` takes the same calls and gives the same
answers, so that one test body, or one random sequence, runs against both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from eth.constants import BLANK_ROOT_HASH
from eth.db.atomic import AtomicDB
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.frontier.transaction_context import FrontierTransactionContext
from eth.vm.forks.london.state import LondonState
from eth.vm.message import Message

from swarm.chain import contract
from swarm.chain.genesis import library_address
from swarm.protocol.attestation import domain_of, node_key_digest, sign
from swarm.protocol.follow import recalled
from swarm.protocol.ledger import Founder, Ledger, Proposal
from swarm.protocol.names import bytes_of
from swarm.protocol.state import Member, Plan, Round
from swarm.types import NO_ADDRESS, Address, MemberId, PlanId, to_address

AT = Address(b"\xc0" * 20)
GAS_LIMIT = 100_000_000
TRANSACTION_GAS = 21_000
CHAIN_ID = 1
DOMAIN = domain_of(CHAIN_ID, AT)
"""What carried attestations are signed over, here and there."""


def proof_of(secret: bytes, member: int) -> bytes:
    """The signature with which a new node key agrees to be this member's (`setNode`)."""
    return sign(secret, node_key_digest(DOMAIN, member))


class Book(Protocol):
    """What the two have in common. `height` is the block's number, to be set."""

    height: int

    def send(self, sender: Address, now: int, function: str, *arguments: Any) -> Any: ...
    def members(self) -> dict[MemberId, Member]: ...
    def proposals(self) -> dict[int, Proposal]: ...
    def validators(self) -> list[Address]: ...
    def protocol_version(self) -> int: ...
    def plan(self, plan_id: PlanId) -> Plan: ...


class LedgerContract:
    """The executable specification, called by the contract's function names."""

    def __init__(self, founders: Sequence[Founder], now: int = 0) -> None:
        self.ledger = Ledger(founders, now)
        self.ledger.membership.signatures.domain = DOMAIN

    @property
    def height(self) -> int:
        return self.ledger.membership.height

    @height.setter
    def height(self, height: int) -> None:
        self.ledger.membership.height = height

    def send(self, sender: Address, now: int, function: str, *arguments: Any) -> Any:
        if function == "until":
            time, inner, *rest = arguments
            return self.ledger.until(sender, now, time, _method(inner), tuple(rest))
        return self.ledger.transact(sender, now, _method(function), *arguments)

    def members(self) -> dict[MemberId, Member]:
        return self.ledger.members

    def proposals(self) -> dict[int, Proposal]:
        return self.ledger.membership.proposals

    def validators(self) -> list[Address]:
        return self.ledger.membership.validators()

    def protocol_version(self) -> int:
        return self.ledger.membership.protocol_version

    def plan(self, plan_id: PlanId) -> Plan:
        return self.ledger.plans[plan_id]


class EvmContract:
    """A deployed contract with methods `send` and `ask`, and what the last transaction cost.

    What was read of the plan and the members is remembered until the next transaction or block.
    """

    def __init__(self, founders: Sequence[Founder], now: int = 0) -> None:
        self._height = 0
        self._known: dict[str, Any] = {}
        self.gas_used = 0
        self.events: list[tuple[str, dict[str, object]]] = []
        """What the last transaction emitted."""
        self._told: dict[object, list[tuple[str, dict[str, object], int]]] = {}
        """By plan, all that was emitted about it, and when."""
        context = _context(now, 0)
        self._state = LondonState(AtomicDB(), context, BLANK_ROOT_HASH)
        libraries = contract.artifact().libraries
        places = {name: library_address(name) for name in libraries}
        for library, code in libraries.items():
            self._execute(NO_ADDRESS, now, code, create=places[library])
        self._execute(NO_ADDRESS, now, contract.creation_data(founders, places), create=AT)
        self._state.lock_changes()

    @property
    def height(self) -> int:
        """The number of the block in which transactions are executed."""
        return self._height

    @height.setter
    def height(self, height: int) -> None:
        self._height = height
        self._known.clear()

    def send(self, sender: Address, now: int, function: str, *arguments: object) -> Any:
        """One transaction. Raises ContractError if it reverts, and then nothing has changed."""
        self._known.clear()
        data = calldata(function, *arguments)
        output = self._execute(sender, now, data)
        # What one transaction touched is cold again for the next.
        self._state.lock_changes()
        if function == "until":
            output = contract.result(function, output)
            function = str(arguments[1])
        result = contract.result(function, output)
        return None if result == () else result

    def members(self) -> dict[MemberId, Member]:
        known: dict[MemberId, Member] = self._once(
            "members", lambda: contract.all_members(partial(self.ask, "getMembers"))
        )
        return known

    def proposals(self) -> dict[int, Proposal]:
        found = contract.proposals(self.ask("getProposals", 1, 1000), 1)
        return {number: p for number, p in found.items() if isinstance(p, Proposal)}

    def validators(self) -> list[Address]:
        nodes: list[bytes] = self._once("validators", lambda: self.ask("getValidators"))
        return [to_address(node) for node in nodes]

    def protocol_version(self) -> int:
        return int(self.ask("protocolVersion"))

    def plan(self, plan_id: PlanId) -> Plan:
        def read() -> Plan:
            plan = contract.snapshot(self.ask("getSnapshot", plan_id)).plan
            return recalled(plan, self._told.get(plan_id, ()), self.members())

        known: Plan = self._once(f"plan {plan_id}", read)
        return known

    def past_round(self, plan_id: PlanId, number: int, attempt: int) -> Round | None:
        return contract.round(self.ask("getRoundAt", plan_id, number, attempt))

    def _once(self, what: str, read: Callable[[], Any]) -> Any:
        if what not in self._known:
            self._known[what] = read()
        return self._known[what]

    def ask(self, function: str, *arguments: object, now: int = 0) -> Any:
        """One call without effect."""
        mark = self._state.snapshot()
        kept = self.gas_used, self.events
        try:
            data = contract.call_data(function, *arguments)
            return contract.result(function, self._execute(NO_ADDRESS, now, data))
        finally:
            self._state.revert(mark)
            self.gas_used, self.events = kept

    def _execute(
        self, sender: Address, now: int, data: bytes, create: Address | None = None
    ) -> bytes:
        state = self._state
        state.execution_context = _context(now, self._height)
        code = data if create else state.get_code(AT)
        message = Message(
            gas=GAS_LIMIT,
            to=b"" if create else AT,
            sender=sender,
            value=0,
            data=b"" if create else data,
            code=code,
            create_address=create,
        )
        transaction = FrontierTransactionContext(gas_price=0, origin=sender)
        apply = state.computation_class.apply_create_message
        if not create:
            state.mark_address_warm(AT)
            apply = state.computation_class.apply_message
        done = apply(state, message, transaction)
        used = done.get_gas_used()
        calldata = sum(16 if byte else 4 for byte in data)
        spent = TRANSACTION_GAS + calldata + used
        self.gas_used = spent - min(done.get_gas_refund(), spent // 5)
        if done.is_error:
            raise contract.revert(done.output)
        self.events = [
            decoded
            for _, topics, body in done.get_log_entries()
            if (decoded := contract.event([t.to_bytes(32, "big") for t in topics], body))
        ]
        for name, fields in self.events:
            self._told.setdefault(fields.get("plan"), []).append((name, fields, now))
        return bytes(done.output)


def calldata(function: str, *arguments: Any) -> bytes:
    """The data of a call; of `until` with the time, another function and its arguments."""
    if function == "until":
        time, *inner = arguments
        return contract.call_data("until", time, calldata(*inner))
    entry = contract.interface().functions[function]
    # Text as the bytes that it stands for, which need not be UTF-8.
    types = ["bytes" if kind == "string" else kind for kind in entry.types]
    values = [bytes_of(a) if isinstance(a, str) else contract._plain(a) for a in arguments]
    return entry.selector + bytes(contract._codec.encode(types, values))


def _method(function: str) -> str:
    """The specification's name of a function of the contract."""
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), function)


def _context(now: int, height: int) -> ExecutionContext:
    return ExecutionContext(
        coinbase=NO_ADDRESS,
        timestamp=now,
        block_number=height,
        difficulty=0,
        mix_hash=bytes(32),
        gas_limit=GAS_LIMIT,
        prev_hashes=(),
        chain_id=CHAIN_ID,
        base_fee_per_gas=0,
    )
