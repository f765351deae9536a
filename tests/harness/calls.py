"""What a lying member may ask of the contract: any call that the ABI allows, with any values.

`Calls` draws from the ABI, not from a list of known attacks. Each value is what an honest caller
would give, or any that its type can hold: numbers at their boundaries, names that are no text,
digests of others, rounds of foreign plans. One call in a few is sent through `until`, in time,
too late or nested. What was drawn before comes again, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from random import Random
from typing import Any, Protocol

from harness.foreign import CODE
from swarm.chain.contract import artifact
from swarm.protocol.ledger import Kind
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import (
    MOST_SAMPLES,
    Duty,
    Member,
    Outcome,
    Plan,
    Rules,
    Terms,
    VerifyLevel,
    member_set,
)
from swarm.types import NO_ADDRESS, NO_DIGEST, Address, Digest, MemberId, PlanId

NUMBERS = (0, 1, 2, 2**16, MOST_SAMPLES, MOST_SAMPLES + 1, 2**53, 2**62, 2**64 - 1, 2**256 - 1)
NAMES = (
    *(b"", b"a", b"a" * 64, b"a" * 65, b"\0", b"n\0m", b"\x1b[2J", "\u202eb".encode()),
    *(b"\xff\xfeMENAME", b"\xed\xa0\x80", b"\xc0\xaf", "\u00e9".encode() * 32, b"x" * 4000),
)
"""As bytes: some are no UTF-8."""
CALLS: Mapping[str, tuple[tuple[str, str], ...]] = {
    entry["name"]: tuple((i["name"], i["type"]) for i in entry["inputs"])
    for entry in sorted(artifact().abi, key=lambda entry: str(entry.get("name")))
    if entry["type"] == "function" and entry["stateMutability"] == "nonpayable"
}
"""Every function that changes something: its arguments' names and types."""
OF_PLANS = frozenset(name for name, inputs in CALLS.items() if inputs[:1] == (("plan", "uint256"),))
FUNCTIONS = tuple(name for name in CALLS if name != "until") + 4 * ("proposePlan",)
"""What is drawn from; proposals oftener, as all of a plan must be in order."""
SELDOM = {"leave": 0.97, "setNode": 0.8, "withdraw": 0.8}
"""Chances that these are drawn in vain: who has left can do nothing any more."""
REMEMBERED = 16


class Surroundings(Protocol):
    """What a liar sees of its world."""

    @property
    def plan(self) -> Plan: ...
    @property
    def now(self) -> float: ...
    def members_now(self) -> dict[MemberId, Member]: ...
    def plan_numbers(self) -> list[PlanId]: ...
    def known_digests(self) -> list[Digest]: ...
    def known_signatures(self) -> list[bytes]: ...
    def prove(self, member: MemberId, key: Address) -> bytes: ...


class Calls:
    """Draws calls for one liar."""

    def __init__(self, rng: Random, me: MemberId, world: Surroundings) -> None:
        self.rng = rng
        self._me = me
        self._world = world
        self._care = 0.0
        """Chance that a value of this call is plausible."""
        self._before: list[tuple[str, tuple[object, ...]]] = []

    def draw(self) -> tuple[str, tuple[object, ...]]:
        """A function of the contract and its arguments, as `Book.send` takes them."""
        rng = self.rng
        if self._before and rng.random() < 0.15:
            return rng.choice(self._before)
        self._care = rng.choice((0.5, 0.9, 1.0))
        function = rng.choice(FUNCTIONS)
        if rng.random() < SELDOM.get(function, 0.0):
            return self.draw()
        call = function, tuple(self._value(*each) for each in CALLS[function])
        for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2))):
            call = "until", (self._time(), call[0], *call[1])
        self._before = [*self._before[1 - REMEMBERED :], call]
        return call

    def _value(self, name: str, kind: str) -> object:
        """A value for an argument of this name and type."""
        rng = self.rng
        records = {"rules": self._rules, "terms": self._terms, "outcome": self._outcome}
        if name in records:
            return records[name]()
        if name == "kind":
            return rng.choice(list(Kind))
        plausible = self._plausible(name) if rng.random() < self._care else None
        if plausible is not None:
            return plausible
        if kind.endswith("[]"):
            return tuple(self._value("", kind[:-2]) for _ in range(rng.choice((0, 1, 2, 5))))
        if kind.startswith("uint"):
            return self._number(int(kind[4:]))
        return {
            "bytes32": self._digest,
            "bytes": self._bytes,
            "string": self._name,
            "bool": lambda: rng.random() < 0.5,
            "address": self._address,
        }[kind]()

    def _plausible(self, name: str) -> object:
        """What an honest caller might give here; None if that is like anything else."""
        rng, plan = self.rng, self._world.plan
        place = (1, 1) if plan.round is None else (plan.round.number, plan.round.attempt)
        match name:
            case "plan":
                return rng.choice([plan.id, *self._world.plan_numbers()])
            case "round" | "attempt":
                here = place[name == "attempt"]
                return rng.choice((1, here, here, here, here + 1, here - 1))
            case "code":
                return plan.digest
            case "program":
                rounds = rng.randrange(1, 5)
                whole = rng.random() < 0.5
                program = CODE.with_rounds(rounds) if whole else federated_averaging(rounds)
                return program.digest
            case "name":
                return f"of n{self._me}"
            case "invited":
                return 0
            case "reveal":
                return bytes(32)
            case "keys":
                return b""
            case "proof":
                return self._world.prove(self._me, self._fresh())
            case "until" | "time":
                return rng.choice((0, self._time()))
            case "samples" | "permille" | "level" | "number" | "target":
                return rng.randrange(1, 5)
        return None

    def _number(self, bits: int) -> int:
        rng = self.rng
        drawn = rng.choice((*NUMBERS, 1 << rng.randrange(bits), rng.randrange(1 << bits)))
        return int(min(drawn, 2**bits - 1))

    def _time(self) -> int:
        return max(0, int(self._world.now) + self.rng.choice((-(10**6), -5, 0, 5, 60, 2**40)))

    def _digest(self) -> Digest:
        rng = self.rng
        known = self._world.known_digests()
        return rng.choice([*known, NO_DIGEST, Digest(rng.randbytes(32))])

    def _bytes(self) -> bytes:
        rng = self.rng
        own = [rng.randbytes(rng.choice((1, 65, 512, 513))), b"", bytes(65)]
        return rng.choice([*own, *self._world.known_signatures()])

    def _name(self) -> str:
        return self.rng.choice(NAMES).decode("utf-8", "surrogateescape")

    def _address(self) -> Address:
        """Mostly a key that is taken. A fresh one of its own is worn by its next node."""
        rng, members = self.rng, list(self._world.members_now().values())
        taken = rng.choice(members)
        return rng.choice([taken.node, taken.account, taken.node, NO_ADDRESS, self._fresh()])

    def _fresh(self) -> Address:
        mine = self._world.members_now()[self._me].node
        return Address(mine[:-1] + bytes([(mine[-1] + 1) % 256]))

    def _outcome(self) -> Outcome:
        """One that was posted, or one like it, or none at all."""
        rng, round = self.rng, self._world.plan.round
        posted = [] if round is None else [c.outcome for c in round.candidates]
        outcome = rng.choice([*posted, Outcome(self._digest(), 0)])
        others = {
            "model": self._digest(),
            "omitted": self._members(),
            "slot": self._number(8),
            "next": self._number(8),
        }
        return replace(outcome, **self._some(others))

    def _terms(self) -> Terms:
        rng = self.rng
        duties = rng.choice((Duty.TRAIN, Duty.TRAIN | Duty.HOLD, Duty.TEST))
        others = {
            "duties": self._number(8),
            "max_samples": self._number(64),
            "permit": self._digest(),
            "until": self._time(),
            "commitment": self._digest(),
            "receiving_key": self._digest(),
            "meta": self._digest(),
        }
        return replace(Terms(int(duties), rng.choice((1, 100))), **self._some(others))

    def _rules(self) -> Rules:
        """Often weak ones that the contract takes: one is enough, and nothing is checked."""
        rng = self.rng
        weak = Rules(rng.randrange(1, 5), 1, VerifyLevel.HELD, liveness_s=10, max_round_s=30)
        bits = {"rounds": 32, "min_peers": 16, "colluders": 8, "min_rows": 32, "holder": 16}
        others: dict[str, Any] = {
            field.name: self._number(bits.get(field.name, 24)) for field in fields(Rules)
        }
        others["verify_level"] = rng.choice(list(VerifyLevel))
        others["reopens"] = rng.random() < 0.5
        return replace(weak, **self._some(others))

    def _members(self) -> int:
        return self.rng.choice(
            (0, 1 << self._me, member_set(self._world.members_now()), self._number(256))
        )

    def _some(self, others: dict[str, Any]) -> dict[str, Any]:
        """Of these, none or a few."""
        count = self.rng.choice((0, 0, 0, 1, 1, 2, len(others)))
        return {name: others[name] for name in self.rng.sample(sorted(others), count)}
