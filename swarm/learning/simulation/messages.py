"""What the simulator and its workers say to each other: tagged msgpack, each with its length before
it. Tensors travel as the bytes of canonical files."""

from __future__ import annotations

from typing import BinaryIO, Literal

import msgspec

from swarm.errors import UNREADABLE, LocalError

LENGTH_BYTES = 8


class _Message(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag=True, kw_only=True):
    pass


class OpenPlan(_Message, frozen=True):
    """Read the plan and deal its rows to `clients` clients; 0: one a site."""

    plan: str
    partition: str
    clients: int
    seed: int
    peers: int | None = None
    rounds: int | None = None
    device: str = "cpu"


class FreeMemory(_Message, frozen=True):
    """How much memory each GPU has free, once this worker holds what a worker always holds."""


class Begin(_Message, frozen=True):
    """What comes next begins with this model, and with these sums of statistics, if there are."""

    model: bytes
    statistics: bytes | None
    copies: bytes | None = None
    """The clients' own models, gathered, where they are to be scored."""


class SumRows(_Message, frozen=True):
    """The statistics of these clients."""

    clients: tuple[int, ...]


class TrainClient(_Message, frozen=True):
    """Train one client for one round. `round` counts within its stage; `kept` is what the client
    has kept of its last one."""

    client: int
    round: int
    round_in_all: int
    kept: bytes | None = None


class PersonaliseClient(_Message, frozen=True):
    """Fine-tune one client's own copy in `epochs` passes; 0: the plan's own number. The rest is as
    of `TrainClient`."""

    client: int
    round: int
    round_in_all: int
    epochs: int
    kept: bytes | None = None
    gives_copy: bool = False
    """Whether the copy is wanted, too."""


class CopyClient(_Message, frozen=True):
    """One client's own model, as nodes send it, where the client has fine-tuned none."""

    client: int
    kept: bytes | None = None


class ScoreCopies(_Message, frozen=True):
    """Count what one client's test rows say of each client's own model."""

    client: int


class ScoreModel(_Message, frozen=True):
    """Score the model on all sites' rows of one kind, with what each site has kept, if it has."""

    part: Literal["validation", "test"]
    kept: dict[int, bytes] = {}


class WriteWhole(_Message, frozen=True):
    """The whole model, in the types of the plan's own."""


Request = (
    FreeMemory
    | OpenPlan
    | Begin
    | SumRows
    | TrainClient
    | PersonaliseClient
    | CopyClient
    | ScoreCopies
    | ScoreModel
    | WriteWhole
)


class Turn(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A round of the plan's program."""

    task: str
    merge: str
    number: int
    within: int
    epochs: int = 0
    ends: bool = False


class Opened(_Message, frozen=True):
    """The plan, the rounds that it has, and what the clients are. `initial` is model 0."""

    name: str
    digest: bytes
    licence: str
    min_peers: int
    turns: tuple[Turn, ...]
    clients: int
    training_clients: tuple[int, ...] | None
    """Those with training rows; None: all."""
    rows: int
    initial: bytes
    names: tuple[str, ...] = ()
    """Of the sites, where each is a client."""
    notes: tuple[str, ...] = ()


class Ready(_Message, frozen=True):
    pass


class Summed(_Message, frozen=True):
    """In the order of the clients."""

    statistics: tuple[bytes, ...]


class Updated(_Message, frozen=True):
    client: int
    update: bytes
    samples: int
    loss: float
    train_s: float
    kept: bytes | None = None


class Personal(_Message, frozen=True):
    """What a client tells of its own copy: the plan's metrics of the model before and after, on
    `rows` rows that were held back."""

    before: dict[str, float]
    after: dict[str, float]
    rows: int
    client: int
    copy: bytes | None = None


class Copied(_Message, frozen=True):
    client: int
    copy: bytes


class CopiesScored(_Message, frozen=True):
    """By client, -1 for the shared model, as `metrics.wire` writes counts."""

    client: int
    counts: dict[int, bytes]


class Free(_Message, frozen=True):
    """In bytes, by GPU; none if torch sees no GPU here."""

    gpus: tuple[int, ...]


class Scored(_Message, frozen=True):
    metrics: dict[str, float | None]


class Whole(_Message, frozen=True):
    model: bytes


class Faulty(_Message, frozen=True):
    """Nothing came of the request; `exit_status` is 2 for what the user can mend."""

    message: str
    exit_status: int


Reply = (
    Free
    | Opened
    | Ready
    | Summed
    | Updated
    | Personal
    | Copied
    | CopiesScored
    | Scored
    | Whole
    | Faulty
)

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    return _encoder.encode(message)


def decode_request(raw: bytes) -> Request:
    """Raises LocalError for bytes that are none."""
    try:
        return _requests.decode(raw)
    except UNREADABLE as error:
        raise LocalError(f"a worker was asked for what it does not know: {error}") from None


def decode_reply(raw: bytes) -> Reply:
    """Raises LocalError for bytes that are none."""
    try:
        return _replies.decode(raw)
    except UNREADABLE as error:
        raise LocalError(f"a worker answered what nobody can read: {error}") from None


def write_frame(stream: BinaryIO, raw: bytes) -> None:
    stream.write(len(raw).to_bytes(LENGTH_BYTES, "big"))
    stream.write(raw)
    stream.flush()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next message; None if the other end is gone."""
    prefix = stream.read(LENGTH_BYTES)
    if len(prefix) < LENGTH_BYTES:
        return None
    length = int.from_bytes(prefix, "big")
    raw = stream.read(length)
    return raw if len(raw) == length else None
