"""Rows of a site's data as batches, in an order that depends on nothing but a seed.

A part of the data is a torch `Dataset`, or arrays or tensors of equal length: one, a tuple, or a
dict. Batches are balanced (33 rows by 32 make 17 and 16), because a last batch of one row breaks
BatchNorm, and a small one weighs its rows too much.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, default_collate

from swarm.errors import PlanError


class HasLoss(Protocol):
    """What is needed of a plan here."""

    @property
    def batch_size(self) -> int: ...

    def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor: ...


def derive_seed(*words: str | int) -> int:
    """A seed of 63 bits from words and numbers, the same on every machine."""
    text = "\0".join(str(word) for word in ("swarm seed", *words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def as_tensors(part: Any) -> Any:
    """A part of the data with its arrays as tensors: float32, int64 and bool; `Dataset`s as is.

    Raises PlanError if it is none of the forms that `Data` takes, or lengths differ.
    """
    if part is None or isinstance(part, Dataset):
        return part
    if isinstance(part, dict):
        converted: Any = {key: _tensor(value) for key, value in part.items()}
        lengths = {len(value) for value in converted.values()}
    elif isinstance(part, (tuple, list)):
        converted = tuple(_tensor(value) for value in part)
        lengths = {len(value) for value in converted}
    else:
        converted = _tensor(part)
        lengths = {len(converted)}
    if len(lengths) != 1:
        raise PlanError(f"the arrays of one part of the data have different lengths: {lengths}")
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
    count = -(-len(order) // size)
    for rows in np.array_split(np.asarray(order, dtype=np.int64), count) if count else []:
        yield to_device(_take(part, rows), device)


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
    count = -(-len(order) // size)
    weights = [len(rows) for rows in np.array_split(np.asarray(order), max(count, 1))]
    losses = [float(plan.loss(model, batch)) for batch in batches(part, size, order, device)]
    total = sum(w * loss for w, loss in zip(weights, losses, strict=False))
    return total / max(len(order), 1)


def _take(part: Any, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Any:
    if isinstance(part, Dataset):
        return default_collate([part[int(row)] for row in rows])
    index = torch.from_numpy(rows)
    if isinstance(part, dict):
        return {key: value[index] for key, value in part.items()}
    if isinstance(part, tuple):
        return tuple(value[index] for value in part)
    return part[index]


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        tensor = value
    else:
        try:
            tensor = torch.from_numpy(np.ascontiguousarray(value))
        except TypeError:
            raise PlanError(
                f"the data holds a {type(value).__name__}, not numbers: give arrays or tensors, "
                "or a torch Dataset"
            ) from None
    if tensor.ndim == 0:
        raise PlanError("the data holds a single number where rows are needed")
    if tensor.dtype == torch.float64:
        return tensor.float()
    if tensor.dtype in (torch.int32, torch.int16, torch.int8):
        return tensor.long()
    return tensor
