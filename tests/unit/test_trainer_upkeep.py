"""When a trainer's process ends, and when it reads its site's data anew."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from swarm.errors import LocalError
from swarm.learning.supervisor import supervisor
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig
from swarm.learning.supervisor.trainer_messages import Counted, Loaded, Samples
from swarm.node.plans.trainers import IDLE_S, LOOK_EVERY_S, Trainers
from swarm.types import Digest

CODE = Digest(b"\x01" * 32)


class Process:
    """A trainer process that counts the lines of its site's data once, when it starts."""

    def __init__(self, data: Path | None) -> None:
        self.rows = 0 if data is None else len(data.read_text().splitlines())
        self.ended = False
        self.place, self.busy, self.pid = "", False, 1

    def lives(self) -> bool:
        return not self.ended

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended = True


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Process]:
    made: list[Process] = []
    data = tmp_path / "rows.csv"

    async def start(described: object, sandbox: object) -> Process:
        await trio.lowlevel.checkpoint()
        made.append(Process(data))
        return made[-1]

    async def exchange(self: Trainer, process: Process, request: Any, *_: object) -> Any:
        await trio.lowlevel.checkpoint()
        if type(request).__name__ == "Load":
            return Loaded("tiny", b"", None, b"", (), "cpu")  # type: ignore[arg-type]
        return Counted(Samples(train=process.rows, validation=0, test=0))

    monkeypatch.setattr(supervisor, "start_process", start)
    monkeypatch.setattr(supervisor, "describe_box", lambda *_: SimpleNamespace(folder="box"))
    monkeypatch.setattr(Trainer, "_exchange", exchange)
    monkeypatch.setattr(Trainer, "_note_description", lambda self, loaded: None)
    data.write_text("a\nb\n")
    return made


def config_of(folder: Path, **settings: Any) -> TrainerConfig:
    settings = {"data": folder / "rows.csv"} | settings
    return TrainerConfig(folder / "plan", "St. Mary", folder / "trainer", **settings)


def run(story: Callable[[], Awaitable[None]]) -> None:
    trio.run(story, clock=trio.testing.MockClock(autojump_threshold=0))


async def rows_of(trainer: Trainer) -> int:
    return (await trainer.count_samples()).train


def test_grown_data_are_read_again_when_that_is_asked_for_and_not_in_between(
    tmp_path: Path, started: list[Process]
) -> None:
    async def story() -> None:
        trainer = Trainer(config_of(tmp_path))
        assert await rows_of(trainer) == 2
        (tmp_path / "rows.csv").write_text("a\nb\nc\n")
        assert await rows_of(trainer) == 2
        trainer.read_data_anew()
        assert await rows_of(trainer) == 3
        assert await rows_of(trainer) == 3
        assert [process.ended for process in started] == [True, False]

    run(story)


def test_a_first_consent_starts_one_process(tmp_path: Path, started: list[Process]) -> None:
    async def story() -> None:
        trainer = Trainer(config_of(tmp_path))
        trainer.read_data_anew()
        await trainer.describe()
        await rows_of(trainer)
        assert len(started) == 1

    run(story)


@pytest.mark.parametrize("missing", ["data", "read"])
def test_missing_data_are_named_and_training_goes_on_once_they_are_back(
    tmp_path: Path, started: list[Process], missing: str
) -> None:
    async def story() -> None:
        lost = tmp_path / "lost.csv"
        trainer = Trainer(config_of(tmp_path, **{missing: lost if missing == "data" else (lost,)}))
        with pytest.raises(LocalError, match=r"lost\.csv does not exist, so 'St\. Mary' trains"):
            await trainer.count_samples()
        assert not started
        lost.write_text("")
        assert await rows_of(trainer) == 2

    run(story)


def trainers_of(folder: Path, resources: AsyncExitStack, opened: Trainer) -> Trainers:
    nothing: Any = None
    return Trainers(folder, nothing, nothing, resources, nothing, nothing, {CODE: opened})


def test_a_trainer_ends_when_its_plan_has_and_starts_again_for_an_evaluation(
    tmp_path: Path, started: list[Process]
) -> None:
    async def story() -> None:
        trained = {CODE}
        trainer = Trainer(config_of(tmp_path))
        async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
            trainers = trainers_of(tmp_path, stack, trainer)
            nursery.start_soon(trainers.end_idle, lambda code: code in trained)
            await rows_of(trainer)
            await trio.sleep(10 * IDLE_S)
            assert trainer.pid is not None  # its plan waits for others
            trained.clear()
            await trio.sleep(2 * LOOK_EVERY_S)
            assert trainer.pid is None
            await rows_of(trainer)
            await trio.sleep(IDLE_S / 2)
            assert trainer.pid is not None
            await trio.sleep(IDLE_S)
            assert trainer.pid is None
            assert len(started) == 2
            nursery.cancel_scope.cancel()

    run(story)
