"""What a user writes: one class that says what to train, on what, and by which rules.

A plan is plain code. Every member reads it and consents to its digest, so everything that decides
the result is in it: the model, the loss, the budget, the seed. Only `model`, `data` and `loss` must
be written; every other method has a default that says what it does.

This module does not import torch, so that a plan's types can be named without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.code.method_signatures import Calls
from swarm.learning.data.tables import read_csv
from swarm.learning.plans.roles import Role
from swarm.learning.plans.stages import Planned

if TYPE_CHECKING:
    import torch

    from swarm.learning.metrics.counts import Counts
    from swarm.learning.parameters.placement import Place
    from swarm.privacy.guarantee import Guarantee

Option = str | int | float | bool
Statistics = Mapping[str, Any]
"""Named numbers or arrays, merged by sum over all sites."""


@dataclass(frozen=True)
class Site:
    """One institution as a plan sees it: its name, and where its own files lie.

    `path` is the file or folder that the node's configuration names as its data; `options` are the
    site's own settings from there. `seed` is the plan's, so that a split can depend on it.
    """

    name: str
    location: Path | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    seed: int = 0

    @property
    def path(self) -> Path:
        """This site's file or folder. Raises ConfigurationError if the node names none."""
        if self.location is None:
            raise ConfigurationError(
                f"the site {self.name!r} has no data: name its file or folder in node.toml"
            )
        return self.location


@dataclass(frozen=True)
class Data:
    """A site's rows, by use. They never leave the trainer process.

    Each part is a torch `Dataset`, or arrays or tensors of equal first dimension: one, a tuple of
    them, or a dict of them. A batch has the same form. Arrays become tensors: float64 as float32,
    int8 to int32 as int64, all else in its own type.

    `validation` is for choosing and for the progress of a run, `test` for the final word. A row
    belongs to exactly one part. A site that only tests has no training rows.
    """

    train: Any = None
    validation: Any = None
    test: Any = None

    def map(self, change: Callable[..., Any]) -> Data:
        """Each part as `change` makes it of its arrays; a part that is None stays None.

        `change` is given the arrays of a tuple one by one, and any other part as it is:
        `data.map(lambda x, y: (scaled(x), y))`.
        """
        parts = (self.train, self.validation, self.test)
        return Data(
            *(p if p is None else change(*p) if isinstance(p, tuple) else change(p) for p in parts)
        )


class Asked(Protocol):
    """What was asked of a role's holder, and may not be answered yet."""

    def answer(self) -> tuple[torch.Tensor, ...]:
        """Wait for the answer. Raises `swarm.NoAnswer`."""


class Link(Protocol):
    """The way to the holder of a role, in one round."""

    def ask(self, tensors: Sequence[torch.Tensor], like: Sequence[torch.Tensor] | None) -> Asked:
        """Send a question. Raises `swarm.NoAnswer`."""

    def tell(self, tensors: Sequence[torch.Tensor]) -> None:
        """Send what is not answered. Raises `swarm.NoAnswer`."""


@dataclass(frozen=True)
class Context:
    """Where and when a plan's method runs. `loss`, `metrics`, `optimizer` and `train` are given one
    if they name it: `def loss(self, model, batch, context)`.

    Nothing in it may be changed; what a site keeps for itself belongs elsewhere.
    """

    site: Site
    round: int = 0
    """Of its stage, counted from 1; 0 outside of rounds, when a model is scored later."""
    round_in_all: int = 0
    """Among all rounds of the plan, whatever their stage, counted from 1."""
    learning_rate: float = 0.0
    """Of this round: the plan's, or what its schedule says."""
    statistics: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """What `prepare` is given: the sums over all sites."""
    base: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """The model with which this round began, whole, by name; on the model's device."""
    rows: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    """What the last round gathered (`swarm.gathered`): tensors by name and member's number."""
    batch_size: int = 32
    device: Any = "cpu"
    """Where the model is."""
    links: Mapping[str, Link] = field(default_factory=dict)
    """The ways to roles, by name, while a site trains."""
    optimizer: torch.optim.Optimizer | None = None
    """In `answer`: what the plan's `optimizer` has made for this round."""

    @property
    def options(self) -> Mapping[str, Option]:
        """The site's own settings, from its node.toml."""
        return self.site.options

    def batches(self, part: Any, epoch: int = 0) -> Iterator[Any]:
        """The rows of a part of the data, in the batches and the order of the default loop."""
        from swarm.learning.data.batches import batches, derive_seed, rows_in, shuffled

        order = shuffled(
            rows_in(part), derive_seed(self.site.seed, self.site.name, self.round, epoch)
        )
        return batches(part, self.batch_size, order, self.device)

    def ask(
        self, role: str, *tensors: torch.Tensor, like: torch.Tensor | Sequence[torch.Tensor] = ()
    ) -> Any:
        """What the holder of a role answers to these tensors: a tensor, or several as a tuple.

        `like` are tensors of the types and shapes that the answer must have: whatever else comes is
        the holder's fault, and not the plan's. Raises `swarm.NoAnswer` if none comes in time, or if
        it is refused; and if the holder is gone.
        """
        return self.begin(role, *tensors, like=like)()

    def begin(
        self, role: str, *tensors: torch.Tensor, like: torch.Tensor | Sequence[torch.Tensor] = ()
    ) -> Callable[[], Any]:
        """As `ask`, without waiting: call what it returns to have the answer. Several may be under
        way; when there are too many, it waits for the first."""
        wanted = tuple(like) if isinstance(like, (tuple, list)) else (like,)
        asked = self._link(role).ask(tensors, wanted or None)

        def answer() -> Any:
            found = asked.answer()
            return found[0] if len(found) == 1 else found

        return answer

    def tell(self, role: str, *tensors: torch.Tensor) -> None:
        """Send tensors to the holder of a role, who answers nothing. Raises `swarm.NoAnswer`."""
        self._link(role).tell(tensors)

    def _link(self, role: str) -> Link:
        if role not in self.links:
            known = ", ".join(self.links) or "none"
            raise PlanError(f"there is no role {role!r} to ask here (there is {known})")
        return self.links[role]

    def weights(self, name: str, sha256: str = "") -> dict[str, torch.Tensor]:
        """The tensors of the safetensors file that the site's option `name` says.

        With `sha256`, of that content alone. Raises ConfigurationError for a file that is not there
        or is another.
        """
        from swarm.learning.parameters.foreign_weights import weights_of_option

        return weights_of_option(self.site.options, name, sha256)


class Plan:
    """A training plan. Subclass it once in `plan.py`."""

    # The rules that the consortium consents to.

    rounds: ClassVar[int] = 20
    """How many rounds: train, submit, merge, attest."""

    stages: ClassVar[Sequence[Planned]] = ()
    """What the rounds are for, in order: `[swarm.statistics(), swarm.train(rounds=20)]`. By default
    statistics, if the plan has any, and `rounds` of training."""

    min_peers: ClassVar[int] = 2
    """A round needs at least this many updates."""

    min_rows: ClassVar[int] = 5
    """A site trains only with so many training rows or more: an update of fewer tells of them. A
    site without any takes no part in training, and scores the models."""

    verify: ClassVar[str] = "auto"
    """What an attestation has checked: "held", "shared", "full"; "auto" is full below 16 MB."""

    wire_dtype: ClassVar[str] = "fp32"
    """In which type parameters travel: "fp32" (as they are), or rounded to "bf16" or "fp16"."""

    tensors: ClassVar[Mapping[str, Place]] = {}
    """Where tensors live, by patterns of their names: the first that matches decides. Whatever none
    matches is `swarm.shared()`: averaged by the sites' numbers of training rows."""

    roles: ClassVar[Mapping[str, Role]] = {}
    """What one member does for the others within a round: `{"head": swarm.elected()}`. A site asks
    it in `train`, by `context.ask`; its holder answers by `answer`."""
    secure: ClassVar[bool] = False
    """Whether updates are masked, so that only the sum of several sites' comes out, to anyone. Then
    all tensors are averaged by their sites' rows, or frozen."""

    colluders: ClassVar[int | None] = None
    """Of a secure plan: how many curious members may put together what they know, and still learn
    nothing but sums. Default: a third of the others, at least 1."""

    clip: ClassVar[float] = 4.0
    """Of a secure plan: how far a number of the model may move in a round; the rest is cut off."""

    statistics_bound: ClassVar[float] = 0.0
    """Of a secure plan: the largest number that `statistics` may have at a site."""

    max_round_s: ClassVar[float] = 3600.0
    """The longest that a round waits for a site whose trainer still lives, in seconds."""

    seed: ClassVar[int] = 0
    """Decides the initial parameters and the order of batches."""

    # The local training of one round.

    epochs: ClassVar[int] = 1
    """Passes over the site's training rows in each round."""

    batch_size: ClassVar[int] = 32

    learning_rate: ClassVar[float | Sequence[float] | Callable[..., float]] = 1e-3
    """A number, or a schedule: a list with a number for each round (the last one holds on), or a
    method `def learning_rate(self, round)`."""

    proximal: ClassVar[float] = 0.0
    """How strongly the default loop holds a site's model near the one that it began the round with:
    proximal / 2 times the squared distance is added to the loss (FedProx, arXiv:1812.06127)."""

    weight_decay: ClassVar[float] = 0.0

    optimizer_state: ClassVar[str] = "reset"
    """"reset" begins each round with a new optimiser, "keep" with this site's last one."""

    privacy: ClassVar[Guarantee | None] = None
    """`swarm.dp(epsilon=8)`: differential privacy of each training row, by noise in the default
    loop (docs/privacy.md). Batches are drawn by chance, and `batch_size` is their mean."""

    threads: ClassVar[int] = 1
    """CPU threads of the trainer; fixed, because the order of a sum depends on their number."""

    precision: ClassVar[str] = "fp32"
    """In which type the default loop computes the loss: "bf16" wherever torch holds that to be safe
    (mixed precision, `torch.autocast`); the parameters and the scores stay as they are."""

    compiled: ClassVar[bool] = False
    """Whether torch compiles the model for the default loop (`torch.compile`): seconds to
    minutes at first, faster steps afterwards. It needs a C++ compiler at each site."""

    licence: ClassVar[str] = ""
    """Under which licence the model may be passed on, such as "CC-BY-4.0". Its card says so."""

    # What a plan must say. What is given a context if it names one: `Context`.

    def model(self) -> torch.nn.Module:
        """A new, randomly initialised model. The generators are seeded before the call.

        Parameters whose `requires_grad` is False here are frozen: they travel once, with the
        initial model, and are never merged.
        """
        raise NotImplementedError("a plan says what to train: write `def model(self)`")

    def data(self, site: Site) -> Data:
        """Read this site's own files. The split into parts must not depend on chance alone."""
        raise NotImplementedError("a plan says what it learns from: write `def data(self, site)`")

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss of a batch, a scalar tensor to be minimised."""
        raise NotImplementedError(
            "a plan says what to minimise: write `def loss(self, model, batch)`"
        )

    # What a plan may say.

    def metrics(
        self, model: torch.nn.Module, data: Any, context: Context | None = None
    ) -> Mapping[str, float | Counts]:
        """Scores of a model on one part of the data, in evaluation mode and without gradients.

        `data` has the form that `Data` was given, as tensors. A number stays at the site. Counts
        (`swarm.metrics.roc`, …) of `min_rows` rows or more are told to the others, and added up to
        figures of all sites' rows. Default: the mean loss, as a number.
        """
        from swarm.learning.data.batches import mean_loss

        return {"loss": mean_loss(Calls(self, context), model, data)}

    def optimizer(
        self, model: torch.nn.Module, context: Context | None = None
    ) -> torch.optim.Optimizer:
        """A new optimiser for a round. Default: AdamW (arXiv:1711.05101) with the plan's rate."""
        import torch

        trainable = [p for p in model.parameters() if p.requires_grad]
        rate: Any = self.learning_rate if context is None else context.learning_rate
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=self.weight_decay, foreach=False)

    def statistics(self, data: Data) -> Statistics:
        """Small arrays that are summed over all sites before the first round.

        Use them to standardise without pooling a row: counts, sums, sums of squares. What a site
        puts here is read by the others. Default: none, and then there is no statistics round.
        """
        return {}

    def state(self, model: torch.nn.Module) -> Mapping[str, torch.Tensor]:
        """Tensors outside the model that this site keeps from round to round. Default: none.

        Called once. Keep them in `self`, and write into them in place: what they hold after a round
        of training is what they hold when the next one begins, if this site's update became part of
        the model; if not, they are again as they were. They never leave the site.
        """
        return {}

    def prepare(self, data: Data, statistics: Mapping[str, np.ndarray[Any, Any]]) -> Data:
        """Turn `data` into what the model sees, given the sums over all sites. Default: as is."""
        return data

    def train(self, model: torch.nn.Module, data: Data, context: Context) -> None:
        """Own the whole local training of a round; change `model` in place. A plan that takes
        `round` in the place of the context is given the round's number.

        The default loop does `epochs` passes in seeded order, and takes checkpoints; a plan that
        overrides this has neither, and an interrupted round begins again.
        """
        raise NotImplementedError("overridden only by plans that own their loop")

    def answer(
        self, model: torch.nn.Module, asked: tuple[torch.Tensor, ...], context: Context
    ) -> Any:
        """Answer a site, as the holder of the plan's role: a tensor, or a tuple of them.

        The holder has no rows here. Sites are answered one after the other; what was only told is
        given here too, and the answer dropped. Change the model's tensors that live at the role
        (`swarm.at`) in place; `context.optimizer` is the plan's, made anew for each round.
        """
        raise NotImplementedError("overridden by plans that have a role")

    # What a plan says so that its model can be used on rows without labels.

    def table(self, path: Path) -> Any:
        """The rows of a file as `inputs` takes them. Default: `swarm.read_csv`."""
        return read_csv(path)

    def inputs(self, table: Any) -> Any:
        """What the model is computed from, in the units of the file, without the label.

        A row of the table for each row: arrays as `Data` takes them. `data` is best built on it, so
        that training and prediction read alike. Prediction gives what this returns to `prepare`, as
        `Data(test=…)`, and what `prepare` makes of it to `predict`.
        """
        raise NotImplementedError(
            "a plan says what a prediction is made from: write `def inputs(self, table)`"
        )

    def predict(self, model: torch.nn.Module, *inputs: Any) -> Any:
        """Predictions in real units, of rows without labels, in evaluation mode, no gradients.

        `inputs` are the arrays that `prepare` gave, as tensors; of a dict, that dict. Returns a
        tensor [rows] or [rows, columns], or a dict of them by name. Default: what the model gives.
        """
        return model(*inputs)
