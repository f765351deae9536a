"""Rows of a site's data as batches, in an order that depends on nothing but a seed.

A part of the data is a torch `Dataset`, or arrays or tensors of equal length: one, a tuple, or a
dict. Batches are balanced (33 rows by 32 make 17 and 16), because a last batch of one row breaks
BatchNorm, and a small one weighs its rows too much. For the same reason an odd number of rows by 2
makes one batch of 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, default_collate

from swarm.errors import PlanError
from swarm.learning.data.arrays import as_array


class HasLoss(Protocol):
    """What is needed of a plan here: `swarm.learning.code.method_signatures.Calls`."""

    @property
    def batch_size(self) -> int: ...

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor: ...


def derive_seed(*words: str | int) -> int:
    """A seed of 63 bits from words and numbers, the same on every machine."""
    text = "\0".join(str(word) for word in ("swarm seed", *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def as_tensors(part: Any, name: str = "data") -> Any:
    """A part of the data with its arrays as tensors: float32, int64 and bool; `Dataset`s as is.

    A part without arrays is None. Raises PlanError if it is none of the forms that `Data` takes, or
    lengths differ; `name` says of which part.
    """
    if part is None:
        return None
    if isinstance(part, Dataset):
        if isinstance(part, IterableDataset) or not hasattr(part, "__len__"):
            raise PlanError(
                f"the {name} rows are a {type(part).__name__} without a length: give a Dataset "
                "with __len__ and __getitem__, because each row counts"
            )
        return part
    if isinstance(part, (dict, tuple, list)) and not part:
        return None
    if isinstance(part, dict):
        columns = {key: _tensor(value, f"{name}[{key!r}]") for key, value in part.items()}
        converted: Any = columns
    elif isinstance(part, (tuple, list)):
        columns = {i: _tensor(value, f"{name}[{i}]") for i, value in enumerate(part)}
        converted = tuple(columns.values())
    else:
        return _tensor(part, name)
    lengths = {key: len(value) for key, value in columns.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name}[{key!r}] has {rows} rows" for key, rows in lengths.items())
        raise PlanError(f"the arrays of one part of the data have different lengths: {told}")
    return converted


def rows_in(part: Any) -> int:
    """The number of rows of a part of the data; 0 for None."""
    if part is None:
        return 0
    if isinstance(part, dict):
        return len(next(iter(part.values())))
    if isinstance(part, tuple):
        return len(part[0])
    return len(part)


def batches(part: Any, size: int, order: Sequence[int], device: torch.device) -> Iterator[Any]:
    """The rows of `part` in `order`, in balanced batches of at most `size`, on `device`."""
    for rows in split(order, size):
        yield to_device(take(part, rows), device)


def split(order: Sequence[int], size: int) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Row numbers in balanced batches of at most `size`."""
    count = count_batches(len(order), size)
    return np.array_split(np.asarray(order, dtype=np.int64), count) if count else []


def count_batches(rows: int, size: int) -> int:
    """How many batches of at most `size` so many rows make; none of one row, if that can be."""
    return rows // 2 if size == 2 and rows > 1 else -(-rows // size)


def first_gap(batch: Any) -> str | None:
    """Where a batch holds NaN or an infinity, for a message; None if nowhere."""
    if isinstance(batch, torch.Tensor):
        if batch.is_floating_point() and not bool(torch.isfinite(batch).all()):
            where = torch.nonzero(~torch.isfinite(batch))[0].tolist()
            column = f" in its column {where[1]}" if len(where) > 1 else ""
            return f"has {float(batch[tuple(where)])}{column}"
        return None
    pairs = batch.items() if isinstance(batch, dict) else enumerate(batch)
    if not isinstance(batch, (dict, tuple, list)):
        return None
    found = ((key, first_gap(value)) for key, value in pairs)
    return next((f"batch[{key!r}] {gap}" for key, gap in found if gap), None)


def shuffled(rows: int, seed: int) -> list[int]:
    """A permutation of `rows` row numbers, decided by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = torch.randperm(rows, generator=generator).tolist()
    return order


def concatenate(parts: Sequence[Any]) -> Any:
    """Several parts of the same form as one; None where all are empty. For references only."""
    filled = [part for part in parts if rows_in(part)]
    if not filled:
        return None
    first = filled[0]
    if isinstance(first, Dataset):
        return ConcatDataset(filled)
    if isinstance(first, dict):
        return {key: torch.cat([part[key] for part in filled]) for key in first}
    if isinstance(first, tuple):
        return tuple(torch.cat(columns) for columns in zip(*filled, strict=True))
    return torch.cat(filled)


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return tuple(to_device(value, device) for value in batch)
    return batch


def mean_loss(plan: HasLoss, model: torch.nn.Module, part: Any) -> float:
    """The plan's loss over a part of the data, each row counting the same."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    order, size = range(rows_in(part)), max(plan.batch_size, 256)
    count = count_batches(len(order), size)
    weights = [len(rows) for rows in np.array_split(np.asarray(order), max(count, 1))]
    losses = [float(plan.loss(model, batch)) for batch in batches(part, size, order, device)]
    total = sum(w * loss for w, loss in zip(weights, losses, strict=False))
    return total / max(len(order), 1)


def take(part: Any, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    """Some rows of a part of the data, in this order."""
    if isinstance(part, Dataset):
        items = [part[int(row)] for row in rows]
        try:
            return default_collate(items)
        except (TypeError, RuntimeError, KeyError) as error:
            raise PlanError(
                f"the rows {', '.join(map(str, rows[:4]))} … of the {type(part).__name__} make no "
                f"batch ({' '.join(str(error).split())[:200]}): every item must be tensors or "
                "numbers of the same form"
            ) from None
    index = torch.from_numpy(rows)
    if isinstance(part, dict):
        return {key: value[index] for key, value in part.items()}
    if isinstance(part, tuple):
        return tuple(value[index] for value in part)
    return part[index]


def _tensor(value: Any, name: str) -> torch.Tensor:
    try:
        if isinstance(value, torch.Tensor):
            tensor = value.detach()
        else:
            tensor = torch.from_numpy(np.require(as_array(value), requirements=["C", "W"]))
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_meta:
            raise PlanError(f"it is {tensor.dtype} ({tensor.layout}): give dense real numbers")
        if tensor.ndim == 0 or np.ndim(value) == 0:
            raise PlanError("it is a single number where rows are needed")
    except PlanError as error:
        raise PlanError(f"the data's {name} is of no use: {error}") from None
    if tensor.dtype == torch.float64:
        return tensor.float()
    if tensor.dtype in (torch.int32, torch.int16, torch.int8):
        return tensor.long()
    return tensor
