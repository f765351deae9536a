"""A dry run: what a plan would read, what would leave, how long a round takes here.

It runs in the box that the trainer of a node runs in, on this site's own data, and nothing leaves:
the plan is described, the rows are counted, model 0 and this site's statistics are made, and one
round is trained, or as much of it as there is time for. What would leave is read from what the
trainer says of the plan and from the files that it wrote, as a node would send them.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import trio

from swarm.box.process import try_out
from swarm.errors import PlanError
from swarm.learning.code import bundle
from swarm.learning.code.import_reader import Import, read_imports
from swarm.learning.supervisor.supervisor import Trainer, TrainerConfig, open_trainer
from swarm.learning.supervisor.trainer_messages import Progress, Samples, Trained
from swarm.privacy.guarantee import Guarantee, Mechanism
from swarm.protocol.program import parse
from swarm.protocol.state import STATISTICS_SLOT
from swarm.rounds.layouts import update_layout_of
from swarm.rounds.private_rounds import round_mechanism
from swarm.tensors import Layout, TensorSpec
from swarm.types import to_hex

WITHIN_S = 60.0


class Shape(msgspec.Struct, frozen=True):
    """One tensor, or one array of statistics."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a dry run found. Bytes are those of one round, before anything is compressed."""

    name: str
    digest: str
    imports: list[Import]
    reads: list[str]
    reach: list[str]
    """What its code could reach besides, for lack of a box; empty if nothing that matters."""
    device: str
    samples: Samples
    update: list[Shape]
    update_bytes: int
    statistics: list[Shape]
    statistics_bytes: int
    metrics: list[str]
    """Names of scores; the scores stay here, and the counts behind some are told."""
    minutes: float
    """Of one round's training here."""
    noise: Mechanism | None = None
    """What each round takes here, if the plan has privacy."""
    privacy: Guarantee | None = None
    is_whole: bool
    """Whether a whole round was trained, or `minutes` is worked out from a part of one."""


async def try_plan(config: TrainerConfig, within_s: float = WITHIN_S) -> Findings:
    """Try the plan that a trainer is configured for. Its workspace and log are a folder that ends
    with this. Raises PlanError, ConfigurationError, LocalError."""
    code = await trio.to_thread.run_sync(bundle.read, config.plan)
    imports = await trio.to_thread.run_sync(read_imports, code)
    report = await try_out(config.sandbox)
    with tempfile.TemporaryDirectory(prefix="swarm-check-") as name:
        folder = Path(name)
        config = replace(config, workspace=folder / "trainer", log=folder / "log")
        async with open_trainer(config) as trainer:
            loaded = await trainer.describe()
            samples = await trainer.count_samples()
            model0, sums = folder / "model0", folder / "statistics"
            await trainer.initialise(model0)
            stages = parse(loaded.program).stages
            has_statistics = any(stage.slot == STATISTICS_SLOT for stage in stages)
            if has_statistics:
                await trainer.compute_statistics(sums)
            layout = update_layout_of(loaded)
            # Before anything is trained: no noise may be enough.
            rows = max(1, samples.train)
            noise = round_mechanism(loaded.rules, parse(loaded.program), rows)
            initial = model0 if loaded.initial else None
            of_sums = Layout.read(sums) if has_statistics else None
            minutes, is_whole, trained = 0.0, True, None
            if samples.train:
                given = (model0, initial, sums if has_statistics else None)
                minutes, is_whole, trained = await _train(trainer, given, folder / "u", within_s)
    return Findings(
        name=loaded.name,
        digest=to_hex(code.digest),
        imports=imports,
        reads=[str(path) for path in (*([config.data] if config.data else []), *config.read)],
        reach=list(report.gaps),
        device=loaded.device,
        samples=samples,
        update=_shapes(layout.specs),
        update_bytes=layout.file_bytes,
        statistics=_shapes(of_sums.specs) if of_sums else [],
        statistics_bytes=of_sums.file_bytes if of_sums else 0,
        metrics=sorted(trained.metrics) if trained else [],
        minutes=minutes,
        is_whole=is_whole,
        noise=noise,
        privacy=loaded.rules.privacy,
    )


async def _train(
    trainer: Trainer, given: tuple[Path, Path | None, Path | None], out: Path, within_s: float
) -> tuple[float, bool, Trained | None]:
    """Minutes of a round, whether it was a whole one, and what it gave if so."""
    base, initial, statistics = given
    began = time.monotonic()
    fractions = [0.0]

    def note(progress: Progress) -> None:
        fractions.append(progress.fraction)

    made: list[Trained] = []
    with trio.move_on_after(within_s):
        made.append(
            await trainer.train(1, base, out, initial=initial, statistics=statistics, progress=note)
        )
    spent_s, fraction = time.monotonic() - began, max(fractions)
    if made:
        return spent_s / 60, True, made[0]
    if fraction == 0.0:
        raise PlanError(
            f"the plan trained for {within_s:g} s without telling how far it is: give more time "
            "with --within"
        )
    return spent_s / fraction / 60, False, None


def _shapes(specs: Sequence[TensorSpec]) -> list[Shape]:
    return [Shape(spec.name, spec.dtype, tuple(spec.shape)) for spec in specs]


def in_words(found: Findings) -> list[str]:
    """For people, a line each."""
    modules = sorted({each.module for each in found.imports})
    whole = "" if found.is_whole else ", worked out from a part of one"
    lines = [
        f"{found.name}, digest {found.digest}",
        f"imports  {', '.join(modules) or 'nothing'}",
        f"reads    {', '.join(found.reads) or 'no data'}",
        f"rows     {found.samples.train} to train, {found.samples.validation} to validate, "
        f"{found.samples.test} to test",
        f"leaves   in each round of training {found.update_bytes} bytes:",
        *map(_line, found.update),
    ]
    if found.statistics:
        lines.append(f"leaves   once, as statistics, {found.statistics_bytes} bytes:")
        lines += map(_line, found.statistics)
    lines += [
        "leaves   the number of rows to train on; seconds and steps of each round",
        f"scores   {', '.join(found.metrics) or 'none seen'}",
        f"takes    {found.minutes:.2f} minutes a round here ({found.device}){whole}",
    ]
    if found.privacy is not None and found.noise is not None:
        told, each = found.privacy, found.noise
        lines.append(
            f"privacy  ε = {told.epsilon:g}, δ = {told.delta:g} per training row over all rounds: "
            f"{each.steps} steps a round, a row in {each.rate:.1%} of them, noise {each.noise:.3g}"
        )
    else:
        lines.append("privacy  none: what its updates tell of a training row has no bound")
    if found.reach:
        lines.append(f"could reach {', and '.join(found.reach)}")
    return lines


def _line(shape: Shape) -> str:
    count = math.prod(shape.shape)
    return f"  {shape.name}  {shape.dtype} {list(shape.shape)}, {count} numbers"
