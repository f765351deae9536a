"""One of several processes that train a site's rows together: data parallelism as torch has it.

Each process holds the whole model and takes a part of each batch. Before a step the gradients are
added up over all of them (`torch.distributed`: NCCL between GPUs, Gloo between CPUs), so that all
have the same model after it, and it is a step down the mean loss of the whole batch (Li et al.
2020, "PyTorch Distributed"). What normalises by batch, as BatchNorm does, sees a process's part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from swarm.errors import ConfigurationError, LocalError

JOIN_S = 120.0
COLLECTIVE_S = 1800.0
"""For one exchange among the processes; that they live is watched apart from it."""
FEWEST_ROWS = 2
"""That a process takes of a batch, because BatchNorm cannot train on one."""


@dataclass(frozen=True)
class Together:
    """This process's `rank` among `size`. Rank 0 is the one that the node speaks to."""

    rank: int
    size: int

    def device(self, asked: str) -> str:
        """This process's device. Raises ConfigurationError if there are too few GPUs, or if one of
        them is asked for by its number."""
        gpus = torch.cuda.device_count()
        if asked == "cpu" or (asked == "auto" and not gpus):
            return "cpu"
        if asked not in ("auto", "cuda"):
            raise ConfigurationError(
                f"{self.size} processes cannot share the device {asked!r}: set `training.device` "
                'to "auto", "cuda" or "cpu", or take `training.launch` away'
            )
        if gpus < self.size:
            raise ConfigurationError(
                f"`training.launch` asks for {self.size} processes, and there are {gpus} GPUs: "
                "start as many as there are GPUs"
            )
        return f"cuda:{self.rank}"

    def join(self, meeting: Path, device: torch.device) -> None:
        """Wait until all are here, who find each other by the file `meeting`: a port would listen
        to others, too. From then on the environment has torchrun's words for it, for plans that
        write `train` themselves. Raises LocalError if they cannot meet within JOIN_S."""
        both = {"RANK": self.rank, "WORLD_SIZE": self.size}
        os.environ |= {f"{own}{name}": str(n) for own in ("", "LOCAL_") for name, n in both.items()}
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # The box has no other network than its own loopback, and knows no host names.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        store = distributed.FileStore(str(meeting), self.size)  # type: ignore[attr-defined]
        store.set_timeout(timedelta(seconds=JOIN_S))
        try:
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=store,
                rank=self.rank,
                world_size=self.size,
                timeout=timedelta(seconds=COLLECTIVE_S),
            )
        except RuntimeError as error:
            raise LocalError(
                f"the {self.size} processes of `training.launch` cannot speak with each other "
                f"({str(error).splitlines()[0][:200]}): take it out where the box has no sockets"
            ) from None

    def share_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], float]:
        """This process's rows of a batch, and which part of the batch they are. Of a small batch,
        some processes take rows that count for nothing: they must take part in its step."""
        takers = max(1, min(self.size, len(rows) // FEWEST_ROWS))
        own = rows[self.rank % takers :: takers]
        return own, len(own) / len(rows) if self.rank < takers else 0.0

    def add_up(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Put into each gradient its sum over all processes; where none has one, there is none."""

        def kind(taught: torch.nn.Parameter) -> tuple[str, str]:
            return str(taught.device), str(taught.dtype)

        taught = sorted((p for p in parameters if p.requires_grad), key=kind)
        for _, group in groupby(taught, key=kind):
            self._add_up_alike(list(group))

    def _add_up_alike(self, taught: list[torch.nn.Parameter]) -> None:
        has = torch.tensor([p.grad is not None for p in taught]).to(taught[0])
        each = [torch.zeros_like(p) if p.grad is None else p.grad for p in taught]
        whole = torch.cat([gradient.reshape(-1) for gradient in each] + [has])
        distributed.all_reduce(whole)
        *sums, has = torch.split(whole, [p.numel() for p in taught] + [len(taught)])
        for parameter, value, any_has in zip(taught, sums, has.tolist(), strict=True):
            parameter.grad = value.view_as(parameter) if any_has else None
