"""A worker of the simulator: `python -m swarm.learning.simulation.worker`, one request after the
other from standard input, and one reply each to standard output."""

from __future__ import annotations

import os
import sys

from swarm.errors import LocalError, SwarmError
from swarm.learning.plans.plan_faults import valid_text
from swarm.learning.simulation.clients import Clients, free_memory, open_clients
from swarm.learning.simulation.messages import (
    Begin,
    CopiesScored,
    CopyClient,
    Faulty,
    Free,
    FreeMemory,
    OpenPlan,
    PersonaliseClient,
    Ready,
    Reply,
    ScoreCopies,
    Scored,
    ScoreModel,
    Summed,
    SumRows,
    TrainClient,
    Whole,
    WriteWhole,
    decode_request,
    encode,
    read_frame,
    write_frame,
)


class Worker:
    """Answers requests, the first of which opens a plan."""

    clients: Clients | None = None

    def answer(self, raw: bytes) -> bytes:
        """The reply to a request; whatever goes wrong becomes a sentence."""
        try:
            return encode(self._answer(raw))
        except SwarmError as error:
            return encode(Faulty(message=valid_text(str(error)), exit_status=error.exit_status))

    def _answer(self, raw: bytes) -> Reply:
        request = decode_request(raw)
        if isinstance(request, OpenPlan):
            self.clients = open_clients(request)
            return self.clients.opened
        if isinstance(request, FreeMemory):
            return Free(gpus=free_memory())
        clients = self.clients
        if clients is None:
            raise LocalError("a worker was asked before it had a plan")
        match request:
            case Begin():
                clients.begin(request.model, request.statistics, request.copies)
                return Ready()
            case SumRows():
                return Summed(statistics=tuple(map(clients.statistics, request.clients)))
            case TrainClient():
                return clients.train(request)
            case PersonaliseClient():
                return clients.personalise(request)
            case CopyClient():
                return clients.copy(request)
            case ScoreCopies(client=client):
                return CopiesScored(client=client, counts=clients.score_copies(client))
            case ScoreModel():
                return Scored(metrics=clients.score(request))
            case WriteWhole():
                return Whole(model=clients.whole())


def main() -> None:
    """Answer until the other end is closed."""
    sys.dont_write_bytecode = True
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a plan prints must not get among the replies
    worker = Worker()
    while (raw := read_frame(sys.stdin.buffer)) is not None:
        write_frame(replies, worker.answer(raw))


if __name__ == "__main__":
    main()
