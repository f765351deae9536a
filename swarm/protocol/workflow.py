"""What a round is for: the phases as data, so that the round machine needs no code for each.

A workflow names the stages of a plan. Every stage runs the same cycle (open, work, submit, close,
merge, attest, final); a stage says which work the trainer does and how the results are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak

from swarm.protocol.state import Rules
from swarm.types import Digest


@dataclass(frozen=True)
class Stage:
    """One kind of round."""

    name: str
    task: str
    """What the trainer is asked for: "train" or "statistics"."""
    merge: str
    """The merge method of `swarm.learning.merge`: "mean" or "sum"."""


@dataclass(frozen=True)
class Workflow:
    """Stages by round number. `id` and `version` stand in the contract beside the plan."""

    name: str
    version: int
    opening: Stage
    """Round 0, where the plan has one."""
    main: Stage
    """Rounds 1..rounds."""

    @property
    def id(self) -> Digest:
        return Digest(keccak(b"swarm/workflow/" + self.name.encode()))

    @property
    def merge_id(self) -> Digest:
        return Digest(keccak(b"swarm/merge/" + self.main.merge.encode()))

    def stage(self, number: int) -> Stage:
        """The stage that round `number` runs."""
        return self.opening if number == 0 else self.main

    def rounds(self, rules: Rules) -> range:
        """The round numbers of a plan under `rules`."""
        return range(0 if rules.statistics_round else 1, rules.rounds + 1)


FEDERATED_AVERAGING = Workflow(
    name="federated-averaging",
    version=1,
    opening=Stage("statistics", task="statistics", merge="sum"),
    main=Stage("training", task="train", merge="mean"),
)
"""FedAvg (McMahan et al., 2017), preceded by one round that merges statistics by sum."""

WORKFLOWS = {FEDERATED_AVERAGING.id: FEDERATED_AVERAGING}
