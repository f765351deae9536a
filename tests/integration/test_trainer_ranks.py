"""A site that trains in two processes: real ones, which speak by Gloo inside the box."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from harness.plans import MODEL
from harness.whole import is_whole
from test_trainer_process import SLOW, config, with_trainer

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig
from swarm.learning.supervisor.trainer_messages import Progress
from swarm.tensors import open_file

NO_BATCH_NORM = (MODEL, "nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)")
OWN_LOOP = (
    "    def loss(self, model, batch):\n",
    """\
    def train(self, model, data):
        import torch.distributed as distributed
        from torch.nn.parallel import DistributedDataParallel

        whole = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rank, size = distributed.get_rank(), distributed.get_world_size()
        for _ in range(4):
            optimizer.zero_grad()
            x, y = (part[rank::size] for part in data.train)
            self.loss(whole, (x, y)).backward()
            optimizer.step()

    def loss(self, model, batch):
""",
)


SHARDED = (
    OWN_LOOP[0],
    """\
    def train(self, model, data):
        from copy import deepcopy

        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
        from torch.distributed.fsdp import fully_shard

        whole = fully_shard(deepcopy(model))
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            self.loss(whole, data.train).backward()
            optimizer.step()
        unsharded = StateDictOptions(full_state_dict=True)
        model.load_state_dict(get_model_state_dict(whole, options=unsharded))

    def loss(self, model, batch):
""",
)


def trained(settings: TrainerConfig, folder: Path, kill: bool = False) -> tuple[bytes, Trainer]:
    """The update of one round, and the trainer as it is afterwards."""

    async def use(trainer: Trainer) -> None:
        base, sums = folder / "m0", folder / "sums"
        await trainer.initialise(base)
        await trainer.compute_statistics(sums)

        killed = []

        def progress(told: Progress) -> None:
            if kill and told.epoch >= 1 and not killed:
                killed.extend(others_of(trainer))
                killed[0].send_signal(signal.SIGKILL)

        await trainer.train(1, base, folder / "update", statistics=sums, progress=progress)

    trainer = with_trainer(settings, use)
    return (folder / "update").read_bytes(), trainer


def others_of(trainer: Trainer) -> list[psutil.Process]:
    """The processes that a trainer has started to train with it."""
    assert trainer.pid is not None
    children = psutil.Process(trainer.pid).children(recursive=True)
    return [child for child in children if any("--rank=" in word for word in child.cmdline())]


def test_two_processes_take_the_steps_of_one_and_one_that_dies_costs_a_retry(
    tmp_path: Path,
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "killed").mkdir()
    trained(config(tmp_path / "one", NO_BATCH_NORM), tmp_path / "one")
    two, _ = trained(config(tmp_path / "two", NO_BATCH_NORM, processes=2), tmp_path / "two")
    slow = config(tmp_path / "killed", NO_BATCH_NORM, SLOW, processes=2)
    killed, trainer = trained(slow, tmp_path / "killed", kill=True)
    assert killed == two
    assert trainer.restarts == 1
    alone, shared = (open_file(tmp_path / name / "update") for name in ("one", "two"))
    base = open_file(tmp_path / "one" / "m0")
    for name in base:
        assert np.abs(alone[name] - base[name]).max() > 0.01
        np.testing.assert_allclose(shared[name], alone[name], atol=1e-6)


def test_what_one_process_finds_wrong_is_named_with_its_place(tmp_path: Path) -> None:
    broken = (
        "        x, y = batch\n",
        "        x, y = batch\n        import os\n        1 / (1 - int(os.environ['RANK']))\n",
    )
    with pytest.raises(PlanError, match=r"plan\.py:\d+ in loss.*division by zero"):
        trained(config(tmp_path, broken, processes=2), tmp_path)


@pytest.mark.parametrize("loop", [OWN_LOOP, SHARDED] if is_whole() else [OWN_LOOP])
def test_a_plan_with_a_loop_of_its_own_uses_torchs_process_group(
    tmp_path: Path, loop: tuple[str, str]
) -> None:
    trained(config(tmp_path, NO_BATCH_NORM, loop, processes=2), tmp_path)
    base = open_file(tmp_path / "m0")
    moved = [np.abs(open_file(tmp_path / "update")[name] - base[name]).max() for name in base]
    assert min(moved) > 1e-4


@pytest.mark.skipif(not is_whole(), reason="half a minute of compiling: `campaigns whole` does it")
def test_a_compiled_model_takes_the_same_steps_in_the_box(tmp_path: Path) -> None:
    for name, line in {"plain": "", "compiled": "    compiled = True\n"}.items():
        (tmp_path / name).mkdir()
        change = ("    epochs = 3\n", f"    epochs = 3\n{line}")
        trained(config(tmp_path / name, NO_BATCH_NORM, change), tmp_path / name)
    plain, compiled = (open_file(tmp_path / name / "update") for name in ("plain", "compiled"))
    for name in plain:
        np.testing.assert_allclose(compiled[name], plain[name], atol=1e-5)


def test_processes_that_cannot_share_the_device_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="2 processes cannot share the device 'cuda:0'"):
        trained(config(tmp_path, processes=2, device="cuda:0"), tmp_path)
