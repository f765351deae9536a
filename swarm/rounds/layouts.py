"""What a plan's files must look like, as its trainer describes them."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import trio

from swarm.blobs.store import BlobStore
from swarm.errors import PlanError, RemoteError
from swarm.learning.messages import Loaded, Tensor
from swarm.learning.supervisor import Trainer
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.program import Program
from swarm.protocol.state import MODEL_SLOT
from swarm.tensors import Layout, TensorSpec
from swarm.types import NO_DIGEST, Digest, MemberId


def layout_of(described: Loaded) -> Layout:
    """The one layout of a plan's updates and merged models: of what travels in each round.

    Raises PlanError for tensors that cannot.
    """
    return _layout(described, described.tensors)


def initial_layout_of(described: Loaded) -> Layout:
    """The layout of model 0, which is whole and in the model's own types."""
    return _layout(described, described.initial or described.tensors)


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
    _known: tuple[Layout, Layout] | None = None

    async def travelling(self) -> Layout:
        """Of what travels in each round: updates, and models but the initial one."""
        return (await self._both())[0]

    async def initial(self) -> Layout:
        """Of model 0, which may hold more than later ones, in other types."""
        return (await self._both())[1]

    async def of_model(self, model: Digest) -> Layout:
        return await (self.initial() if model == self.model0 else self.travelling())

    async def of_round(self, number: int, updates: tuple[FrozenUpdate, ...]) -> Layout:
        """What every update of a round must look like: the model, or what this site has sent."""
        place = self.program.place(number)
        if place is None or place.stage.slot == MODEL_SLOT:
            return await self.travelling()
        own = next((u.update for u in updates if u.member == self.me), None)
        if own is None or not self.store.has(own):
            raise RemoteError("this site's own figures, to compare the others' with, are gone")
        return await trio.to_thread.run_sync(Layout.read, self.store.path(own))

    async def _both(self) -> tuple[Layout, Layout]:
        if self._known is None:
            described = await self.trainer.describe()
            self._known = layout_of(described), initial_layout_of(described)
        return self._known
