"""A plan at one site: its model, built and checked, and its data, read and prepared once.

What a plan's `model` and `data` return is looked at here, where it can be refused by name and with
its place in the plan, and not in the middle of a round.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy, deepcopy
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from swarm.errors import ConfigurationError, NoAnswer, PlanError
from swarm.learning.data.arrays import part_of
from swarm.learning.data.batches import as_tensors, derive_seed, rows_in
from swarm.learning.parameters.named_tensors import (
    State,
    as_arrays,
    check_put_back,
    copy_state,
    first_non_finite,
    layout_of,
    separate,
    set_state,
    specs_of,
    state_of,
)
from swarm.learning.parameters.placement import RESERVED, At
from swarm.learning.parameters.travel import freeze, ways_of
from swarm.learning.plans.plan import Data, Plan, Site
from swarm.learning.plans.plan_faults import plan_faults
from swarm.learning.plans.settings import placement_in, role_in, rules_of
from swarm.learning.scripts.script import Script
from swarm.learning.supervisor.trainer_messages import Samples
from swarm.learning.training.frozen_files import read_frozen
from swarm.learning.training.private_steps import check_private_model, check_rows_alone
from swarm.tensors import TensorSpec

PARTS = ("train", "validation", "test")
BESIDE = RESERVED + "state/"
"""What the names of what a plan keeps beside the model begin with in files."""


class SitePlan:
    """A plan at one site: its model and its data.

    `prepared` replaces the plan's own reading of the site's files: the pooled reference uses it.
    Raises PlanError with the place in the plan, here and in every method, for all that its code
    raises or returns that cannot be trained.
    """

    def __init__(
        self,
        plan: Plan,
        site: Site,
        folder: Path,
        *,
        seed: int | None = None,
        device: str = "auto",
        prepared: Data | None = None,
    ) -> None:
        self.plan = plan
        self.seed = plan.seed if seed is None else seed
        self.site = Site(site.name, site.location, site.options, self.seed)
        self.entropy = b""
        """What is drawn at random follows from this as well: in secure plans, this site's own."""
        self.folder = folder
        self.device = choose_device(device)
        self._given = prepared
        self._data: Data | None = None
        self._prepared: Data | None = None
        self._prepared_for: str | None = None
        self.statistics_used: Mapping[str, NDArray[Any]] = {}
        """The sums with which the data were prepared last."""
        self._samples: Samples | None = None
        self.placement = placement_in(plan, rules_of(plan))
        role = role_in(plan)
        self.role = None if role is None else role[0]
        """The name of the plan's role, if it has one."""
        if isinstance(plan, Script):
            plan.open(self.site, self.device)
        self.model = self._new_model()
        with self.faults("building the model", "model"):
            self.model.to(self.device)
            state = state_of(self.model)
            ways = ways_of(self.model, state, plan.wire_dtype, self.placement)
            self.travels, self.stays = ways.travels, ways.stays
            self._specs = specs_of(state)
            self.held_names = [
                n for n in self.travels if isinstance(self.placement.place_of(n), At)
            ]
            """The tensors that live at the plan's role."""
            layout_of(self._specs)
            self._refuse_broken_model(state)
            check_put_back(self.model)
            if plan.privacy is not None:
                check_private_model(self.model)
        self.from_files = read_frozen(self.placement, state, self.site)
        self._beside = self._new_state()
        self._beside_at_first = copy_state(self._beside)

    def at(self, site: Site, data: Data | None = None) -> Self:
        """The same plan and the same model at another site, whose rows are `data` if given: for
        thousands of sites that take turns, one model in memory.

        This one's own rows must not have been asked for: what they left in the plan would be seen.
        """
        other = copy(self)
        other.plan = deepcopy(self.plan)
        other.site = Site(site.name, site.location, site.options, self.seed)
        other._data, other._prepared, other._prepared_for, other._samples = data, None, None, None
        return other

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """The same site and rows under the plan with some settings changed; itself if none is.

        Raises ConfigurationError naming a setting that the plan does not have.
        """
        if not settings:
            return self
        plan = deepcopy(self.plan)
        for name, value in settings.items():
            if not hasattr(plan, name) or callable(getattr(plan, name)):
                raise ConfigurationError(f"the plan has no setting {name!r}: correct its name")
            setattr(plan, name, value)
        rules_of(plan)
        other = type(self)(
            plan,
            self.site,
            self.folder,
            seed=self.seed,
            device=str(self.device),
            prepared=self._given,
        )
        other._data = self._data
        return other

    @cached_property
    def stepping(self) -> torch.nn.Module:
        """The model as steps are computed with it: compiled, if the plan says so."""
        return (
            cast(torch.nn.Module, torch.compile(self.model)) if self.plan.compiled else self.model
        )

    def arithmetic(self) -> AbstractContextManager[None]:
        """Within which the loss is computed: in the plan's precision."""
        mixed = self.plan.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=mixed)

    def make_initial(self) -> State:
        """The initial model, made anew: a node needs it once, and should not keep it in memory."""
        with self.faults("building the model", "model"):
            state = state_of(self._new_model())
            return {name: value.cpu() for name, value in state.items() if not self.has_file(name)}

    @cached_property
    def initial(self) -> State:
        """The initial model, for those who compare with it again and again."""
        return self.make_initial()

    @property
    def data(self) -> Data:
        """This site's data as the plan reads it, before `prepare`; read once."""
        if self._data is None:
            with self.deterministic("data"), self.faults("reading the site's data", "data"):
                found = self.plan.data(self.site)
                _check_data(found, "data")
            self._data = found
        return self._data

    @property
    def has_statistics(self) -> bool:
        """Whether the plan overrides `statistics`, and so asks for a statistics round."""
        return type(self.plan).statistics is not Plan.statistics

    def samples(self) -> Samples:
        """How many rows there are for each use, as the plan's `data` gives them.

        Raises PlanError if there are none, or some for training but fewer than `min_rows`.
        """
        if self._samples is None:
            data = self.data
            with self.faults("counting the site's rows", "data"):
                ready = self._tensors(data)
                counts = {part: rows_in(getattr(ready, part)) for part in PARTS}
                if not any(counts.values()):
                    raise PlanError(
                        f"the site {self.site.name!r} has no rows: give training rows, or test "
                        "rows alone"
                    )
                if 0 < counts["train"] < self.plan.min_rows:
                    raise PlanError(
                        f"the site {self.site.name!r} has {counts['train']} training rows, and "
                        f"the plan's min_rows is {self.plan.min_rows}: let it test only, or lower "
                        "min_rows"
                    )
            self._samples = Samples(**counts)
        return self._samples

    def statistics(self) -> dict[str, NDArray[np.float64]]:
        """This site's sums, as float64 arrays."""
        data = self.data
        faults = self.faults("computing statistics", "statistics")
        with self.deterministic("statistics"), faults:
            given = self.plan.statistics(data)
            if not isinstance(given, Mapping):
                raise PlanError(f"statistics must return a dict of arrays, not {describe(given)}")
            found = as_arrays(given)
            if not found:
                raise PlanError("the plan's statistics are empty: return at least one array")
        return found

    def prepared(self, statistics: Mapping[str, NDArray[Any]] | None) -> Data:
        """The data as the model sees it, given the sums over all sites."""
        if self._given is not None:
            return self._given
        if self._prepared is None or self._prepared_for != fingerprint_of(statistics):
            data = self.data
            with self.deterministic("prepare"), self.faults("preparing the data", "prepare"):
                ready = self.plan.prepare(data, statistics or {})
                _check_data(ready, "prepare")
                prepared = self._tensors(ready)
                if self.plan.privacy is not None:
                    self._check_rows_alone(prepared.train, statistics or {})
                self._prepared = prepared
            self._prepared_for = fingerprint_of(statistics)
            self.statistics_used = statistics or {}
        return self._prepared

    def _check_rows_alone(self, whole: Any, statistics: Mapping[str, NDArray[Any]]) -> None:
        """Prepare every other training row without the rest, and compare; of a `Dataset`, whose
        rows come one by one, nothing."""
        data, rows = self.data, np.arange(0, rows_in(whole), 2)
        if isinstance(data.train, Dataset) or type(self.plan).prepare is Plan.prepare:
            return
        some = part_of(data.train, rows)
        ready = self.plan.prepare(Data(some, data.validation, data.test), statistics)
        check_rows_alone(whole, self._tensors(ready).train, rows)

    def _new_model(self) -> torch.nn.Module:
        with self.deterministic("initialise"), self.faults("building the model", "model"):
            model = self.plan.model()
            if not isinstance(model, torch.nn.Module):
                raise PlanError(f"model must return a torch.nn.Module, not {describe(model)}")
            state_of(model)  # refuses what has no values yet
            separate(model)
            freeze(model, self.placement)
            return model

    def _new_state(self) -> State:
        """What the plan keeps beside the model: its own tensors, by name."""
        with self.deterministic("state"), self.faults("making the state", "state"):
            found = self.plan.state(self.model)
            if not isinstance(found, Mapping):
                raise PlanError(f"state must return a dict of tensors, not {describe(found)}")
            for name, value in found.items():
                if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                    raise PlanError(
                        f"state must return tensors by name, and {name!r} is {describe(value)}"
                    )
            state = {BESIDE + name: value.detach() for name, value in found.items()}
            if state:
                layout_of(specs_of(state))
            return state

    def held(self) -> State:
        """What of the model lives at the plan's role, copied. Raises PlanError naming a tensor that
        is not finite."""
        state = state_of(self.model)
        held = copy_state({name: state[name] for name in self.held_names})
        self.refuse_non_finite(held, "at the role's holder")
        return held

    def take_held(self, held: Mapping[str, torch.Tensor]) -> None:
        """Take what lives at the plan's role from its holder. Raises NoAnswer for other tensors."""
        state = state_of(self.model)
        for name in self.held_names:
            found, own = held.get(name), state[name]
            if found is None or (found.dtype, found.shape) != (own.dtype, own.shape):
                raise NoAnswer(f"the role's holder has not given {name!r} as the model has it")
            own.detach().copy_(found)

    def has_file(self, name: str) -> bool:
        """Whether a tensor comes from a file that every site has, and is in no model file."""
        return name in self.from_files

    @property
    def kept_names(self) -> set[str]:
        """What of the plan's stays at its site from round to round."""
        return {*self.stays, *self._beside}

    def kept(self) -> State:
        """What stays at this site, as it is now: the model's tensors, and those beside it. Not
        copies. Raises PlanError naming one that is not finite."""
        state = state_of(self.model)
        kept = {**{name: state[name] for name in self.stays}, **self._beside}
        self.refuse_non_finite(kept, "in what this site keeps")
        return kept

    def put(self, state: Mapping[str, torch.Tensor], kept: State | None) -> State:
        """Have the model be `state`, which is whole, with what this site has `kept`: None, if it
        has kept nothing yet. Returns what the model is now."""
        own = {name: value for name, value in (kept or {}).items() if name in self.stays}
        whole = {**state, **self.from_files, **own}
        set_state(self.model, whole, self.travels)
        for name, value in self._beside.items():
            value.copy_((kept or self._beside_at_first)[name])
        return whole

    def trained(self) -> State:
        """The model's own tensors (not copies) that are not frozen.

        Raises PlanError if training has changed which tensors there are, or of what kind.
        """
        state = state_of(self.model)
        for new, old in zip_longest(specs_of(state), self._specs):
            if new != old:
                raise PlanError(
                    f"training has changed what tensors the model has: {_told(old)} has become "
                    f"{_told(new)}; a model keeps its tensors, their shapes and types"
                )
        return {name: state[name] for name in (*self.travels, *self.stays)}

    def _refuse_broken_model(self, state: State) -> None:
        broken = first_non_finite(state)
        if broken is None:
            return
        if broken in dict(self.model.named_buffers()):
            raise PlanError(
                f"the model's buffer {broken!r} has NaN or infinite values, which cannot be "
                "merged: a constant mask is part of the code, so register it with persistent=False"
            )
        raise PlanError(
            f"model() returns a model whose tensor {broken!r} is NaN or infinite: initialise it"
        )

    def refuse_thawed(self, base: Mapping[str, torch.Tensor]) -> None:
        """A frozen tensor does not travel: what training made of it would be lost, each site's own
        for itself."""
        for name, value in state_of(self.model).items():
            changes = name in self.travels or name in self.stays
            if not changes and not torch.equal(value.cpu(), base[name].cpu()):
                raise PlanError(
                    f"training has changed the frozen tensor {name!r}, which does not travel: "
                    "register it as a buffer, or leave requires_grad on; the buffers of a frozen "
                    "part stay as they are in evaluation mode"
                )

    def refuse_non_finite(self, state: State, when: str) -> None:
        name = first_non_finite(state)
        if name is not None:
            raise PlanError(
                f"the model's tensor {name!r} is NaN or infinite {when}: lower the plan's "
                "learning_rate, and look for missing values in the data"
            )

    def _tensors(self, data: Data) -> Data:
        return Data(*(as_tensors(getattr(data, part), part) for part in PARTS))

    def faults(self, doing: str, method: str) -> Any:
        return plan_faults(self.folder, f"{doing} ({self.site.name})", type(self.plan), method)

    def seed_of(self, *words: str | int) -> int:
        """A seed from the run's seed, this site's own entropy if it has some, and these words."""
        own = (self.entropy.hex(),) if self.entropy else ()
        return derive_seed(self.seed, *words, *own)

    @contextmanager
    def deterministic(self, *words: str | int) -> Iterator[None]:
        """Seed every generator that a plan may use, from the run's seed and these words."""
        seed = self.seed_of(*words)
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


def choose_device(device: str) -> torch.device:
    """ "auto" is CUDA where there is one. Raises PlanError for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise PlanError(f'the device {device!r} cannot be used: {first_line}; try "auto"') from None
    return chosen


def _check_data(data: Any, method: str) -> None:
    if not isinstance(data, Data):
        raise PlanError(f"{method} must return swarm.Data, not {describe(data)}")


def describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{type(value).__name__}"


def fingerprint_of(statistics: Mapping[str, NDArray[Any]] | None) -> str:
    state = hashlib.sha256()
    for name, array in sorted((statistics or {}).items()):
        state.update(f"{name} {array.shape} ".encode() + array.tobytes())
    return state.hexdigest()


def _told(spec: TensorSpec | None) -> str:
    return "nothing" if spec is None else f"{spec.name!r} {spec.dtype} {list(spec.shape)}"
