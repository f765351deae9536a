"""The main process's side of the trainer: starts it, asks it, restarts it, ends it.

A trainer that dies or falls silent in the middle of a request costs a retry, not the run: it is
started again, after a growing pause, and asked the same again; its checkpoint of the round makes
the retry short and the result the same, bit for bit. What the plan itself raises is not retried,
since it would only raise it again; and a process that ends by its own doing, by a crash or by
leaving, is tried once more, and then the plan's fault too. One that is killed is not: whoever runs
the machine may have done that, or its memory may have run out.

There is no background task: the trainer is read only while it is asked something, so an idle one
that dies is noticed, and replaced, at the next request.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from swarm.box.description import Sandbox
from swarm.errors import ConfigurationError, LocalError, NoAnswer, PlanError, TrainerError
from swarm.learning.supervisor.trainer_messages import (
    Alive,
    ComputeStatistics,
    CopiesScored,
    Counted,
    CountSamples,
    Evaluate,
    Evaluated,
    EvaluatedFile,
    EvaluateFile,
    Export,
    Failed,
    GraphFormat,
    GraphMade,
    Held,
    Hold,
    Initialise,
    Load,
    Loaded,
    MakeGraph,
    Personalise,
    Personalised,
    Predict,
    Predicted,
    Progress,
    Reply,
    Request,
    Samples,
    ScoreCopies,
    SendCopy,
    Train,
    Trained,
    Written,
)
from swarm.learning.supervisor.trainer_process import (
    NO_SOCKETS,
    Died,
    Handover,
    TrainerProcess,
    describe_box,
    start_process,
)
from swarm.privacy.guarantee import Mechanism
from swarm.types import NO_DIGEST, Digest

START_S = 120.0
FIRST_PAUSE_S = 0.2
MAX_STATISTICS_BYTES = 2**28
TRIES_OF_A_PLAN = 2
_descriptions = msgspec.msgpack.Decoder(Loaded)

Answer = TypeVar("Answer", bound=Reply)


@dataclass(frozen=True)
class TrainerConfig:
    """What a trainer is started with.

    `plan` is the folder (or file) of the plan, `digest` the consented one (None: not checked).
    `workspace` is the trainer's own folder for checkpoints, and all that it can write to; `data`
    and `read` are what it can read. `log` receives what the plan prints. `sandbox` says how much of
    a box it must have.
    `imports` are the modules that the plan's code may import; None: all. So many `processes` train
    the site's rows together.
    `silence_s` without a sign of life, or an ended process, costs one of `attempts`.
    """

    plan: Path
    site: str
    workspace: Path
    data: Path | None = None
    read: tuple[Path, ...] = ()
    digest: Digest | None = None
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    device: str = "auto"
    seed: int | None = None
    log: Path | None = None
    sandbox: Sandbox = "auto"
    imports: tuple[str, ...] | None = None
    processes: int = 1
    nice: int = 10
    silence_s: float = 60.0
    attempts: int = 3


class Trainer:
    """One site's trainer, across as many processes as it takes. Made by `open_trainer`.

    All methods raise PlanError for the plan's faults, ConfigurationError for the user's, LocalError
    for the machine's, and TrainerError when every attempt died. One request runs at a time.
    Cancelling one ends the process; the next request starts another.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.restarts = 0
        """How many processes were replaced because they died or fell silent."""
        self._process: TrainerProcess | None = None
        self._loaded: Loaded | None = None
        self._described: Loaded | None = None
        self._asking = trio.Lock()
        self._is_stale = False
        self._asked_at = -math.inf

    @property
    def pid(self) -> int | None:
        """The process id of the running trainer process, or None."""
        return self._process.pid if self._process is not None else None

    async def describe(self) -> Loaded:
        """What the plan says of itself: rules, tensors, device. Needs no data.

        What an earlier process said of the same code holds still, so that a node that starts again
        can merge and check merges long before a new process has imported torch.
        """
        if self._described is None:
            self._described = await trio.to_thread.run_sync(self._recall)
        if self._described is None:
            async with self._asking:
                await self._with_retries(None, _ignore)
        assert self._described is not None
        return self._described

    async def count_samples(self) -> Samples:
        """Read this site's data and count its rows by use."""
        return (await self._ask(CountSamples(), Counted)).samples

    async def initialise(self, out: Path, base: Path | None = None) -> None:
        """Write model 0 to the new file `out`: from the seed alone, or with the values of the
        safetensors file `base`. Raises PlanError naming a tensor that does not fit the model."""
        await self._ask(Initialise(out=str(out), base=_text(base)), Written)

    async def compute_statistics(self, out: Path) -> None:
        """Write this site's sums to the new file `out`, as float64 tensors."""
        await self._ask(ComputeStatistics(out=str(out)), Written)

    async def train(
        self,
        round: int,
        base: Path,
        out: Path,
        *,
        base_digest: Digest = NO_DIGEST,
        initial: Path | None = None,
        statistics: Path | None = None,
        kept: Path | None = None,
        kept_out: Path | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
        round_in_all: int = 0,
        noise: Mechanism | None = None,
        entropy: bytes = b"",
        stream: int | None = None,
    ) -> Trained:
        """Train one round from the model file `base`; the update is then in `out`.

        `round` counts within the stage, `round_in_all` among all rounds, for the plan to see.
        `base_digest` is the blob's name: an interrupted round is resumed on the same one only.
        `initial` is model 0, which has what does not travel, if there is any. `kept` is what this
        site has kept of an earlier round; what it is to keep of this one is then in `kept_out`.
        `noise` is what a plan with privacy asks for here.
        With `entropy`, which only this site knows, the order of rows follows from it as well.
        `stream` is the descriptor of a socket to the holder of the plan's role.
        `progress` is called about twice a second.
        """
        request = Train(
            round=round,
            round_in_all=round_in_all,
            base=str(base),
            base_digest=base_digest,
            initial=_text(initial),
            statistics=_text(statistics),
            out=str(out),
            kept=_text(kept),
            kept_out=_text(kept_out),
            noise=noise,
            entropy=entropy,
            stream=None if stream is None else "the stream to the role's holder",
        )
        sockets = {} if stream is None else {"stream": stream}
        return await self._ask(request, Trained, progress, sockets)

    async def hold(
        self,
        round: int,
        base: Path,
        door: int,
        *,
        initial: Path | None = None,
        statistics: Path | None = None,
        round_in_all: int = 0,
    ) -> Held:
        """Hold the plan's role in a round that begins with the model file `base`, until the socket
        with the descriptor `door` ends: by it, streams are handed in (`box.frames`)."""
        request = Hold(
            round=round,
            round_in_all=round_in_all,
            base=str(base),
            statistics=_text(statistics),
            door="the door of the role",
            initial=_text(initial),
        )
        return await self._ask(request, Held, sockets={"door": door})

    async def personalise(
        self,
        round: int,
        base: Path,
        out: Path,
        *,
        base_digest: Digest = NO_DIGEST,
        initial: Path | None = None,
        statistics: Path | None = None,
        kept: Path | None = None,
        progress: Callable[[Progress], None] = lambda progress: None,
        round_in_all: int = 0,
        epochs: int | None = None,
    ) -> Personalised:
        """Fine-tune a copy of the model file `base` for this site; it is then in `out`, whole.

        As `train`; `epochs` takes the place of the plan's.
        """
        request = Personalise(
            round=round,
            round_in_all=round_in_all,
            base=str(base),
            base_digest=base_digest,
            initial=_text(initial),
            statistics=_text(statistics),
            kept=_text(kept),
            out=str(out),
            epochs=epochs,
        )
        return await self._ask(request, Personalised, progress)

    async def send_copy(
        self, model: Path, out: Path, initial: Path | None = None, kept: Path | None = None
    ) -> None:
        """Write this site's own model to the new file `out`, as it is sent: from a shared model
        file and what the site has `kept`, or from what `personalise` has written."""
        request = SendCopy(model=str(model), out=str(out), initial=_text(initial), kept=_text(kept))
        await self._ask(request, Written)

    async def score_copies(
        self,
        model: Path,
        copies: Path | None,
        statistics: Path | None = None,
        initial: Path | None = None,
    ) -> CopiesScored:
        """Count what this site's test rows say of each of the gathered `copies`, and of the shared
        `model`."""
        request = ScoreCopies(
            model=str(model),
            copies=_text(copies),
            statistics=_text(statistics),
            initial=_text(initial),
        )
        return await self._ask(request, CopiesScored)

    async def evaluate(
        self,
        model: Path,
        statistics: Path | None = None,
        initial: Path | None = None,
        kept: Path | None = None,
        *,
        test: bool = True,
    ) -> Evaluated:
        """Score a model file on this site's validation rows, and on its test rows if asked."""
        request = Evaluate(
            model=str(model),
            statistics=_text(statistics),
            initial=_text(initial),
            kept=_text(kept),
            test=test,
        )
        return await self._ask(request, Evaluated)

    async def export(
        self, model: Path, out: Path, initial: Path | None = None, kept: Path | None = None
    ) -> None:
        """Write a model file to the new file `out`: whole, and in the plan's own types."""
        request = Export(model=str(model), out=str(out), initial=_text(initial), kept=_text(kept))
        await self._ask(request, Written)

    async def predict(self, model: Path, statistics: Path | None, out: Path) -> Predicted:
        """Predict for each row of the site's data with the model of a folder, to the new file
        `out`."""
        request = Predict(model=str(model), statistics=_text(statistics), out=str(out))
        return await self._ask(request, Predicted)

    async def evaluate_file(self, model: Path, statistics: Path | None) -> EvaluatedFile:
        """Score the model of a folder on all rows of the site's data."""
        request = EvaluateFile(model=str(model), statistics=_text(statistics))
        return await self._ask(request, EvaluatedFile)

    async def make_graph(
        self, model: Path, statistics: Path | None, out: Path, to: GraphFormat
    ) -> GraphMade:
        """Write the model of a folder to the new file `out`, as a graph for rows like the site's
        data."""
        request = MakeGraph(model=str(model), statistics=_text(statistics), out=str(out), to=to)
        return await self._ask(request, GraphMade)

    def read_data_anew(self) -> None:
        """Have the next request see the data as they are then, in a new process."""
        self._is_stale = True

    async def end_idle(self, idle_s: float) -> None:
        """End the process if nothing was asked of it for so long. The next request starts another,
        which reads the data anew."""
        rests = trio.current_time() >= self._asked_at + idle_s
        if self._process is not None and rests and not self._asking.locked():
            async with self._asking:
                await self.stop()

    async def stop(self) -> None:
        """End the process and what it started. The next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()

    async def _ask(
        self,
        request: Request,
        answer: type[Answer],
        progress: Callable[[Progress], None] = lambda progress: None,
        sockets: Mapping[str, int] = NO_SOCKETS,
    ) -> Answer:
        async with self._asking:
            try:
                reply = await self._with_retries(request, progress, sockets)
            finally:
                self._asked_at = trio.current_time()
        if not isinstance(reply, answer):
            await self.stop()
            raise TrainerError(f"the trainer answered {type(request).__name__} with {reply!r:.200}")
        return reply

    async def _with_retries(
        self,
        request: Request | None,
        progress: Callable[[Progress], None],
        sockets: Mapping[str, int] = NO_SOCKETS,
    ) -> Reply:
        """Ask, in a new process after each death. `None` asks for a loaded plan only."""
        pause_s = FIRST_PAUSE_S
        for attempt in range(1, self.config.attempts + 1):
            try:
                process, loaded = await self._running()
                if request is None:
                    return loaded
                return await self._exchange(process, request, progress, sockets)
            except Died as death:
                place = "" if self._process is None else self._process.place
                asked = type(request or Load).__name__
                place = place or (self._loaded.places.get(asked, "") if self._loaded else "")
                await self.stop()
                self.restarts += 1
                if death.of_itself and place and attempt >= TRIES_OF_A_PLAN:
                    raise PlanError(
                        f"{place}: the trainer of {self.config.site!r} {death} {attempt} times in "
                        f"a row; see {self.config.log or 'the output of the node'}"
                    ) from death
                if attempt == self.config.attempts:
                    at = f", at {place}," if place else ""
                    raise TrainerError(
                        f"the trainer of {self.config.site!r}{at} {death} {attempt} times in a "
                        f"row; see {self.config.log or 'the output of the node'}"
                    ) from death
                await trio.sleep(pause_s)
                pause_s *= 2
            except BaseException:
                # Cancelled, or `progress` raised: nobody waits for what it is still computing.
                if self._process is not None and self._process.busy:
                    with trio.CancelScope(shield=True):
                        await self.stop()
                raise
        raise AssertionError("attempts is at least 1")

    async def _running(self) -> tuple[TrainerProcess, Loaded]:
        """The process with its plan loaded, started if there is none."""
        lives = self._process is not None and self._process.lives() and not self._is_stale
        if self._process is not None and self._loaded is not None and lives:
            return self._process, self._loaded
        await self.stop()
        self._is_stale = False
        config = self.config
        _require_paths(config)
        config.workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        readable = [config.plan, *([config.data] if config.data else []), *config.read]
        described = describe_box(config.workspace, readable, config.device, config.log, config.nice)
        self._process = await start_process(described, config.sandbox)
        request = Load(
            plan=str(config.plan.absolute()),
            digest=config.digest or b"",
            site=config.site,
            data=_text(config.data.absolute() if config.data else None),
            options=dict(config.options),
            device=config.device,
            seed=config.seed,
            workspace=described.folder,
            imports=config.imports,
            processes=config.processes,
        )
        try:
            loaded = await self._exchange(self._process, request, _ignore)
        except (PlanError, ConfigurationError, LocalError):
            await self.stop()
            raise
        if not isinstance(loaded, Loaded):
            raise Died(f"answered {type(loaded).__name__} to Load")
        self._loaded = loaded
        if self._described is None:
            await trio.to_thread.run_sync(self._note_description, loaded)
        self._described = loaded
        return self._process, loaded

    def _recall(self) -> Loaded | None:
        """What an earlier process said of this very code, if that can be read."""
        with suppress(OSError, msgspec.MsgspecError):
            said = _descriptions.decode(self._description.read_bytes())
            if said.digest == self.config.digest:
                return said
        return None

    def _note_description(self, loaded: Loaded) -> None:
        partial = self._description.with_suffix(".partial")
        with suppress(OSError):  # then the next process is waited for
            partial.write_bytes(msgspec.msgpack.encode(loaded))
            partial.replace(self._description)

    @property
    def _description(self) -> Path:
        """Beside the workspace: what the plan's code can write to is not read here."""
        workspace = self.config.workspace
        return workspace.with_name(f"{workspace.name}.msgpack")

    async def _exchange(
        self,
        process: TrainerProcess,
        request: Request,
        progress: Callable[[Progress], None],
        sockets: Mapping[str, int] = NO_SOCKETS,
    ) -> Reply:
        """Send one request, and read until its final reply."""
        handover = await trio.to_thread.run_sync(Handover, process.boxed, request, sockets)
        try:
            process.busy, process.place = True, ""
            await process.send(request, handover)
            reply = await self._final_reply(process, request, progress)
            await trio.to_thread.run_sync(handover.keep, self._most_bytes())
            return reply
        finally:
            handover.close()

    def _most_bytes(self) -> int:
        """How large a result may be: as large as its model, with room for an optimiser's state; or
        as statistics may be."""
        tensors = (self._loaded.initial or self._loaded.tensors) if self._loaded else ()
        return MAX_STATISTICS_BYTES + sum(16 * prod(tensor.shape) for tensor in tensors)

    async def _final_reply(
        self, process: TrainerProcess, request: Request, progress: Callable[[Progress], None]
    ) -> Reply:
        last = Progress(fraction=0.0, epoch=0, loss=math.nan)
        while True:
            reply = await process.receive(
                self.config.silence_s if process.spoke else max(START_S, self.config.silence_s)
            )
            process.spoke = True
            process.busy = isinstance(reply, Alive | Progress)
            match reply:
                case Alive(place=place):
                    process.place = place or process.place
                    if isinstance(request, Train | Personalise):
                        progress(last)  # a plan that trains by its own loop tells nothing else
                case Progress():
                    last = reply
                    progress(reply)
                case Failed(kind="plan", message=message):
                    raise PlanError(message)
                case Failed(kind="configuration", message=message):
                    raise ConfigurationError(message)
                case Failed(kind="holder", message=message):
                    raise NoAnswer(message)
                case Failed(message=message):
                    raise LocalError(message)
                case _:
                    return reply


@asynccontextmanager
async def open_trainer(config: TrainerConfig) -> AsyncIterator[Trainer]:
    """A trainer for the length of the block; afterwards no process of it is left.

    The process starts with the first request.
    """
    trainer = Trainer(config)
    try:
        yield trainer
    finally:
        with trio.CancelScope(shield=True):
            await trainer.stop()


def _require_paths(config: TrainerConfig) -> None:
    """Raise LocalError while what the plan may read is not there: it may come back."""
    for path in (*([] if config.data is None else [config.data]), *config.read):
        if not path.exists():
            raise LocalError(
                f"{path} does not exist, so {config.site!r} trains nothing: put this site's data "
                "there, or correct `data.path` or `data.read` in node.toml and restart the node"
            )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _ignore(progress: Progress) -> None:
    pass
