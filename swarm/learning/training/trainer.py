"""The trainer: the one process of a node that runs the plan's code, torch and the GPU.

It is a process of its own because user code computes for minutes without yielding, may use all
memory, or die; the node's main process must answer its peers meanwhile. The main process starts it
(`supervisor`) in a box, with one end of a socket pair, and asks for one thing at a time
(`messages`). No file is opened by its name here but the plan's own: the node hands them in, open.

It says every second that it lives, and where the plan's code is. A long call into C that keeps
the interpreter's lock would silence any thread; then `faulthandler`, whose watchdog needs no lock,
writes the stack to a pipe instead, and so it does when a library crashes.

The trainer outlives nobody: when the other end of the socket is closed, because the main process
ended or was killed, it kills its own process group at once, in the middle of a round if need be.
The round's checkpoint stays.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray

from swarm.box import frames
from swarm.errors import ConfigurationError, LocalError, NoAnswer, PlanError, RemoteError
from swarm.learning.code import bundle
from swarm.learning.code.import_guard import guard_imports, guard_imports_of_worker
from swarm.learning.code.importer import use_modules_of
from swarm.learning.metrics.wire import encode_all
from swarm.learning.parameters.foreign_weights import read_weights, with_values_of
from swarm.learning.parameters.named_tensors import (
    State,
    read_arrays,
    read_model,
    read_state,
    specs_of,
    state_of,
    write_arrays,
    write_state,
)
from swarm.learning.parameters.travel import completed, own_tensors, rows_of, to_wire
from swarm.learning.plans.loading import check_digest, load_plan
from swarm.learning.plans.plan import Plan, Site
from swarm.learning.plans.plan_faults import (
    frame_place,
    machine_faults,
    method_place,
    plan_faults,
    valid_text,
)
from swarm.learning.plans.program_of_plan import program_of
from swarm.learning.plans.settings import role_in, rules_of
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
    ScoreCopies,
    SendCopy,
    Tensor,
    Train,
    Trained,
    Written,
    decode_request,
    files_of,
    frame,
)
from swarm.learning.training.answering import Answering
from swarm.learning.training.asking import SocketLink
from swarm.learning.training.checkpoint import Workplace
from swarm.learning.training.crossing import score_copies, take_copy
from swarm.learning.training.graph import make_graph
from swarm.learning.training.holding import Holding
from swarm.learning.training.loop import NO_ROWS, LocalTraining
from swarm.learning.training.personal import personalise
from swarm.learning.training.predicting import evaluate_rows, predict, write_predictions
from swarm.learning.training.ranks import Ranks
from swarm.learning.training.together import Together
from swarm.tensors import OpenFile, TensorSpec
from swarm.types import Digest

PLAN_OF_WORKERS = "SWARM_PLAN_OF_WORKERS"
"""Digest and folder of the plan, in the environment of what its code starts."""
MOST_REMARKS = 200
ALIVE_EVERY_S = 1.0
QUIET_S = 5.0
"""Without a turn for any thread, after which the watchdog writes; and again each time after it."""

Files = dict[str, OpenFile]
"""The files of a request by its fields."""


class Wire:
    """This end of the socket pair. Any thread may send; a reader thread queues the requests.

    The pipe `signs` takes what `faulthandler` writes; it does not block, and what finds no room is
    lost.
    """

    code: Path | None = None
    """Where the plan's code lies, once it is known."""

    def __init__(self, channel: socket.socket, signs: int) -> None:
        os.set_blocking(signs, False)
        faulthandler.enable(signs, all_threads=False)
        self._signs = signs
        self._ranks: Ranks | None = None
        self._channel = channel
        self._sending = threading.Lock()
        self._queue: queue.Queue[tuple[Request, Files]] = queue.Queue(maxsize=4)
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def receive(self) -> tuple[Request, Files]:
        """The next request, and its files by field; whoever receives them closes them."""
        return self._queue.get()

    def send(self, message: Reply) -> None:
        """Send one reply whole; if nobody listens any more, end this process group."""
        with self._sending:
            try:
                self._channel.sendall(frame(message))
            except OSError:
                _end_group()

    def start_ranks(self, load: Load) -> Ranks:
        """Start the other processes of several, and have them load the plan, too. What they find
        wrong is told in this one's place."""

        def fail(said: Failed | None) -> None:
            if said is not None:
                self.send(said)
            _end_group()

        folder = Path(load.workspace)
        self._ranks = Ranks(load.processes, folder, self._signs, fail)
        self._ranks.ask(load, {})
        return self._ranks

    def progress(self, fraction: float, epoch: int, loss: float) -> None:
        """Say how far a training is."""
        self.send(Progress(fraction=fraction, epoch=epoch, loss=loss))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Say every second that this process lives, while a request is worked on."""
        done = threading.Event()
        worker = threading.get_ident()

        def watch() -> None:
            # The stacks are read while nobody changes them: it fires only if no thread here can
            # run for so long, which is when one holds the lock and does not return.
            faulthandler.dump_traceback_later(QUIET_S, repeat=True, file=self._signs)

        def beat() -> None:
            while not done.wait(ALIVE_EVERY_S):
                watch()
                if self._ranks is None or self._ranks.all_live():
                    self.send(Alive(place=self._place(worker)))
            faulthandler.cancel_dump_traceback_later()

        watch()
        thread = threading.Thread(target=beat, name="alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _place(self, worker: int) -> str:
        """Where the plan's code is: in this thread, or in a script's own (docs/own-scripts.md)."""
        if self.code is None:
            return ""
        found = sys._current_frames()
        first = found.pop(worker, None)
        places = (frame_place(self.code, frame) for frame in (first, *found.values()))
        return next(filter(None, places), "")

    def _read(self) -> None:
        with suppress(OSError):
            while (received := frames.receive(self._channel)) is not None:
                request = decode_request(received.body)
                names = files_of(request).items()
                opened = zip(names, received.descriptors, strict=True)
                files = {field: OpenFile(file, name) for (field, name), file in opened}
                self._queue.put((request, files))
        _end_group()


@dataclass(frozen=True)
class Joining:
    """What one of several processes that train together knows of the others."""

    together: Together
    meeting: Path


METHODS: dict[type[Request], str] = {
    Hold: "answer",
    CountSamples: "data",
    Initialise: "model",
    ComputeStatistics: "statistics",
    Evaluate: "metrics",
    ScoreCopies: "metrics",
    SendCopy: "model",
    EvaluateFile: "metrics",
    Export: "model",
    Predict: "inputs",
    MakeGraph: "predict",
}
"""Which of the plan's methods a request is mostly about; training is `loss` or `train`."""


class Trainer:
    """Answers requests about one plan at one site."""

    def __init__(self, load: Load, wire: Wire, together: Together | None = None) -> None:
        if load.data is not None and not Path(load.data).exists():
            raise ConfigurationError(
                f"the site's data {load.data} does not exist: correct its path in node.toml"
            )
        workspace = Path(load.workspace)
        workspace.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_first = together is None
        if together is None and load.processes > 1:
            together = Together(0, load.processes)
        self.together = together
        device = load.device if together is None else together.device(load.device)
        code, digest = _unpack(Path(load.plan), load.digest, workspace, write=is_first)
        wire.code = code
        if load.imports is not None:
            guard_imports(code, load.imports)
        plan = load_plan(code, digest)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(workspace / "compiled"))
        os.environ[PLAN_OF_WORKERS] = f"{digest.hex()} {code}"
        rules = rules_of(plan)
        torch.set_num_threads(rules.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        site = Site(load.site, Path(load.data) if load.data else None, load.options)
        self.training = LocalTraining(plan, site, code, seed=load.seed, device=device)
        self.rules = msgspec.structs.replace(rules, seed=self.training.seed)
        self.program = program_of(plan)
        named = role_in(plan)
        self.role = None if named is None else named[1]
        self.workplace = Workplace(workspace, digest, rules.optimizer_state == "keep")
        self.ranks = None
        """The other processes, if this is the first of several."""
        self.is_spent = False
        """Whether the others wait for a step that this process will not take."""
        if together is not None:
            _refuse_alone(plan, named is not None)
            if is_first:
                self.ranks = wire.start_ranks(load)
                together.join(self.ranks.meeting, self.training.device)
                self.ranks.collect()

    def loaded(self) -> Loaded:
        training = self.training
        state = state_of(training.model)
        travels = _tensors(specs_of(state, training.travels))
        own = {name: value for name, value in state.items() if not training.has_file(name)}
        initial = _tensors(specs_of(own))
        return Loaded(
            name=type(self.training.plan).__name__,
            digest=self.workplace.plan,
            rules=self.rules,
            program=self.program.blob,
            tensors=travels,
            initial=() if initial == travels else initial,
            keeps_state=bool(training.kept_names),
            role=training.role or "",
            role_needs_rows=self.role is not None and self.role.needs_rows,
            device=str(self.training.device),
            places={kind.__name__: self.place_of(kind) for kind in (Train, *METHODS)},
            licence=valid_text(str(self.training.plan.licence)),
        )

    def place_of(self, request: Request | type[Request]) -> str:
        """Where in the plan a request is mostly answered."""
        kind = request if isinstance(request, type) else type(request)
        method = METHODS.get(kind, "train" if self.training.owns_its_loop else "loss")
        return method_place(self.training.folder, type(self.training.plan), method) or "plan.py"

    def answer_in_words(self, request: Request, files: Files, wire: Wire) -> Reply:
        """`answer`, with whatever it did not foresee as the fault of the plan's odd object."""
        training, method = self.training, METHODS.get(type(request), "loss")
        doing = f"answering {type(request).__name__}"
        with plan_faults(training.folder, doing, type(training.plan), method):
            with machine_faults():
                return self.answer(request, files, wire)

    def answer(self, request: Request, files: Files, wire: Wire) -> Reply:
        """Do what is asked; the file to be written is complete when this returns."""
        match request:
            case CountSamples():
                return Counted(samples=self.training.samples())
            case Initialise():
                state = self.training.make_initial()
                if "base" in files:
                    state = with_values_of(state, read_weights(files["base"]), str(files["base"]))
                write_state(files["out"], state)
                return Written()
            case ComputeStatistics():
                write_arrays(files["out"], self.training.statistics())
                return Written()
            case Train():
                return self._train(request, files, wire)
            case Hold():
                return self._hold(request, files)
            case Personalise():
                return self._personalise(request, files, wire)
            case SendCopy():
                return self._send_copy(files)
            case ScoreCopies():
                return self._score_copies(files)
            case Evaluate():
                return self._evaluate(request, files)
            case Export():
                self.training.put(_whole("model", files), self._kept(files))
                write_state(files["out"], state_of(self.training.model))
                return Written()
            case Predict():
                return self._predict(files)
            case EvaluateFile():
                scores = evaluate_rows(
                    self.training, read_model(files["model"]), _statistics(files)
                )
                return EvaluatedFile(
                    rows=scores.rows,
                    metrics=scores.metrics,
                    calibration=encode_all(scores.calibration),
                )
            case MakeGraph():
                return self._make_graph(request, files)
            case Load():
                raise ConfigurationError("this trainer has its plan: start another for another one")

    def _personalise(self, request: Personalise, files: Files, wire: Wire) -> Personalised:
        found = personalise(
            self.training,
            request.round,
            _whole("base", files),
            _statistics(files),
            epochs=request.epochs,
            base_digest=request.base_digest,
            workplace=replace(self.workplace, keep_optimizer=False),
            progress=wire.progress,
            round_in_all=request.round_in_all,
            kept=self._kept(files),
            gathered=rows_of(read_state(files["base"])),
        )
        self.training.put(found.model, found.update.kept)
        write_state(files["out"], {**state_of(self.training.model), **self.training.kept()})
        return Personalised(
            steps=found.update.steps,
            loss=found.update.loss,
            train_s=found.update.train_s,
            before=found.before,
            after=found.after,
            rows=found.rows,
        )

    def _send_copy(self, files: Files) -> Written:
        model = read_state(files["model"])
        if "initial" in files:
            model = {**read_state(files["initial"]), **model}
        write_state(files["out"], take_copy(self.training, model, self._kept(files)))
        return Written()

    def _score_copies(self, files: Files) -> CopiesScored:
        rows = rows_of(read_state(files["copies"])) if "copies" in files else NO_ROWS
        scored = score_copies(self.training, _whole("model", files), rows, _statistics(files))
        return CopiesScored(counts={copy: encode_all(each) for copy, each in scored.items()})

    def _hold(self, request: Hold, files: Files) -> Held:
        base, statistics = _whole("base", files), _statistics(files)
        held = Holding(
            Answering(self.training, base, request.round, request.round_in_all, statistics)
        )
        with socket.socket(fileno=os.dup(files["door"].descriptor)) as door:
            held.run(door)
        return Held(streams=held.streams, questions=held.questions, refused=held.refused)

    @contextmanager
    def _link(self, files: Files) -> Iterator[SocketLink | None]:
        """The way to the holder of the plan's role, if it has one."""
        if "stream" not in files or self.role is None:
            yield None
            return
        with socket.socket(fileno=os.dup(files["stream"].descriptor)) as connection:
            yield SocketLink(connection, self.role.answer_s, self.training.held_names)

    @contextmanager
    def _with_ranks(self, request: Train, files: Files) -> Iterator[None]:
        """Within which the other processes train, too; what stops this one stops them."""
        if self.ranks is None:
            yield
            return
        self.is_spent = True
        self.ranks.ask(request, files)
        yield
        self.ranks.collect()
        self.is_spent = False

    def _train(self, request: Train, files: Files, wire: Wire) -> Trained:
        statistics = _statistics(files)
        base = _whole("base", files)
        with self._link(files) as link, self._with_ranks(request, files):
            update = self.training.train(
                request.round,
                base,
                statistics,
                base_digest=request.base_digest,
                # A checkpoint is the update itself, in clear: a secure plan's would outlast its
                # round.
                workplace=None if request.entropy else self.workplace,
                progress=wire.progress,
                own_copy=False,
                round_in_all=request.round_in_all,
                kept=self._kept(files),
                rows=rows_of(read_state(files["base"])),
                noise=request.noise,
                entropy=request.entropy,
                link=link,
                together=self.together,
            )
        travels = to_wire(update.state, self.training.travels)
        speaks_for_all = self.together is None or self.together.rank == 0
        if speaks_for_all:
            write_state(files["out"], travels)
            if "kept_out" in files:
                write_state(files["kept_out"], update.kept)
        metrics = update.metrics if speaks_for_all else {}
        if metrics is None:
            held = "validation" if self.training.samples().validation else "train"
            whole = completed(travels, base)
            metrics = self.training.evaluate(whole, statistics, (held,), update.kept)[held]
        return Trained(
            samples=update.samples,
            steps=update.steps,
            loss=update.loss,
            metrics={valid_text(name): value for name, value in metrics.items()},
            train_s=update.train_s,
            resumed_epochs=update.resumed_epochs,
        )

    def _predict(self, files: Files) -> Predicted:
        state, sums = read_model(files["model"]), _statistics(files)
        found = predict(self.training, state, sums, self._table())
        write_predictions(files["out"], found)
        return Predicted(
            rows=len(found.lines),
            columns=tuple(map(valid_text, found.columns)),
            remarks=tuple(map(valid_text, found.remarks[:MOST_REMARKS])),
            other_units=tuple(map(valid_text, found.other_units[:MOST_REMARKS])),
        )

    def _make_graph(self, request: MakeGraph, files: Files) -> GraphMade:
        made = make_graph(
            self.training, read_model(files["model"]), _statistics(files), self._table(), request.to
        )
        with open(files["out"].descriptor, "wb", closefd=False) as out:
            out.write(made.content)
        return GraphMade(
            inputs=_tensors(specs_of(made.inputs)),
            outputs=_tensors(specs_of(made.outputs)),
            rows=made.rows,
            difference=made.difference,
        )

    def _table(self) -> Any:
        """The site's rows as the plan's `table` reads them."""
        with self.training.faults("reading the rows", "table"):
            return self.training.plan.table(self.training.site.path)

    def _kept(self, files: Files) -> State | None:
        """What this site has kept of an earlier round."""
        if "kept" not in files:
            return None
        kept = read_state(files["kept"])
        if kept.keys() != self.training.kept_names:
            raise LocalError(
                f"{files['kept']} is not what this plan keeps: if you did not change it, report it"
            )
        return kept

    def _evaluate(self, request: Evaluate, files: Files) -> Evaluated:
        parts = ("validation", "test") if request.test else ("validation",)
        given, kept = (_whole("model", files), _statistics(files)), self._kept(files)
        scores = {part: self.training.measure_part(*given, part, kept) for part in parts}
        counts = {part: self.training.told(each) for part, each in scores.items()}
        numbers = {part: each.numbers for part, each in scores.items()}
        return Evaluated(
            validation=numbers["validation"],
            test=numbers.get("test", {}),
            counts={part: encode_all(each) for part, each in counts.items() if each},
            counted=tuple(scores["validation"].counts),
        )


def serve(wire: Wire, join: Joining | None = None) -> None:
    """Answer requests until the other end is closed; `join` is for one of several processes."""
    trainer: Trainer | None = None
    while True:
        request, files = wire.receive()
        with wire.alive():
            reply: Reply
            try:
                if trainer is None:
                    if not isinstance(request, Load):
                        raise ConfigurationError("the first request to a trainer must be Load")
                    trainer = Trainer(request, wire, None if join is None else join.together)
                    if join is not None:
                        join.together.join(join.meeting, trainer.training.device)
                    reply = trainer.loaded()
                else:
                    reply = trainer.answer_in_words(request, files, wire)
            except PlanError as error:
                reply = Failed(kind="plan", message=valid_text(str(error)))
            except ConfigurationError as error:
                reply = Failed(kind="configuration", message=valid_text(str(error)))
            except NoAnswer as error:
                reply = Failed(kind="holder", message=valid_text(str(error)))
            except (LocalError, RemoteError, OSError) as error:
                reply = Failed(kind="local", message=valid_text(str(error)))
            except KeyboardInterrupt:  # nobody else's: the signal is ignored here
                place = "plan.py" if trainer is None else trainer.place_of(request)
                reply = Failed(kind="plan", message=f"{place}: the plan raises KeyboardInterrupt")
            finally:
                frames.close_all([file.descriptor for file in files.values()])
        wire.send(reply)
        if trainer is not None and trainer.is_spent:
            _end_group()


def main(arguments: list[str] | None = None) -> None:
    """Entry point of `python -m` this module; started by the supervisor only."""
    parser = argparse.ArgumentParser(description="the trainer process of a swarm node")
    parser.add_argument("--channel", type=int, required=True, help="socket to speak over")
    parser.add_argument("--signs", type=int, required=True, help="pipe to write stacks to")
    parser.add_argument("--rank", type=int, help="of one of several processes that train together")
    parser.add_argument("--ranks", type=int, help="how many they are")
    parser.add_argument("--meeting", type=Path, help="the file by which they find each other")
    options = parser.parse_args(arguments)
    channel = socket.socket(fileno=options.channel)
    channel.set_inheritable(False)
    os.set_inheritable(options.signs, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the main process's to handle
    sys.dont_write_bytecode = True
    if options.rank is None:
        serve(Wire(channel, options.signs))
    else:
        together = Together(options.rank, options.ranks)
        serve(Wire(channel, options.signs), Joining(together, options.meeting))


def _refuse_alone(plan: Plan, has_role: bool) -> None:
    """Raise ConfigurationError for a plan that trains in one process only."""
    reasons = {
        "promises privacy, whose noise one process draws": plan.privacy is not None,
        "has a role, to whose holder one process speaks": has_role,
    }
    for words, holds in reasons.items():
        if holds:
            raise ConfigurationError(
                f"the plan {words}: take `training.launch` out of node.toml for it"
            )


def _unpack(plan: Path, digest: bytes, workspace: Path, *, write: bool) -> tuple[Path, Digest]:
    """Check the plan's digest, and copy what was checked, if it is not yet: that copy, and no other
    file, runs."""
    found = bundle.read(plan)
    check_digest(plan, found, Digest(digest) if digest else None)
    folder = workspace / f"plan-{found.digest.hex()[:16]}"
    if write:
        folder.mkdir(exist_ok=True)
        found.write(folder)
    return folder, found.digest


def _tensors(specs: list[TensorSpec]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=s.name, dtype=s.dtype, shape=s.shape) for s in specs)


def _whole(model: str, files: Files) -> State:
    """A model file's tensors, and those of model 0 that do not travel. Mapped, not read."""
    state = read_state(files[model])
    if "initial" in files:
        return completed(state, read_state(files["initial"]))
    return own_tensors(state)


def _statistics(files: Files) -> dict[str, NDArray[Any]] | None:
    return read_arrays(files["statistics"]) if "statistics" in files else None


def _end_group() -> None:
    """End this process and what user code started, without ceremony."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _know_plan() -> None:
    """In a process that the plan's code has spawned, workers of a DataLoader say: find its modules
    where the trainer finds them, in the bytes that its digest covers."""
    digest, _, folder = os.environ[PLAN_OF_WORKERS].partition(" ")
    found = bundle.read(Path(folder))
    check_digest(Path(folder), found, Digest(bytes.fromhex(digest)))
    use_modules_of(Path(folder), found.files)
    guard_imports_of_worker(Path(folder))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # as multiprocessing names the main module of what it spawns
    _know_plan()
