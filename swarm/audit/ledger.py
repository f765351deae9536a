"""What the contract's events say, told by members, plans and rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swarm.audit.replay import ReplayedBlock
from swarm.audit.report import (
    ConsentHistory,
    History,
    MemberHistory,
    Moment,
    PlanHistory,
    ProposalHistory,
    RoundHistory,
)
from swarm.chain.contract import Event
from swarm.chain.genesis import Genesis
from swarm.protocol.membership import Kind
from swarm.protocol.state import Duty, Omission, VerifyLevel, members_in
from swarm.types import Digest, to_address, to_hex

Key = tuple[int, int, int]
"""Plan, round, attempt."""


@dataclass
class Ledger:
    """Fed with every block in order, it knows the history so far."""

    genesis: Genesis
    history: History = field(init=False)
    seals: dict[str, int] = field(default_factory=dict)
    """Blocks that each member sealed, by name."""
    _members: dict[int, MemberHistory] = field(default_factory=dict)
    _proposals: dict[int, ProposalHistory] = field(default_factory=dict)
    _plans: dict[int, PlanHistory] = field(default_factory=dict)
    _rounds: dict[Key, RoundHistory] = field(default_factory=dict)
    _merges: dict[tuple[Key, bytes, int], tuple[str, bytes]] = field(default_factory=dict)
    """By what is voted on: who posted it first, and why it leaves out whom."""
    _levels: dict[tuple[Key, bytes, int], dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        genesis = to_hex(self.genesis.digest)
        founded = Moment(0, self.genesis.timestamp)
        self.history = History(self.genesis.chain_id, genesis, founded, "")
        for number, founder in enumerate(self.genesis.founders):  # the constructor's order
            keys = to_hex(founder.account), to_hex(founder.node)
            self._members[number] = MemberHistory(number, founder.name, *keys, founded)

    def add(self, block: ReplayedBlock) -> None:
        """Take in the next block."""
        history = self.history
        history.head = Moment(block.height, block.timestamp)
        history.head_hash = to_hex(block.hash)
        history.transactions += block.transactions
        for member in self._members.values():
            node = to_address(member.node)
            member.proposed_blocks += node == block.proposer
            self.seals[member.name] = self.seals.get(member.name, 0) + (node in block.sealed_by)
        for event in block.events:
            handle = _HANDLERS.get(event.name)
            if handle is not None:
                handle(self, event.arguments, history.head)
            elif event.name in _PLAN_ENDS:
                self._end_plan(event)
        history.members = list(self._members.values())
        history.proposals = list(self._proposals.values())
        history.plans = list(self._plans.values())

    def _name(self, number: int) -> str:
        member = self._members.get(number)
        return f"member {number}" if member is None else member.name

    def _names(self, mask: int) -> tuple[str, ...]:
        return tuple(self._name(number) for number in members_in(mask))

    # Members.

    def _admitted(self, said: Mapping[str, Any], now: Moment) -> None:
        number = int(said["member"])
        keys = to_hex(said["account"]), to_hex(said["node"])
        self._members[number] = MemberHistory(number, said["name"], *keys, now)

    def _removed(self, said: Mapping[str, Any], now: Moment) -> None:
        self._members[said["member"]].until = now

    def _node_changed(self, said: Mapping[str, Any], now: Moment) -> None:
        self._members[said["member"]].node = to_hex(said["to"])

    def _proposed(self, said: Mapping[str, Any], now: Moment) -> None:
        kind = Kind(said["kind"])
        subject = said["name"]
        if not subject and kind is not Kind.UPGRADE:
            subject = self._name(int(said["target"]))
        elif kind is Kind.UPGRADE:
            subject = f"version {said['target']} from block {said['height']}"
        proposer = self._name(said["proposer"])
        number = int(said["proposal"])
        self._proposals[number] = ProposalHistory(number, _words(kind), proposer, subject, now)

    def _voted(self, said: Mapping[str, Any], now: Moment) -> None:
        votes = self._proposals[said["proposal"]].votes
        votes[self._name(said["member"])] = bool(said["support"])

    def _passed(self, said: Mapping[str, Any], now: Moment) -> None:
        self._proposals[said["proposal"]].outcome = "passed"

    def _cancelled(self, said: Mapping[str, Any], now: Moment) -> None:
        self._proposals[said["proposal"]].outcome = "cancelled"

    # Plans.

    def _plan_proposed(self, said: Mapping[str, Any], now: Moment) -> None:
        number = int(said["plan"])
        self._plans[number] = PlanHistory(
            number,
            said["name"],
            self._name(said["proposer"]),
            _digest(said["code"]),
            _digest(said["program"]),
            _digest(said["base"]),
            now,
        )

    def _consented(self, said: Mapping[str, Any], now: Moment) -> None:
        duties, max_samples = int(said["terms"][0]), int(said["terms"][1])
        names = tuple(duty.name.lower() for duty in Duty if duties & duty and duty.name)
        self._answer(said, "consented", now, _digest(said["code"]), names, max_samples)

    def _declined(self, said: Mapping[str, Any], now: Moment) -> None:
        self._answer(said, "declined", now)

    def _withdrew(self, said: Mapping[str, Any], now: Moment) -> None:
        self._answer(said, "withdrew", now)

    def _answer(self, said: Mapping[str, Any], answer: str, now: Moment, *more: Any) -> None:
        member = self._name(said["member"])
        self._plans[said["plan"]].consents.append(ConsentHistory(member, answer, now, *more))

    def _end_plan(self, event: Event) -> None:
        plan = self._plans[event.arguments["plan"]]
        plan.outcome = _PLAN_ENDS[event.name]
        if "model" in event.arguments:
            plan.model = _digest(event.arguments["model"])

    # Rounds.

    def _opened(self, said: Mapping[str, Any], now: Moment) -> None:
        roster, trainers = self._names(said["roster"]), self._names(said["trainers"])
        made = RoundHistory(
            said["round"], said["attempt"], _digest(said["base"]), now, roster, trainers
        )
        self._rounds[_key(said)] = made
        self._plans[said["plan"]].rounds.append(made)

    def _submitted(self, said: Mapping[str, Any], now: Moment) -> None:
        round, member = self._rounds[_key(said)], self._name(said["member"])
        round.samples[member] = int(said["samples"])
        round.updates[member] = _digest(said["update"])

    def _merged(self, said: Mapping[str, Any], now: Moment) -> None:
        leader = self._name(said["leader"])
        self._merges.setdefault(_candidate(said), (leader, bytes(said["reasons"])))

    def _attested(self, said: Mapping[str, Any], now: Moment) -> None:
        levels = self._levels.setdefault(_candidate(said), {})
        levels[self._name(said["member"])] = VerifyLevel(said["level"]).name.lower()

    def _final(self, said: Mapping[str, Any], now: Moment) -> None:
        round = self._rounds[_key(said)]
        leader, reasons = self._merges.get(_candidate(said), ("", b""))
        round.outcome, round.ended = "final", now
        round.leader, round.model = leader, _digest(said["model"])
        left_out = members_in(said["omitted"])
        round.omitted = {
            self._name(member): _reason(reasons[place] if place < len(reasons) else 0)
            for place, member in enumerate(left_out)
        }
        round.contributors = tuple(name for name in round.samples if name not in round.omitted)
        levels = self._levels.get(_candidate(said), {})
        attesters = self._names(said["attesters"])
        round.attested = {name: levels.get(name, "leads") for name in attesters}

    def _voided(self, said: Mapping[str, Any], now: Moment) -> None:
        round = self._rounds[_key(said)]
        round.outcome, round.ended = "void", now


_HANDLERS = {
    "MemberAdmitted": Ledger._admitted,
    "MemberRemoved": Ledger._removed,
    "NodeChanged": Ledger._node_changed,
    "Proposed": Ledger._proposed,
    "Voted": Ledger._voted,
    "Passed": Ledger._passed,
    "ProposalCancelled": Ledger._cancelled,
    "PlanProposed": Ledger._plan_proposed,
    "PlanConsented": Ledger._consented,
    "PlanDeclined": Ledger._declined,
    "PlanWithdrawn": Ledger._withdrew,
    "RoundOpened": Ledger._opened,
    "Submitted": Ledger._submitted,
    "Merged": Ledger._merged,
    "Attested": Ledger._attested,
    "RoundFinal": Ledger._final,
    "RoundVoided": Ledger._voided,
}
_PLAN_ENDS = {"PlanStopped": "stopped", "PlanCompleted": "completed"}


def _key(said: Mapping[str, Any]) -> Key:
    return int(said["plan"]), int(said["round"]), int(said["attempt"])


def _candidate(said: Mapping[str, Any]) -> tuple[Key, bytes, int]:
    return _key(said), bytes(said["model"]), int(said["omitted"])


def _digest(value: bytes) -> str:
    return to_hex(Digest(value))


def _words(kind: Kind) -> str:
    return kind.name.lower().replace("_", " ")


def _reason(code: int) -> str:
    try:
        return Omission(code).name.lower().replace("_", " ")
    except ValueError:
        return f"reason {code}"
