"""A plan runs on through what operators do: a new key, data that are away, come back, and grow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from harness.consortium import Consortium, open_consortium
from harness.plans import slow, write_tiny_plan

from swarm.node.plans import trainers

FOUNDERS = ("kyoto", "mary", "turin")
LONG_S = 120.0


async def plan_at(consortium: Consortium, directory: str, number: int) -> dict[str, Any]:
    plans = (await consortium.status(directory)).get("plans", [])
    return next((plan for plan in plans if plan["id"] == number), {})


async def completed(consortium: Consortium, number: int) -> None:
    """Wait until a plan is complete at every node, and has one model."""

    async def is_over() -> bool:
        found = [await plan_at(consortium, name, number) for name in FOUNDERS]
        return all(plan.get("status") == "completed" for plan in found)

    await consortium.until(f"plan {number} is complete", is_over, LONG_S)
    models = {(await plan_at(consortium, name, number))["model"] for name in FOUNDERS}
    assert len(models) == 1


def rounds_on_board(board: Path, run: str) -> list[int]:
    """The rounds whose loss a folder of TensorBoard has."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [at.step for at in EventAccumulator(str(board / run)).Reload().Scalars("loss")]


def test_a_plan_goes_on_through_a_new_key_missing_data_and_grown_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "IDLE_S", 3.0)
    monkeypatch.setattr(trainers, "LOOK_EVERY_S", 0.5)
    plan = write_tiny_plan(tmp_path / "tiny", *slow(0.5), sites=3)
    rows = sorted((plan / "data").iterdir())
    nodes = tmp_path / "nodes"

    async def story(consortium: Consortium) -> None:
        homes = {name: ("--node", nodes / name) for name in FOUNDERS}
        mary, moved = rows[1], tmp_path / "moved.csv"

        # A site whose data are away runs, validates and is told; it cannot consent.
        shutil.move(mary, moved)
        await consortium.end("mary")
        with (nodes / "mary" / "node.toml").open("a") as settings:
            settings.write('\n[figures]\ntensorboard = "board"\n')
        consortium.start("mary")
        await consortium.connected(*FOUNDERS)
        await consortium.says("mary", "this site trains nothing: `data.path`")
        await consortium.command("plan", "propose", plan, "--rounds", "5", *homes["kyoto"])
        refused = await consortium.command("plan", "consent", "1", *homes["mary"], status=1)
        assert f"{mary} does not exist" in refused
        shutil.move(moved, mary)
        for name in FOUNDERS:
            said = await consortium.command("plan", "consent", "1", *homes[name])
            assert "up to 30 samples" in said

        async def trains() -> bool:
            found = await plan_at(consortium, "mary", 1)
            return found.get("model_round", 0) >= 1

        await consortium.until("a round is final", trains, LONG_S)
        await consortium.command("node", "rotate", nodes / "mary")
        await completed(consortium, 1)
        [*_, last] = (await plan_at(consortium, "mary", 1))["records"]
        assert last["number"] == 5
        assert "mary" in (await plan_at(consortium, "kyoto", 1))["submitted"]

        async def is_on_board() -> bool:
            rounds = rounds_on_board(nodes / "mary" / "board", "plan-1-Tiny")
            return rounds == [1, 2, 3, 4, 5]

        await consortium.until("all rounds are on the board, once", is_on_board)

        # The trainers end; a plan that is consented to now sees the rows that have come.
        async def all_ended() -> bool:
            return not any([(await consortium.status(n))["trainer_pid"] for n in FOUNDERS])

        await consortium.until("no trainer is left", all_ended)
        with mary.open("a") as file:
            file.writelines(mary.read_text().splitlines(keepends=True)[1:21])
        await consortium.command("plan", "propose", plan, "--rounds", "1", *homes["kyoto"])
        said = await consortium.command("plan", "consent", "2", *homes["mary"])
        assert "up to 46 samples" in said
        await consortium.command("plan", "decline", "2", *homes["turin"])
        await consortium.command("plan", "consent", "2", *homes["kyoto"])
        await consortium.until("plan 2 has a model", lambda: has_model(consortium), LONG_S)
        listed = await consortium.command("model", "list", *homes["mary"])
        assert listed.startswith("plan 2\n")

    async def has_model(consortium: Consortium) -> bool:
        return bool((await plan_at(consortium, "mary", 2)).get("model_round"))

    async def live() -> None:
        data = dict(zip(FOUNDERS, rows, strict=True))
        with trio.fail_after(8 * LONG_S):
            async with open_consortium(nodes, *FOUNDERS, data=data) as consortium:
                await story(consortium)

    trio.run(live)
