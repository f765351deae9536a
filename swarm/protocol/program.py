"""What the rounds of a plan are for: its stages as data, so that no code needs to know any by name.

Every stage runs the same cycle (open, work, submit, close, merge, attest, final). Rounds are
numbered through on the chain, from 1; the trainer and whatever is seeded get the number within the
stage, so that a plan trains alike whatever came before. The chain keeps only the program's digest:
a node rebuilds the program from what the plan's code says, and takes part if the digests are equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from eth_hash.auto import keccak

from swarm.protocol.state import MODEL_SLOT, STATISTICS_SLOT
from swarm.types import Digest

DOMAIN = keccak(b"swarm/program/1")


@dataclass(frozen=True)
class Stage:
    """One kind of round."""

    name: str
    task: str
    """What the trainer is asked for: "train" or "statistics"."""
    merge: str
    """The merge method of `swarm.learning.merge`: "mean" or "sum"."""
    rounds: int
    slot: int = MODEL_SLOT
    """Which of the plan's outputs its rounds make."""


@dataclass(frozen=True)
class Place:
    """Where a round of the chain stands in the program."""

    index: int
    """Of the stage, counted from 1."""
    stage: Stage
    number: int
    """Of the round within its stage, counted from 1."""

    @property
    def title(self) -> str:
        """What people call the round: "round 3", or a stage of one round by its name."""
        return self.stage.name if self.stage.slot == STATISTICS_SLOT else f"round {self.number}"


@dataclass(frozen=True)
class Program:
    """The stages of a plan, in order."""

    stages: tuple[Stage, ...]

    @property
    def rounds(self) -> int:
        """The number of the last round."""
        return sum(stage.rounds for stage in self.stages)

    def place(self, number: int) -> Place | None:
        """Where round `number` of the chain stands; None if the program has no such round."""
        within = number
        for index, stage in enumerate(self.stages, 1):
            if 1 <= within <= stage.rounds:
                return Place(index, stage, within)
            within -= stage.rounds
        return None

    def next_after(self, number: int) -> int:
        """The stage, counted from 1, of the round after this one; 0 after the last."""
        place = self.place(number + 1)
        return 0 if place is None else place.index

    # What people call rounds.

    def number_of(self, number: int) -> int | None:
        """The number that people give to a round of training; None for rounds of other stages."""
        place = self.place(number)
        return place.number if place is not None and place.stage.slot == MODEL_SLOT else None

    def title_of(self, number: int) -> str:
        """What people call a round of the chain."""
        place = self.place(number)
        return f"round {number} of the chain" if place is None else place.title

    @property
    def training_rounds(self) -> int:
        """How many rounds make a model."""
        return sum(stage.rounds for stage in self.stages if stage.slot == MODEL_SLOT)

    @cached_property
    def digest(self) -> Digest:
        """What the chain keeps of it."""
        return Digest(keccak(DOMAIN + encode(self)))


def encode(program: Program) -> bytes:
    """The one way to write a program: how many stages, and each stage's name, task and merge (a
    byte of length, then UTF-8), rounds (4 bytes) and slot (1)."""
    parts = [len(program.stages).to_bytes(1, "big")]
    for stage in program.stages:
        for text in (stage.name, stage.task, stage.merge):
            raw = text.encode()
            parts.append(len(raw).to_bytes(1, "big") + raw)
        parts.append(stage.rounds.to_bytes(4, "big") + stage.slot.to_bytes(1, "big"))
    return b"".join(parts)


def federated_averaging(rounds: int, statistics: bool = False) -> Program:
    """FedAvg (McMahan et al., 2017): `rounds` of training; with `statistics`, one more before them
    in which statistics are merged by sum."""
    first = Stage("statistics", "statistics", "sum", 1, STATISTICS_SLOT)
    training = Stage("training", "train", "mean", rounds)
    return Program((first, training) if statistics else (training,))


def find_program(digest: Digest, rounds: int) -> Program | None:
    """The program with this digest and this many rounds; None if this release knows none."""
    known = (
        federated_averaging(rounds - statistics, statistics)
        for statistics in (False, True)
        if rounds > statistics
    )
    return next((program for program in known if program.digest == digest), None)
