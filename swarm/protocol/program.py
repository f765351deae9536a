"""What the rounds of a plan are for: its stages as data, so that no code needs to know any by name.

Every stage runs the same cycle (open, work, submit, close, merge, attest, final). Rounds are
numbered through on the chain, from 1; the trainer and whatever is seeded get the number within the
stage, so that a plan trains alike whatever came before.

The chain keeps the digest of a program, and nodes its text, the *blob*: one way to write it, read
strictly, so that what merges and checks need to know of a round is never asked of a plan's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Annotated

import msgspec
from eth_hash.auto import keccak
from msgspec import Meta
from msgspec.structs import replace

from swarm.errors import UNREADABLE, PlanError
from swarm.protocol.state import BEST_SLOT, MODEL_SLOT, STATISTICS_SLOT
from swarm.types import Digest

DOMAIN = keccak(b"swarm/program/1")
MAX_BLOB_BYTES = 64 << 10
MAX_STAGES = 64
MAX_ROUNDS = 1_000_000
MOST_CLIP = 2.0**52
"""Up to it, sums of whole numbers are exact."""

Word = Annotated[str, Meta(pattern="^[a-z][a-z0-9 _-]{0,31}$")]
"""Of what people read: letters that look like what they are."""
Text = Annotated[str, Meta(pattern="^[ -~]{1,8192}$")]
Count = Annotated[int, Meta(ge=0, le=MAX_ROUNDS)]
Slot = Annotated[int, Meta(ge=0, le=3)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One kind of round."""

    name: Word
    task: Word
    """What the trainer is asked for: "train", say."""
    merge: Text
    """How what the sites send becomes the round's output, in `learning`'s words."""
    rounds: Annotated[int, Meta(ge=1, le=MAX_ROUNDS)]
    slot: Slot = MODEL_SLOT
    """Which of the plan's outputs its rounds make."""
    written: Count = 0
    """How many rounds the plan's code says, where its proposer asks for others; 0: as many."""
    before: Count = 0
    """Rounds of it that another plan has run, which this one continues."""
    epochs: Count = 0
    """Passes over a site's rows in a round; 0: the plan's own number."""
    follows: Count = 0
    """Rounds of the same training in the stages before, after which its own are counted on."""
    ends: bool = False
    """Whether the plan is complete with a round of it that leaves the best model as it was."""
    reads_rows: bool = False
    """Whether its work begins from what the stage before has gathered, beside the model."""
    clip: Annotated[float, Meta(gt=0, le=MOST_CLIP)] | None = None
    """Of a masked plan, how far a number may move in a round, or, of statistics, the most that one
    may be at a site; None: updates are not masked."""


@dataclass(frozen=True)
class Place:
    """Where a round of the chain stands in the program."""

    number: int
    """Of the round on the chain."""
    index: int
    """Of the stage, counted from 1."""
    stage: Stage
    within: int
    """The round's number within its stage, counted from 1; with the rounds before it."""


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The stages of a plan, in order."""

    stages: Annotated[tuple[Stage, ...], Meta(min_length=1, max_length=MAX_STAGES)]

    @property
    def is_masked(self) -> bool:
        """Whether only sums of what sites make come out."""
        return all(stage.clip is not None for stage in self.stages)

    @property
    def rounds(self) -> int:
        """The number of the last round."""
        return sum(stage.rounds for stage in self.stages)

    def place(self, number: int) -> Place | None:
        """Where round `number` of the chain stands; None if the program has no such round."""
        within = number
        for index, stage in enumerate(self.stages, 1):
            if 1 <= within <= stage.rounds:
                return Place(number, index, stage, stage.before + stage.follows + within)
            within -= stage.rounds
        return None

    def next_after(self, number: int, is_better: bool = True) -> int:
        """The stage, counted from 1, of the round after this one; 0 after the last. `is_better` is
        whether the round has found a better model than the best before, if that is its task."""
        place, following = self.place(number), self.place(number + 1)
        ends = place is not None and place.stage.ends and not is_better
        return 0 if following is None or ends else following.index

    def with_rounds(self, rounds: int, before: int = 0) -> Program:
        """The program with so many rounds of training, after others `before`.

        Where choices of the best model divide one training, there are as many rounds between them
        as before. Raises PlanError for more rounds than there may be, and if no stage or more than
        one training makes models: which would have them?
        """
        models = [stage for stage in self.stages if stage.slot == MODEL_SLOT]
        if len(models) > 1 and self._is_divided_by_choices(models):
            return self._with_choices(models, rounds, before)
        if len(models) != 1:
            names = ", ".join(stage.name for stage in models) or "none"
            raise PlanError(
                f"the plan's stages that train are {names}: with one alone could their rounds be "
                "changed from outside, so change them in plan.py"
            )
        said = models[0].written or models[0].rounds
        changed = replace(
            models[0], rounds=rounds, written=0 if rounds == said else said, before=before
        )
        return parse(Program(tuple(changed if s is models[0] else s for s in self.stages)).blob)

    def _is_divided_by_choices(self, models: Sequence[Stage]) -> bool:
        """Whether the models are made by one training, after each part of which the best is
        chosen."""
        first = self.stages.index(models[0])
        parts = self.stages[first : first + 2 * len(models)]
        trained, chosen = parts[0::2], parts[1::2]
        one = {replace(stage, rounds=1, follows=0, written=0) for stage in trained}
        other = {replace(stage, name=models[0].name) for stage in chosen}
        return (
            tuple(trained) == tuple(models)
            and len(trained) == len(chosen)
            and len(one) == len(other) == 1
            and other.pop().slot == BEST_SLOT
        )

    def _with_choices(self, models: Sequence[Stage], rounds: int, before: int) -> Program:
        first, every = self.stages.index(models[0]), models[0].rounds
        choice, said = self.stages[first + 1], sum(stage.rounds for stage in models)
        said = models[0].written or said
        title = choice.name.rstrip("0123456789")
        found: list[Stage] = []
        for done in range(0, rounds, every):
            more = min(every, rounds - done)
            written = said if done == 0 and said != rounds else 0
            found += [
                replace(models[0], rounds=more, follows=done, before=before, written=written),
                replace(choice, name=f"{title}{before + done + more}"),
            ]
        others = self.stages[first + 2 * len(models) :]
        stages = (*self.stages[:first], *found, *others)
        if len(stages) > MAX_STAGES:
            raise PlanError(
                f"{rounds} rounds with a choice after every {every} are {len(stages)} stages, and "
                f"{MAX_STAGES} are the most: ask for fewer rounds, or choose less often"
            )
        return parse(Program(stages).blob)

    # What people call rounds.

    def number_of(self, number: int) -> int | None:
        """The number that people give to a round of training; None for rounds of other stages."""
        place = self.place(number)
        if place is None or place.stage.slot != MODEL_SLOT:
            return None
        earlier = self.stages[: place.index - 1]
        others = sum(stage.rounds for stage in earlier if stage.slot != MODEL_SLOT)
        return number - others + place.stage.before

    def title_of(self, number: int) -> str:
        """What people call a round of the chain: "round 3", "statistics", "personalise 2"."""
        place, training = self.place(number), self.number_of(number)
        if place is None:
            return f"round {number} of the chain"
        if training is not None:
            return f"round {training}"
        stage = place.stage
        return stage.name if stage.rounds == 1 else f"{stage.name} {place.within}"

    @property
    def training_rounds(self) -> int:
        """The number of the last round that makes a model, as people count."""
        stages = [stage for stage in self.stages if stage.slot == MODEL_SLOT]
        return sum(stage.rounds for stage in stages) + (stages[-1].before if stages else 0)

    @cached_property
    def last_model_round(self) -> int:
        """The number on the chain of the last round that makes a model; 0 if none does."""
        return self._last_round(MODEL_SLOT)

    @cached_property
    def last_choice(self) -> int:
        """The number on the chain of the last round that chooses the best model; 0 if none does."""
        return self._last_round(BEST_SLOT)

    def _last_round(self, slot: int) -> int:
        ends = accumulate(stage.rounds for stage in self.stages)
        pairs = zip(self.stages, ends, strict=True)
        return max((end for stage, end in pairs if stage.slot == slot), default=0)

    @cached_property
    def blob(self) -> bytes:
        """The one way to write it."""
        return msgspec.json.encode(self)

    @cached_property
    def digest(self) -> Digest:
        """What the chain keeps of it."""
        return digest_of(self.blob)


def digest_of(blob: bytes) -> Digest:
    """The digest of the program that is written so."""
    return Digest(keccak(DOMAIN + blob))


_decoder = msgspec.json.Decoder(Program)


def build(stages: Sequence[Mapping[str, object]]) -> Program:
    """A program from the fields of its stages. Raises PlanError naming one that cannot be."""
    try:
        return _decoder.decode(msgspec.json.encode({"stages": stages}))
    except (*UNREADABLE, TypeError) as error:
        raise PlanError(str(error).replace("$.", "")) from None


def parse(blob: bytes) -> Program:
    """Read what `Program.blob` wrote.

    Raises PlanError for all else, be it of a later release: then `blob` says what is not known.
    """
    if len(blob) > MAX_BLOB_BYTES:
        raise PlanError(f"a program of {len(blob)} bytes is more than {MAX_BLOB_BYTES}")
    try:
        program = _decoder.decode(blob)
    except UNREADABLE as error:
        raise PlanError(
            f"the plan's program says what this release of swarm does not know ({error}): update "
            "swarm before you consent"
        ) from None
    if program.rounds > MAX_ROUNDS:
        raise PlanError(f"a program of {program.rounds} rounds has more than {MAX_ROUNDS}")
    if program.blob != blob:
        raise PlanError("the plan's program is not written as programs are")
    return program


def federated_averaging(rounds: int, statistics: bool = False) -> Program:
    """FedAvg (McMahan et al., 2017): `rounds` of training; with `statistics`, one more before them
    in which statistics are merged by sum."""
    first = Stage("statistics", "statistics", "sum", 1, STATISTICS_SLOT)
    training = Stage("training", "train", "mean", rounds)
    return Program((first, training) if statistics else (training,))
