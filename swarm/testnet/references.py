"""What the swarm's model is compared with, computed by a process beside the run.

Only a testnet can compute it, because it has every site's data on one machine. One evaluator
process does one job after another: first the models trained alone and on pooled data, while the
nodes train; then the scores of the swarm's models.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from swarm.errors import LocalError, PlanError
from swarm.learning.simulation.dealing import SiteFiles

DEADLINE_S = 1800.0

Scores = dict[str, float | None]


class Evaluation(msgspec.Struct):
    """What the evaluator answers: see `Result` in `learning.evaluate`."""

    samples: dict[str, dict[str, int]] = {}
    local: dict[str, Scores] = {}
    pooled: Scores | None = None
    swarm: Scores = {}
    sites: dict[str, Scores] = {}
    progress: list[Scores] = []
    settings: dict[str, dict[str, int | float | str | bool]] = {}
    test_looks: int = 0
    notes: list[str] = []


class _Answer(msgspec.Struct):
    result: Evaluation | None
    error: str
    exit_status: int


_answers = msgspec.json.Decoder(_Answer)


class Evaluator:
    """The evaluator process; made by `open_evaluator`. Jobs are done in the order of asking."""

    def __init__(self, process: subprocess.Popen[bytes], job: dict[str, Any]) -> None:
        self._process = process
        self._job = job
        self._one_at_a_time = ThreadPoolExecutor(max_workers=1)

    def references(self, rounds: int | None) -> Future[Evaluation]:
        """Begin to train each site alone, and all data pooled."""
        return self._one_at_a_time.submit(self._do, self._job | {"rounds": rounds})

    def scores(
        self, models: list[str], statistics: str | None, kept: dict[str, str] | None = None
    ) -> Future[Evaluation]:
        """Begin to score these model files, the last with what each site has `kept`."""
        more: dict[str, Any] = {"models": models, "statistics": statistics, "kept": kept or {}}
        more["references"] = False
        return self._one_at_a_time.submit(self._do, self._job | more)

    def result(self, future: Future[Evaluation]) -> Evaluation:
        """Wait for a job. Raises PlanError for the plan's fault, LocalError for any other."""
        try:
            return future.result(timeout=DEADLINE_S)
        except TimeoutError:
            raise LocalError(f"scoring took longer than {DEADLINE_S:.0f} s") from None

    def _do(self, job: dict[str, Any]) -> Evaluation:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(msgspec.json.encode(job) + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = b""
        if not line:
            raise LocalError("the process that scores the models ended; is there enough memory?")
        answer = _answers.decode(line)
        if answer.result is None:
            failure = PlanError if answer.exit_status == 2 else LocalError
            raise failure(answer.error)
        return answer.result


KILLED_S = 10.0


@contextmanager
def open_evaluator(plan: Path, sites: list[SiteFiles], seed: int) -> Iterator[Evaluator]:
    """An evaluator for this plan and these sites; its process ends with the block."""
    with tempfile.TemporaryDirectory(prefix="swarm-evaluator-") as folder:
        held = [
            {"name": site.name, "data": str(site.copy_to(Path(folder) / site.name))}
            for site in sites
        ]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "swarm.learning.simulation.references"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=_be_nice,
        )
        evaluator = Evaluator(process, {"plan": str(plan.resolve()), "sites": held, "seed": seed})
        try:
            yield evaluator
        finally:
            process.kill()
            process.wait(timeout=KILLED_S)
            evaluator._one_at_a_time.shutdown()


def _be_nice() -> None:
    # The nodes' own training goes first.
    os.nice(5)
