"""The figures of rounds that a node writes for TensorBoard."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec import to_builtins

from swarm.errors import ConfigurationError
from swarm.node.plans.figures import LOOK_EVERY_S, Figure, Figures, TensorBoard, figures_of
from swarm.rounds.records import JointFigure, JointScore, RoundRecord


def record(number: int, **changes: Any) -> dict[str, Any]:
    fields = {"final_at": 1000.0 + number, "loss": 0.5, "total_s": 2.0} | changes
    return to_builtins(RoundRecord(number + 1, 1, **fields)) | {"number": number}


class Plan:
    title = "3 Heart / failure"

    def __init__(self, *records: dict[str, Any]) -> None:
        self.records = list(records)

    def rounds(self, newest: int) -> list[dict[str, Any]]:
        return self.records[-newest:]


class Memory:
    """A board that remembers; the first `failures` times it cannot be written to."""

    def __init__(self, failures: int = 0) -> None:
        self.figures: list[Figure] = []
        self.failures = failures
        self.is_closed = False

    def write(self, figures: Iterable[Figure]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("No space left on device")
        self.figures += figures

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture(autouse=True)
def threads_in_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated clock knows nothing of threads."""

    async def run_sync(function: Any, *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)


def live(board: Any, plan: Plan, change: Callable[[], object] = lambda: None) -> None:
    """Run for three looks, with a change after the first."""

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Figures(board, lambda: [plan]).run)
            await trio.sleep(LOOK_EVERY_S / 2)
            change()
            await trio.sleep(2 * LOOK_EVERY_S)
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_scores_of_this_site_and_of_all_are_told_apart_and_what_is_not_known_is_left_out() -> None:
    score = JointScore(
        {"auc": JointFigure(0.9, 0.8, 1.0, 50), "brier": JointFigure(None, None, None, 0)}, {}
    )
    found = figures_of(
        record(1, metrics={"test": {"auc": 0.8, "f1": None}}, joint={"test": {"auc": score}})
    )
    assert found["this site, test/auc"] == 0.8
    assert found["all sites, test/auc"] == 0.9
    assert found["seconds/total"] == 2.0
    assert "this site, test/f1" not in found
    assert "all sites, test/auc, brier" not in found


def test_every_figure_is_written_once_and_one_that_comes_later_is_written_then() -> None:
    board, first = Memory(), record(1)
    plan = Plan(first, record(2, final_at=0.0))  # which runs yet

    def change() -> None:
        first["metrics"] = {"validation": {"auc": 0.7}}
        plan.records.append(record(3))

    live(board, plan, change)
    written = [(number, name) for _, number, name, _, _ in board.figures]
    assert len(written) == len(set(written))
    assert {number for number, _ in written} == {1, 3}
    assert (1, "this site, validation/auc") in written
    assert {plan for plan, *_ in board.figures} == {"3 Heart / failure"}
    assert board.is_closed


def test_a_full_disk_is_told_once_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    board = Memory(failures=2)
    live(board, Plan(record(1)))
    assert [r.message for r in caplog.records] == [
        "the figures of rounds cannot be written: No space left on device"
    ]
    assert {number for _, number, *_ in board.figures} == {1}


def test_tensorboard_reads_what_was_written_and_a_restart_doubles_nothing(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        live(TensorBoard(tmp_path), Plan(record(1), record(2, loss=0.25)))
    (run,) = tmp_path.iterdir()
    assert run.name == "plan-3-Heart-failure"
    told = EventAccumulator(str(run)).Reload().Scalars("loss")
    assert [(at.wall_time, at.step, at.value) for at in told] == [
        (1001.0, 1, 0.5),
        (1002.0, 2, 0.25),
    ]


def test_without_the_package_the_setting_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'swarm\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_folder_that_cannot_be_written_to_is_refused_at_start(tmp_path: Path) -> None:
    (tmp_path / "board").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot write to .*board: File exists"):
        TensorBoard(tmp_path / "board")
