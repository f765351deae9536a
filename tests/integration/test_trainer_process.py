"""The trainer as a real process: asked, killed, silenced, refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
from harness.plans import write_tiny_plan

from swarm.errors import LocalError, PlanError, TrainerError
from swarm.learning.code import bundle
from swarm.learning.parameters.next_file import Contribution, fold_whole
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.learning.supervisor.trainer_messages import Progress
from swarm.protocol.program import federated_averaging, parse
from swarm.rounds.layouts import folding_of
from swarm.tensors import open_file
from swarm.types import Digest

DEADLINE_S = 90

SLOW = ("x, y = batch", "import time; time.sleep(0.02)\n        x, y = batch")


def config(folder: Path, *changes: tuple[str, str], **settings: object) -> TrainerConfig:
    plan = write_tiny_plan(folder / "plan", *changes)
    values: dict[str, object] = {
        "plan": plan,
        "site": "site0",
        "workspace": folder / "trainer",
        "data": plan / "data" / "site0.csv",
        "log": folder / "trainer.log",
        **settings,
    }
    return TrainerConfig(**values)  # type: ignore[arg-type]


def with_trainer(config: TrainerConfig, use: Callable[[Trainer], Awaitable[None]]) -> Trainer:
    async def main() -> Trainer:
        with trio.fail_after(DEADLINE_S):
            async with open_trainer(config) as trainer:
                await use(trainer)
        return trainer

    return trio.run(main)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie that its parent has yet to reap does not live.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_trainer_describes_initialises_trains_and_evaluates(tmp_path: Path) -> None:
    chatty = ("import torch\n", "import torch\nprint('hello from the plan')\n")
    settings = config(tmp_path, chatty)
    digest = bundle.read(settings.plan).digest
    seen: list[Progress] = []
    pids = []

    async def use(trainer: Trainer) -> None:
        assert trainer.pid is None
        told = await trainer.describe()
        assert (told.name, told.digest) == ("Tiny", digest)
        assert told.program == federated_averaging(3, statistics=True).blob
        assert (told.rules.rounds, told.rules.epochs, told.rules.min_peers) == (3, 3, 2)
        assert ("0.weight", "F32", (4, 2)) in [(t.name, t.dtype, t.shape) for t in told.tensors]
        samples = await trainer.count_samples()
        assert (samples.train, samples.validation, samples.test) == (30, 0, 10)

        base, sums = tmp_path / "m0", tmp_path / "sums"
        await trainer.initialise(base)
        await trainer.compute_statistics(sums)
        assert open_file(sums)["count"].tolist() == [30.0, 30.0]
        one = await trainer.train(1, base, tmp_path / "u1", statistics=sums, progress=seen.append)
        assert (one.samples, one.steps) == (30, 12)
        assert 0 <= one.metrics["auc"] <= 1
        again = await trainer.train(1, base, tmp_path / "u2", statistics=sums)
        assert again.resumed_epochs == 3
        scores = await trainer.evaluate(tmp_path / "u1", sums)
        assert scores.validation == {}
        assert set(scores.test) == {"auc"}
        pids.append(trainer.pid)
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, pids[0]) == min(ours + 10, 19)

    trainer = with_trainer(settings, use)
    assert trainer.restarts == 0
    assert not lives(pids[0])
    assert seen[-1].fraction == 1.0
    assert (tmp_path / "u1").read_bytes() == (tmp_path / "u2").read_bytes()
    assert "hello from the plan" in (tmp_path / "trainer.log").read_text()
    assert not list((tmp_path / "plan").rglob("__pycache__"))


def test_what_a_plan_says_of_itself_is_known_after_a_restart_without_a_process(
    tmp_path: Path,
) -> None:
    plain = config(tmp_path)
    settings = replace(plain, digest=bundle.read(plain.plan).digest)
    told = []

    async def use(trainer: Trainer) -> None:
        told.append(await trainer.describe())

    with_trainer(settings, use)
    assert with_trainer(settings, use).pid is None
    assert told[0] == told[1]
    assert Trainer(replace(settings, digest=Digest(bytes(32))))._recall() is None
    Trainer(settings)._description.write_bytes(b"damaged")
    assert Trainer(settings)._recall() is None


def test_a_killed_trainer_costs_a_retry_and_changes_no_bit(tmp_path: Path) -> None:
    async def use(trainer: Trainer) -> None:
        killed: list[int] = []

        def kill_in_second_epoch(progress: Progress) -> None:
            if progress.epoch >= 1 and not killed and trainer.pid:
                killed.append(trainer.pid)
                os.kill(trainer.pid, signal.SIGKILL)

        base, sums = tmp_path / "m0", tmp_path / "sums"
        await trainer.initialise(base)
        await trainer.compute_statistics(sums)
        # Two names of one base, so that the second training cannot resume from the first.
        calm = await trainer.train(
            1, base, tmp_path / "calm", statistics=sums, base_digest=Digest(b"c" * 32)
        )
        result = await trainer.train(
            1,
            base,
            tmp_path / "killed",
            statistics=sums,
            base_digest=Digest(b"k" * 32),
            progress=kill_in_second_epoch,
        )
        assert len(killed) == trainer.restarts == 1
        assert calm.resumed_epochs == 0
        assert result.resumed_epochs >= 1

        # One that dies idle is replaced at the next request.
        assert trainer.pid is not None
        os.kill(trainer.pid, signal.SIGKILL)
        assert (await trainer.count_samples()).train == 30

    with_trainer(config(tmp_path, SLOW), use)
    assert (tmp_path / "calm").read_bytes() == (tmp_path / "killed").read_bytes()


def test_a_trainer_that_always_dies_is_given_up_with_its_log_named(tmp_path: Path) -> None:
    suicide = ("x, y = batch", "import os; os.kill(os.getpid(), 9)")
    settings = config(tmp_path, suicide, attempts=2)

    async def use(trainer: Trainer) -> None:
        await trainer.initialise(tmp_path / "m0")
        await trainer.compute_statistics(tmp_path / "sums")
        with pytest.raises(TrainerError, match=r"died \(signal 9\) 2 times.*trainer\.log"):
            await trainer.train(1, tmp_path / "m0", tmp_path / "u", statistics=tmp_path / "sums")
        assert not (tmp_path / "u").exists()
        assert (await trainer.count_samples()).train == 30

    with_trainer(settings, use)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import ctypes; ctypes.string_at(0)", r"died \(signal 11\) 2 times"),
        ("import os; os._exit(3)", r"died \(exit status 3\) 2 times"),
        ("raise KeyboardInterrupt", "raises KeyboardInterrupt"),
        (r"raise swarm.errors.ConfigurationError('caf\udce9.csv is torn')", r"caf\\udce9\.csv is"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--gpu'])", "SystemExit"),
    ],
)
def test_a_process_that_the_plan_ends_is_the_plans_fault_with_its_place(
    tmp_path: Path, code: str, words: str
) -> None:
    settings = config(tmp_path, ("table = ", f"{code}\n        table = "))

    async def use(trainer: Trainer) -> None:
        with pytest.raises(PlanError, match=rf"plan\.py.*{words}") as caught:
            await trainer.count_samples()
        assert "\n" not in str(caught.value)

    with_trainer(settings, use)


def test_a_long_call_that_keeps_the_interpreters_lock_is_no_silence(tmp_path: Path) -> None:
    hold = ("table = ", "import ctypes; ctypes.PyDLL(None).sleep(9)\n        table = ")

    async def use(trainer: Trainer) -> None:
        await trainer.describe()
        assert (await trainer.count_samples()).train == 30
        assert trainer.restarts == 0

    with_trainer(config(tmp_path, hold, silence_s=7.0), use)


def test_a_plan_that_trains_by_its_own_loop_is_seen_to_train(tmp_path: Path) -> None:
    own = (
        "    def loss(self",
        "    def train(self, model, data, round):\n        import time; time.sleep(2.5)\n\n"
        "    def loss(self",
    )
    seen: list[Progress] = []

    async def use(trainer: Trainer) -> None:
        base, sums = tmp_path / "m0", tmp_path / "sums"
        await trainer.initialise(base)
        await trainer.compute_statistics(sums)
        await trainer.train(1, base, tmp_path / "u", statistics=sums, progress=seen.append)

    with_trainer(config(tmp_path, own), use)
    assert len(seen) >= 2
    assert {progress.fraction for progress in seen} == {0.0}


def test_workers_of_a_data_loader_import_the_plan_by_spawning(tmp_path: Path) -> None:
    rows = (
        "class Tiny",
        "class Rows(torch.utils.data.Dataset):\n"
        "    def __init__(self, x, y):\n        self.x, self.y = x, y\n"
        "    def __len__(self):\n        return len(self.x)\n"
        "    def __getitem__(self, row):\n        return self.x[row], self.y[row]\n\n\n"
        "class Tiny",
    )
    own = (
        "    def loss(self",
        "    def train(self, model, data, round):\n"
        "        loader = torch.utils.data.DataLoader(\n"
        "            Rows(*data.train), batch_size=8, num_workers=1,\n"
        "            multiprocessing_context='spawn',\n        )\n"
        "        assert sum(len(y) for x, y in loader) == 30\n\n    def loss(self",
    )

    async def use(trainer: Trainer) -> None:
        base, sums = tmp_path / "m0", tmp_path / "sums"
        await trainer.initialise(base)
        await trainer.compute_statistics(sums)
        assert (await trainer.train(1, base, tmp_path / "u", statistics=sums)).samples == 30

    with_trainer(config(tmp_path, rows, own), use)


def test_a_module_that_the_site_does_not_allow_is_refused_where_the_plan_imports_it(
    tmp_path: Path,
) -> None:
    hidden = ("table = ", "__import__('sock' + 'et')\n        table = ")
    allowed = ("swarm", "torch")

    async def use(trainer: Trainer) -> None:
        await trainer.describe()
        with pytest.raises(PlanError, match=r"plan\.py:\d+ in data: the plan imports 'socket'"):
            await trainer.count_samples()

    with_trainer(config(tmp_path, hidden, imports=allowed), use)


def test_a_stopped_trainer_is_noticed_and_replaced(tmp_path: Path) -> None:
    async def use(trainer: Trainer) -> None:
        await trainer.describe()
        pid = trainer.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert (await trainer.count_samples()).train == 30
        assert trainer.restarts == 1
        assert not lives(pid)

    with_trainer(config(tmp_path, silence_s=4.0), use)


def test_a_cancelled_training_leaves_no_process_and_no_stale_reply(tmp_path: Path) -> None:
    async def use(trainer: Trainer) -> None:
        await trainer.initialise(tmp_path / "m0")
        await trainer.compute_statistics(tmp_path / "sums")
        pid = trainer.pid
        assert pid is not None
        with trio.move_on_after(0.2) as scope:
            await trainer.train(1, tmp_path / "m0", tmp_path / "u", statistics=tmp_path / "sums")
        assert scope.cancelled_caught
        assert trainer.pid is None
        assert not lives(pid)

        # Nor does one whose progress could not be told; and its late replies reach nobody.
        def tell(progress: Progress) -> None:
            raise ValueError("nobody listens")

        with pytest.raises(ValueError, match="nobody listens"):
            await trainer.train(
                1, tmp_path / "m0", tmp_path / "u", statistics=tmp_path / "sums", progress=tell
            )
        assert trainer.pid is None
        assert (await trainer.count_samples()).train == 30

    with_trainer(
        config(tmp_path, ("x, y = batch", "import time; time.sleep(0.3); x, y = batch")), use
    )


def test_a_trainer_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    settings = config(tmp_path)
    program = textwrap.dedent(f"""
        import os, signal, trio
        from pathlib import Path
        from swarm.learning.supervisor.supervisor import *
        async def main():
            config = TrainerConfig(plan=Path({str(settings.plan)!r}), site="a",
                                   workspace=Path({str(settings.workspace)!r}))
            async with open_trainer(config) as trainer:
                await trainer.describe()
                print(trainer.pid, flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
        trio.run(main)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < deadline, "the trainer outlived its node"
        time.sleep(0.05)


def test_every_fault_becomes_one_sentence_of_the_right_kind(tmp_path: Path) -> None:
    async def load(settings: TrainerConfig) -> None:
        with trio.fail_after(DEADLINE_S):
            async with open_trainer(settings) as trainer:
                await trainer.count_samples()

    missing = config(tmp_path / "a", data=tmp_path / "a" / "patients.csv")
    with pytest.raises(LocalError, match=r"patients\.csv does not exist"):
        trio.run(load, missing)
    other = config(tmp_path / "b", digest=Digest(b"\1" * 32))
    with pytest.raises(PlanError, match="consented to 0x0101"):
        trio.run(load, other)
    raising = config(tmp_path / "c", ("table = ", "raise OSError('no reader')\n        table = "))
    with pytest.raises(PlanError, match=r"^plan\.py:\d+ in data: .*no reader"):
        trio.run(load, raising)


def test_a_model_of_another_plan_and_a_full_disk_are_told_apart(tmp_path: Path) -> None:
    async def use(trainer: Trainer) -> None:
        await trainer.initialise(tmp_path / "m0")
        with pytest.raises(LocalError, match="sums"):
            await trainer.train(1, tmp_path / "m0", tmp_path / "u", statistics=tmp_path / "sums")
        with pytest.raises(LocalError, match="cannot write"):
            await trainer.initialise(tmp_path / "nowhere" / "m0")
        await trainer.compute_statistics(tmp_path / "sums")
        with pytest.raises(PlanError, match="belong to different plans"):
            await trainer.evaluate(tmp_path / "sums", tmp_path / "sums")
        damaged = tmp_path / "damaged"
        damaged.write_bytes(np.arange(3000, dtype=np.uint8).tobytes())
        with pytest.raises(LocalError, match="damaged"):
            await trainer.evaluate(damaged)
        assert trainer.restarts == 0

    with_trainer(config(tmp_path), use)


def test_a_partial_model_in_a_narrow_type_is_trained_and_exported_whole(tmp_path: Path) -> None:
    model = "return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))"
    frozen = model.replace("return", "model =") + (
        "\n        model[0].requires_grad_(False)\n        return model"
    )
    narrow = ("rounds = 3\n", 'rounds = 3\n    wire_dtype = "bf16"\n')
    initial, sums, update, exported = (tmp_path / name for name in ("m0", "sums", "u", "whole"))

    async def use(trainer: Trainer) -> None:
        told = await trainer.describe()
        travels = {tensor.name: tensor.dtype for tensor in told.tensors}
        assert travels["3.weight"] == "BF16"
        assert travels["1.running_mean"] == "F32"
        assert "0.weight" not in travels
        assert {t.name: t.dtype for t in told.initial}["0.weight"] == "F32"
        await trainer.initialise(initial)
        await trainer.compute_statistics(sums)
        await trainer.train(1, initial, update, initial=initial, statistics=sums)
        # The next round begins from such a file, completed from the initial one.
        await trainer.train(2, update, tmp_path / "u2", initial=initial, statistics=sums)
        await trainer.evaluate(update, sums, initial)
        await trainer.export(update, exported, initial)
        with pytest.raises(PlanError, match="is not in the model file"):
            await trainer.train(2, update, tmp_path / "u3", statistics=sums)

    with_trainer(config(tmp_path, (model, frozen), narrow), use)
    first, sent, whole = (open_file(path) for path in (initial, update, exported))
    assert set(sent) < set(first) == set(whole)
    assert {spec.dtype for spec in whole.layout.specs} == {"F32", "I64"}
    assert np.array_equal(whole["0.weight"], first["0.weight"])
    widened = (sent["3.weight"].astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(whole["3.weight"], widened)
    assert not np.array_equal(whole["3.weight"], first["3.weight"])


def test_a_model_file_with_its_steps_state_is_trained_from_scored_and_exported(
    tmp_path: Path,
) -> None:
    step = (
        "    epochs = 3\n",
        "    epochs = 3\n    tensors = {'1.running*': swarm.shared(), "
        "'*': swarm.shared(step=swarm.adam())}\n",
    )
    settings = config(tmp_path, step)

    async def use(trainer: Trainer) -> None:
        await trainer.initialise(tmp_path / "0")
        await trainer.compute_statistics(tmp_path / "sums")
        sums = tmp_path / "sums"
        await trainer.train(1, tmp_path / "0", tmp_path / "update", statistics=sums)
        described = await trainer.describe()
        folding = folding_of(described, parse(described.program))
        contribution = Contribution(0, 30, open_file(tmp_path / "update").raw)
        folded = fold_whole(folding, [contribution], open_file(tmp_path / "0"))
        assert "~step/mean/0.weight" in folded
        (tmp_path / "1").write_bytes(folded.raw.tobytes())
        await trainer.train(2, tmp_path / "1", tmp_path / "next", statistics=sums)
        assert (await trainer.evaluate(tmp_path / "1", sums)).test.keys() == {"auc"}
        await trainer.export(tmp_path / "1", tmp_path / "whole")
        assert open_file(tmp_path / "whole").layout == open_file(tmp_path / "0").layout

    with_trainer(settings, use)
