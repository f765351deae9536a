"""What a plan's files must look like: as its trainer describes its tensors, and as its program
places them."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import trio

from swarm.blobs.fetch import Wish
from swarm.blobs.store import BlobStore
from swarm.errors import PlanError, RemoteError
from swarm.learning.parameters.next_file import Folding
from swarm.learning.parameters.placement import read_placement
from swarm.learning.supervisor.supervisor import Trainer
from swarm.learning.supervisor.trainer_messages import Loaded, Tensor
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.program import Program
from swarm.protocol.state import MAX_MEMBERS, MODEL_SLOT
from swarm.tensors import Layout, TensorSpec
from swarm.types import NO_DIGEST, Digest, MemberId


def update_layout_of(described: Loaded) -> Layout:
    """The layout of a plan's updates: of what travels in each round.

    Raises PlanError for tensors that cannot.
    """
    return _layout(described, described.tensors)


def initial_layout_of(described: Loaded) -> Layout:
    """The layout of model 0, which is whole and in the model's own types."""
    return _layout(described, described.initial or described.tensors)


def folding_of(described: Loaded, program: Program) -> Folding:
    """What becomes of the updates of a plan's training. Raises PlanError."""
    return Folding(read_placement(_merge_of_models(program)), update_layout_of(described))


def _layout(described: Loaded, of: tuple[Tensor, ...]) -> Layout:
    tensors = [{"name": t.name, "dtype": t.dtype, "shape": t.shape} for t in of]
    try:
        return Layout.from_specs(msgspec.convert(tensors, list[TensorSpec]))
    except (ValueError, msgspec.ValidationError) as error:
        raise PlanError(f"the model of {described.name} cannot be exchanged: {error}") from None


@dataclass
class Layouts:
    """The layouts of one plan at one node. All methods raise PlanError and TrainerError."""

    me: MemberId
    trainer: Trainer
    store: BlobStore
    program: Program
    model0: Digest = NO_DIGEST
    """As the chain has it; none before the first look."""
    _described: tuple[Layout, Layout] | None = None
    """Of updates, and of model 0."""
    _foldings: dict[str, Folding] = field(default_factory=dict)

    async def initial(self) -> Layout:
        """Of model 0, which may hold more than later ones, in other types."""
        return (await self._both())[1]

    async def is_whole(self) -> bool:
        """Whether every model is: nothing of model 0 is missing in later ones."""
        _, initial = await self._both()
        later = (await self._of_models()).down(1)
        return {spec.name for spec in later.specs} >= {spec.name for spec in initial.specs}

    async def is_export(self, layout: Layout) -> bool:
        """Whether a model of this layout is what people are to have of it."""
        if (await self._of_models()).placement.has_files:
            return False
        return layout == await self.initial()

    async def wish_for(self, model: Digest) -> Wish:
        """How a model may come: one with gathered rows has as many as its round had contributors,
        which only its own header says."""
        if model == self.model0:
            layout = await self.initial()
            return Wish(layout.file_bytes, layout)
        folding = await self._of_models()
        if folding.placement.gathers:
            return Wish(folding.down(MAX_MEMBERS).file_bytes)
        return Wish(folding.down(1).file_bytes, folding.down(1))

    async def folding(self, number: int, updates: tuple[FrozenUpdate, ...] = ()) -> Folding:
        """What every update of a round must look like, and what becomes of them: of the model, or
        of figures such as this site has sent."""
        place = self.program.place(number)
        if place is None:
            raise RemoteError(f"the plan has no round {number}")
        if place.stage.slot == MODEL_SLOT:
            return await self._folding(place.stage.merge)
        own = next((u.update for u in updates if u.member == self.me), None)
        if own is None or not self.store.has(own):
            raise RemoteError("this site's own figures, to compare the others' with, are gone")
        layout = await trio.to_thread.run_sync(Layout.read, self.store.path(own))
        return Folding(read_placement(place.stage.merge), layout)

    async def _of_models(self) -> Folding:
        return await self._folding(_merge_of_models(self.program))

    async def _folding(self, merge: str) -> Folding:
        if merge not in self._foldings:
            up, _ = await self._both()
            self._foldings[merge] = Folding(read_placement(merge), up)
        return self._foldings[merge]

    async def _both(self) -> tuple[Layout, Layout]:
        if self._described is None:
            described = await self.trainer.describe()
            self._described = update_layout_of(described), initial_layout_of(described)
        return self._described


def _merge_of_models(program: Program) -> str:
    """All stages that make models do so alike."""
    merges = [stage.merge for stage in program.stages if stage.slot == MODEL_SLOT]
    if len(set(merges)) != 1:
        raise PlanError("the plan's stages make models in several ways, or make none")
    return merges[0]
