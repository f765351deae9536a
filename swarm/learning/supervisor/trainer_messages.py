"""What the main process and the trainer process say to each other, and how it is framed.

A socket pair, apart from the standard streams: what a plan prints cannot reach it. Each message is
a 4-byte big-endian length and a tagged msgpack struct. One request is answered by any number of
`Alive` and `Progress` and then by exactly one final reply. Tensors travel as files: a request names
them, for messages to people, and their descriptors go with it, in the order of `files_of`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from swarm.errors import UNREADABLE, TrainerError
from swarm.privacy.guarantee import Guarantee, Mechanism

MAX_MESSAGE_BYTES = 16 * 2**20
LENGTH_BYTES = 4


class _Message(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag=True, kw_only=True):
    pass


class Rules(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The part of a plan that everybody consents to, with its bounds."""

    rounds: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    min_peers: Annotated[int, msgspec.Meta(ge=2, le=256)]
    min_rows: Annotated[int, msgspec.Meta(ge=1, le=2**44)] = 5
    verify: Literal["auto", "held", "shared", "full"]
    wire_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    max_round_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86400)]
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    epochs: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    optimizer_state: Literal["reset", "keep"]
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    precision: Literal["fp32", "bf16"] = "fp32"
    compiled: bool = False
    privacy: Guarantee | None = None
    secure: bool = False
    colluders: Annotated[int, msgspec.Meta(ge=0, le=62)] | None = None
    clip: Annotated[float, msgspec.Meta(gt=0, le=2.0**20)] = 4.0
    statistics_bound: Annotated[float, msgspec.Meta(ge=0, le=2.0**52)] = 0.0


class Tensor(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One tensor of the model as it travels."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Samples(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How many rows this site holds for each use."""

    train: int
    validation: int
    test: int


# Requests.


class Load(_Message, frozen=True):
    """Read the plan and build its model; the first request to every trainer process.

    `digest` is the consented bundle digest (empty: not checked). `seed` overrides the plan's.
    `imports` are the modules that the plan's code may import; None: all. In so many `processes` the
    site's rows are trained on together.
    """

    plan: str
    digest: bytes
    site: str
    data: str | None
    options: dict[str, str | int | float | bool]
    device: str
    seed: int | None
    workspace: str
    imports: tuple[str, ...] | None = None
    processes: int = 1


class CountSamples(_Message, frozen=True):
    """Read this site's data and count it."""


class Initialise(_Message, frozen=True):
    """Write model 0 to `out`: from the plan's seed, or with the values of the file `base`."""

    out: str
    base: str | None = None


class ComputeStatistics(_Message, frozen=True):
    """Write this site's statistics (float64 tensors) to `out`."""

    out: str


class Train(_Message, frozen=True):
    """Train one round from the model in `base`, and write the update to `out`.

    `round` counts within the stage, `round_in_all` among all rounds, for the plan to see.
    `base_digest` names the base: a checkpoint is resumed only on the same one. `initial` is the
    file of model 0, where it has tensors that do not travel. `kept` is what this site kept of an
    earlier round, and `kept_out` where to write what it is to keep of this one, if the plan keeps
    anything. `noise` is what the plan's guarantee asks for here, and has been charged. `entropy` is
    this site's own, from which the order of rows follows in secure plans; it is in no output.
    `stream` is a socket that leads to the holder of the plan's role, if it has one.
    """

    round: int
    base: str
    base_digest: bytes
    statistics: str | None
    out: str
    initial: str | None = None
    round_in_all: int = 0
    kept: str | None = None
    kept_out: str | None = None
    noise: Mechanism | None = None
    entropy: bytes = b""
    stream: str | None = None


class Hold(_Message, frozen=True):
    """Hold the plan's role in a round that begins with the model in `base`.

    `door` is a socket by which streams come, a descriptor each; its end is the end of the round.
    """

    round: int
    round_in_all: int
    base: str
    statistics: str | None
    door: str
    initial: str | None = None


class Personalise(_Message, frozen=True):
    """Fine-tune a copy of the model in `base` for this site, and write it whole to `out`. Fields as
    of `Train`; `epochs` takes the place of the plan's."""

    round: int
    base: str
    base_digest: bytes
    statistics: str | None
    out: str
    initial: str | None = None
    kept: str | None = None
    round_in_all: int = 0
    epochs: int | None = None


class SendCopy(_Message, frozen=True):
    """Write this site's own model to `out`, as it is sent: all that training may change, with what
    the plan keeps. `model` is the shared one, completed by `kept`, or that which `Personalise` has
    written, in which all is."""

    model: str
    out: str
    initial: str | None = None
    kept: str | None = None


class ScoreCopies(_Message, frozen=True):
    """Count what this site's test rows say of each site's copy, which the file `copies` has by row,
    and of the shared `model`, where it is one without what sites keep."""

    model: str
    statistics: str | None
    initial: str | None = None
    copies: str | None = None


class Evaluate(_Message, frozen=True):
    """Score the model in `model` on this site's validation rows, and with `test` on its test rows:
    once, at the end of a run."""

    model: str
    statistics: str | None
    initial: str | None = None
    kept: str | None = None
    test: bool = True


class Export(_Message, frozen=True):
    """Write the model in `model` to `out`: whole, with what this site has kept, and in the types of
    the plan's own model."""

    model: str
    out: str
    initial: str | None = None
    kept: str | None = None


class Predict(_Message, frozen=True):
    """Predict for every row of the file that is the site's data, whose labels are not needed, and
    write them to `out`: float64 by name, and each row's line in its file as "line".

    `model` is that of a model's folder.
    """

    model: str
    statistics: str | None
    out: str


class EvaluateFile(_Message, frozen=True):
    """Score the model of a model's folder on every row that the plan's `data` finds."""

    model: str
    statistics: str | None


GraphFormat = Literal["onnx", "torch"]


class MakeGraph(_Message, frozen=True):
    """Write the model of a model's folder to `out` as a graph that runs without the plan's code.
    The file that is the site's data says what rows look like."""

    model: str
    statistics: str | None
    out: str
    to: GraphFormat


Request = (
    Load
    | CountSamples
    | Initialise
    | ComputeStatistics
    | Train
    | Hold
    | Personalise
    | SendCopy
    | ScoreCopies
    | Evaluate
    | Export
    | Predict
    | EvaluateFile
    | MakeGraph
)

WRITTEN = ("out", "kept_out")
SOCKETS = ("stream", "door")
FILES = ("base", "model", "copies", "initial", "statistics", "kept", *SOCKETS, *WRITTEN)
"""The fields of requests that name files, and sockets; the last ones are to be written."""


def files_of(request: Request) -> dict[str, str]:
    """The files of a request by field, in the order of their descriptors."""
    found = {field: getattr(request, field, None) for field in FILES}
    return {field: name for field, name in found.items() if name is not None}


# Replies.


class Alive(_Message, frozen=True):
    """Sent every second while a request is worked on. `place` is where the plan's code is then,
    "plan.py:42 in data"; empty if it is not running."""

    place: str = ""


class Progress(_Message, frozen=True):
    """How far a round's training is, from 0 to 1, with the mean loss of the last epoch or so."""

    fraction: float
    epoch: int
    loss: float


class Loaded(_Message, frozen=True):
    """What the plan says of itself.

    `program` is the blob of its stages (`protocol.program`). `tensors` are what travels in each
    round, `initial` those of model 0: empty if the same. `keeps_state` says whether something stays
    at the site from round to round.
    `places` says by request where in the plan it is answered: "plan.py:42 in data".
    """

    name: str
    digest: bytes
    rules: Rules
    program: bytes
    tensors: tuple[Tensor, ...]
    device: str
    initial: tuple[Tensor, ...] = ()
    keeps_state: bool = False
    role: str = ""
    """The name of the plan's role, if it has one; `role_needs_rows` of its holder."""
    role_needs_rows: bool = False
    places: dict[str, str] = {}
    licence: str = ""


class Counted(_Message, frozen=True):
    samples: Samples


class Written(_Message, frozen=True):
    """The requested file is complete and on disk."""


class Trained(_Message, frozen=True):
    """The update is complete and on disk.

    `metrics` are the plan's, of this site's update on its own validation rows (training rows if it
    has none); `resumed_epochs` came from a checkpoint of an interrupted try.
    """

    samples: int
    steps: int
    loss: float
    metrics: dict[str, float]
    train_s: float
    resumed_epochs: int


class Held(_Message, frozen=True):
    """The round in which the role was held is over. `refused` questions could not be answered."""

    streams: int
    questions: int
    refused: int


class Personalised(_Message, frozen=True):
    """This site's own model is complete and on disk. `before` and `after` are the plan's metrics of
    the base and of that model, on `rows` validation rows (on training rows if there are none)."""

    steps: int
    loss: float
    train_s: float
    before: dict[str, float]
    after: dict[str, float]
    rows: int


class CopiesScored(_Message, frozen=True):
    """What this site's rows say of each copy, by member number (-1: the shared model), as
    `metrics.wire` writes it. All have the same metrics; one without rows tells nothing."""

    counts: dict[int, bytes]


class Evaluated(_Message, frozen=True):
    """Scores by part; a part without rows is empty. `counts` are what sites add up,
    as `metrics.wire` writes it, and `counted` the names of those on validation rows, be these too
    few to tell of."""

    validation: dict[str, float]
    test: dict[str, float]
    counts: dict[str, bytes] = {}
    counted: tuple[str, ...] = ()


class Predicted(_Message, frozen=True):
    """The predictions are complete and on disk.

    `columns` are their names, in the plan's order. `remarks` name values unlike all that the model
    has learned from; with `other_units`, a whole column of them.
    """

    rows: int
    columns: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    other_units: tuple[str, ...] = ()


class EvaluatedFile(_Message, frozen=True):
    """The plan's metrics on `rows` rows: value, and the ends of its interval of 95 %.
    `calibration` are the counts for that of its probabilities, as `metrics.wire` writes them."""

    rows: int
    metrics: dict[str, tuple[float, float, float]]
    calibration: bytes = b"{}"


class GraphMade(_Message, frozen=True):
    """The graph is complete and on disk. `inputs` and `outputs` have the shape of one row;
    `difference` is its largest from the module on `rows` rows, relative to the larger of 1 and the
    module's own number."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    rows: int
    difference: float


class Failed(_Message, frozen=True):
    """The request came to nothing. `kind` says whose fault: the plan's, the user's, the machine's,
    the holder's of the plan's role.

    `message` is one sentence that names place and remedy.
    """

    kind: Literal["plan", "configuration", "local", "holder"]
    message: str


Reply = (
    Alive
    | Progress
    | Loaded
    | Counted
    | Written
    | Trained
    | Held
    | Personalised
    | CopiesScored
    | Evaluated
    | Predicted
    | EvaluatedFile
    | GraphMade
    | Failed
)

_ENCODER = msgspec.msgpack.Encoder()
_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def frame(message: Request | Reply) -> bytes:
    """A message with its length before it. Raises TrainerError if it is too large."""
    body = encode(message)
    return length_prefix(len(body)) + body


def encode(message: Request | Reply) -> bytes:
    """A message alone."""
    return _ENCODER.encode(message)


def length_prefix(length: int) -> bytes:
    """The 4 bytes before a body of `length` bytes."""
    check_length(length)
    return length.to_bytes(LENGTH_BYTES, "big")


def read_length(prefix: bytes) -> int:
    """The length that 4 bytes announce. Raises TrainerError if it is too large."""
    length = int.from_bytes(prefix, "big")
    check_length(length)
    return length


def check_length(length: int) -> None:
    """Raise TrainerError if a body of `length` bytes is larger than any message may be."""
    if length > MAX_MESSAGE_BYTES:
        raise TrainerError(f"a trainer message of {length} bytes exceeds {MAX_MESSAGE_BYTES}")


def decode_request(body: bytes) -> Request:
    """Read a request. Raises TrainerError if it is none."""
    try:
        return _REQUESTS.decode(body)
    except UNREADABLE as error:
        raise TrainerError(f"the trainer received no request: {error}") from error


def decode_reply(body: bytes) -> Reply:
    """Read a reply. Raises TrainerError if it is none."""
    try:
        return _REPLIES.decode(body)
    except UNREADABLE as error:
        raise TrainerError(f"the trainer sent no reply: {error}") from error
