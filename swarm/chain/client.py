"""The consortium contract over JSON-RPC: read it in one call, change it with a signed transaction.

The same client talks to the embedded chain (in process or over loopback) and to any external
Ethereum endpoint with instant finality or the `finalized` tag. It blocks: a node calls it in worker
threads. Every refusal of the contract comes back as `ContractError` under the contract's own name.

    client = ConsortiumClient.connect("http://127.0.0.1:8545", contract, key)
    client.transact("consent", plan_id, digest, terms, deadline_s=30)
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from eth_account import Account
from eth_hash.auto import keccak
from eth_utils.address import to_checksum_address

from swarm.chain import contract as codec
from swarm.chain.contract import Event, FounderCard, Snapshot, UnreadableAnswer
from swarm.chain.endpoint import (
    Endpoint,
    EndpointFault,
    InProcessProvider,
    Provider,
    read_address,
    read_bytes,
    read_digest,
    read_number,
    read_object,
)
from swarm.errors import ChainError, ConfigurationError, ContractError
from swarm.protocol.attestation import (
    FIELDS,
    NAME,
    VERSION,
    Attestation,
    attestation_digest,
    domain_of,
)
from swarm.protocol.follow import recalled
from swarm.protocol.membership import Proposal
from swarm.protocol.state import Member, Plan, Round
from swarm.types import Address, Digest, MemberId, PlanId, to_address, to_hex

TRANSACTION_GAS = 1_000_000
"""Every transaction's limit: what the embedded chain allows, and more than any call needs."""
MAX_RANGE = 1000
"""Blocks in one question for events; public endpoints refuse much more."""
PAGE = 64
MAX_IN_FLIGHT = 64
FIRST_PAUSE_S, LAST_PAUSE_S = 0.02, 0.5
RESEND_S = 2.0


@dataclass(frozen=True)
class Receipt:
    """A transaction that was carried out."""

    tx: Digest
    height: int
    gas_used: int
    events: list[Event]


class ConsortiumClient:
    """One contract on one chain, and the key that signs, if any. Any thread may use it.

    `tag` is what counts as the present: `latest` where blocks are final at once, `finalized` on a
    chain that may reorganise.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        contract: Address,
        key: bytes | None = None,
        *,
        tag: str = "latest",
    ) -> None:
        self.contract = contract
        self.chain_id = read_number(endpoint.ask("eth_chainId"))
        self._endpoint = endpoint
        self._tag = tag
        self._signer = None if key is None else _account(key)
        self._lock = threading.Lock()
        self._next_nonce = 0
        self._in_flight: OrderedDict[Digest, tuple[int, bytes, int | None]] = OrderedDict()
        """What was sent and is not known to be carried out: nonce, bytes, and the time after which
        it does nothing."""

    @classmethod
    def connect(
        cls,
        rpc_url: str,
        contract: Address,
        key: bytes | None = None,
        *,
        timeout_s: float = 10,
        tag: str = "latest",
    ) -> ConsortiumClient:
        """Over HTTP. Raises ConfigurationError if nothing answers there, if there is no code at the
        address, or if it is not a consortium contract that this release can follow."""
        return cls._checked(Endpoint.at(rpc_url, timeout_s), contract, key, tag)

    @classmethod
    def over(
        cls,
        provider: Provider,
        contract: Address,
        key: bytes | None = None,
        *,
        tag: str = "latest",
    ) -> ConsortiumClient:
        """Over any provider, `InProcessProvider` or one of web3.py. Checked like `connect`."""
        return cls._checked(Endpoint(provider), contract, key, tag)

    @classmethod
    def _checked(
        cls, endpoint: Endpoint, contract: Address, key: bytes | None, tag: str
    ) -> ConsortiumClient:
        where = f"{to_hex(contract)} at {endpoint}"
        try:
            client = cls(endpoint, contract, key, tag=tag)
            code = read_bytes(endpoint.ask("eth_getCode", to_hex(contract), tag))
        except EndpointFault as fault:
            raise ConfigurationError(
                f"{fault}. Check that chain.rpc_url names a running Ethereum JSON-RPC endpoint."
            ) from None
        if not code:
            raise ConfigurationError(
                f"there is no contract {where} (chain {client.chain_id}). "
                "Check chain.contract, and that chain.rpc_url is the consortium's chain."
            )
        try:
            version = client.call("protocolVersion")
        except (ContractError, ChainError):
            raise ConfigurationError(
                f"the contract {where} is not a consortium contract. Check chain.contract."
            ) from None
        if version not in codec.PROTOCOL_VERSIONS:
            known = ", ".join(map(str, sorted(codec.PROTOCOL_VERSIONS)))
            raise ConfigurationError(
                f"the contract {where} runs protocol version {version}, and this release follows "
                f"only {known}. Install the release that the consortium voted for."
            )
        return client

    @property
    def account(self) -> Address | None:
        """The address that signs; None for a client that only reads."""
        return None if self._signer is None else to_address(self._signer.address)

    # Reading: one question each.

    def head(self) -> tuple[int, int]:
        """Height and timestamp of the newest block."""
        block = read_object(
            self._endpoint.ask("eth_getBlockByNumber", self._tag, False), "number", "timestamp"
        )
        return read_number(block["number"]), read_number(block["timestamp"])

    def call(self, function: str, *arguments: object, height: int | None = None) -> Any:
        """Any view of the contract, now or after an earlier block. Raises ContractError,
        ChainError."""
        data = codec.call_data(function, *arguments)
        tag = self._tag if height is None else hex(height)
        return codec.result(function, self._eth_call(data, None, tag))

    def members(self) -> dict[MemberId, Member]:
        """Every member there ever was, by number."""
        return codec.all_members(lambda first, count: self.call("getMembers", first, count))

    def present_members(self) -> int:
        """The members of this moment."""
        return int(self.call("presentMembers"))

    def validators(self) -> list[Address]:
        """The nodes that finalise the next block."""
        return [to_address(node) for node in self.call("getValidators")]

    def proposals(self) -> dict[int, Proposal | UnreadableAnswer]:
        """Every membership proposal, by number; in the place of one that cannot be read, why."""
        found: dict[int, Proposal | UnreadableAnswer] = {}
        while page := self.call("getProposals", len(found) + 1, PAGE):
            found.update(codec.proposals(page, len(found) + 1))
            if len(page) < PAGE:
                break
        return found

    def plan_count(self) -> int:
        return int(self.call("planCount"))

    def plan(self, plan_id: PlanId, height: int | None = None) -> Plan:
        """A plan with its consents and its current round, now or after an earlier block.

        Raises ContractError("PlanUnknown"), UnreadableAnswer.
        """
        return self.snapshot(plan_id, height).plan

    def snapshot(self, plan_id: PlanId, height: int | None = None) -> Snapshot:
        """Block, members, plan and round of one moment; of a masked plan, with what only the
        events of its current attempt tell."""
        found = codec.snapshot(self.call("getSnapshot", plan_id, height=height))
        if not found.plan.is_masked or not found.since:
            return found
        told = (
            (event.name, event.arguments, self.time_of(event))
            for event in self.events(found.since, found.height)
            if event.arguments.get("plan") == plan_id
        )
        return replace(found, plan=recalled(found.plan, told, self.members()))

    def past_round(self, plan_id: PlanId, number: int, attempt: int) -> Round | None:
        """Any attempt of any round; None if there was none."""
        return codec.round(self.call("getRoundAt", plan_id, number, attempt))

    def time_of(self, event: Event) -> int:
        """The timestamp of an event's block, asked for where the endpoint told it not with it."""
        if event.timestamp is not None:
            return event.timestamp
        block = self._endpoint.ask("eth_getBlockByNumber", hex(event.height), False)
        return read_number(read_object(block, "timestamp")["timestamp"])

    def events(self, first: int, last: int) -> list[Event]:
        """The contract's events of the blocks first..last, in order."""
        found: list[Event] = []
        for start in range(first, last + 1, MAX_RANGE):
            criteria = {
                "address": to_hex(self.contract),
                "fromBlock": hex(start),
                "toBlock": hex(min(last, start + MAX_RANGE - 1)),
            }
            found.extend(_events(self._endpoint.ask("eth_getLogs", criteria)))
        return sorted(found, key=lambda event: (event.height, event.index))

    # Changing.

    def check(self, function: str, *arguments: object) -> None:
        """Try a transaction out on the block that would come next. Raises ContractError."""
        self._eth_call(codec.call_data(function, *arguments), self.account, "pending")

    def send(self, function: str, *arguments: object) -> Digest:
        """Sign a transaction and hand it to the endpoint. Returns its name at once.

        Several may be in flight. Raises ChainError if the endpoint refuses it.
        """
        return self._submit(codec.call_data(function, *arguments))

    def send_until(self, time: int, function: str, *arguments: object) -> Digest:
        """Like `send`, with the chain time after which the transaction does nothing."""
        return self._submit(codec.call_data("until", time, codec.call_data(function, *arguments)))

    def sign_attestation(self, attestation: Attestation) -> bytes:
        """This key's signature (r, s, v) of an attestation, for others to carry (`attestMany`)."""
        self._require_signer()
        assert self._signer is not None
        return bytes(self._signer.sign_typed_data(full_message=self._typed(attestation)).signature)

    def attestation_digest(self, attestation: Attestation) -> Digest:
        """What `sign_attestation` signs, on this chain and for this contract."""
        return attestation_digest(domain_of(self.chain_id, self.contract), attestation)

    def _typed(self, attestation: Attestation) -> dict[str, Any]:
        """The attestation as EIP-712 has wallets show it."""
        domain = {
            "name": NAME,
            "version": VERSION,
            "chainId": self.chain_id,
            "verifyingContract": to_checksum_address(self.contract),
        }
        types = {
            "EIP712Domain": [
                {"name": "name", "type": "string"},
                {"name": "version", "type": "string"},
                {"name": "chainId", "type": "uint256"},
                {"name": "verifyingContract", "type": "address"},
            ],
            "Attestation": [{"name": name, "type": kind} for name, kind in FIELDS],
        }
        return {
            "types": types,
            "primaryType": "Attestation",
            "domain": domain,
            "message": attestation.message,
        }

    def _submit(self, data: bytes) -> Digest:
        with self._lock:
            return self._send(self.contract, data, TRANSACTION_GAS)

    def wait(self, tx: Digest, deadline_s: float) -> Receipt:
        """Until the transaction is carried out and counts as present.

        Raises ContractError if it reverted (by asking again at its block), ChainError if it was not
        carried out in time; then it still may be.
        """
        until = time.monotonic() + deadline_s
        resend_at = time.monotonic() + RESEND_S
        pause_s = FIRST_PAUSE_S
        while (receipt := self.receipt(tx)) is None:
            now = time.monotonic()
            if now >= until:
                raise self.overdue(tx, deadline_s)
            if now >= resend_at:
                self.resend(tx)
                resend_at = now + RESEND_S
            time.sleep(min(pause_s, until - now))
            pause_s = min(pause_s * 1.5, LAST_PAUSE_S)
        return receipt

    def receipt(self, tx: Digest) -> Receipt | None:
        """What became of a transaction; None while it is not carried out, or does not count yet.

        Raises ContractError if it reverted, ChainError if it never can be carried out.
        """
        found = self._endpoint.ask("eth_getTransactionReceipt", to_hex(tx))
        if found is None and self._is_overtaken(tx):
            raise ChainError(
                f"transaction {to_hex(tx)} has the number of another one of this account, which "
                "was sent before a restart and came in first: send it again"
            )
        if found is None and self._has_expired(tx):
            raise ContractError("Expired", {"time": self._until_of(tx), "now": self.head()[1]})
        if found is None or not self._counts(found):
            return None
        with self._lock:
            self._in_flight.pop(tx, None)
        return self._receipt(tx, found)

    def bytes_of(self, tx: Digest) -> int:
        """How many bytes a transaction that was just sent has; 0 if it is known no more."""
        with self._lock:
            return len(self._in_flight.get(tx, (0, b"", None))[1])

    def overdue(self, tx: Digest, deadline_s: float) -> ChainError:
        """The error for a transaction that was not carried out in time."""
        with self._lock:
            # It may be lost: let the chain say where our nonces stand.
            self._next_nonce = 0
        return ChainError(
            f"transaction {to_hex(tx)} was not carried out within {deadline_s:g} s by "
            f"{self._endpoint}: the chain may lack a quorum of validators"
        )

    def resend(self, tx: Digest) -> None:
        """An endpoint that was restarted may have forgotten what it accepted: tell it again."""
        with self._lock:
            _, raw, _ = self._in_flight.get(tx, (0, None, None))
        known = self._endpoint.ask("eth_getTransactionByHash", to_hex(tx))
        if known is None and raw is not None:
            # It may have come in between; the deadline decides.
            with suppress(EndpointFault):
                self._endpoint.ask("eth_sendRawTransaction", to_hex(raw))

    def transact(self, function: str, *arguments: object, deadline_s: float) -> Receipt:
        """Check, send and wait. Raises ContractError, ChainError."""
        self.check(function, *arguments)
        return self.wait(self.send(function, *arguments), deadline_s)

    def _eth_call(self, data: bytes, sender: Address | None, tag: str) -> bytes:
        call = {"to": to_hex(self.contract), "data": to_hex(data)}
        if sender is not None:
            call |= {"from": to_hex(sender), "gas": hex(TRANSACTION_GAS)}
        return read_bytes(self._endpoint.ask("eth_call", call, tag))

    def _send(self, to: Address | None, data: bytes, gas: int) -> Digest:
        for first in (True, False):
            nonce = max(self._next_nonce, self._pending_nonce())
            raw = self._sign(to, data, nonce, gas)
            tx = Digest(keccak(raw))
            try:
                self._endpoint.ask("eth_sendRawTransaction", to_hex(raw))
            except EndpointFault as fault:
                # Whatever became of it, the chain knows better than we do which nonce is next.
                self._next_nonce = 0
                reason = str(fault).lower()
                if "already known" not in reason and "already imported" not in reason:
                    if first and "nonce" in reason:
                        continue
                    raise
            self._next_nonce = nonce + 1
            self._in_flight[tx] = (nonce, raw, codec.look_through(data)[0])
            if len(self._in_flight) > MAX_IN_FLIGHT:
                self._in_flight.popitem(last=False)
            return tx
        raise AssertionError("the second try returns or raises")

    def _create(self, code: bytes, deadline_s: float) -> Address:
        """Create a contract from its creation code; where it lies then."""
        creation = {"from": to_hex(self._require_signer()), "data": to_hex(code)}
        gas = read_number(self._endpoint.ask("eth_estimateGas", creation))
        with self._lock:
            tx = self._send(None, code, gas + gas // 10)
        self.wait(tx, deadline_s)
        receipt = self._endpoint.ask("eth_getTransactionReceipt", to_hex(tx))
        return to_address(read_object(receipt, "contractAddress")["contractAddress"])

    def _is_overtaken(self, tx: Digest) -> bool:
        """Whether the chain has another transaction of ours with this one's nonce. A node that
        starts anew sends before its replica has caught up, and then numbers as it did before."""
        with self._lock:
            sent = self._in_flight.get(tx)
        if sent is None:
            return False
        count = self._endpoint.ask(
            "eth_getTransactionCount", to_hex(self._require_signer()), "latest"
        )
        if read_number(count) <= sent[0]:
            return False
        # It may have been carried out since it was looked for.
        if self._endpoint.ask("eth_getTransactionReceipt", to_hex(tx)) is not None:
            return False
        with self._lock:
            self._in_flight.pop(tx, None)
            self._next_nonce = 0
        return True

    def _has_expired(self, tx: Digest) -> bool:
        """Whether the chain is past the time of a transaction that it has not carried out."""
        until = self._until_of(tx)
        if until is None or self.head()[1] <= until:
            return False
        # It may have been carried out, in time, since it was looked for.
        return self._endpoint.ask("eth_getTransactionReceipt", to_hex(tx)) is None

    def _until_of(self, tx: Digest) -> int | None:
        with self._lock:
            sent = self._in_flight.get(tx)
        return None if sent is None else sent[2]

    def _pending_nonce(self) -> int:
        sender = to_hex(self._require_signer())
        return read_number(self._endpoint.ask("eth_getTransactionCount", sender, "pending"))

    def _require_signer(self) -> Address:
        if self.account is None:
            raise ConfigurationError("this client only reads: give it a key to send transactions")
        return self.account

    def _sign(self, to: Address | None, data: bytes, nonce: int, gas: int) -> bytes:
        assert self._signer is not None
        price = read_number(self._endpoint.ask("eth_gasPrice"))
        transaction = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": nonce,
            "to": b"" if to is None else to_checksum_address(to),
            "value": 0,
            "data": data,
            "gas": gas,
            # Twice the price of now, of which only what is due is taken; zero where gas is free.
            "maxFeePerGas": 2 * price,
            "maxPriorityFeePerGas": min(price, 10**9),
        }
        return bytes(self._signer.sign_transaction(transaction).raw_transaction)

    def _counts(self, found: object) -> bool:
        height = read_number(read_object(found, "blockNumber")["blockNumber"])
        return self._tag == "latest" or height <= self.head()[0]

    def _receipt(self, tx: Digest, found: object) -> Receipt:
        fields = read_object(found, "status", "blockNumber", "gasUsed", "logs")
        height = read_number(fields["blockNumber"])
        if read_number(fields["status"]) != 1:
            raise self._why(tx, height)
        events = [event for event in _events(fields["logs"]) if event.tx == tx]
        return Receipt(tx, height, read_number(fields["gasUsed"]), events)

    def _why(self, tx: Digest, height: int) -> ContractError:
        """Ask again what the transaction asked, after the block in which it was refused."""
        sent = read_object(
            self._endpoint.ask("eth_getTransactionByHash", to_hex(tx)), "input", "from"
        )
        try:
            self._eth_call(read_bytes(sent["input"]), read_address(sent["from"]), hex(height))
        except ContractError as error:
            return error
        return ContractError("Unknown", {"transaction": tx})


class EventFollower:
    """Reads the contract's events from a height on, a bounded range at a time.

    Keep `next_height` with what was made of the events, and a restart goes on where it was.
    """

    def __init__(self, client: ConsortiumClient, next_height: int = 0) -> None:
        self.next_height = next_height
        self._client = client

    def poll(self) -> list[Event]:
        """The events of up to `MAX_RANGE` further blocks; empty once the head is reached, and
        perhaps before. Raises ChainError, and then goes on from the same height next time."""
        last = min(self._client.head()[0], self.next_height + MAX_RANGE - 1)
        if last < self.next_height:
            return []
        found = self._client.events(self.next_height, last)
        self.next_height = last + 1
        return found


def deploy(
    provider: Provider, key: bytes, founders: Sequence[FounderCard], *, deadline_s: float = 60
) -> Address:
    """Create the contract and its libraries on an external chain; the embedded one has them in its
    genesis.

    Returns its address. Raises ChainError if the endpoint refuses or does not answer in time.
    """
    client = ConsortiumClient(Endpoint(provider), Address(bytes(20)), key)
    places = {
        name: client._create(code, deadline_s)
        for name, code in sorted(codec.artifact().libraries.items())
    }
    return client._create(codec.creation_data(founders, places), deadline_s)


def _account(key: bytes) -> Any:
    try:
        return Account.from_key(key)
    except ValueError:
        raise ConfigurationError("the key is not 32 bytes of a secp256k1 secret") from None


def _events(logs: object) -> list[Event]:
    if not isinstance(logs, list):
        raise EndpointFault(f"the endpoint answered {logs!r}"[:200] + " where logs belong")
    found = []
    for log in logs:
        fields = read_object(log, "topics", "data", "blockNumber", "transactionHash", "logIndex")
        if not isinstance(fields["topics"], list):
            raise EndpointFault(f"the endpoint answered a log with the topics {fields['topics']!r}")
        topics = [read_bytes(topic) for topic in fields["topics"]]
        decoded = codec.event(topics, read_bytes(fields["data"]))
        if decoded is None:
            continue
        name, arguments = decoded
        height, index = read_number(fields["blockNumber"]), read_number(fields["logIndex"])
        tx = read_digest(fields["transactionHash"])
        stamp = log.get("blockTimestamp")
        timestamp = None if stamp is None else read_number(stamp)
        found.append(Event(name, arguments, height, tx, index, timestamp))
    return found


__all__ = [
    "ConsortiumClient",
    "Event",
    "EventFollower",
    "InProcessProvider",
    "Receipt",
    "Snapshot",
    "deploy",
]
