"""Days of masked rounds: only locked sums come out, and every planted fault is found."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from harness.masked_days import MaskedDay, Parts
from harness.masked_planted import MASKED_FAULTS, MaskedFault, find_masked
from harness.simulate_masked import live, main

LONG = {"OneSeedForAllEpochs", "RevealsForTwoSets"}
"""Which take a fork at the right moment: the campaign `masked-planted` looks for them."""


@pytest.mark.parametrize(("nodes", "seeds"), [(3, 4), (4, 8), (5, 4), (7, 2)])
def test_nothing_but_locked_sums_comes_out(nodes: int, seeds: int) -> None:
    counted = Counter[str]()
    for seed in range(seeds):
        _, fault, covered, story = live(nodes, seed)
        assert fault is None, "\n".join([*story[-60:], str(fault)])
        counted += covered
    assert counted["masked rounds final"] >= seeds
    assert counted["masked updates"] > 0


QUIET = Parts(
    trouble=dict.fromkeys(("crash", "lose vault", "withdraw", "stop", "fork", "second plan"), 0),
    vices=("is honest",),
)


@pytest.mark.parametrize("nodes", [3, 4, 7])
def test_on_a_quiet_day_every_round_becomes_final_with_the_right_sum(nodes: int) -> None:
    day = MaskedDay(nodes, 1, QUIET)
    day.run()
    assert day.counted["masked rounds final"] == day.counted["locks"] == 2
    assert day.counted["spoiled rounds"] == 0


@pytest.mark.parametrize(
    "fault", [f for f in MASKED_FAULTS if f.name not in LONG], ids=lambda fault: fault.name
)
def test_a_planted_fault_is_found(fault: MaskedFault) -> None:
    assert find_masked(fault, 60) is not None


def test_another_process_with_another_hash_seed_tells_the_same_story() -> None:
    command = [sys.executable, "-m", "harness.simulate_masked", "--seed", "8", "--story"]
    stories = [
        subprocess.run(command, env=_environment(seed), capture_output=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert stories[0] == stories[1]


def test_the_command_counts_what_days_cover(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "6", "--nodes", "4"]) == 0
    said = capsys.readouterr().out
    assert "locks" in said
    assert "6 days with 4 members, no promise broken" in said


def test_the_command_tells_which_seed_finds_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--planted", "SameKeyForEveryPair"]) == 0
    assert "1 of 1 planted faults found" in capsys.readouterr().out


def _environment(hash_seed: str) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONHASHSEED": hash_seed}
