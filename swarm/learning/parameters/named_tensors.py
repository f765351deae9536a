"""A model's state as named tensors, and as a tensor file.

What travels is the model's `state_dict`: parameters, and buffers such as BatchNorm's running
statistics and integer counters. Tied tensors travel once, under the first of their names. State
that is not tensors is refused, because nobody could merge it.

As a rule the `state_dict` is the model's own tensors, and writing to them changes the model. Where
it is not (a hook made copies, a module adds extra state), only `load_state_dict` puts values back,
and whether it did is checked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from swarm.errors import BlobError, PlanError
from swarm.tensors import (
    DType,
    Layout,
    OpenFile,
    TensorFile,
    TensorSpec,
    create_file,
    open_file,
)

State = dict[str, torch.Tensor]

_DTYPES: dict[torch.dtype, DType] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def state_of(model: torch.nn.Module) -> State:
    """The model's own tensors by name (not copies), tied ones under their first name only.

    Raises PlanError naming a tensor that cannot travel.
    """
    state: State = {}
    seen: set[tuple[object, ...]] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(name, str):
            raise PlanError(f"the model's state_dict has the key {name!r}: keys must be names")
        if not isinstance(value, torch.Tensor):
            raise PlanError(
                f"the model's state {name!r} is a {type(value).__name__}, not a tensor, and cannot "
                "be merged: leave it out of the state_dict"
            )
        if torch.nn.parameter.is_lazy(value) or value.is_meta:
            raise PlanError(
                f"the model's tensor {name!r} has no values yet: give lazy layers their sizes"
            )
        if value.dtype not in _DTYPES or value.layout != torch.strided:
            raise PlanError(
                f"the model's tensor {name!r} is {value.dtype} ({value.layout}), which cannot be "
                f"merged; dense {', '.join(_DTYPES.values())} can"
            )
        if value.numel() and place_of(value) in seen:
            continue
        seen.add(place_of(value))
        state[name] = value.detach()
    if not state:
        raise PlanError("the model has no parameters: there is nothing to merge")
    return state


def place_of(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where and how a tensor lies in memory: equal for tied ones."""
    return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def separate(model: torch.nn.Module) -> None:
    """Give memory of their own to elements that share one place: `ones(1).expand(4)` cannot be
    written to. The model must have no lazy tensors."""
    for tensor in (*model.parameters(), *model.buffers()):
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        if any(size > 1 and step == 0 for size, step in steps):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def layout_of(specs: list[TensorSpec]) -> Layout:
    """The layout of a tensor file. Raises PlanError for names, or more tensors, than one takes."""
    try:
        return Layout.from_specs(specs)
    except ValueError as error:
        raise PlanError(f"the model cannot be written to a file: {error}") from None


def specs_of(
    state: Mapping[str, torch.Tensor], types: Mapping[str, torch.dtype] | None = None
) -> list[TensorSpec]:
    """Name, type and shape of each tensor; given `types`, of those and in those only."""
    chosen = {name: t.dtype for name, t in state.items()} if types is None else types
    return [
        TensorSpec(name, _DTYPES[dtype], tuple(state[name].shape)) for name, dtype in chosen.items()
    ]


def copy_state(state: Mapping[str, torch.Tensor]) -> State:
    """Copies on the CPU, which later training does not change."""
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def set_state(
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    types: Mapping[str, torch.dtype] | None = None,
) -> None:
    """Copy `state` into the model, on whatever device it lies, widened to the model's own types.

    `types` are those that tensors may have instead, by name: in which they travel.
    Raises PlanError naming the first tensor that is missing, unknown, or of another shape or type.
    """
    own = state_of(model)
    for name in own.keys() | state.keys():
        if name not in own or name not in state:
            side = "the plan's model" if name not in own else "the model file"
            raise PlanError(f"the tensor {name!r} is not in {side}: they belong to different plans")
    copies = _copies(model, own)
    with torch.no_grad():
        for name, target in own.items():
            source = state[name]
            allowed = (target.dtype, (types or {}).get(name, target.dtype))
            if source.shape != target.shape or source.dtype not in allowed:
                raise PlanError(
                    f"the tensor {name!r} is {source.dtype} {list(source.shape)} in the model file "
                    f"and {target.dtype} {list(target.shape)} in the plan's model"
                )
            if (source.device, source.data_ptr()) != (target.device, target.data_ptr()):
                target.copy_(source)  # else it is the model's own
    if copies:
        _put_back(model, own, copies)


def check_put_back(model: torch.nn.Module) -> None:
    """Raise PlanError naming a tensor of the state_dict that could not be put back."""
    own = state_of(model)
    copies = _copies(model, own)
    if copies:
        _put_back(model, own, copies)


def _copies(model: torch.nn.Module, state: State) -> list[str]:
    """What of a model's own state the model does not compute with."""
    real = {place_of(t) for t in (*model.parameters(), *model.buffers())}
    return [name for name, t in state.items() if t.numel() and place_of(t) not in real]


def _put_back(model: torch.nn.Module, state: State, copies: list[str]) -> None:
    """Load `state`, part of which are copies that the model does not compute with."""
    wanted = {name: state[name].clone() for name in copies}
    firsts = {place_of(value): value for value in state.values()}
    whole = {
        name: firsts.get(place_of(value), value) if isinstance(value, torch.Tensor) else value
        for name, value in model.state_dict(keep_vars=True).items()
    }
    model.load_state_dict({**whole, **state}, strict=False)
    found = state_of(model)
    for name, value in wanted.items():
        if name not in found or not torch.equal(found[name].cpu(), value.cpu()):
            raise PlanError(
                f"the model's tensor {name!r} cannot be put back: state_dict() gives a copy of it, "
                "and load_state_dict() does not take it; give the model's own tensors, or take "
                "what was given in set_extra_state or a load hook"
            )


def first_non_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None."""
    for name, value in state.items():
        if value.is_floating_point() and value.numel():
            # NaN becomes the least and the greatest of all. One pass over the tensor and no other
            # in memory: a twelfth of the time of `isfinite`.
            least, greatest = torch.aminmax(value.detach())
            if not (math.isfinite(least) and math.isfinite(greatest)):
                return name
    return None


def write_state(path: Path | OpenFile, state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors once, into a mapped canonical file. Raises LocalError if the disk fails."""
    with create_file(path, layout_of(specs_of(state))) as file:
        for name, value in state.items():
            _as_torch(file[name], value.dtype).copy_(value.detach())


def pack_state(state: Mapping[str, torch.Tensor]) -> TensorFile:
    """The file that `write_state` writes, in memory."""
    layout = layout_of(specs_of(state))
    raw = np.zeros(layout.file_bytes, np.uint8)
    raw[: layout.data_start] = np.frombuffer(layout.header, np.uint8)
    file = TensorFile(layout, raw)
    for name, value in state.items():
        _as_torch(file[name], value.dtype).copy_(value.detach())
    return file


def read_state(path: Path | OpenFile) -> State:
    """Tensors over the mapped file, not to be written to. Raises BlobError if not canonical."""
    return unpack_state(open_file(path))


def unpack_state(file: TensorFile) -> State:
    """Tensors over a file's bytes, not to be written to."""
    types = {name: dtype for dtype, name in _DTYPES.items()}
    return {spec.name: _as_torch(file[spec.name], types[spec.dtype]) for spec in file.layout.specs}


def read_model(source: Path | OpenFile) -> State:
    """The tensors of a model's folder, read into memory. Raises BlobError if they are none."""
    import safetensors.torch

    try:
        if isinstance(source, Path):
            found: State = safetensors.torch.load_file(source)
        else:
            with open(source.descriptor, "rb", closefd=False) as file:
                found = safetensors.torch.load(file.read())
    except safetensors.SafetensorError as error:
        raise BlobError(f"{source} holds no model: {error}") from None
    return found


def write_arrays(path: Path | OpenFile, arrays: Mapping[str, ArrayLike]) -> None:
    """Write statistics as float64 tensors. Raises PlanError if one is not finite numbers."""
    values = {name: _as_float64(name, value) for name, value in arrays.items()}
    specs = [TensorSpec(name, "F64", value.shape) for name, value in values.items()]
    try:
        layout = Layout.from_specs(specs)
    except ValueError as error:
        raise PlanError(f"the plan's statistics cannot be written: {error}") from error
    with create_file(path, layout) as file:
        for name, value in values.items():
            file[name][...] = value


def read_arrays(path: Path | OpenFile) -> dict[str, NDArray[Any]]:
    """Merged statistics, read into memory. Raises BlobError if the file is not canonical."""
    file = open_file(path)
    return {name: np.array(value) for name, value in file.items()}


def as_arrays(statistics: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """A plan's statistics as float64 arrays. Raises PlanError if one is not finite numbers."""
    return {str(name): _as_float64(str(name), value) for name, value in statistics.items()}


def _as_float64(name: str, value: Any) -> NDArray[np.float64]:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise PlanError(f"the statistic {name!r} is no array of numbers: {value!r:.80}") from None
    if not np.isfinite(array).all():
        raise PlanError(
            f"the statistic {name!r} is NaN or infinite somewhere: leave missing values out of sums"
        )
    return array


def _as_torch(view: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """A tensor over a numpy view of a tensor file, without a copy."""
    if view.size == 0:
        return torch.empty(view.shape, dtype=dtype)
    with warnings.catch_warnings():
        # torch warns that it could write to a read-only mapping; what is read here only reads.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        raw = torch.from_numpy(view.reshape(-1).view(np.uint8))
    return raw.view(dtype).reshape(view.shape)
