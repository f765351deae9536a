"""Every error that swarm raises on purpose, sorted by whose fault it is.

The fault decides what happens next: a *configuration* error ends the command with exit status 2
and one sentence; a *local* one (disk, trainer) is retried here; a *remote* one is refused, counted
against the peer and the round goes on; a *chain* one carries what the contract answered.

Every message names the value, the place and the remedy.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Awaitable, Callable

import msgspec

MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors of the operating system that are no mistake in what a person gave: a full disk, say."""

_REMEDIES = {
    errno.EACCES: "give this user access to it",
    errno.EPERM: "give this user access to it",
    errno.EISDIR: "a file belongs there, so move that folder away",
    errno.EEXIST: "a folder belongs there, so move that file away",
    errno.ENOTDIR: "a folder belongs there, so move that file away",
    errno.ENOENT: "correct the path, or put it there",
    errno.ENOSPC: "make room on that disk, and try again",
    errno.EDQUOT: "make room on that disk, and try again",
    errno.EROFS: "name a place that can be written to",
}


def system_fault(error: OSError) -> str:
    """What the operating system refused, as a sentence: the path, why, and what to do."""
    path = error.filename2 or error.filename  # of a renamed file, where it was to go
    place = "" if path is None else f"{path}: "
    remedy = "" if error.errno not in _REMEDIES else f"; {_REMEDIES[error.errno]}"
    return f"{place}{error.strerror or error}{remedy}"


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be. Text that is not UTF-8 comes as
Python's own error, and only where a text field is: so catch these, never msgspec's alone."""


class SwarmError(Exception):
    """Base of all errors that swarm raises on purpose."""

    exit_status = 1


# The user's to mend: nothing was written, nothing was started.


class ConfigurationError(SwarmError):
    """A file, option or password that this node was given cannot be used."""

    exit_status = 2


class Interrupted(SwarmError):
    """Ctrl-C ended a command, while something goes on that it began."""

    exit_status = 130


class PlanError(ConfigurationError):
    """The plan's own code or data raised, or returned what cannot be trained or merged."""


# This machine's: retried, then reported.


class LocalError(SwarmError):
    """Something on this machine failed: disk, memory, a subprocess."""


class TrainerError(LocalError):
    """The trainer process died or did not answer; the round's training is started again."""


# Another peer's: refused whole and named; never fatal here.


class RemoteError(SwarmError):
    """A peer could not be reached in time, or what it sent was refused."""


class PeerUnreachable(RemoteError):
    """No answer from a peer before the deadline, or no connection to it."""


class NoAnswer(RemoteError):
    """The holder of a plan's role gave no answer in time, or one that is refused. A plan that
    catches it goes on without; otherwise the training is begun anew."""


class ChunkPending(RemoteError):
    """A chunk is not here yet, but on its way or being computed: ask again after `wait`, which
    blocks until it may be here, for so many seconds at most."""

    def __init__(self, words: str, wait: Callable[[float], object] | None = None) -> None:
        super().__init__(words)
        self.wait = wait or _nap


class AskedTooEarly(RemoteError):
    """What a peer asks for is here, but it may not have it as far as this node has followed the
    chain; a peer that has seen a newer block asks a moment before that. `news` waits, in trio, for
    the next look at the chain."""

    def __init__(self, words: str, news: Callable[[], Awaitable[object]]) -> None:
        super().__init__(words)
        self.news = news


def _nap(seconds: float) -> None:
    """Where nothing tells that a chunk has come, because what it is part of is not begun."""
    time.sleep(min(seconds, 0.005))


class ProtocolViolation(RemoteError):
    """A peer sent what the protocol does not allow; the sender is to be named and scored."""


class BlobError(RemoteError):
    """A blob's bytes do not have the digest, the layout or the values that they must have."""


class SchemaMismatch(BlobError):
    """A blob is what its digest says, but does not hold the tensors that were asked for."""


class NotItsOwn(BlobError):
    """An update says of itself that another made it, or this member for another round or plan."""


# The chain's answer.


class ChainError(SwarmError):
    """The chain refused a transaction or a block, or could not be asked."""


class ContractError(ChainError):
    """The contract reverted with one of its typed errors.

    `name` is the Solidity error ("RoundNotOpen"), `arguments` its decoded fields by name.
    """

    def __init__(self, name: str, arguments: dict[str, object] | None = None) -> None:
        self.name = name
        self.arguments = dict(arguments or {})
        fields = ", ".join(f"{k}={_short(v)}" for k, v in self.arguments.items())
        super().__init__(f"the contract refused: {name}({fields})")


def _short(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
